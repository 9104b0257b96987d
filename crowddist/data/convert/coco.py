"""One's own labels as COCO JSON: the keypoint of the head, or else the centre of the box, of each annotation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from crowddist.data.convert.annotations import read_json
from crowddist.data.convert.own import (
    HEAD_KEYPOINTS,
    Labels,
    OtherFileError,
    box_centre,
    entries,
    image_size,
    no_place,
    numbers,
    own_format,
)
from crowddist.errors import InputError


def read(place: Path) -> dict[str, Labels]:
    """The labels by image; images without annotations show nobody, regions of a crowd are no heads. Raises InputError,
    naming the file, for anything but COCO's layout.
    """
    facts = read_json(place)
    if not isinstance(facts, dict) or "images" not in facts or "annotations" not in facts:
        raise OtherFileError(f"{place}: not COCO JSON: it has no images and annotations")
    categories = {_id(entry.get("id")): entry for entry in entries(facts.get("categories", []), "categories", place)}
    images: dict[str, tuple[str, Labels]] = {}
    names: set[str] = set()
    for entry in entries(facts["images"], "images", place):
        name = entry.get("file_name")
        if not isinstance(name, str) or not name:
            raise InputError(f"{place}: wrong layout: file_name must be the name of an image, got {name!r:.80}")
        key, size = _id(entry.get("id")), image_size(entry.get("height"), entry.get("width"))
        if key in images or name in names:
            raise InputError(f"{place}: images name {name[:80]!r}, or its id, twice; keep one of the two")
        names.add(name)
        images[key] = name, Labels(place=place, size=size)
    _require_extents(facts["annotations"], {key: held.size for key, (_, held) in images.items()}, place)
    num_ignored: Counter[str] = Counter()
    for entry in entries(facts["annotations"], "annotations", place):
        key, category = _id(entry.get("image_id")), categories.get(_id(entry.get("category_id")), {})
        if key not in images:  # refused as any label without its image
            images[key] = f"image_id {key[:80]}", Labels(place=place)
        held, kind = images[key][1], str(category.get("name", ""))
        if entry.get("ignore") == 1:  # other tools: not to be counted
            num_ignored[key] += 1
        elif entry.get("iscrowd") == 1:
            held.unplaced.append((kind, no_place("a region of a crowd")))
        elif point := _point(entry, category):
            held.marks.append((kind, *point))
        else:
            held.unplaced.append((kind, no_place("no box and no keypoint of a head")))
    declared = frozenset(str(category.get("name", "")) for category in categories.values())
    return {name: replace(held, num_others=num_ignored[key], declared=declared)
            for key, (name, held) in images.items()}


def _require_extents(annotations: Any, sizes: Mapping[str, tuple[int, int] | None], place: Path) -> None:
    """Raises InputError where boxes are their corners, as some programs write: all fit their images so, but a quarter
    leaves them as left, top, width and height.
    """
    boxes = [(*numbers(entry["bbox"], 4), *size[::-1]) for entry in entries(annotations, "annotations", place)
             if isinstance(entry.get("bbox"), list) and (size := sizes.get(_id(entry.get("image_id"))))]
    if not boxes:
        return
    left, top, right, bottom, width, height = np.array(boxes).T
    corners = (right > left) & (bottom > top) & (right <= width + 1) & (bottom <= height + 1)
    if corners.all() and 4 * ((left + right > width + 1) | (top + bottom > height + 1)).sum() >= len(boxes):
        raise InputError(f"{place}: its boxes seem to be left, top, right, bottom; in COCO they are left, top, width, "
                         "height: subtract")


def _point(entry: dict[str, Any], category: dict[str, Any]) -> tuple[float, float] | None:
    """x, y of the head's keypoint if it was labelled, else of the box's centre; None if there is neither."""
    keypoints, names = entry.get("keypoints"), category.get("keypoints")
    if isinstance(keypoints, list) and keypoints:
        known = [str(name).lower() for name in names] if isinstance(names, list) else []
        first = next((known.index(name) for name in HEAD_KEYPOINTS if name in known), None)
        if first is None and len(keypoints) == 3:
            first = 0
        if first is not None:
            x, y, visible = numbers(keypoints[3 * first:], 3)
            if visible != 0:  # COCO: 0 is not labelled
                return x, y
    box = entry.get("bbox")  # some programs write an empty one beside an outline
    return box_centre(*numbers(box, 4)) if isinstance(box, list) and box else None


def _id(value: Any) -> str:
    """An id as a text: programs write 7, 7.0 and "7" for the same."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


FORMAT = own_format("coco", "images, and a COCO .json: keypoints of heads, or the centres of boxes", (".json",), read)
