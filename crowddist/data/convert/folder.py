"""A plain folder of images: the user's unlabelled target."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from crowddist.data.convert.layout import Format, Item, Listing
from crowddist.data.images import SUFFIXES
from crowddist.data.walk import find_images

_LABELS = (".json", ".xml", ".csv", ".txt", ".mat")


def find(folder: Path, split: str, labelled: bool) -> Listing:
    """Every image below `folder`, at any depth. An item's name is its relative path without the ending; with it where
    two files differ in nothing else, or where it does not tell an image, as in `snap.jpg.1`.
    """
    found = find_images(folder)
    paths = [path.relative_to(folder) for path in found.images]
    alike = Counter(path.with_suffix("") for path in paths)
    names = [path.with_suffix("") if alike[path.with_suffix("")] == 1 and path.suffix.lower() in SUFFIXES else path
             for path in paths]
    items = tuple(Item(name=name.as_posix(), image=path) for name, path in zip(names, found.images, strict=True))
    # By their names alone: labels of a target are not opened.
    num_labels = sum(path.suffix.lower() in _LABELS and not path.name.startswith(".")
                     for place in {folder, *(path.parent for path in found.images)} for path in place.iterdir())
    return Listing(name=folder.resolve().name or "folder", split=split, items=items, refused=tuple(found.refused),
                   facts={"num_label_files": num_labels} if num_labels else {}, notes=tuple(found.lines()))


FORMAT = Format(name="folder", summary="images at any depth, without labels; rotated photographs are turned upright",
                splits=("all",), upright=True, find=find, annotate=None)
