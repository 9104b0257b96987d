"""Readers of annotation files: MATLAB, JSON, text, masks. `points` checks what they hold."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from crowddist.data.convert.matlab import read_variable, variable_names
from crowddist.errors import InputError
from crowddist.process.safe_text import readable
from crowddist.storage.remnants import remnant

# ours: five times the largest file of all published sets, which holds the boxes of 15,000 images.
MAX_ANNOTATION_BYTES = 512 * 2**20
NOT_READ = "a sparse or complex array, an object or a function, which are not read; save it as full, real numbers"
"""What a variable of a MATLAB file may be that is neither numbers nor a text, cell or structure."""
Made = TypeVar("Made")


def read_mat_info(place: Path) -> tuple[np.ndarray, int | None]:
    """`image_info.location` of a MATLAB file, N x 2 or N x 3 numbers, and its `number` if that is one.

    `image_info` is a struct (GCC) or a struct in a cell (ShanghaiTech). Raises InputError, naming the file, where it is
    missing, damaged or of another layout.
    """
    value: Any = read_mat_value(place, "image_info")
    number = None
    if value is None:
        raise _lacks(place, "image_info.location")
    while isinstance(value, dict) or (isinstance(value, np.ndarray) and value.dtype == object and value.size == 1):
        if isinstance(value, dict):
            value, number = value.get("location"), value.get("number", number)
        else:
            value = value[0]
    return as_points(value, place, "image_info.location"), as_count(number)


def read_mat_points(place: Path, name: str) -> np.ndarray:
    """The N x 2 or N x 3 numbers of one variable of a MATLAB file. Raises InputError, naming the file, for anything
    else.
    """
    value = read_mat_value(place, name)
    if value is None:
        raise _lacks(place, name)
    return as_points(value, place, name)


def read_mat_count(place: Path, name: str) -> int | None:
    """The number in one variable of a MATLAB file; None if it holds no count. Raises InputError as above."""
    return as_count(read_mat_value(place, name))


def read_mat_names(place: Path) -> list[str]:
    """The names of a MATLAB file's variables. Raises InputError, naming the file, for another format."""
    return _of_mat(place, variable_names)


def read_mat_value(place: Path, name: str) -> Any:
    """One variable of a MATLAB file as `read_variable` gives it. Raises InputError, naming the file."""
    return _of_mat(place, lambda data: read_variable(data, name))


def read_mat_polygon(place: Path, names: tuple[str, str]) -> np.ndarray:
    """K x 2 x, y of a polygon, K >= 3, from two vectors of a MATLAB file. Raises InputError for anything else."""
    columns = [read_mat_value(place, name) for name in names]
    x, y = (np.ravel(column) if isinstance(column, np.ndarray) and column.dtype.kind in "fiu" else np.empty(0)
            for column in columns)
    if len(x) != len(y) or len(x) < 3 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError(f"{place}: wrong layout: {' and '.join(names)} must be the x and y of three vertices or more")
    return np.stack([x, y], axis=1).astype(np.float64)


def as_points(value: Any, place: Path | str, noun: str) -> np.ndarray:
    """`value` as N x 2 float64, or N x 3 where a third column follows x and y. Raises InputError as `as_rows` does."""
    return as_rows(value, place, noun, most_columns=3)


def as_rows(value: Any, place: Path | str, noun: str, num_columns: int = 2,
            most_columns: int | None = None) -> np.ndarray:
    """`value` as N x `num_columns` float64, N may be 0; up to `most_columns`, where given. Raises InputError, naming
    the place, for anything else.
    """
    most_columns = most_columns or num_columns
    try:
        array = None if value is None else np.asarray(value)
    except ValueError:
        array = _with_slips(value)
    if array is not None and array.dtype == object and array.ndim == 2:  # JSON's null is no number
        rows = [[math.nan if cell is None else cell for cell in row] for row in array]
        array = np.asarray(rows)
    if array is not None and array.dtype.kind in "US":
        with suppress(ValueError):
            array = array.astype(np.float64)
    if array is not None and array.size == 0 and array.dtype.kind in "fiu":
        return np.zeros((0, num_columns))
    if (array is None or array.dtype.kind not in "fiu" or array.ndim != 2
            or not num_columns <= array.shape[1] <= most_columns):
        got = ("nothing" if value is None else "lists of unequal length" if array is None
               else f"{array.dtype} of shape {array.shape}")
        turned = array is not None and is_turned(array, num_columns)
        raise InputError(f"{place}: wrong layout: {noun} must be N x {num_columns} numbers, got {got}"
                         f"{'; its rows seem to be the columns, transpose it' if turned else ''}")
    return array.astype(np.float64)


