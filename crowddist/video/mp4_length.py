"""How long an MP4 or MOV is shown. Phones and editors shorten one without copying it anew: frames before the begin stay
in the file and in its number of frames, but no reader gives them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_MOST_INDEX_BYTES = 2**28
"""ours: the index of a film of days."""


def shown_s(path: str | os.PathLike[str]) -> float:
    """Seconds that the video of a file is shown, by the file's index; 0: it is no MP4 or MOV, or does not tell."""
    size = Path(path).stat().st_size
    if not size:  # a pipe, which gives its bytes once
        return 0.0
    with open(path, "rb") as file:
        index = _index(file, size)
    ticks, length = 0, 0
    for kind, box in _boxes(index):
        if kind == b"mvhd":
            ticks = _number(box, 12, 20, wide=False)
        elif kind == b"trak" and not length:
            parts = dict(_boxes(box))
            handler = dict(_boxes(parts.get(b"mdia", b""))).get(b"hdlr", b"")
            if handler[8:12] == b"vide":
                length = _number(parts.get(b"tkhd", b""), 20, 28)
    return length / ticks if ticks else 0.0


def _index(file: BinaryIO, size: int) -> bytes:
    """The content of the box moov; empty where there is none."""
    start = 0
    while start + 8 <= size:
        file.seek(start)
        head = file.read(16)
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        skip = 8
        if length == 1:
            length, skip = int.from_bytes(head[8:16], "big"), 16
        if kind == b"moov" and skip <= length <= min(size - start, _MOST_INDEX_BYTES):
            file.seek(start + skip)
            return file.read(length - skip)
        if length < skip:
            break
        start += length
    return b""


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and content of the boxes one after the other."""
    start = 0
    while start + 8 <= len(data) and (length := int.from_bytes(data[start : start + 4], "big")) >= 8:
        yield data[start + 4 : start + 8], data[start + 8 : start + length]
        start += length


def _number(box: bytes, place: int, place_of_64: int, *, wide: bool = True) -> int:
    """A field of a box, whose place depends on whether its times have 32 or 64 bits; `wide`: and so has it."""
    if box[:1] == b"\1":
        return int.from_bytes(box[place_of_64 : place_of_64 + (8 if wide else 4)], "big")
    return int.from_bytes(box[place : place + 4], "big")
