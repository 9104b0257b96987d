"""Where the work of a run is done: what a launcher does, and the one that does it in this process.

What the work is stands in `run` and `inference`; Ray's launcher is in `distributed`.
"""
