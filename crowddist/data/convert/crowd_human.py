"""CrowdHuman as released: boxes of heads to pre-train a detector, coarse masks of persons to pre-train a segmenter.

A mask is made of rectangles, the boxes round the visible parts of persons, so it also covers background beside them.
Regions that the set does not annotate (crowds, reflections) count as person, as they need not be background.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crowddist.data.convert.annotations import as_rows, parse_json_object, read_lines
from crowddist.data.convert.layout import (
    Annotation,
    Format,
    Item,
    Listing,
    NoSetError,
    below,
    list_images,
    require_annotations,
    subfolders,
)
from crowddist.data.convert.points import centred_outside
from crowddist.errors import InputError

# P: the tags and attributes of the set's own readme; keys of the attributes may be missing.
_TAGS = ("person", "mask")
_ATTRIBUTES = ("extra", "head_attr")


class Entry(NamedTuple):
    """The annotation of one image."""

    line: int  # its number in the file, from 1
    text: str  # the line, a JSON object


def find(folder: Path, split: str, labelled: bool) -> Listing:
    """The images of a split, by name.

    `folder` holds `annotation_train.odgt` and `annotation_val.odgt`, and images as released
    (`CrowdHuman_train01/Images`, ..., `CrowdHuman_val/Images`) or all of them in `Images`, where only the annotations
    tell the splits apart.
    """
    annotations, shared = below(folder, f"annotation_{split}.odgt"), below(folder, "Images")
    own = [below(path, "Images") for path in subfolders(folder) if path.name.lower().startswith(f"crowdhuman_{split}")]
    own = [path for path in own if path.is_dir()]
    if not own and not shared.is_dir():
        advice = f"give the folder that holds annotation_{split}.odgt, and CrowdHuman_{split}*/Images or Images"
        raise NoSetError(f"no CrowdHuman data of the split {split!r} in {folder}: no folder Images is there; {advice}")
    require_annotations(annotations, labelled)
    if not labelled and not own:
        advice = (f"move the split's images to CrowdHuman_{split}/Images, or convert the folder of images with the "
                  "format folder")
        raise InputError(f"{shared}: only the annotations tell which of these images are {split}, and --unlabelled "
                         f"opens none; {advice}")
    entries, refused = _read_entries(annotations) if labelled else ({}, [])
    items = [Item(name=path.stem, image=path, annotations=(annotations,), record=entries.get(path.stem))
             for path in list_images(*(own or [shared])) if own or path.stem in entries]
    found = {item.name for item in items}
    refused += [(annotations, f"line {entry.line} names {name!r}, whose image is missing")
                for name, entry in entries.items() if name not in found]
    return Listing(name="crowd-human", split=split, items=tuple(items), refused=tuple(refused))


def annotate(item: Item, size: tuple[int, int]) -> Annotation:
    """Boxes of heads as annotated, and the mask.

    Left out are boxes that the set says to ignore, boxes without an area, and boxes centred outside the image: the set
    annotates whole persons, so also heads beyond the border.
    """
    place, entry = item.annotations[0], item.record
    if entry is None:
        raise InputError(f"{item.image}: {place} does not name it; add its boxes or remove the image")
    where = f"{place}: line {entry.line}"
    regions = parse_json_object(entry.text, where).get("gtboxes")
    if not (isinstance(regions, list) and all(map(_is_region, regions))):
        raise InputError(f"{where}: wrong layout: gtboxes must be a list of boxes with the tag {' or '.join(_TAGS)}; "
                         "download the file again")
    ignored = np.array([region["tag"] == "mask" or any(region.get(part, {}).get("ignore") for part in _ATTRIBUTES)
                        for region in regions], bool)
    # Ignored regions need no head.
    heads = as_rows([region.get("hbox", [0] * 4 if out else None)
                     for region, out in zip(regions, ignored, strict=True)], where, "hbox", 4)
    visible = as_rows([region.get("vbox") for region in regions], where, "vbox", 4)
    if not np.isfinite(visible).all():
        raise InputError(f"{where}: vbox holds a number that is not finite")
    left_out = ignored | (heads[:, 2:] <= 0).any(axis=1) | centred_outside(heads, size)
    return Annotation(boxes=heads, left_out=left_out, place=where, mask=_cover(visible, size))


def _read_entries(place: Path) -> tuple[dict[str, Entry], list[tuple[Path, str]]]:
    """The entries by image name, and bad lines; an entry's boxes are read with its image."""
    entries: dict[str, Entry] = {}
    refused = []
    for number, line in enumerate(read_lines(place), start=1):
        if not line:
            continue
        try:
            name = parse_json_object(line, f"line {number}").get("ID")
        except InputError as error:
            refused.append((place, str(error)))
            continue
        if not isinstance(name, str):
            refused.append((place, f"line {number}: wrong layout: ID must be the name of an image, got {name!r:.80}"))
        elif name in entries:
            again = f"line {number} names {name!r} again, after line {entries[name].line}; remove one of the two"
            refused.append((place, again))
        else:
            entries[name] = Entry(number, line)
    return entries, refused


def _is_region(value: Any) -> bool:
    return (isinstance(value, dict) and value.get("tag") in _TAGS
            and all(isinstance(value.get(part, {}), dict) for part in _ATTRIBUTES))


def _cover(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) uint8, 1 in every pixel that one of the N x 4 boxes (left, top, width, height) covers, even in part."""
    mask = np.zeros(size, np.uint8)
    with np.errstate(over="ignore"):
        edges = np.clip(np.stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]), 0, size[::-1])
    for (left, top), (right, bottom) in zip(np.floor(edges[0]).astype(int), np.ceil(edges[1]).astype(int), strict=True):
        mask[top:bottom, left:right] = 1
    return mask


FORMAT = Format(name="crowd_human", splits=("train", "val"), find=find, annotate=annotate,
                summary="annotation_{train,val}.odgt, and CrowdHuman_{train01,train02,train03,val}/Images, or Images")
