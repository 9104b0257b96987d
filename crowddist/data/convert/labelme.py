"""One's own labels as LabelMe saves them: a JSON beside each image, with points, boxes or circles."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from crowddist.data.convert.annotations import read_json
from crowddist.data.convert.own import (
    Labels,
    OtherFileError,
    box_centre,
    entries,
    image_size,
    no_place,
    numbers,
    own_format,
)


def read(place: Path) -> dict[str, Labels]:
    """The labels of the one image of a file, which has the file's name or else the one in it. Raises InputError,
    naming the file, for anything but LabelMe's layout.
    """
    facts = read_json(place)
    if not isinstance(facts, dict) or "shapes" not in facts:
        raise OtherFileError(f"{place}: not LabelMe's JSON: it has no shapes")
    places = [(label, kind, _point(kind, corners)) for label, kind, corners in shapes(facts, place)]
    marks = [(label, *point) for label, _, point in places if point is not None]
    unplaced = [(label, no_place(kind)) for label, kind, point in places if point is None]
    image = facts.get("imagePath")
    return {place.stem: Labels(place=place, marks=marks, unplaced=unplaced,
                               size=image_size(facts.get("imageHeight"), facts.get("imageWidth")),
                               also=image if isinstance(image, str) else "")}


def shapes(facts: Mapping[str, Any], place: Path) -> list[tuple[str, str, list[list[float]]]]:
    """The shapes of LabelMe's JSON: label, kind, and one or more corners x, y in px, NaN where they are no numbers.
    Raises InputError, naming the file, where its shapes are no list of objects.
    """
    found = []
    for shape in entries(facts["shapes"], "shapes", place):
        listed = shape.get("points")
        corners = [numbers(corner, 2) for corner in listed] if isinstance(listed, list) and listed else [[math.nan] * 2]
        kind = shape.get("shape_type") or ("point" if len(corners) == 1 else "polygon")
        found.append((str(shape.get("label") or ""), str(kind), corners))
    return found


def _point(kind: str, corners: list[list[float]]) -> tuple[float, float] | None:
    """x, y of a point, of a box's centre or of a circle's; None for other shapes."""
    if kind in ("point", "circle"):  # a circle is its centre and a place on its line
        return corners[0][0], corners[0][1]
    if kind not in ("rectangle", "rotation"):
        return None
    # Two opposite corners, or all four, as X-AnyLabeling writes them.
    (left, top), (right, bottom) = np.min(corners, axis=0), np.max(corners, axis=0)
    return box_centre(left, top, right - left, bottom - top)


FORMAT = own_format("labelme", "images, and beside each a LabelMe .json of its name: points, boxes or circles of heads",
                    (".json",), read)
