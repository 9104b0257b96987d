"""One's own labels as a table: a row a head, with the columns file, x and y (px, from the left and the top).

A column class, where there is one, tells heads from other marks. A row with a file alone says that the image shows
nobody. Images that no row names are left out, as they may not have been looked at.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path

from crowddist.data.convert.annotations import read_text
from crowddist.data.convert.own import Labels, OtherFileError, numbers, own_format
from crowddist.errors import InputError

_FILE = ("file", "filename", "file_name", "image", "image_name", "image_path", "path")
_CLASS = ("class", "class_name", "label", "category")


def read(place: Path) -> dict[str, Labels]:
    """The labels of a table by image. Raises InputError, naming the file, for a table without these columns."""
    # Not stripped: the first cells of a row may be empty.
    lines = [_as_unicode(line) for line in read_text(place).split("\n") if line.strip()]
    if lines and lines[0].lower().startswith("sep="):  # Excel's own first line
        lines = lines[1:]
    if not lines:
        raise InputError(f"{place}: the file is empty")
    delimiter = max(";\t,", key=lines[0].count)  # of equally many, commas part decimals
    try:
        rows = list(csv.reader(lines, delimiter=delimiter, skipinitialspace=True))
    except csv.Error as error:
        raise InputError(f"{place}: not a table: {error}") from None
    columns, has_header = _columns([cell.strip().lower() for cell in rows[0]], place)
    labels: dict[str, Labels] = {}
    for row in rows[1 if has_header else 0:]:
        cells = [row[column].strip() if column < len(row) else "" for column in columns]
        if not any(cells):
            continue
        held = labels.setdefault(cells[0], Labels(place=place))
        if any(cells[1:3]):
            x, y = _numbers(cells[1:3])
            held.marks.append((cells[3] if len(cells) > 3 else "", x, y))
    if "" in labels:
        raise InputError(f"{place}: a row has a place but no file; write file, x and y in each row")
    return labels


def _numbers(cells: list[str]) -> list[float]:
    """x and y. Where a semicolon parts the columns, a comma parts the decimals."""
    return numbers([cell.replace(",", ".") for cell in cells], 2)


def _as_unicode(line: str) -> str:
    """A line of an office program's own encoding, whose letters `read_text` left as bytes; others as they are."""
    try:
        line.encode()
    except UnicodeEncodeError:
        return line.encode(errors="surrogateescape").decode("cp1252", "replace")
    return line


def _columns(names: list[str], place: Path) -> tuple[list[int], bool]:
    """Numbers of the columns file, x, y and, if there is one, class, and whether the first row names them."""
    file = next((names.index(name) for name in _FILE if name in names), None)
    if file is not None and "x" in names and "y" in names:
        kind = [names.index(name) for name in _CLASS if name in names][:1]
        return [file, names.index("x"), names.index("y"), *kind], True
    if len(names) == 3 and not any(map(math.isnan, _numbers(names[1:]))):
        return [0, 1, 2], False
    raise OtherFileError(f"{place}: the first row must name the columns file, x and y, got {','.join(names)[:80]!r}")


FORMAT = own_format("csv", "images, and a .csv with the columns file, x, y: a row a head, or with a file alone where "
                    "nobody is", (".csv", ".tsv"), read)
