"""One's own labels as "CVAT for images" XML: points, the heads of skeletons, or the centres of boxes and ellipses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
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
    numbers,
    own_format,
)
from crowddist.errors import InputError


class _Reader:
    """Collects the marks of each image while the XML is parsed."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.labels: dict[str, Labels] = {}
        self.unplaced: dict[str, int] = {}
        self._name: str | None = None  # of the image whose element is open
        self._joints: dict[str, str] | None = None  # name -> place of the skeleton whose element is open
        self._label = ""  # its class
        self._depth = 0
        self._is_cvat = False

    def start(self, tag: str, facts: dict[str, str]) -> None:
        self._depth += 1
        if self._depth == 1:
            self._is_cvat = tag == "annotations"
        elif self._depth == 2 and self._is_cvat and tag == "image":
            self._name = facts.get("name", "")
            if self._name in self.labels:
                raise InputError(f"{self.place}: names the image {self._name[:80]!r} twice; keep one of the two")
            self.labels[self._name] = Labels(place=self.place,
                                             size=image_size(facts.get("height"), facts.get("width")))
        elif self._depth == 3 and self._name is not None:
            label, marks = facts.get("label", ""), self.labels[self._name].marks
            if tag == "points":  # "x,y;x,y"
                self._add_points(label, facts.get("points", ""))
            elif tag == "skeleton":
                self._label, self._joints = label, {}
            elif tag == "ellipse":
                x, y = numbers([facts.get("cx"), facts.get("cy")], 2)
                marks.append((label, x, y))
            elif tag == "box":
                left, top, right, bottom = numbers([facts.get(side) for side in ("xtl", "ytl", "xbr", "ybr")], 4)
                marks.append((label, *box_centre(left, top, right - left, bottom - top)))
            elif tag != "tag":  # a tag marks the whole image
                self._count_unplaced()
        elif self._depth == 4 and self._joints is not None and tag == "points" and facts.get("outside") != "1":
            self._joints[facts.get("label", "").strip().lower()] = facts.get("points", "")

    def end(self, tag: str) -> None:
        self._depth -= 1
        if self._depth == 2 and self._joints is not None:
            head = next((self._joints[name] for name in HEAD_KEYPOINTS if name in self._joints), None)
            if head is None:
                self._count_unplaced()
            else:
                self._add_points(self._label, head)
            self._joints = None
        if self._depth == 1:
            self._name = None

    def _add_points(self, label: str, text: str) -> None:
        assert self._name is not None, "called inside an image"
        for pair in text.split(";"):
            x, y = numbers(pair.split(","), 2)
            self.labels[self._name].marks.append((label, x, y))

    def _count_unplaced(self) -> None:
        assert self._name is not None, "called inside an image"
        self.unplaced[self._name] = self.unplaced.get(self._name, 0) + 1


def parse_cvat(place: Path, data: bytes, start: Callable[[str, dict[str, str]], None],
               end: Callable[[str], None]) -> None:
    """Calls `start` and `end` for each element of an XML. Raises InputError, naming the file, for what is none."""
    def refuse(*_: object) -> NoReturn:
        # It may declare texts that grow to gigabytes; CVAT writes none.
        raise InputError(f"{place}: not CVAT's XML: it declares a document type")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except InputError:
        raise
    except (expat.ExpatError, ValueError, LookupError) as error:  # the latter two of an unknown encoding
        raise InputError(f"{place}: not XML: {error}") from None


def read(place: Path) -> dict[str, Labels]:
    """The labels by image; images without marks show nobody. Raises InputError, naming the file, for anything but
    CVAT's layout.
    """
    reader = _Reader(place)
    parse_cvat(place, read_file(place), reader.start, reader.end)
    if not reader.labels:
        raise OtherFileError(f"{place}: not CVAT's XML for images: no image stands in annotations; export it as CVAT "
                             "for images 1.1")
    return {name: replace(held, num_unplaced=reader.unplaced.get(name, 0)) for name, held in reader.labels.items()}


FORMAT = own_format("cvat", 'images, and the .xml of "CVAT for images 1.1": points, skeletons, boxes or ellipses',
                    (".xml",), read)
