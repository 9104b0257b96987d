"""JPEGs that are whole but not clean, as cameras write them: stray bytes before a marker, or no end marker."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

MOST_STRAY_BYTES = 16
"""ours: cameras leave some bytes before a marker; damage leaves more, and they differ from each other."""
MOST_TRIES = 100
"""Decodings of one file in search of stray bytes."""
_END = b"\xff\xd9"
_STRAY = re.compile(r"(\d+) extraneous bytes before marker 0x([0-9a-f]{2})")
_SCAN = re.compile(rb"\xff\xda")


def decode_whole(data: bytes, divisor: int = 1) -> tuple[np.ndarray, bytes]:
    """Decodes a JPEG at 1, 1/2, 1/4 or 1/8 of its size: (H, W, 3) uint8 RGB, and the bytes of a clean file.

    Removes padding and at most `MOST_STRAY_BYTES` before a marker, and adds a missing end marker; all blocks must be
    there. Raises ValueError with the decoder's reason for a JPEG that ends early or is damaged inside.
    """
    import simplejpeg

    height, width, *_ = simplejpeg.decode_jpeg_header(data)
    tries = 0

    def decode(part: bytes) -> np.ndarray:
        nonlocal tries
        tries += 1
        # Strict: Pillow and OpenCV overlook damage in the middle of a JPEG.
        return simplejpeg.decode_jpeg(part, colorspace="RGB", min_height=height // divisor, min_width=width // divisor,
                                      strict=True)

    first: ValueError | None = None
    while True:
        try:
            return decode(data), data
        except ValueError as error:
            first = first or error
            mended = _mended(data, str(error), decode) if tries < MOST_TRIES else None
            if mended is None:
                raise first from None
            data = mended


def _mended(data: bytes, reason: str, decode: Callable[[bytes], np.ndarray]) -> bytes | None:
    """The file without the fault that the decoder names; None for any other fault."""
    if reason.startswith("Premature end of JPEG file"):
        return None if data.endswith(_END) else data + _END
    stray = _STRAY.search(reason)
    scan = _SCAN.search(data)
    if stray is None or scan is None:
        return None
    number, marker = int(stray[1]), b"\xff" + bytes.fromhex(stray[2])
    places = [match.start() for match in re.finditer(re.escape(marker), data[scan.end():])]
    places = [place + scan.end() for place in places]

    def reached(place: int) -> bool:
        """True if the fault lies before this marker."""
        try:
            decode(data[:place] + marker + _END)
        except ValueError as error:
            return str(error) == reason
        return False

    low, high = 0, len(places) - 1
    while low < high:  # the first marker that the decoder stumbles over
        middle = (low + high) // 2
        low, high = (low, middle) if reached(places[middle]) else (middle + 1, high)
    place = places[low] if places else 0
    removed = data[place - number : place]
    if not removed or (number > MOST_STRAY_BYTES and len(set(removed)) > 1):
        return None
    return data[: place - number] + data[place:]
