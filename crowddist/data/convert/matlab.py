"""Reads variables of MATLAB files, versions 4 to 7, checked for huge unpacked sizes and false array sizes.

SciPy's reader ends the process where the type of an element is none of MATLAB's, so a damaged file could stop a
conversion without a word. Source of all numbers here: MATLAB's MAT-File Format, chapter 1.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from crowddist.errors import InputError

MOST_BYTES = 64 * 2**20  # ours: unpacked; the largest annotation of a published set has less than 1 MB
_HEAD_BYTES = 128
_HDF5 = b"\x89HDF\r\n\x1a\n"
_MATRIX, _COMPRESSED = 14, 15  # types of elements
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_CELL, _STRUCT, _TEXT, _NUMERIC = 1, 2, 4, range(6, 16)  # classes of arrays
_COMPLEX = 1 << 11  # flag of an array
_NUMBERS_4 = ("f8", "f4", "i4", "i2", "u2", "u1")  # types of version 4
# Array class -> least bytes per member: a tag for members of a cell, structure or object, a byte for those of a text.
_LEAST_BYTES = {1: 8, 2: 8, 3: 8, 4: 1}
_EMPTY_TEXT = 2**16  # ours: characters that a text without bytes may claim; MATLAB itself writes such texts
_DEEPEST = 16
_STEP_BYTES = 2**20


def read_variable(data: bytes, name: str) -> Any:
    """The value of one variable; None if the file has no such variable, or one of another class than those below.

    Numbers become an array of their dimensions, a text a str, a cell array a flat array of objects, a structure a dict
    (an array of several: a flat array of dicts). Raises InputError, with the next step, for another format and for a
    damaged file.
    """
    return next((value() for found, value in _variables(data) if found == name), None)


def variable_names(data: bytes) -> list[str]:
    """The names of all variables, in their order. Raises InputError as `read_variable` does."""
    return [name for name, _ in _variables(data) if name]


def _variables(data: bytes) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The name of each variable and a function that reads its value."""
    if data[:10] == b"MATLAB 7.3" or _HDF5 in (data[:8], data[512:520]):
        raise InputError("it was saved with -v7.3, as HDF5; load it in MATLAB and save it again with -v7")
    if data[:10].lower() == b"# created " or data[:8] in (b"# name: ", b"Octave-1"):
        raise InputError("it is in Octave's own format; load it in Octave and save it again with -v7")
    require_harmless(data)
    order = _order(data)
    if order is None:
        if 0 not in data[:4]:  # what no header of version 4 begins with
            raise InputError("it has no header of MATLAB's; save it with -v7")
        yield from _variables_4(data)
        return
    for kind, content in _elements(data[_HEAD_BYTES:], order, whole=True):
        if kind == _COMPRESSED:
            kind, content = next(_elements(_unpacked(content), order, whole=True), (0, b""))
        if kind == _MATRIX:
            yield _name(content, order), partial(_value, content, order)


def _order(data: bytes) -> str | None:
    """The order of bytes as `struct` writes it; None for a file that is not of version 5 to 7."""
    return {b"IM": "<", b"MI": ">"}.get(data[_HEAD_BYTES - 2 : _HEAD_BYTES]) if len(data) >= _HEAD_BYTES else None


def _name(content: bytes, order: str) -> str:
    """The name of an array; "" for classes that have none in its place."""
    head = [held for _, (_, held) in zip(range(3), _elements(content, order, whole=True), strict=False)]
    return head[2].decode("latin-1") if len(head) == 3 else ""


def _value(content: bytes, order: str) -> Any:
    """An array's content, see `read_variable`."""
    if not content:
        return np.zeros((0, 0))
    elements = list(_elements(content, order, whole=True))
    if len(elements) < 3 or len(elements[0][1]) < 4 or len(elements[1][1]) % 4:
        raise InputError("an array has no head")
    (flags,) = struct.unpack_from(f"{order}I", elements[0][1])
    dims = [size for (size,) in struct.iter_unpack(f"{order}i", elements[1][1])]
    if min(dims, default=-1) < 0:
        raise InputError("an array has no sizes")
    kind, rest = flags & 0xFF, elements[3:]
    if kind in _NUMERIC:
        if not rest and math.prod(dims) == 0:
            return np.zeros(dims)
        parts = [_numbers(*element, dims, order) for element in rest]
        if len(parts) != 1 + bool(flags & _COMPLEX):
            raise InputError("an array of numbers has no content")
        return parts[0] if len(parts) == 1 else parts[0] + 1j * parts[1]
    if kind == _TEXT and rest:
        encoding = _TEXTS.get(rest[0][0], "latin-1")
        encoding += {"<": "-le", ">": "-be"}[order] if encoding in ("utf-16", "utf-32") else ""
        return rest[0][1].decode(encoding, "replace")
    if kind == _CELL:
        return _objects([_value(held, order) for _, held in rest], math.prod(dims))
    if kind == _STRUCT and len(rest) >= 2 and len(rest[0][1]) == 4:
        (width,) = struct.unpack(f"{order}i", rest[0][1])
        if width < 1:
            raise InputError("a structure has no names")
        fields = rest[1][1]
        names = [fields[at : at + width].split(b"\0")[0].decode("latin-1") for at in range(0, len(fields), width)]
        values = [_value(held, order) for _, held in rest[2:]]
        if len(values) != len(names) * math.prod(dims):
            raise InputError("a structure has other names than values")
        dicts = [dict(zip(names, values[at : at + len(names)], strict=True))
                 for at in range(0, len(values), len(names) or 1)]
        return dicts[0] if len(dicts) == 1 else _objects(dicts, len(dicts))
    return None


