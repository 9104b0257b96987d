"""Zones drawn in LabelMe, CVAT or Label Studio: polygons and boxes, named by their label."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from crowddist.data.convert import cvat, label_studio, labelme
from crowddist.data.convert.own import image_size, numbers
from crowddist.data.zones.zone import Zone, ZoneSet
from crowddist.errors import InputError


class NoZonesError(InputError):
    """A file without any zone, which is perhaps about something else."""


@dataclass(kw_only=True)
class _Drawing:
    """What was drawn on an image."""

    name: str
    size: tuple[int, int] | None
    zones: list[Zone] = field(default_factory=list)
    num_others: int = 0
    """Marks that are no zones."""

    def add(self, label: str, corners: Sequence[Sequence[float]] | None) -> None:
        """Adds a mark; `corners` None: it is no zone."""
        if corners is None:
            self.num_others += 1
        else:
            self.zones.append(Zone(name=label, polygon=np.array(corners)))


def read_labelme(path: Path, facts: Mapping[str, Any]) -> dict[str, ZoneSet]:
    """The zones of a LabelMe JSON, by the name of its image. Raises InputError, naming the file, where there are none,
    and as `ZoneSet`.
    """
    image = str(facts.get("imagePath") or path.stem)
    drawing = _Drawing(name=image, size=image_size(facts.get("imageHeight"), facts.get("imageWidth")))
    for label, kind, corners in labelme.shapes(facts, path):
        if kind == "rectangle" and len(corners) == 2:  # opposite ones; X-AnyLabeling writes all four
            corners = _box(*corners[0], *corners[1])
        drawing.add(label, corners if kind in ("polygon", "rectangle", "rotation") else None)
    return _zone_sets(path, [drawing])


def read_label_studio(path: Path, value: Any) -> dict[str, ZoneSet]:
    """The zones of a Label Studio export by image. Raises InputError as `read_labelme`."""
    tasks = list(label_studio.tasks(value, path))
    num_drawn = sum(any(map(_is_zone, task.regions)) for task in tasks)
    drawings = []
    for task in tasks:
        sizes = {region.size for region in task.regions if _is_zone(region)}
        if len(sizes) > 1:
            raise InputError(f"{task.where} has zones on images of several sizes; draw all on one")
        if None in sizes:
            raise InputError(f"{task.where}: wrong layout: a zone lacks the size of its image (original_width, "
                             "original_height)")
        # One image may be a camera's address, which is no file's name.
        drawing = _Drawing(name=label_studio.image_name(task) if sizes and num_drawn > 1 else "",
                           size=next(iter(sizes), None), num_others=len(task.others))
        for region in task.regions:
            drawing.add(region.label, label_studio.px_corners(region) if _is_zone(region) else None)
        drawings.append(drawing)
    return _zone_sets(path, drawings)


def _is_zone(region: label_studio.Region) -> bool:
    return region.kind in ("polygon", "rectangle")


def read_cvat(path: Path, data: bytes) -> dict[str, ZoneSet]:
    """The zones of a CVAT for images XML by image. Raises InputError as `read_labelme`."""
    drawings = []

    def take(image: cvat.CvatImage) -> None:
        drawing = _Drawing(name=image.name, size=image.size)
        for shape in image.shapes:
            corners = cvat.corners(shape.facts) if shape.tag == "polygon" else None
            if shape.tag == "box":
                angle = numbers([shape.facts.get("rotation", "0")], 1)[0]
                corners = _turned(_box(*cvat.box_sides(shape.facts)), angle)
            drawing.add(shape.facts.get("label", ""), corners)
        drawings.append(drawing)

    cvat.read_images(path, data, take)
    return _zone_sets(path, drawings)


def _box(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def _turned(box: list[list[float]], degrees: float) -> list[list[float]]:
    """A box turned clockwise round its middle."""
    turn = math.radians(degrees) if math.isfinite(degrees) else math.nan
    middle_x, middle_y = (box[0][0] + box[2][0]) / 2, (box[0][1] + box[2][1]) / 2
    return [[middle_x + (x - middle_x) * math.cos(turn) - (y - middle_y) * math.sin(turn),
             middle_y + (x - middle_x) * math.sin(turn) + (y - middle_y) * math.cos(turn)] for x, y in box]


def _zone_sets(path: Path, drawings: Sequence[_Drawing]) -> dict[str, ZoneSet]:
    drawn = [drawing for drawing in drawings if drawing.zones]
    if not drawn:
        num_others = sum(drawing.num_others for drawing in drawings)
        raise NoZonesError(f"{path}: no zones: it has no polygon and no box"
                           f"{f', but {num_others} other marks' if num_others else ''}")
    sets: dict[str, ZoneSet] = {}
    for drawing in drawn:
        if drawing.name in sets:
            raise InputError(f"{path}: two images {drawing.name[:80]!r} have zones; keep one of the two")
        place = str(path) if len(drawn) == 1 else f"{path} ({drawing.name[:80]})"
        note = f"{place}: {drawing.num_others} marks left out: neither polygons nor boxes, or of another annotation"
        sets[drawing.name] = ZoneSet(drawing.zones, size=drawing.size, place=place,
                                     notes=[note] if drawing.num_others else [])
    return sets
