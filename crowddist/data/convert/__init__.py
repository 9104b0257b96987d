"""One converter a data set: its own layout in, shards out.

A converter knows the layout of one data set; what all of them share is in `base`, `annotations` and `matlab`.
"""