def _with_slips(rows: Any) -> np.ndarray | None:
    """Lists of unequal length as an array: those of another length than most are rows of NaN, so that the check of
    points or boxes tells of them. None where fewer than half have one length.
    """
    lengths = Counter(len(row) if isinstance(row, list | tuple) else 0 for row in rows)
    ((length, number),) = lengths.most_common(1)
    if not length or number <= len(rows) / 2:
        return None
    try:
        return np.asarray([row if isinstance(row, list | tuple) and len(row) == length else [math.nan] * length
                           for row in rows])
    except ValueError:  # their members are lists of unequal length
        return None


def is_turned(array: np.ndarray, num_columns: int = 2) -> bool:
    """True for numbers whose rows seem to be the columns."""
    return (array.dtype.kind in "fiu" and array.ndim == 2 and array.shape[0] == num_columns
            and array.shape[1] > max(3, num_columns))


def as_count(value: Any) -> int | None:
    """A whole number of at least 0, also as text or in an array of one member; None for anything else."""
    while isinstance(value, np.ndarray):
        value = value.reshape(-1)[0] if value.size == 1 else None
    if isinstance(value, str):  # a longer number is wrong, and Python refuses to parse one of thousands of digits
        value = int(value) if value.isascii() and value.isdecimal() and len(value) < 10 else None
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return None
    return int(value) if 0 <= value < 2**31 and value % 1 == 0 else None


def read_json_object(place: Path) -> dict[str, Any]:
    """The JSON object in a file; NaN stays NaN. Raises InputError, naming the file, for anything else."""
    return parse_json_object(read_file(place), place)


def read_json(place: Path) -> Any:
    """The JSON value in a file; NaN stays NaN. Raises InputError, naming the file, for anything else."""
    return parse_json(read_file(place), place)


def parse_json_object(text: str | bytes, place: Path | str) -> dict[str, Any]:
    """The JSON object in a text; NaN stays NaN. Raises InputError, naming the place, for anything else."""
    value = parse_json(text, place)
    if not isinstance(value, dict):
        raise InputError(f"{place}: wrong layout: holds {type(value).__name__}, not an object")
    return value


def parse_json(text: str | bytes, place: Path | str) -> Any:
    """The JSON value in a text; NaN stays NaN. Raises InputError, naming the place, for anything else."""
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
    except UnicodeDecodeError:
        raise InputError(f"{place}: not JSON in UTF-8, as all JSON is; save it in that encoding") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: not JSON: {error}; mend it there, or export it again") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The entries of a JSON object. Raises InputError where two have one name: Python would drop the first unsaid."""
    found = dict(pairs)
    if len(found) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise InputError(f"names {twice[:80]!r} twice in one object; keep one of the two")
    return found


def read_raw_mask(place: Path, size: tuple[int, int]) -> np.ndarray:
    """A headerless uint8 mask of the image's (height, width). Raises InputError for another number of bytes."""
    data = read_file(place)
    if len(data) != size[0] * size[1]:
        raise InputError(f"{place}: {len(data)} bytes, a mask of {size[1]} x {size[0]} px has {size[0] * size[1]}")
    return np.frombuffer(data, np.uint8).reshape(size)


