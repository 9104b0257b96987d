"""One's own labels as LabelMe saves them: a JSON beside each image, with points, boxes or circles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crowddist.data.convert.annotations import read_json_object
from crowddist.data.convert.own import Labels, OtherFileError, box_centre, entries, image_size, numbers, own_format


def read(place: Path) -> dict[str, Labels]:
    """The labels of the one image of a file, which has the file's name. Raises InputError, naming the file, for
    anything but LabelMe's layout.
    """
    facts = read_json_object(place)
    if "shapes" not in facts:
        raise OtherFileError(f"{place}: not LabelMe's JSON: it has no shapes")
    shapes = entries(facts["shapes"], "shapes", place)
    places = [(str(shape.get("label", "")), _point(shape)) for shape in shapes]
    marks = [(label, *point) for label, point in places if point is not None]
    return {place.stem: Labels(place=place, marks=marks, num_unplaced=len(shapes) - len(marks),
                               size=image_size(facts.get("imageHeight"), facts.get("imageWidth")))}


def _point(shape: dict[str, Any]) -> tuple[float, float] | None:
    """x, y of a point, of a box's centre or of a circle's; None for other shapes."""
    corners = shape.get("points")
    corners = corners if isinstance(corners, list) else []
    kind = shape.get("shape_type", "point" if len(corners) == 1 else "")
    (x, y), (end_x, end_y) = (numbers(corners[index] if index < len(corners) else None, 2) for index in (0, 1))
    if kind in ("point", "circle"):  # a circle is its centre and a place on its line
        return x, y
    return box_centre(x, y, end_x - x, end_y - y) if kind == "rectangle" else None


FORMAT = own_format("labelme", "images, and beside each a LabelMe .json of its name: points, boxes or circles of heads",
                    ".json", read)
