"""One's own labels as plain JSON: [[x, y], ...] in a file of the image's name, or {"a.jpg": [[x, y], ...]} for many.

The points of an image may also be objects {"x": 3, "y": 4}, with a class and a width and height as in a table, and
stand in {"points": ..., "count": ...}. Objects that name their image, {"file": "a.jpg", "x": 3, "y": 4}, are its rows.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from crowddist.data.convert.annotations import as_count, as_points, read_json
from crowddist.data.convert.csv import CLASS_NAMES, FILE_NAMES, SIZE_NAMES, by_image
from crowddist.data.convert.own import Labels, Mark, OtherFileError, numbers, of_one_image, own_format

_COUNTS = ("count", "number", "human_num")
_OF_MARKS = {*CLASS_NAMES, *chain(*SIZE_NAMES)}


def read(place: Path) -> dict[str, Labels]:
    """The labels by image. Raises InputError, naming the file, for anything but the layouts above."""
    facts = read_json(place)
    if _is_of_image(facts):
        rows = _rows(facts)
        if any(isinstance(row, dict) and _text(row, FILE_NAMES) for row in rows):
            return _by_file(rows, place)
        return of_one_image(place, **_heads(facts, place, "points"))
    if isinstance(facts, dict) and facts and all(map(_is_of_image, facts.values())):
        return {name: Labels(place=place, **_heads(value, place, f"the points of {name[:80]!r}"))
                for name, value in facts.items()}
    raise OtherFileError(f"{place}: not points: [[x, y], ...] is needed, or an object with these for each image")


def _is_of_image(value: Any) -> bool:
    """True for points, or an object that holds them."""
    rows = value.get("points") if isinstance(value, dict) else value
    return isinstance(rows, list) and (all(isinstance(row, list) for row in rows)
                                       or all(isinstance(row, dict) and {"x", "y"} <= row.keys() for row in rows))


def _rows(value: Any) -> list[Any]:
    return list(value["points"] if isinstance(value, dict) else value)


def _heads(value: Any, place: Path, noun: str) -> dict[str, Any]:
    """The points or marks of one image, and their count where it is told, as `Labels` has them."""
    rows = _rows(value)
    counts = [value[name] for name in _COUNTS if name in value] if isinstance(value, dict) else []
    told = [count for count in map(as_count, counts) if count is not None]
    wrong = [count for count in told if count != len(rows)]
    count = next(iter([*wrong, *told]), None)
    if rows and isinstance(rows[0], dict):
        if not _OF_MARKS.isdisjoint(set().union(*rows)):
            return {"points": None, "count": count, "marks": [*map(_mark, rows)]}
        rows = [[row["x"], row["y"]] for row in rows]
    return {"points": as_points(rows, place, noun), "count": count}


def _by_file(rows: list[dict[str, Any]], place: Path) -> dict[str, Labels]:
    """The labels by image of objects that name theirs."""
    labels = by_image(((_text(row, FILE_NAMES), None if row["x"] is row["y"] is None else _mark(row)) for row in rows),
                      place)
    # The one image of a file may also have the file's name.
    return {image: replace(held, also=place.stem if len(labels) == 1 else "") for image, held in labels.items()}


def _mark(row: dict[str, Any]) -> Mark:
    """The class, x, y, width and height of a head; 0 for a size that is not there."""
    sizes = next(([row[name] for name in pair] for pair in SIZE_NAMES if row.keys() >= {*pair}), [0, 0])
    return (_text(row, CLASS_NAMES), *numbers([row["x"], row["y"], *(size or 0 for size in sizes)], 4))


def _text(row: dict[str, Any], names: tuple[str, ...]) -> str:
    """The first of these entries that is there, as a text; "" where it is none."""
    value = next((row[name] for name in names if name in row), None)
    return str(value).strip() if isinstance(value, str | int) else ""


FORMAT = own_format("json", 'images, and for each a .json of its name with [[x, y], ...], or one with {"a.jpg": '
                    "[[x, y], ...]} for many", (".json",), read)
