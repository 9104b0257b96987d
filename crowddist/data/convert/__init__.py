"""One converter a data set: its own layout in, shards out."""
