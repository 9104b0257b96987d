"""One's own labels as Label Studio's export "JSON": keypoints, or the centres of rectangles and ellipses."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

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
    people,
)
from crowddist.data.images import SUFFIXES
from crowddist.errors import InputError

_PLACED, _UNPLACED = ("keypoint", "rectangle", "ellipse"), ("polygon", "brush", "vector", "bitmask")
_MARKS = (*_PLACED, *_UNPLACED)
_OTHERS = "stand in another annotation than the one that counts: mark one as ground truth"


@dataclass(frozen=True, kw_only=True)
class Region:
    """A mark on an image."""

    kind: str
    """keypoint, rectangle, polygon and so on."""
    label: str
    """Its class: of several one of people, or else the first; "" where it has none."""
    value: dict[str, Any]
    """Its numbers, per cent of the image's sides."""
    size: tuple[int, int] | None
    """(height, width) of its image, px, where it is told."""
    shown: str
    """What the labelling setup calls its image; mostly the image's key in the task's data."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """An image and the annotation that counts."""

    where: str
    """The file and the task's number, for messages."""
    data: dict[str, Any]
    regions: list[Region]
    others: list[Region]
    """Regions of other annotations."""
    decided: bool
    """The annotation is marked as ground truth."""


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
        result = results.pop(made.index(chosen))
        if any(region.get("image_rotation") for region in result):
            raise InputError(f"{where}: its image was turned while it was labelled; turn it back in Label Studio, or "
                             "turn the image file and label that")
        yield Task(where=where, data=task["data"], regions=_regions(result),
                   others=[region for other in results for region in _regions(other)],
                   decided=bool(chosen.get("ground_truth")))


def image_name(task: Task) -> str:
    """The path of a task's image, without what Label Studio puts before uploads. Raises InputError where it names none.
    """
    names = list(_images(task.data).values())
    if not names:
        raise InputError(f"{task.where} names no image in its data; name one by its file")
    name = PurePosixPath(names[0])
    return str(name.with_name(_bare(name.name)))


def _bare(name: str) -> str:
    return re.sub("^[0-9a-f]{8}-(?=.)", "", name)  # uploads get a prefix of eight digits


def read(place: Path) -> dict[str, Labels]:
    """The labels by image. Raises InputError, naming the file, as `tasks`, where no annotation is finished, and where
    a task does not tell which of its images are marked.
    """
    value = read_json(place)
    found = list(tasks(value, place))
    shown = {region.shown for task in found for region in (*task.regions, *task.others) if region.kind in _MARKS}
    labels: dict[str, Labels] = {}
    for task in found:
        for name, keys in _marked_images(task, shown).items():
            if name in labels:
                raise InputError(f"{task.where} labels {name[:80]!r} again; keep one of the two tasks")
            labels[name] = _labels(place, name, task, keys)
    if not labels:
        raise OtherFileError(f"{place}: none of its {len(value)} tasks has a finished annotation")
    return labels


def _labels(place: Path, name: str, task: Task, keys: Set[str]) -> Labels:
    """The labels of the image of a task that these names in the labelling setup show."""
    regions, others = ([region for region in regions if region.shown in keys and region.kind in _MARKS]
                       for regions in (task.regions, task.others))
    unplaced = [(region.label, no_place(region.kind)) for region in regions if region.kind in _UNPLACED]
    if not task.decided:
        unplaced += [(region.label, _OTHERS) for region in others]
    # People may have written + as it is, and for a space.
    return Labels(place=place, marks=[(region.label, *_point(region)) for region in regions if region.kind in _PLACED],
                  unplaced=unplaced, num_others=len(others) if task.decided else 0,
                  size=next((region.size for region in regions if region.size), None),
                  also=_bare(PurePosixPath(name).name).replace("+", " "))


def _marked_images(task: Task, shown: Set[str]) -> Mapping[str, Set[str]]:
    """The images of a task that people were to mark, each with its names in the labelling setup; `shown` holds those of
    the whole file.
    """
    images = _images(task.data)
    # Where a file marks one image a task, the others are versions of it.
    if len(set(images.values())) < 2 or (len(shown) < 2 and not shown & images.keys()):
        name = next(iter(images.values()), f"{task.where.rpartition(': ')[2]}, whose data names no image")
        return {name: shown}
    if lost := {region.shown for region in (*task.regions, *task.others) if region.kind in _MARKS} - images.keys():
        raise InputError(f"{task.where}: its marks are on {min(lost)!r:.80}, but its data calls the images "
                         f"{', '.join(images)[:80]}; call them in its data as in the labelling setup")
    found: dict[str, set[str]] = defaultdict(set)
    for key in shown & images.keys():
        found[images[key]].add(key)
    return found


def _regions(result: list[dict[str, Any]]) -> list[Region]:
    # A class may be written apart from its place, under the same id.
    apart: dict[str, list[str]] = defaultdict(list)
    listed = [(region, _classes(region)) for region in result]
    for region, classes in listed:
        if "id" in region:
            apart[str(region["id"])] += classes
    found = []
    for region, classes in listed:
        kind, value = str(region.get("type", "")).removesuffix("labels"), region.get("value")
        if isinstance(value, dict) or kind in _MARKS:  # of these one without its value is damaged
            known = classes or apart.get(str(region.get("id")), [])
            found.append(Region(kind=kind, value=value if isinstance(value, dict) else {},
                                label=known[0] if len(known) == 1 else next(iter([*people(known), *known]), ""),
                                size=image_size(region.get("original_height"), region.get("original_width")),
                                shown=str(region.get("to_name"))))
    return found


def _classes(region: dict[str, Any]) -> list[str]:
    value = region.get("value")
    found = [value.get(key) for key in (str(region.get("type")), "labels")] if isinstance(value, dict) else []
    return [str(kind) for kinds in found if isinstance(kinds, list) for kind in kinds]


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


def _images(data: dict[str, Any]) -> dict[str, str]:
    """The paths of a task's images, from their addresses, by their keys in its data: first that of "image"."""
    paths = {key: _path(data[key]) for key in sorted(data, key=lambda key: key != "image")
             if isinstance(data[key], str)}
    named = {key: path for key, path in paths.items() if path.lower().endswith(SUFFIXES)}
    # Images are known by their content, so that a name may end in anything.
    return named or {key: path for key, path in paths.items() if key == "image" and PurePosixPath(path).name}


def _path(address: str) -> str:
    asked = [part[2:] for part in address.partition("?")[2].split("&") if part[:2] == "d=" != part]
    if asked:  # /data/local-files/?d=PATH, which may be written as it is
        return unquote(asked[0])
    try:
        parts = urlsplit(address)
    except ValueError:
        return address
    return unquote(address if address.lower().endswith(SUFFIXES) else parts.path)


FORMAT = own_format("label_studio", "images, and the .json of Label Studio's export JSON: keypoints, rectangles or "
                    "ellipses of heads", (".json",), read)