def read_lines(place: Path, *, may_be_empty: bool = False) -> list[str]:
    """The stripped lines of a text file, without empty ones at its end.

    Raises InputError for a missing file, and for an empty one unless `may_be_empty`.
    """
    lines = [line.strip() for line in read_text(place, may_be_empty=may_be_empty).split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def read_text(place: Path, *, may_be_empty: bool = False) -> str:
    r"""A text file in UTF-8 or UTF-16, its lines ended by \n whatever the system that wrote it; other bytes become
    surrogates, as in file names. Raises InputError as `read_lines` does.
    """
    data = read_file(place, may_be_empty)
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = data.decode("utf-16", "replace")
    elif 0 in data[:2]:  # UTF-16 that does not say so: no other text begins with a zero byte
        text = data.decode("utf-16-be" if data[0] == 0 else "utf-16-le", "replace")
    else:
        text = data.decode("utf-8-sig", "surrogateescape")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_numbers(line: str, columns: Sequence[str], place: str) -> list[float]:
    """The numbers of a line, one per column, between spaces, tabs, commas or semicolons. Raises InputError, naming the
    place, for anything else.
    """
    try:
        numbers = [float(column) for column in re.split(r"\s*[,;]\s*|\s+", line)]
    except ValueError:
        numbers = []
    if len(numbers) != len(columns):
        raise InputError(f"{place} should be the numbers {' '.join(columns)}, got {line[:80]!r}; download the file "
                         "again, or bring your own labels with the format csv")
    return numbers


def parse_rows(lines: Iterable[tuple[int, str]], parse: Callable[[str, str], list[float]], num_columns: int,
               place: Path) -> np.ndarray:
    """What `parse` makes of each numbered line, given also its place, as N x `num_columns` float64. A line that it
    refuses is a row of NaN, so that the check of points or boxes tells of it; where it refuses all, the first error is
    raised: the file has another layout.
    """
    rows, errors = [], []
    for number, line in lines:
        try:
            rows.append(parse(line, f"{place}: line {number}"))
        except InputError as error:
            rows.append([math.nan] * num_columns)
            errors.append(error)
    if errors and len(errors) == len(rows):
        raise errors[0]
    return np.array(rows, np.float64).reshape(-1, num_columns)


def _of_mat(place: Path, read: Callable[[bytes], Made]) -> Made:
    """What `read` makes of a MATLAB file."""
    data = read_file(place)
    try:
        return read(data)
    except (ValueError, OverflowError) as error:  # ours, and NumPy's for sizes that no array has
        raise InputError(f"{place}: not a MATLAB file that can be read: {' '.join(str(error).split())}") from None


def _lacks(place: Path, name: str) -> InputError:
    names = read_mat_names(place)
    held = readable(", ".join(each[:40] for each in names[:8])) or "no variables"
    got = NOT_READ if name.split(".")[0] in names else f"nothing; the file holds {held}"
    return InputError(f"{place}: wrong layout: {name} must be N x 2 numbers, got {got}")


def read_file(place: Path, may_be_empty: bool = False) -> bytes:
    """The bytes of a file. Raises InputError, naming it, where it is missing, empty, too large or no file of its own.
    """
    try:
        num_bytes = place.stat().st_size
        if not place.is_file():  # reading a pipe or a device would never end
            raise InputError(f"{place}: cannot be read: not a file")
        if num_bytes > MAX_ANNOTATION_BYTES:
            raise InputError(f"{place}: {num_bytes} bytes, an annotation may have {MAX_ANNOTATION_BYTES}")
        data = place.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{place}: the annotation is missing") from None
    except OSError as error:
        raise InputError(f"{place}: cannot be read: {error.strerror}") from None
    if not data and not may_be_empty:
        raise InputError(f"{place}: the file is empty")
    if what := _instead(data):
        raise InputError(f"{place}: {what}")
    return data


def _instead(data: bytes) -> str:
    """What a download left instead of an annotation, and the next step; "" where it looks like none of that."""
    if what := remnant(data):
        return what
    if data.startswith((b"PK\x03\x04", b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!", b"\xd0\xcf\x11\xe0")):
        return "packed, or a workbook, not an annotation itself; unpack it, or save it as .csv"
    return ""
