"""The adaptation methods, one file each, and the table that lists them.

Methods share `base`, `settings` and `parts`, but nothing with each other.
"""
