"""One's own labels as a table: a row a head, with the columns file, x and y (px, from the left and the top).

A column class, where there is one, tells heads from other marks. A row with a file alone says that the image shows
nobody. Images that no row names are left out, as they may not have been looked at.
"""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from crowddist.data.convert.annotations import read_text
from crowddist.data.convert.own import Labels, OtherFileError, numbers, own_format
from crowddist.errors import InputError

_FILE = ("file", "filename", "file_name", "image", "image_name", "image_path", "path")
_CLASS = ("class", "class_name", "label", "category")
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")
_FROM_IMAGES = 5  # ours: a head in each of fewer images may be so


def read(place: Path) -> dict[str, Labels]:
    """The labels of a table by image. Raises InputError, naming the file, for a table without these columns."""
    # Not stripped: the first cells of a row may be empty.
    # Zero bytes fill a file up that was not written to its end.
    lines = [f"{_as_unicode(line)}\n" for line in read_text(place).split("\n") if line.strip("\0 \t\r\v\f")]
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
    if has_header:
        _require_width(rows, place)
    labels: dict[str, Labels] = {}
    # Tables that were put behind each other have their headings in between.
    told = [[row[column].strip() if column < len(row) else "" for column in columns]
            for row in rows[1 if has_header else 0:] if not has_header or row != rows[0]]
    thousands = _thousands([cell for cells in told for cell in cells[1:3]], place)
    for cells in told:
        if not any(cells):
            continue
        held = labels.setdefault(cells[0], Labels(place=place))
        if any(cells[1:3]):
            x, y = _numbers([cell.replace(thousands, "") if thousands else cell for cell in cells[1:3]])
            held.marks.append((cells[3] if len(cells) > 3 else "", x, y))
    if not has_header and len(labels) >= _FROM_IMAGES and max(Counter(cells[0] for cells in told).values()) == 1:
        raise InputError(f"{place}: it has no heading, and one row for each of {len(labels)} images; if its numbers "
                         "are x and y of a head, write file,x,y in the first row")
    if "" in labels:
        raise InputError(f"{place}: a row has a place but no file; write file, x and y in each row")
    return labels


def _numbers(cells: list[str]) -> list[float]:
    """x and y. Where a semicolon parts the columns, a comma parts the decimals."""
    return numbers([cell.replace(",", ".") for cell in cells], 2)


def _thousands(cells: Sequence[str], place: Path) -> str:
    """The sign between thousands in a table's numbers; "" where there is none. Raises InputError where a comma may be
    that, or part the decimals.
    """
    if any(re.fullmatch(f"{_GROUPED.pattern}\\.\\d+", cell) for cell in cells):
        return ","
    if any(re.fullmatch(r"[+-]?[1-9]\d{0,2}(\.\d{3})+,\d+", cell) for cell in cells):
        return "."
    commas = [cell for cell in cells if "," in cell]
    if commas and all(map(_GROUPED.fullmatch, commas)) and len(commas) < sum(map(bool, cells)):
        whole, part = commas[0].replace(",", ""), commas[0].replace(",", ".")
        raise InputError(f"{place}: {commas[0]!r} may be {whole} or {part}; write numbers without a sign between "
                         "thousands, and decimals behind a point")
    return ""


def _require_width(rows: Sequence[Sequence[str]], place: Path) -> None:
    """Raises InputError for a row with more cells than the heading, as decimal commas make between commas."""
    for row in rows[1:]:
        if any(cell.strip() for cell in row[len(rows[0]):]):
            raise InputError(f"{place}: the row {','.join(row)[:80]!r} has {len(row)} cells, and the heading "
                             f"{len(rows[0])}; put quotes round decimal commas, or semicolons between the columns")


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
        if twice := [name for name in "xy" if names.count(name) > 1]:
            raise InputError(f"{place}: the column {twice[0]} is there twice; keep one")
        kind = [names.index(name) for name in _CLASS if name in names][:1]
        return [file, names.index("x"), names.index("y"), *kind], True
    if len(names) == 3 and not any(map(math.isnan, _numbers(names[1:]))):
        return [0, 1, 2], False
    raise OtherFileError(f"{place}: the first row must name the columns file, x and y, got {','.join(names)[:80]!r}")


FORMAT = own_format("csv", "images, and a .csv with the columns file, x, y: a row a head, or with a file alone where "
                    "nobody is", (".csv", ".tsv"), read)
