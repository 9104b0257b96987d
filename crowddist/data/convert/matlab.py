"""Checks MATLAB files before SciPy reads them: for other formats, huge unpacked sizes and false array sizes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from crowddist.errors import InputError

MOST_BYTES = 64 * 2**20  # ours: unpacked; the largest annotation of a published set has less than 1 MB
_HEAD_BYTES = 128
_HDF5 = b"\x89HDF\r\n\x1a\n"
_MATRIX, _COMPRESSED = 14, 15  # types of elements. Source: MATLAB's MAT-File Format, tables of chapter 1
# Array class -> least bytes per member: a tag for members of a cell, structure or object, a byte for those of a text.
_LEAST_BYTES = {1: 8, 2: 8, 3: 8, 4: 1}
_EMPTY_TEXT = 2**16  # ours: characters that a text without bytes may claim; MATLAB itself writes such texts
_DEEPEST = 16
_STEP_BYTES = 2**20


def require_readable(data: bytes) -> None:
    """Raises InputError for what is called .mat and SciPy does not read, with the next step, and as `require_harmless`.
    """
    if data[:10] == b"MATLAB 7.3" or _HDF5 in (data[:8], data[512:520]):
        raise InputError("it was saved with -v7.3, as HDF5; load it in MATLAB and save it again with -v7")
    if data[:10].lower() == b"# created " or data[:8] in (b"# name: ", b"Octave-1"):
        raise InputError("it is in Octave's own format; load it in Octave and save it again with -v7")
    require_harmless(data)


def require_harmless(data: bytes) -> None:
    """Raises InputError for a file that would unpack to more than `MOST_BYTES`, or claims more members than bytes.

    Other versions need no check: version 4 holds nothing packed or nested, and SciPy does not read 7.3.
    """
    order = {b"IM": "<", b"MI": ">"}.get(data[_HEAD_BYTES - 2 : _HEAD_BYTES])
    if order is None or len(data) < _HEAD_BYTES:
        _require_room(len(data))
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


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Type and content of consecutive elements; stops at a truncated one, which SciPy will report."""
    place = 0
    while place + 8 <= len(data):
        kind, num_bytes = struct.unpack_from(f"{order}II", data, place)
        if kind >> 16:  # the tag itself holds up to four bytes
            yield kind & 0xFFFF, data[place + 4 : place + 4 + min(kind >> 16, 4)]
            place += 8
        else:
            yield kind, data[place + 8 : place + 8 + num_bytes]
            place += 8 + (num_bytes if kind == _COMPRESSED else -(-num_bytes // 8) * 8)


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
    """Check an array's claimed size: SciPy allocates memory for all claimed members before it looks for them."""
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
