"""One's own labels as Label Studio's export "JSON": keypoints, or the centres of rectangles and ellipses."""

from __future__ import annotations

import math
import re
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from crowddist.data.convert.annotations import read_json
from crowddist.data.convert.own import Labels, OtherFileError, box_centre, entries, image_size, numbers, own_format
from crowddist.data.images import SUFFIXES
from crowddist.errors import InputError

_UNPLACED = ("polygon", "brush", "vector")


def read(place: Path) -> dict[str, Labels]:
    """The labels by image. A task without a finished annotation is left out; of several, the one marked as ground truth
    counts, or else the first. Raises InputError, naming the file, for anything but Label Studio's layout.
    """
    tasks = read_json(place)
    if not (isinstance(tasks, list) and tasks and all(
            isinstance(task, dict) and isinstance(task.get("data"), dict) and "annotations" in task for task in tasks)):
        raise OtherFileError(f"{place}: not Label Studio's JSON: it is no list of tasks with data and annotations; "
                             "export it as JSON, not as JSON-MIN")
    labels: dict[str, Labels] = {}
    for number, task in enumerate(tasks, start=1):
        where = f"{place}: task {number}"
        made = [entry for entry in entries(task["annotations"], f"annotations of task {number}", place)
                if not entry.get("was_cancelled")]
        if made:
            chosen = next((entry for entry in made if entry.get("ground_truth")), made[0])
            results = [entries(entry.get("result", []), f"result of task {number}", place) for entry in made]
            num_others = sum(map(len, results)) - len(results[made.index(chosen)])
            name = _name(task["data"], where)
            if name in labels:
                raise InputError(f"{where} labels {name[:80]!r} again; keep one of the two tasks")
            labels[name] = _labels(results[made.index(chosen)], num_others, name, place, where)
    if not labels:
        raise OtherFileError(f"{place}: none of its {len(tasks)} tasks has a finished annotation")
    return labels


def _labels(result: list[dict[str, Any]], num_others: int, name: str, place: Path, where: str) -> Labels:
    """The labels of an image from the regions of one annotation."""
    if any(region.get("image_rotation") for region in result):
        raise InputError(f"{where}: its image was turned while it was labelled; turn it back in Label Studio, or turn "
                         "the image file and label that")
    # A class may be written apart from its place, under the same id.
    classes = {str(region["id"]): kind for region in result if "id" in region and (kind := _class(region))}
    marks, num_unplaced, size = [], num_others, None
    for region in result:
        value, kind = region.get("value"), str(region.get("type", "")).removesuffix("labels")
        if not isinstance(value, dict):
            continue
        size = size or image_size(region.get("original_height"), region.get("original_width"))
        if kind in ("keypoint", "rectangle", "ellipse"):
            marks.append((_class(region) or classes.get(str(region.get("id")), ""), *_point(region, value, kind)))
        elif kind in _UNPLACED:
            num_unplaced += 1
    # Uploads get a prefix of eight digits.
    bare = re.sub("^[0-9a-f]{8}-", "", PurePosixPath(name).name)
    return Labels(place=place, marks=marks, size=size, num_unplaced=num_unplaced, also=bare)


def _class(region: dict[str, Any]) -> str:
    """The first class of a region; "" where it has none."""
    value = region.get("value")
    found = [value.get(key) for key in (str(region.get("type")), "labels")] if isinstance(value, dict) else []
    return next((str(kinds[0]) for kinds in found if isinstance(kinds, list) and kinds), "")


def _point(region: dict[str, Any], value: dict[str, Any], kind: str) -> tuple[float, float]:
    """x, y in px of a region, whose numbers are per cent of the image's sides."""
    width, height = (side / 100 for side in numbers([region.get("original_width"), region.get("original_height")], 2))
    x, y = numbers([value.get("x"), value.get("y")], 2)
    if kind != "rectangle":
        return x * width, y * height
    # A rectangle turns round its upper left corner.
    across, down = numbers([value.get("width"), value.get("height")], 2)
    right, below = across * width / 2, down * height / 2
    angle = numbers([value.get("rotation", 0)], 1)[0]
    turn = math.radians(angle) if math.isfinite(angle) else math.nan
    return box_centre(x * width + right * math.cos(turn) - below * math.sin(turn),
                      y * height + right * math.sin(turn) + below * math.cos(turn), 0, 0)


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
