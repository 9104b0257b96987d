"""One's own labels as "CVAT for images" XML: points, the heads of skeletons, or the centres of boxes and ellipses."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn
from xml.parsers import expat

from crowddist.data.convert.annotations import read_file
from crowddist.data.convert.own import (
    HEAD_KEYPOINTS,
    Labels,
    OtherFileError,
    box_centre,
    image_size,
    no_place,
    numbers,
    own_format,
)
from crowddist.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A mark on an image."""

    tag: str
    """points, box, polygon and so on."""
    facts: dict[str, str]
    """Its attributes, the class among them: "label"."""
    joints: dict[str, dict[str, str]] = field(default_factory=dict)
    """Of a skeleton: attributes of the points that are seen, by label in small letters."""


@dataclass(frozen=True, kw_only=True)
class CvatImage:
    """An image and its marks."""

    name: str
    subset: str
    """Of a project's export; the images lie in a folder of its name."""
    size: tuple[int, int] | None
    """(height, width) px, where it is told."""
    shapes: list[Shape] = field(default_factory=list)


class _Reader:
    """Hands over each image once it is parsed."""

    def __init__(self, take: Callable[[CvatImage], None]) -> None:
        self.take, self.num_images = take, 0
        self._depth = 0
        self._is_cvat = False
        self._image: CvatImage | None = None  # whose element is open

    def start(self, tag: str, facts: dict[str, str]) -> None:
        self._depth += 1
        if self._depth == 1:
            self._is_cvat = tag == "annotations"
        elif self._depth == 2 and self._is_cvat and tag == "image":
            size = image_size(facts.get("height"), facts.get("width"))
            self._image = CvatImage(name=facts.get("name", ""), subset=facts.get("subset", ""), size=size)
        elif self._image is not None and self._depth == 3 and tag != "tag":  # a tag marks the whole image
            self._image.shapes.append(Shape(tag=tag, facts=facts))
        elif (self._image is not None and self._depth == 4 and self._image.shapes and tag == "points"
                and facts.get("outside") != "1"):
            self._image.shapes[-1].joints[facts.get("label", "").strip().lower()] = facts

    def end(self, tag: str) -> None:
        self._depth -= 1
        if self._depth == 1 and self._image is not None:
            self.num_images += 1
            self.take(self._image)
            self._image = None


def read_images(place: Path, data: bytes, take: Callable[[CvatImage], None]) -> None:
    """Calls `take` with each image of a "CVAT for images" XML, one at a time: a file may be larger than memory allows
    at once. Raises InputError, naming the file, for anything else.
    """
    def refuse(*_: object) -> NoReturn:
        # It may declare texts that grow to gigabytes; CVAT writes none.
        raise InputError(f"{place}: not CVAT's XML: it declares a document type")

    reader, parser = _Reader(take), expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except InputError:
        raise
    except (expat.ExpatError, ValueError, LookupError) as error:  # the latter two of an unknown encoding
        raise InputError(f"{place}: not XML: {error}") from None
    if not reader.num_images:
        raise OtherFileError(f"{place}: not CVAT's XML for images: no image stands in annotations; export it as CVAT "
                             "for images 1.1")


def corners(facts: Mapping[str, str]) -> list[list[float]]:
    """x, y of points or of a polygon, px; NaN where they are no numbers."""
    pairs = [pair.split(",") for pair in facts.get("points", "").split(";")]
    return [numbers(pair, 2) if len(pair) == 2 else [math.nan] * 2 for pair in pairs]


def box_sides(facts: Mapping[str, str]) -> list[float]:
    """Left, top, right and bottom of a box, px; NaN where they are no numbers."""
    return numbers([facts.get(side) for side in ("xtl", "ytl", "xbr", "ybr")], 4)


def read(place: Path) -> dict[str, Labels]:
    """The labels by image; images without marks show nobody. Raises InputError, naming the file, for anything but
    CVAT's layout.
    """
    images: list[tuple[str, str, Labels]] = []

    def take(image: CvatImage) -> None:
        found = [(shape.facts.get("label", ""), shape.tag, _points(shape)) for shape in image.shapes]
        images.append((image.name, image.subset, Labels(
            place=place, size=image.size, marks=[(label, x, y) for label, _, points in found for x, y in points],
            unplaced=[(label, no_place(tag)) for label, tag, points in found if not points])))

    read_images(place, read_file(place), take)
    repeated = Counter(name for name, _, _ in images)
    labels: dict[str, Labels] = {}
    for name, subset, held in images:
        key = f"{subset}/{name}" if subset and repeated[name] > 1 else name
        if key in labels:
            raise InputError(f"{place}: names the image {key[:80]!r} twice; keep one of the two")
        labels[key] = held
    return labels


def _points(shape: Shape) -> list[list[float]]:
    """x, y of the heads that a shape marks; none of a shape without a single place."""
    if shape.tag == "points":
        return corners(shape.facts)
    if shape.tag == "skeleton":
        head = next((shape.joints[name] for name in HEAD_KEYPOINTS if name in shape.joints), None)
        return [] if head is None else corners(head)
    if shape.tag == "ellipse":
        return [numbers([shape.facts.get("cx"), shape.facts.get("cy")], 2)]
    if shape.tag == "box":
        left, top, right, bottom = box_sides(shape.facts)
        return [list(box_centre(left, top, right - left, bottom - top))]
    return []


FORMAT = own_format("cvat", 'images, and the .xml of "CVAT for images 1.1": points, skeletons, boxes or ellipses',
                    (".xml",), read)
