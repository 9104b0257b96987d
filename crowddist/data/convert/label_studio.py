"""One's own labels as Label Studio's export "JSON": keypoints, or the centres of rectangles and ellipses."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from crowddist.data.convert.annotations import read_json
from crowddist.data.convert.own import Labels, OtherFileError, box_centre, entries, image_size, numbers, own_format
from crowddist.data.images import SUFFIXES
from crowddist.errors import InputError

_PLACED, _UNPLACED = ("keypoint", "rectangle", "ellipse"), ("polygon", "brush", "vector")


@dataclass(frozen=True, kw_only=True)
class Region:
    """A mark on an image."""

    kind: str
    """keypoint, rectangle, polygon and so on."""
    label: str
    """Its first class; "" where it has none."""
    value: dict[str, Any]
    """Its numbers, per cent of the image's sides."""
    size: tuple[int, int] | None
    """(height, width) of its image, px, where it is told."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """An image and the annotation that counts."""

    where: str
    """The file and the task's number, for messages."""
    data: dict[str, Any]
    regions: list[Region]
    num_others: int
    """Regions of other annotations."""


def tasks(value: Any, place: Path) -> Iterator[Task]:
    """The tasks of an export that have a finished annotation. Of several, the one marked as ground truth counts, or
    else the first. Raises InputError, naming the file, for anything but Label Studio's layout.
    """
    if not (isinstance(value, list) and value and all(
            isinstance(task, dict) and isinstance(task.get("data"), dict) and "annotations" in task for task in value)):
        raise OtherFileError(f"{place}: not Label Studio's JSON: it is no list of tasks with data and annotations; "
                             "export it as JSON, not as JSON-MIN")
    for number, task in enumerate(value, start=1):
        where = f"{place}: task {number}"
        made = [entry for entry in entries(task["annotations"], f"annotations of task {number}", place)
                if not entry.get("was_cancelled")]
        if not made:
            continue
        chosen = next((entry for entry in made if entry.get("ground_truth")), made[0])
        results = [entries(entry.get("result", []), f"result of task {number}", place) for entry in made]
        result = results[made.index(chosen)]
        if any(region.get("image_rotation") for region in result):
            raise InputError(f"{where}: its image was turned while it was labelled; turn it back in Label Studio, or "
                             "turn the image file and label that")
        yield Task(where=where, data=task["data"], regions=_regions(result),
                   num_others=sum(map(len, results)) - len(result))


def image_name(task: Task) -> str:
    """The path of a task's image, without what Label Studio puts before uploads. Raises InputError where it names none.
    """
    name = PurePosixPath(_name(task.data, task.where))
    return str(name.with_name(_bare(name.name)))


def _bare(name: str) -> str:
    return re.sub("^[0-9a-f]{8}-", "", name)  # uploads get a prefix of eight digits


def read(place: Path) -> dict[str, Labels]:
    """The labels by image. Raises InputError, naming the file, as `tasks`, and where no annotation is finished."""
    value = read_json(place)
    labels: dict[str, Labels] = {}
    for task in tasks(value, place):
        name = _name(task.data, task.where)
        if name in labels:
            raise InputError(f"{task.where} labels {name[:80]!r} again; keep one of the two tasks")
        marks = [(region.label, *_point(region)) for region in task.regions if region.kind in _PLACED]
        unplaced = sum(region.kind in _UNPLACED for region in task.regions)
        size = next((region.size for region in task.regions if region.size), None)
        labels[name] = Labels(place=place, marks=marks, num_unplaced=task.num_others + unplaced, size=size,
                              also=_bare(PurePosixPath(name).name))
    if not labels:
        raise OtherFileError(f"{place}: none of its {len(value)} tasks has a finished annotation")
    return labels


def _regions(result: list[dict[str, Any]]) -> list[Region]:
    # A class may be written apart from its place, under the same id.
    classes = {str(region["id"]): kind for region in result if "id" in region and (kind := _class(region))}
    found = []
    for region in result:
        kind, value = str(region.get("type", "")).removesuffix("labels"), region.get("value")
        if isinstance(value, dict) or kind in (*_PLACED, *_UNPLACED):  # of these one without its value is damaged
            found.append(Region(kind=kind, value=value if isinstance(value, dict) else {},
                                label=_class(region) or classes.get(str(region.get("id")), ""),
                                size=image_size(region.get("original_height"), region.get("original_width"))))
    return found


def _class(region: dict[str, Any]) -> str:
    """The first class of a region; "" where it has none."""
    value = region.get("value")
    found = [value.get(key) for key in (str(region.get("type")), "labels")] if isinstance(value, dict) else []
    return next((str(kinds[0]) for kinds in found if isinstance(kinds, list) and kinds), "")


def px_corners(region: Region) -> list[tuple[float, float]]:
    """x, y of the corners of a rectangle, from the upper left one clockwise, or of a polygon, px from the image's left
    and top edge; NaN where they are no numbers.
    """
    height, width = (side / 100 for side in region.size or (math.nan, math.nan))
    if region.kind != "rectangle":
        listed = region.value.get("points")
        places = [numbers(corner, 2) for corner in listed] if isinstance(listed, list) else []
        return [(x * width, y * height) for x, y in places]
    x, y, across, down = numbers([region.value.get(side) for side in ("x", "y", "width", "height")], 4)
    angle = numbers([region.value.get("rotation", 0)], 1)[0]
    turn = math.radians(angle) if math.isfinite(angle) else math.nan
    # It turns round its upper left corner.
    sine, cosine, across, down = math.sin(turn), math.cos(turn), across * width, down * height
    return [(x * width + right * cosine - below * sine, y * height + right * sine + below * cosine)
            for right, below in ((0, 0), (across, 0), (across, down), (0, down))]


def _point(region: Region) -> tuple[float, float]:
    """x, y of a region's middle, px of the image."""
    if region.kind == "rectangle":
        first, _, opposite, _ = px_corners(region)
        return box_centre((first[0] + opposite[0]) / 2, (first[1] + opposite[1]) / 2, 0, 0)
    height, width = (side / 100 for side in region.size or (math.nan, math.nan))
    x, y = numbers([region.value.get("x"), region.value.get("y")], 2)
    return x * width, y * height


def _name(data: dict[str, Any], where: str) -> str:
    """The path of a task's image, from its address."""
    texts = [data[key] for key in sorted(data, key=lambda key: key != "image") if isinstance(data[key], str)]
    names = [name for name in map(_path, texts) if name.lower().endswith(SUFFIXES)]
    if not names:
        raise InputError(f"{where} names no image in its data; name one by its file")
    return names[0]


def _path(address: str) -> str:
    try:
        parts = urlsplit(address)
        asked = parse_qs(parts.query).get("d")  # /data/local-files/?d=PATH
    except ValueError:
        return address
    if asked:
        return asked[0]
    return unquote(address if address.lower().endswith(SUFFIXES) else parts.path)


FORMAT = own_format("label_studio", "images, and the .json of Label Studio's export JSON: keypoints, rectangles or "
                    "ellipses of heads", (".json",), read)
