"""One's own labels as plain JSON: [[x, y], ...] in a file of the image's name, or {"a.jpg": [[x, y], ...]} for many.

The points of an image may also be objects {"x": 3, "y": 4}, and stand in {"points": ..., "count": ...}.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from crowddist.data.convert.annotations import as_count, as_points, read_json
from crowddist.data.convert.own import Labels, OtherFileError, of_one_image, own_format

_COUNTS = ("count", "number", "human_num")


def read(place: Path) -> dict[str, Labels]:
    """The labels by image. Raises InputError, naming the file, for anything but the layouts above."""
    facts = read_json(place)
    if _is_of_image(facts):
        return of_one_image(place, *_points(facts, place, "points"))
    if isinstance(facts, dict) and facts and all(map(_is_of_image, facts.values())):
        found = {name: _points(value, place, f"the points of {name[:80]!r}") for name, value in facts.items()}
        return {name: Labels(place=place, points=points, count=count) for name, (points, count) in found.items()}
    raise OtherFileError(f"{place}: not points: [[x, y], ...] is needed, or an object with these for each image")


def _is_of_image(value: Any) -> bool:
    """True for points, or an object that holds them."""
    rows = value.get("points") if isinstance(value, dict) else value
    return isinstance(rows, list) and (all(isinstance(row, list) for row in rows)
                                       or all(isinstance(row, dict) and {"x", "y"} <= row.keys() for row in rows))


def _points(value: Any, place: Path, noun: str) -> tuple[np.ndarray, int | None]:
    """The points of one image, and their count where it is told."""
    rows, counts = value, []
    if isinstance(value, dict):
        rows, counts = value["points"], [value[name] for name in _COUNTS if name in value]
    rows = [[row["x"], row["y"]] if isinstance(row, dict) else row for row in rows]
    told = [count for count in map(as_count, counts) if count is not None]
    wrong = [count for count in told if count != len(rows)]
    return as_points(rows, place, noun), next(iter([*wrong, *told]), None)


FORMAT = own_format("json", 'images, and for each a .json of its name with [[x, y], ...], or one with {"a.jpg": '
                    "[[x, y], ...]} for many", (".json",), read)
