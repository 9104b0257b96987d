"""Zones: named parts of a camera's image in which people are counted beside the whole; of files and of masks."""
