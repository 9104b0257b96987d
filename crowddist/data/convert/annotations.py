"""Readers of annotation files (MATLAB, JSON, text) and the checks for points and boxes of every data set."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crowddist.data.convert.matlab import require_harmless
from crowddist.errors import InputError

# ours: five times the largest file of all published sets, which holds the boxes of 15,000 images.
MAX_ANNOTATION_BYTES = 512 * 2**20


def check_points(points: np.ndarray, size: tuple[int, int], place: Path | str) -> tuple[np.ndarray, int, int]:
    """Points as shards hold them: N x 2 float32 inside the frame.

    Exact repeats of a point are counted and kept: published counts include them (ShanghaiTech's training splits hold
    101), and two heads may share a pixel.

    Args:
        points: N x 2 x, y in px.
        size: (height, width) of the image, px.
        place: the file, or a place in it, for messages.

    Returns:
        The points, the number moved to the border (less than a pixel outside), the number that repeat an earlier one.

    Raises:
        InputError: a coordinate that is not finite, or a pixel or more outside the frame.
    """
    points = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    height, width = size
    if (bad := np.flatnonzero(~np.isfinite(points).all(axis=1))).size:
        which = f"point {bad[0] + 1} of {len(points)} is {_text(points[bad[0]])}"
        raise InputError(f"{place}: {which}, not a pair of numbers")
    if (far := np.flatnonzero((points <= -1).any(axis=1) | (points >= [width + 1, height + 1]).any(axis=1))).size:
        which = f"point {far[0] + 1} of {len(points)}, x, y = {_text(points[far[0]])}"
        raise InputError(f"{place}: {which}, lies outside the image of {width} x {height} px")
    stored = points.astype(np.float32)
    outside = (stored < 0) | (stored >= [width, height])
    stored = np.where(outside, np.clip(stored, 0, [width - 1, height - 1]), stored).astype(np.float32)
    num_repeated = len(points) - len(np.unique(points, axis=0))
    return stored, int(outside.any(axis=1).sum()), num_repeated


def check_boxes(boxes: np.ndarray, size: tuple[int, int], place: Path | str,
                left_out: np.ndarray | None = None) -> tuple[np.ndarray, int]:
    """Boxes as shards hold them: M x 4 float32 inside the frame; boxes centred in it are cut at its border.

    Args:
        boxes: N x 4 left, top, width, height, as edges in px: pixel j covers [j, j + 1).
        size: (height, width) of the image, px.
        place: the file, or a place in it, for messages.
        left_out: (N,) bool, boxes that are neither checked nor kept; None keeps all.

    Returns:
        The boxes kept, in their order, and the number of cut ones.

    Raises:
        InputError: a number that is not finite, a box without an area, or with its centre outside the frame.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    kept = np.ones(len(boxes), bool) if left_out is None else ~left_out
    height, width = size
    with np.errstate(invalid="ignore", over="ignore"):
        near, far = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
        reasons = (
            (~np.isfinite(boxes), "is not four finite numbers"),
            (boxes[:, 2:].astype(np.float32) <= 0, "has no area"),
            (centred_outside(boxes, size)[:, None], f"has its centre outside the image of {width} x {height} px"),
        )
    for wrong, reason in reasons:
        if (found := np.flatnonzero(wrong.any(axis=1) & kept)).size:
            which = f"box {found[0] + 1} of {len(boxes)}, left, top, width, height = {_text(boxes[found[0]])}"
            raise InputError(f"{place}: {which}, {reason}")
    cut_near, cut_far = np.clip(near, 0, [width, height]), np.clip(far, 0, [width, height])
    outside = (cut_near != near) | (cut_far != far)
    # Only boxes that leave the frame are recomputed: the others stay as annotated to the last digit.
    stored = np.where(np.hstack([outside, outside]), np.hstack([cut_near, cut_far - cut_near]), boxes)[kept]
    return stored.astype(np.float32), int(outside[kept].any(axis=1).sum())


def box_centres(boxes: np.ndarray) -> np.ndarray:
    """Centres N x 2 x, y (pixel j has its centre at j) of boxes N x 4 left, top, width, height, edges in px."""
    return boxes[:, :2] + boxes[:, 2:] / 2 - 0.5


