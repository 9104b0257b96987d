"""Backbones turn an image into features: one file a family, one row of `table.BACKBONES` a backbone."""
