"""Backbones: what turns an image into features, one file a family and one row of `table.BACKBONES` each.

Networks take from here by name, with their weights; nothing here knows what the features are for, beyond how many a
network needs.
"""