def centred_outside(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(N,) bool, boxes of finite numbers with their centre outside the frame. Args: as for `check_boxes`."""
    with np.errstate(invalid="ignore", over="ignore"):
        centre = boxes[:, :2] + boxes[:, 2:] / 2
    return np.isfinite(boxes).all(axis=1) & ((centre < 0) | (centre >= size[::-1])).any(axis=1)


def read_mat_locations(place: Path) -> np.ndarray:
    """The N x 2 numbers `image_info.location` of a MATLAB file: a struct (GCC) or a struct in a cell (ShanghaiTech).

    Raises InputError, naming the file, where it is missing, damaged, of another layout, or contradicts its `number`.
    """
    value, number = _read_mat(place, "image_info"), None
    while isinstance(value, np.ndarray) and value.dtype.kind in "OV" and value.size == 1:
        names = value.dtype.names or ()
        number = value["number"] if "number" in names else number
        value = value["location"] if "location" in names else value.reshape(-1)[0] if value.dtype.kind == "O" else None
    points = as_rows(value, place, "image_info.location")
    count = None if number is None else int(np.asarray(number.reshape(-1)[0]).reshape(-1)[0])
    if count is not None and count != len(points):
        raise InputError(f"{place}: its `number` is {count}, but it holds {len(points)} points")
    return points


def read_mat_points(place: Path, name: str) -> np.ndarray:
    """The N x 2 numbers of one variable of a MATLAB file. Raises InputError, naming the file, for anything else."""
    return as_rows(_read_mat(place, name), place, name)


def read_mat_polygon(place: Path, names: tuple[str, str]) -> np.ndarray:
    """K x 2 x, y of a polygon, K >= 3, from two vectors of a MATLAB file. Raises InputError for anything else."""
    columns = [_read_mat(place, name) for name in names]
    x, y = (np.ravel(column) if isinstance(column, np.ndarray) and column.dtype.kind in "fiu" else np.empty(0)
            for column in columns)
    if len(x) != len(y) or len(x) < 3 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError(f"{place}: wrong layout: {' and '.join(names)} must be the x and y of three vertices or more")
    return np.stack([x, y], axis=1).astype(np.float64)


def as_rows(value: Any, place: Path | str, noun: str, num_columns: int = 2) -> np.ndarray:
    """`value` as N x `num_columns` float64, N may be 0. Raises InputError, naming the place, for anything else."""
    try:
        array = None if value is None else np.asarray(value)
    except ValueError:
        array = None
    if array is not None and array.size == 0 and array.dtype.kind in "fiu":
        return np.zeros((0, num_columns))
    if array is None or array.dtype.kind not in "fiu" or array.ndim != 2 or array.shape[1] != num_columns:
        got = ("nothing" if value is None else "lists of unequal length" if array is None
               else f"{array.dtype} of shape {array.shape}")
        raise InputError(f"{place}: wrong layout: {noun} must be N x {num_columns} numbers, got {got}")
    return array.astype(np.float64)


def read_json_object(place: Path) -> dict[str, Any]:
    """The JSON object in a file; NaN stays NaN. Raises InputError, naming the file, for anything else."""
    return parse_json_object(_read(place), place)


def parse_json_object(text: str | bytes, place: Path | str) -> dict[str, Any]:
    """The JSON object in a text; NaN stays NaN. Raises InputError, naming the place, for anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{place}: wrong layout: holds {type(value).__name__}, not an object")
    return value


def read_raw_mask(place: Path, size: tuple[int, int]) -> np.ndarray:
    """A headerless uint8 mask of the image's (height, width). Raises InputError for another number of bytes."""
    data = _read(place)
    if len(data) != size[0] * size[1]:
        raise InputError(f"{place}: {len(data)} bytes, a mask of {size[1]} x {size[0]} px has {size[0] * size[1]}")
    return np.frombuffer(data, np.uint8).reshape(size)


def read_lines(place: Path, *, may_be_empty: bool = False) -> list[str]:
    """The stripped lines of a text file, without empty ones at its end.

    Raises InputError for a missing file, and for an empty one unless `may_be_empty`.
    """
    # Bytes that are not UTF-8 become surrogates, as in file names; only "\n" ends a line, not Unicode's other ones.
    lines = [line.strip() for line in _read(place, may_be_empty).decode("utf-8-sig", "surrogateescape").split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def parse_numbers(line: str, columns: Sequence[str], place: str) -> list[float]:
    """The numbers of a line, one per column. Raises InputError, naming the place, for anything else."""
    try:
        numbers = [float(column) for column in line.split()]
    except ValueError:
        numbers = []
    if len(numbers) != len(columns):
        raise InputError(f"{place} should be the numbers {' '.join(columns)}, got {line[:80]!r}; download the file "
                         "again")
    return numbers


def _read_mat(place: Path, name: str) -> Any:
    """One variable of a MATLAB file as SciPy reads it; None if the file has no such variable."""
    import scipy.io

    data = _read(place)
    try:
        require_harmless(data)
        return scipy.io.loadmat(io.BytesIO(data), variable_names=[name]).get(name)
    except Exception as error:  # a damaged file can raise anything in SciPy
        raise InputError(f"{place}: not a MATLAB file that can be read: "
                         f"{' '.join(str(error).split()) or type(error).__name__}") from None


def _read(place: Path, may_be_empty: bool = False) -> bytes:
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
    return data


def _text(numbers: np.ndarray) -> str:
    return f"({', '.join(f'{number:g}' for number in numbers)})"
