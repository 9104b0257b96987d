"""Zones drawn in LabelMe, CVAT or Label Studio: polygons and upright boxes, named by their label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crowddist.data.convert.cvat import parse_cvat
from crowddist.data.convert.own import entries, image_size, numbers
from crowddist.data.zones.zone import Zone, ZoneSet
from crowddist.errors import InputError


def read_labelme(path: Path, value: Mapping[str, Any]) -> ZoneSet:
    """The zones of a LabelMe JSON. Raises InputError, naming the file, where there are none, and as `ZoneSet`."""
    zones, others = [], 0
    for shape in entries(value["shapes"], "shapes", path):
        corners = shape.get("points")
        corners = [numbers(corner, 2) for corner in corners] if isinstance(corners, list) else []
        kind = shape.get("shape_type", "polygon")
        if kind == "rectangle" and len(corners) == 2:
            corners = _box(*corners[0], *corners[1])
        elif kind != "polygon":
            others += 1
            continue
        zones.append(Zone(name=shape.get("label", ""), polygon=np.array(corners)))
    return _drawn(path, zones, others, image_size(value.get("imageHeight"), value.get("imageWidth")))


def read_label_studio(path: Path, tasks: Sequence[Mapping[str, Any]]) -> ZoneSet:
    """The zones of the one task of a Label Studio export. Raises InputError as `read_labelme`, also where several
    tasks hold zones.
    """
    found: list[tuple[list[Zone], int, tuple[int, int]]] = []
    for task in tasks:
        results = [result for annotation in entries(task["annotations"], "annotations", path)
                   if not annotation.get("was_cancelled")
                   for result in entries(annotation.get("result", []), "result", path)]
        drawn = [zone for result in results if (zone := _label_studio_zone(path, result)) is not None]
        if len(sizes := {size for _, size in drawn}) > 1:
            raise InputError(f"{path}: a task has zones on images of several sizes; draw all on one")
        if drawn:
            found.append(([zone for zone, _ in drawn], len(results) - len(drawn), sizes.pop()))
    if len(found) > 1:
        raise InputError(f"{path}: {len(found)} images have zones; export the one of this camera")
    zones, others, size = found[0] if found else ([], 0, None)
    return _drawn(path, zones, others, size)


def read_cvat(path: Path, data: bytes) -> ZoneSet:
    """The zones of the one image of a CVAT for images XML that has some. Raises InputError as `read_label_studio`."""
    reader = _CvatReader()
    parse_cvat(path, data, reader.start, reader.end)
    if not reader.is_cvat:
        raise InputError(f"{path}: not CVAT's XML: its zones must stand in annotations; export it as CVAT for images "
                         "1.1")
    drawn = {name: zones for name, zones in reader.zones.items() if zones}
    if len(drawn) > 1:
        names = ", ".join(map(repr, sorted(drawn)))[:200]
        raise InputError(f"{path}: {len(drawn)} images have zones: {names}; keep the one of this camera")
    name = next(iter(drawn), "")
    return _drawn(path, drawn.get(name, []), reader.num_others, reader.sizes.get(name))


class _CvatReader:
    """Collects the zones of each image while the XML is parsed."""

    def __init__(self) -> None:
        self.zones: dict[str, list[Zone]] = {}
        self.sizes: dict[str, tuple[int, int] | None] = {}
        self.num_others, self.is_cvat = 0, False
        self._depth, self._name = 0, ""

    def start(self, tag: str, facts: dict[str, str]) -> None:
        self._depth += 1
        if self._depth == 1:
            self.is_cvat = tag == "annotations"
        elif self._depth == 2:
            # Two images may have one name in two folders of a task: they stay two.
            self._name = f"{facts.get('name', '')}{' (another)' * (facts.get('name', '') in self.zones)}"
            if tag == "image":
                self.zones[self._name] = []
                self.sizes[self._name] = image_size(facts.get("height"), facts.get("width"))
        elif self._depth == 3 and self._name in self.zones:
            corners = None
            if tag == "polygon":  # "x,y;x,y"
                corners = [numbers(pair.split(","), 2) for pair in facts.get("points", "").split(";")]
            elif tag == "box" and float(numbers([facts.get("rotation", "0")], 1)[0]) == 0:
                corners = _box(*numbers([facts.get(side) for side in ("xtl", "ytl", "xbr", "ybr")], 4))
            if corners is not None:
                self.zones[self._name].append(Zone(name=facts.get("label", ""), polygon=np.array(corners)))
            elif tag != "tag":  # a tag marks the whole image
                self.num_others += 1

    def end(self, tag: str) -> None:
        self._depth -= 1


def _label_studio_zone(path: Path, result: Mapping[str, Any]) -> tuple[Zone, tuple[int, int]] | None:
    """A zone in px, and (height, width) of its image; None for another shape."""
    kind, value = str(result.get("type", "")), result.get("value")
    value = value if isinstance(value, dict) else {}
    if kind == "polygonlabels":
        corners = value.get("points")
        corners = [numbers(corner, 2) for corner in corners] if isinstance(corners, list) else []
    elif kind == "rectanglelabels" and not value.get("rotation"):
        left, top, width, height = numbers([value.get(side) for side in ("x", "y", "width", "height")], 4)
        corners = _box(left, top, left + width, top + height)
    else:
        return None
    size = image_size(result.get("original_height"), result.get("original_width"))
    if size is None:
        raise InputError(f"{path}: wrong layout: a zone lacks the size of its image (original_width, original_height)")
    labels = value.get(kind)
    per_cent = np.array(size[::-1]) / 100
    return Zone(name=labels[0] if isinstance(labels, list) and labels else "",
                polygon=np.array(corners).reshape(-1, 2) * per_cent), size


def _box(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def _drawn(path: Path, zones: Sequence[Zone], num_others: int, size: tuple[int, int] | None) -> ZoneSet:
    notes = [f"{path}: {num_others} marks left out, which are no polygons or upright boxes"] if num_others else []
    if not zones:
        raise InputError(f"{path}: no zones: it has no polygon and no upright box"
                         f"{f', but {num_others} other marks' if num_others else ''}")
    return ZoneSet(zones, size=size, place=str(path), notes=notes)
