"""A plain folder of images: the user's unlabelled target."""

from __future__ import annotations

from pathlib import Path

from crowddist.data.convert.base import Format, Item, Listing
from crowddist.data.images import find_images


def find(folder: Path, split: str, labelled: bool) -> Listing:
    """Every image below `folder`, at any depth; an item's name is its relative path without the ending."""
    images, refused = find_images(folder)
    items = tuple(Item(name=path.relative_to(folder).with_suffix("").as_posix(), image=path) for path in images)
    return Listing(name=folder.resolve().name or "folder", split=split, items=items, refused=tuple(refused))


FORMAT = Format(name="folder", summary="images at any depth, without labels; rotated photographs are turned upright",
                splits=("all",), upright=True, find=find, annotate=None)
