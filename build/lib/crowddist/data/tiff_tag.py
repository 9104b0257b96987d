"""The rotation tag of a TIFF, set to upright in its bytes: decoders turn some TIFFs by it, not others, and say nothing.
"""

from __future__ import annotations

import struct

SIGNS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of TIFFs and, the last two, of those with 64-bit offsets."""
# Source: TIFF 6.0 and the BigTIFF design: an entry is a tag, a type, a number of values, and the values or their place.
_ORIENTATION, _SHORT = 274, 3
_MOST_ENTRIES = 2**16


def set_upright(data: bytes) -> tuple[bytes, int]:
    """The file as if its first image had no rotation tag, and what the tag said, 1 to 8; 1 where there is none."""
    order = "<" if data[:1] == b"I" else ">"
    try:
        if data[:4] in SIGNS[2:]:
            (start,) = struct.unpack_from(f"{order}Q", data, 8)
            (number,) = struct.unpack_from(f"{order}Q", data, start)
            first, step, value = start + 8, 20, 12
        else:
            (start,) = struct.unpack_from(f"{order}I", data, 4)
            (number,) = struct.unpack_from(f"{order}H", data, start)
            first, step, value = start + 2, 12, 8
        for place in range(first, first + step * min(number, _MOST_ENTRIES), step):
            tag, kind, said = (*struct.unpack_from(f"{order}HH", data, place),
                               *struct.unpack_from(f"{order}H", data, place + value))
            if tag == _ORIENTATION and kind == _SHORT and 2 <= said <= 8:
                place += value
                return data[:place] + struct.pack(f"{order}H", 1) + data[place + 2 :], said
    except (struct.error, OverflowError):  # the list lies elsewhere or ends early: the decoder tells of it
        pass
    return data, 1
