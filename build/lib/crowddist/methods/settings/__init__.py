"""The methods' settings, one file each, and the facts a run needs of a method before its networks are built.

No file here imports torch, so that options are shown and checked quickly.
"""
