"""One's own labels as a table: a row a head, with the columns file, x and y (px, from the left and the top).

A column class, where there is one, tells heads from other marks. With the columns width and height a row is a box.
A row with a file alone says that the image shows nobody. Images that no row names are left out, as they may not have
been looked at.
"""

from __future__ import annotations

import csv
import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from crowddist.data.convert.annotations import read_text
from crowddist.data.convert.own import Labels, Mark, OtherFileError, numbers, own_format
from crowddist.data.images import SUFFIXES
from crowddist.errors import InputError

FILE_NAMES = ("file", "filename", "file_name", "image", "image_name", "image_path", "path")
CLASS_NAMES = ("class", "class_name", "label", "category")
SIZE_NAMES = (("width", "height"), ("w", "h"))
_GROUPED = {sign: re.compile(rf"[+-]?[1-9]\d{{0,2}}({re.escape(sign)}\d{{3}})+") for sign in ",."}
# Other signs between thousands: spaces, also narrow ones and those that break no line, and apostrophes.
_GAP = re.compile("(?<=\\d)[ \u00a0\u2009\u202f'\u2019](?=\\d{3}(?!\\d))")
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
    rows: list[list[str]] = []
    try:
        rows.extend(_rows(lines, delimiter))
    except csv.Error as error:
        raise InputError(f"{place}: not a table: {error} in the row {_line(lines, rows)!r}; see whether a quote is not "
                         "closed there") from None
    columns, has_header = _columns([cell.strip().lower() for cell in rows[0]], place)
    if len(rows) < len(lines):
        _require_closed(rows, lines, delimiter, columns, place)
    if has_header:
        _require_width(rows, place)
    # Tables that were put behind each other have their headings in between.
    told = [[row[column].strip() if column < len(row) else "" for column in columns]
            for row in rows[1 if has_header else 0:] if not has_header or row != rows[0]]
    thousands = _thousands([cell for cells in told for cell in cells[1:3]], delimiter, place)
    labels = by_image(((cells[0], _mark(cells, thousands)) for cells in told if any(cells[:4])), place)
    if not has_header and len(labels) >= _FROM_IMAGES and max(Counter(cells[0] for cells in told).values()) == 1:
        raise InputError(f"{place}: it has no heading, and one row for each of {len(labels)} images; if its numbers "
                         "are x and y of a head, write file,x,y in the first row")
    return labels


def by_image(rows: Iterable[tuple[str, Mark | None]], place: Path) -> dict[str, Labels]:
    """The labels by image of rows that name their image; None says that nobody is there. Raises InputError where a row
    names none.
    """
    labels: dict[str, Labels] = {}
    for image, mark in rows:
        held = labels.get(image) or labels.setdefault(image, Labels(place=place))
        if mark is not None:
            held.marks.append(mark)
    if "" in labels:
        raise InputError(f"{place}: a row has a place but no file; write file, x and y in each row")
    return labels


def _mark(cells: list[str], thousands: str) -> Mark | None:
    """The head of a row of file, x, y and perhaps class, width and height; None where it has no place."""
    if not any(cells[1:3]):
        return None
    x, y, *size = _numbers([cell.replace(thousands, "") if thousands else cell
                            for cell in (*cells[1:3], *(cell or "0" for cell in cells[4:]))])
    return (cells[3] if cells[3:] else "", x, y, *size)


def _numbers(cells: list[str]) -> list[float]:
    """The numbers of cells, all NaN where one is none. Where a semicolon parts the columns, a comma parts the
    decimals.
    """
    cells = [cell.replace(",", ".") for cell in cells]
    found = numbers(cells, len(cells))
    return numbers([_GAP.sub("", cell) for cell in cells], len(cells)) if math.isnan(found[0]) else found


def _thousands(cells: Sequence[str], delimiter: str, place: Path) -> str:
    """The sign between thousands in a table's numbers; "" where there is none that `_GAP` does not know. Raises
    InputError where a comma, or where semicolons part the columns a point, may be that or part the decimals.
    """
    for sign, decimal in (",.", ".,"):
        if any(re.fullmatch(rf"{_GROUPED[sign].pattern}\{decimal}\d+", cell) for cell in cells):
            return sign
    for sign in ",." if delimiter == ";" else ",":
        signed = [cell for cell in cells if sign in cell]
        if signed and all(map(_GROUPED[sign].fullmatch, signed)) and len(signed) < sum(map(bool, cells)):
            if sign == "." and any("," in cell for cell in cells):
                return sign
            whole, part = signed[0].replace(sign, ""), signed[0].replace(sign, ".")
            raise InputError(f"{place}: {signed[0]!r} may be {whole} or {part}; write numbers without a sign between "
                             "thousands, and decimals behind a point")
    return ""


def _rows(lines: Iterable[str], delimiter: str) -> Iterable[list[str]]:
    return csv.reader(lines, delimiter=delimiter, skipinitialspace=True)


def _line(lines: Sequence[str], before: Sequence[Sequence[str]]) -> str:
    """The beginning of the row that follows on these in a table's lines."""
    return lines[sum(1 + sum(cell.count("\n") for cell in row) for row in before)].strip()[:80]


def _require_closed(rows: Sequence[Sequence[str]], lines: Sequence[str], delimiter: str, columns: Sequence[int],
                    place: Path) -> None:
    """Raises InputError where a line inside a cell has a file and numbers, or nothing, in their columns: it is a row of
    its own, which a quote took in that was not closed.
    """
    file, x, y, *_ = columns
    width = max(file, x, y) + 1
    files = {row[file] for row in rows if len(row) > file}
    for number, row in enumerate(rows):
        for column, cell in enumerate(row):
            inside = list(_rows(cell.split("\n")[1:], delimiter)) if "\n" in cell else []
            inside[-1:] = [[*last, *row[column + 1 : column + 1 + width]] for last in inside[-1:]]
            for cells in inside:
                if (len(cells) >= width and not math.isnan(_numbers([cells[x] or "0", cells[y] or "0"])[0])
                        and (cells[file] in files or Path(cells[file]).suffix.lower() in SUFFIXES)):
                    raise InputError(f"{place}: the row {_line(lines, rows[:number])!r} opens a quote that is not "
                                     "closed before the next row; close it, or leave it out")


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
    """Numbers of the columns file, x, y and, if they are there, class, width and height; and whether the first row
    names them.
    """
    file = next((names.index(name) for name in FILE_NAMES if name in names), None)
    if file is not None and "x" in names and "y" in names:
        if twice := [name for name in "xy" if names.count(name) > 1]:
            raise InputError(f"{place}: the column {twice[0]} is there twice; keep one")
        kind = [names.index(name) for name in CLASS_NAMES if name in names][:1]
        size = next(([names.index(name) for name in pair] for pair in SIZE_NAMES if {*pair} <= {*names}), [])
        return [file, names.index("x"), names.index("y"), *(kind or [sys.maxsize] * bool(size)), *size], True
    if len(names) == 3 and not any(map(math.isnan, _numbers(names[1:]))):
        return [0, 1, 2], False
    raise OtherFileError(f"{place}: the first row must name the columns file, x and y, got {','.join(names)[:80]!r}")


FORMAT = own_format("csv", "images, and a .csv with the columns file, x, y: a row a head, or with a file alone where "
                    "nobody is", (".csv", ".tsv"), read)