def _numbers(kind: int, content: bytes, dims: list[int], order: str) -> np.ndarray:
    if kind not in _NUMBERS:
        raise InputError(f"numbers of the unknown type {kind}")
    dtype = np.dtype(order + _NUMBERS[kind])
    if math.prod(dims) * dtype.itemsize != len(content):
        raise InputError(f"an array of {' x '.join(map(str, dims))} numbers has {len(content)} bytes")
    return np.frombuffer(content, dtype).reshape(dims, order="F")


def _objects(values: list[Any], number: int) -> np.ndarray:
    if len(values) != number:
        raise InputError(f"an array of {number} members has {len(values)}")
    objects = np.empty(number, object)
    for index, value in enumerate(values):  # at once, NumPy would join equal arrays
        objects[index] = value
    return objects


def _variables_4(data: bytes) -> Iterator[tuple[str, Callable[[], Any]]]:
    """As `_variables`, of a file of version 4: numbers and texts alone."""
    place = 0
    while place + 20 <= len(data):
        order = "<" if struct.unpack_from("<i", data, place)[0] in range(5000) else ">"
        kind, rows, columns, is_complex, name_bytes = struct.unpack_from(f"{order}5i", data, place)
        kind %= 1000  # the thousands tell the order of bytes
        if not 0 <= kind % 10 <= 2 or kind // 10 >= len(_NUMBERS_4) or min(rows, columns, name_bytes) < 0:
            raise InputError("it has no header of MATLAB's; save it with -v7")
        dtype = np.dtype(order + _NUMBERS_4[kind // 10])
        start = place + 20 + name_bytes
        size = rows * columns * dtype.itemsize
        found = data[place + 20 : start].rstrip(b"\0").decode("latin-1")
        place = start + size * (1 + (is_complex == 1))
        if place > len(data):
            raise InputError("it ends early")
        yield found, partial(_value_4, data[start : start + size], dtype, (rows, columns), kind % 10 == 1)
    if place < len(data):
        raise InputError("it ends early")


def _value_4(content: bytes, dtype: np.dtype, shape: tuple[int, int], is_text: bool) -> Any:
    values = np.frombuffer(content, dtype).reshape(shape, order="F")
    # In a text a number is a letter.
    return "".join(chr(int(value)) for value in values.ravel() if 0 <= value < 256) if is_text else values


def require_harmless(data: bytes) -> None:
    """Raises InputError for a file that would unpack to more than `MOST_BYTES`, or claims more members than bytes.

    Version 4 needs no further check: it holds nothing packed or nested.
    """
    order = _order(data)
    _require_room(len(data))  # packed, it has less; and its elements may all be empty
    if order is None:
        return
    left = MOST_BYTES
    for kind, content in _elements(data[_HEAD_BYTES:], order):
        unpacked = _inflate(content, left) if kind == _COMPRESSED else content
        left -= len(unpacked)
        _require_room(MOST_BYTES - left)
        inner = _elements(unpacked, order) if kind == _COMPRESSED else [(kind, content)]
        for nested, array in inner:
            if nested == _MATRIX:
                _check_array(array, order, _DEEPEST)


def _elements(data: bytes, order: str, *, whole: bool = False) -> Iterator[tuple[int, bytes]]:
    """Type and content of consecutive elements; stops at a truncated one, or raises InputError with `whole`."""
    place = 0
    while place + 8 <= len(data):
        kind, num_bytes = struct.unpack_from(f"{order}II", data, place)
        if kind == num_bytes == 0:  # zeros to the end, as a failing disk leaves them: no element begins so
            return
        if kind >> 16:  # the tag itself holds up to four bytes
            yield kind & 0xFFFF, data[place + 4 : place + 4 + min(kind >> 16, 4)]
            place += 8
        else:
            if whole and place + 8 + num_bytes > len(data):
                raise InputError("it ends early")
            yield kind, data[place + 8 : place + 8 + num_bytes]
            place += 8 + (num_bytes if kind == _COMPRESSED else -(-num_bytes // 8) * 8)


def _unpacked(content: bytes) -> bytes:
    try:
        return zlib.decompress(content)
    except zlib.error as error:
        raise InputError(f"damaged where it is packed: {error}") from None


def _inflate(content: bytes, most: int) -> bytes:
    """The content of a packed element, up to `most` bytes and one step; of a damaged one the part before the damage."""
    unpacker, unpacked = zlib.decompressobj(), bytearray()
    try:
        while len(unpacked) <= most and (part := unpacker.decompress(content, _STEP_BYTES)):
            unpacked += part
            content = unpacker.unconsumed_tail
    except zlib.error:
        pass
    return bytes(unpacked)


def _check_array(data: bytes, order: str, deepest: int) -> None:
    """Checks an array's claimed size and depth, before memory is taken for its members."""
    if deepest == 0:
        raise InputError(f"arrays lie in arrays deeper than {_DEEPEST} times")
    elements = list(_elements(data, order))
    if len(elements) < 2 or len(elements[0][1]) < 4:
        return
    least = _LEAST_BYTES.get(struct.unpack_from(f"{order}I", elements[0][1])[0] & 0xFF)
    if least is None:
        return
    number, sizes = 1, elements[1][1]
    for (size,) in struct.iter_unpack(f"{order}i", sizes[: len(sizes) // 4 * 4]):
        number *= size
    if number * least > len(data) + (_EMPTY_TEXT if least == 1 else 0):
        raise InputError(f"an array claims to have {number} members, and has {len(data)} bytes")
    for kind, content in elements:
        if kind == _MATRIX:
            _check_array(content, order, deepest - 1)


def _require_room(num_bytes: int) -> None:
    if num_bytes > MOST_BYTES:
        raise InputError(f"it unpacks to more than {MOST_BYTES // 2**20} MiB, no annotation does")
