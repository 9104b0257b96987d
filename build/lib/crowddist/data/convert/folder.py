"""A plain folder of images: the user's unlabelled target."""

from __future__ import annotations

from pathlib import Path

from crowddist.data.convert.layout import Format, Item, Listing, relative_names
from crowddist.data.walk import find_images

# By their endings alone: labels of a target are not opened.
_LABELS = ("JSON", "XML", "CSV", "TSV", "TXT", "MAT", "NPY")


def find(folder: Path, split: str, labelled: bool) -> Listing:
    """Every image below `folder`, at any depth, by its relative path."""
    found = find_images(folder)
    items = tuple(Item(name=name, image=path) for path, name in relative_names(folder, found.images).items())
    num_labels = sum(found.others[kind] for kind in _LABELS)
    return Listing(name=folder.resolve().name or "folder", split=split, items=items, refused=tuple(found.refused),
                   facts={"num_label_files": num_labels} if num_labels else {}, notes=tuple(found.lines()))


FORMAT = Format(name="folder", summary="images at any depth, without labels; rotated photographs are turned upright",
                splits=("all",), upright=True, find=find, annotate=None)
