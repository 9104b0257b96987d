"""One converter per data set or format of labels, from its own layout to shards.

`layout` says what a format is, `annotations` and `matlab` read files, `points` checks what they hold, `doubts` counts
what was doubtful, `own` is shared by formats of one's own labels, `sample` makes a sample of an image, `base` writes
shards.
"""
