"""One converter per data set, from its own layout to shards; `base`, `annotations` and `matlab` are shared by all."""
