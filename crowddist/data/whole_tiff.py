"""Parts of TIFFs that decoders show as far as they get, whatever is damaged in them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

from crowddist.data.whole_jpeg import decode_whole, is_decodable

# Source of these numbers: TIFF 6.0 and its supplement 2.
_COMPRESSION, _TABLES = 259, 347
_JPEG, _DEFLATE = 7, (8, 32946)
_AT_ONCE = 2**20


def require_whole_parts(data: bytes, tags: Mapping[int, Any], most_bytes: int) -> None:
    """Raises ValueError or zlib.error for a TIFF whose JPEG or deflate strips or tiles are damaged. Of other
    compressions nothing tells of damage but to their decoder.

    Args:
        tags: of its first image, with all their values.
        most_bytes: that its pixels may take; what goes on beyond is not looked at.
    """
    compression, tables = tags.get(_COMPRESSION), tags.get(_TABLES, b"")
    places, sizes = (tags.get(strips) or tags.get(tiles) or () for strips, tiles in ((273, 324), (279, 325)))
    rounds = most_bytes // _AT_ONCE + len(places)
    for place, size in zip(places, sizes, strict=False):
        part = data[place : place + size]
        if compression == _JPEG:
            whole = tables[:-2] + part[2:] if tables else part
            if is_decodable(whole):
                decode_whole(whole, 8)
        elif compression in _DEFLATE:
            unpacker = zlib.decompressobj()
            while part and not unpacker.eof and rounds > 0:
                unpacker.decompress(part, _AT_ONCE)  # it compares the checksum at the end, which libtiff leaves unread
                part, rounds = unpacker.unconsumed_tail, rounds - 1
            if not unpacker.eof and rounds > 0:
                raise ValueError("a strip or tile has no end")
