"""A plain folder of images: the user's unlabelled target."""

from __future__ import annotations

from pathlib import Path

from crowddist.data.convert.layout import Format, Item, Listing
from crowddist.data.images import find_images

_LABELS = (".json", ".xml", ".csv", ".txt", ".mat")


def find(folder: Path, split: str, labelled: bool) -> Listing:
    """Every image below `folder`, at any depth; an item's name is its relative path without the ending."""
    images, refused = find_images(folder)
    items = tuple(Item(name=path.relative_to(folder).with_suffix("").as_posix(), image=path) for path in images)
    # By their names alone: labels of a target are not opened.
    num_labels = sum(path.suffix.lower() in _LABELS and not path.name.startswith(".")
                     for place in {folder, *(path.parent for path in images)} for path in place.iterdir())
    return Listing(name=folder.resolve().name or "folder", split=split, items=items, refused=tuple(refused),
                   facts={"num_label_files": num_labels} if num_labels else {})


FORMAT = Format(name="folder", summary="images at any depth, without labels; rotated photographs are turned upright",
                splits=("all",), upright=True, find=find, annotate=None)
