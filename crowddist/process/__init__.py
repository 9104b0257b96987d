"""This process and its machine: how a program begins, tells how far it is, stops, and what of a text may be shown.

Nothing here knows of images, networks or runs.
"""
