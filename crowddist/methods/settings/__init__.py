"""The settings of the methods, a file each, and what a run has to know of a method before its networks are built.

Nothing here imports torch, so that options are shown and checked quickly; the methods themselves stand a folder above.
"""
