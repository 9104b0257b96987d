"""The points of a count: points.csv, whose rows come with those of counts.csv, and files for other tools at its end."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any, Literal, TextIO

import numpy as np

from crowddist import storage
from crowddist.data.user_files import UserFile, label_names
from crowddist.errors import InputError
from crowddist.process.safe_text import readable
from crowddist.reports.counts_table import CountsTable
from crowddist.reports.point_formats import FILES, Counted, labelme_name, labelme_record, lines
from crowddist.storage.names import temporary_name

PointFormat = Literal["cvat", "labelstudio", "coco", "labelme"]
POINTS = "points.csv"
COLUMNS = ("file", "x", "y", "score")
PARTS = temporary_name("points", job="parts")
"""A folder beside the table while it is not whole: a file an image, by its overlay's name."""
LABELME = "labelme"
_DIGITS = 3
"""Decimals of x, y and the score: a thousandth of a px."""


class PointsTable:
    """The points of the images that `table` counts, in the same folder.

    An image's points are kept before its row is added, so that a stopped count goes on with the points of all rows.
    An image that was named twice is counted twice, but its points are written once.
    """

    def __init__(self, place: str, table: CountsTable, formats: Sequence[PointFormat] = ()) -> None:
        self.place, self.table, self.formats = place, table, formats
        self._url, self._parts = storage.join(place, POINTS), storage.join(place, PARTS)
        self._names = [readable(name) for name in label_names(table.files)]
        self._written: set[str] = set()
        self._begun = False
        self.files = (POINTS, *(LABELME if kind == "labelme" else FILES[kind][0] for kind in ("json", *formats)))
        """What `publish` writes."""
        table.require_ours(*self.files)
        if "labelme" in formats:
            _require_one_each(self._names, table.files)
        for index, entry in table.counted():
            if self._kept(entry) is None:
                table.forget(index)

    def add(self, entry: dict[str, Any], row: dict[str, Any], size: tuple[int, int], points: np.ndarray,
            sizes: np.ndarray | None) -> None:
        """Keeps an image's points: (height, width) px of the image, M x 3 x, y, score, and (M,) sides or None."""
        part = {"row": row, "height": size[0], "width": size[1], "points": _rounded(points),
                "sizes": None if sizes is None else _rounded(sizes)}
        storage.write_bytes(self._part(entry), json.dumps(part).encode())
        if not self.table.local:  # object storage cannot append
            return
        if not self._begun:
            self._begun = True
            self._write_table()
        if row["file"] not in self._written:
            self._written.add(row["file"])
            storage.append_lines(self._url, _csv(lines(_counted("", part))))

    def publish(self) -> list[str]:
        """Writes all files, in order, and returns their names."""
        self._write_table()
        names = [POINTS]
        for kind in ("json", *self.formats):
            if kind == "labelme":
                for image in self:
                    storage.write_json(storage.join(self.place, LABELME, labelme_name(image.name)),
                                       labelme_record(image))
                names.append(f"{LABELME}/")
            else:
                name, write = FILES[kind]
                with _text(storage.join(self.place, name)) as text:
                    write(text, self)
                names.append(name)
        return names

    def clear(self) -> None:
        """Removes what a stopped count would go on with; only once the table of counts no longer goes on."""
        storage.remove_tree(self._parts)

    def __iter__(self) -> Iterator[Counted]:
        """The images that are counted, each once."""
        met: set[str] = set()
        for index, entry in self.table.counted():
            if entry["file"] not in met:
                met.add(entry["file"])
                part = self._kept(entry)
                if part is None:
                    raise InputError(f"{entry['file']}: its points were lost while others were counted; start the same "
                                     "command again, it counts this image anew")
                yield _counted(self._names[index], part)

    def _kept(self, entry: dict[str, Any]) -> dict[str, Any] | None:
        """The points of a row; None where they are lost or damaged, or those of another lie in their place."""
        try:
            part = storage.read_json(self._part(entry))
        except (FileNotFoundError, InputError):
            return None
        return part if _is_part(part) and part["row"] == entry["row"] else None

    def _part(self, entry: dict[str, Any]) -> str:
        return storage.join(self._parts, f"{entry['overlay']}.json")

    def _write_table(self) -> None:
        self._written = {entry["row"]["file"] for _, entry in self.table.counted()}
        with _text(self._url) as text:
            text.write(",".join(COLUMNS) + "\n")
            for image in self:
                text.writelines(f"{line}\n" for line in _csv(lines(image)))


@contextmanager
def _text(url: str) -> Iterator[TextIO]:
    """A text file that appears at `url`, whole, when the block ends."""
    with storage.open_write(url) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8", newline="\n")  # type: ignore[type-var]
        yield text
        text.detach()  # writes what it holds, and leaves the stream open


def _is_part(part: Any) -> bool:
    """False for what a failing disk or another program changed."""
    return (isinstance(part, dict) and part.keys() == {"row", "height", "width", "points", "sizes"}
            and all(type(part[side]) is int and 0 < part[side] < 1e9 for side in ("height", "width"))
            and isinstance(part["points"], list) and all(_are_numbers(point, 3) for point in part["points"])
            and (part["sizes"] is None or _are_numbers(part["sizes"], len(part["points"]))))


def _are_numbers(values: Any, number: int) -> bool:
    return isinstance(values, list) and len(values) == number and all(
        isinstance(value, int | float) and abs(value) < 1e9 for value in values)


def _counted(name: str, part: dict[str, Any]) -> Counted:
    return Counted(name=name, file=part["row"]["file"], **part)


def _rounded(values: np.ndarray) -> list[Any]:
    return np.round(values.astype(np.float64), _DIGITS).tolist()


def _csv(rows: Iterable[Sequence[Any]]) -> list[str]:
    """The rows as lines of a table; no name of a file holds a line break, see `count_files`."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().splitlines()


def _require_one_each(names: Sequence[str], files: Sequence[UserFile]) -> None:
    """Raises InputError where two images would have the same LabelMe file, which is named by the image's stem."""
    images = {(name, file.name) for name, file in zip(names, files, strict=True)}  # one may be named twice
    places = Counter(labelme_name(name) for name, _ in images)
    twice = next((place for place, number in places.items() if number > 1), None)
    if twice is not None:
        raise InputError(f"LabelMe keeps one file for all images of one name, and several are called "
                         f"{PurePosixPath(twice).stem!r}; rename them, or give another format to --points")
