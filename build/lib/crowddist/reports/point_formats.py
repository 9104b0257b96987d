"""The points of heads in the formats of tools that people correct them with; `data.convert` has a reader for each.

A place is x, y in px of the upright image, from the left and the top, pixel j having its centre at j.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TextIO
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

LABEL = "head"
"""What each point is called."""


@dataclass(frozen=True, kw_only=True)
class Counted:
    """One image and its heads."""

    name: str
    """For labels: relative to the folder that was counted, with `/`."""
    file: str
    """As in the table of counts."""
    height: int
    width: int
    """px."""
    points: list[tuple[float, float, float]]
    """x, y, score."""
    sizes: list[float] | None = None
    """Sides of the heads' squares, px; None where the counter gives none."""
    row: dict[str, Any]
    """Of the table of counts."""


def write_json(stream: TextIO, images: Iterable[Counted]) -> None:
    """For programs: a line an image, with its count, interval and points."""
    stream.write('{"columns": ["x", "y", "score"], "images": [')
    for number, image in enumerate(images):
        facts = {"file": image.file, "height": image.height, "width": image.width,
                 **{name: image.row[name] for name in ("count", "low", "high", "uncertainty")}, "points": image.points}
        stream.write(f"{',' if number else ''}\n{json.dumps(facts)}")
    stream.write("\n]}\n")


def write_cvat(stream: TextIO, images: Iterable[Counted]) -> None:
    """CVAT for images 1.1: import it as annotations of a task with the label `head` of type points."""
    stream.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n')
    for number, image in enumerate(images):
        stream.write(f'<image id="{number}" name={quoteattr(image.name)} width="{image.width}" '
                     f'height="{image.height}">\n')
        for x, y, _ in image.points:
            stream.write(f'<points label="{LABEL}" source="auto" occluded="0" points="{x},{y}" z_order="0"></points>\n')
        stream.write("</image>\n")
    stream.write("</annotations>\n")


def write_labelstudio(stream: TextIO, images: Iterable[Counted]) -> None:
    """Tasks of Label Studio with an annotation each, for a project with `<Image name="image" value="$image"/>` and
    `<KeyPointLabels name="label" toName="image">`, to which a local folder serves the images.
    """
    stream.write("[")
    for number, image in enumerate(images):
        found = [{"id": str(place), "type": "keypointlabels", "from_name": "label", "to_name": "image", "score": score,
                  "original_width": image.width, "original_height": image.height, "image_rotation": 0,
                  "value": {"x": 100 * x / image.width, "y": 100 * y / image.height, "width": 0.5,
                            "keypointlabels": [LABEL]}}
                 for place, (x, y, score) in enumerate(image.points)]
        task = {"data": {"image": f"/data/local-files/?d={quote(image.name)}"}, "annotations": [{"result": found}]}
        stream.write(f"{',' if number else ''}\n{json.dumps(task)}")
    stream.write("\n]\n")


def write_coco(stream: TextIO, images: Iterable[Counted]) -> None:
    """COCO: a keypoint each, and a box: the head's square where the counter gives its size, else of one px."""
    category = {"id": 1, "name": LABEL, "supercategory": "person", "keypoints": [LABEL], "skeleton": []}
    stream.write(f'{{"categories": {json.dumps([category])}, "images": [')
    for number, image in enumerate(images):
        facts = {"id": number + 1, "file_name": image.name, "width": image.width, "height": image.height}
        stream.write(f"{',' if number else ''}\n{json.dumps(facts)}")
    stream.write('\n], "annotations": [')
    num_marks = 0
    for number, image in enumerate(images):
        for (x, y, score), size in zip(image.points, image.sizes or [1.0] * len(image.points), strict=True):
            # Edges of pixels are half a px from their centres.
            box = [round(x + 0.5 - size / 2, 3), round(y + 0.5 - size / 2, 3), size, size]
            mark = {"id": num_marks + 1, "image_id": number + 1, "category_id": 1, "keypoints": [x, y, 2],
                    "num_keypoints": 1, "bbox": box, "area": round(size * size, 3), "iscrowd": 0, "score": score}
            stream.write(f"{',' if num_marks else ''}\n{json.dumps(mark)}")
            num_marks += 1
    stream.write("\n]}\n")


def labelme_record(image: Counted) -> dict[str, Any]:
    """What LabelMe keeps of an image, in a file of the image's name beside it."""
    shapes: list[dict[str, Any]] = [
        {"label": LABEL, "points": [[x, y]], "group_id": None, "description": "", "shape_type": "point", "flags": {}}
        for x, y, _ in image.points
    ]
    return {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": image.name.rpartition("/")[2],
            "imageData": None, "imageHeight": image.height, "imageWidth": image.width}


def labelme_name(name: str) -> str:
    """Path of an image's LabelMe file below the folder of all."""
    folder, slash, file = name.rpartition("/")
    return f"{folder}{slash}{file.rpartition('.')[0] or file}.json"


def lines(image: Counted) -> Iterator[tuple[Any, ...]]:
    """The image's rows of `points.csv`; one without a place where nobody is."""
    yield from ((image.file, *point) for point in image.points)
    if not image.points:
        yield image.file, "", "", ""


Writer = Callable[[TextIO, Iterable[Counted]], None]
"""Goes through the images more than once where it must."""
FILES: dict[str, tuple[str, Writer]] = {
    "json": ("points.json", write_json),
    "cvat": ("points.cvat.xml", write_cvat),
    "labelstudio": ("points.labelstudio.json", write_labelstudio),
    "coco": ("points.coco.json", write_coco),
}
"""Format -> its file and what writes it."""
