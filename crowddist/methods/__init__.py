"""The adaptation methods, one file each, and the table that lists them.

Methods share `base`, `config` and `parts`, and nothing with each other.
"""
