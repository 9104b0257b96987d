"""TIFFs that Pillow reads wrongly or not at all: deep colours in planes or of 10 to 14 bits, floats, 32 and 64 bits,
three bands and more that nothing calls colours, as GDAL writes them.
"""

from __future__ import annotations

import io
import math
import struct
from contextlib import suppress

import numpy as np

from crowddist.data.safe_decode import quiet_opencv, require_shape

# Source of these numbers: TIFF 6.0.
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _NUMBER, _PLANES, _KIND = 256, 257, 258, 259, 262, 277, 284, 339
_PARTS = {273: 279, 324: 325}
"""Tag of the places of strips and of tiles -> tag of their sizes."""
_ROWS, _TILE = 278, (322, 323)
_KEPT = (_WIDTH, _HEIGHT, _COMPRESSION, 266, _ROWS, 317, *_TILE)
"""And the order of bits, rows of a strip, predictor, sides of a tile."""
_MOST_TILE_PX = 2**26
"""ours: a tile is decoded as a whole, whatever part of it the image covers."""
_BLACK_IS_ZERO, _RGB, _WHOLE_NUMBERS, _FLOATS = 1, 2, 1, 3
_JPEG = (6, 7)
_EXTRA, _ALPHA = 338, (1, 2)
"""What the bands beyond the colours are."""
_DNG = 50706
_Tags = dict[int, tuple[int, ...]]


def read_deep(data: bytes, most_pixels: int | None = None) -> tuple[np.ndarray, bool] | None:
    """The numbers of a TIFF's first image, (H, W), (H, W, 3) RGB or (H, W, 4) RGBA, as they are stored, uint8 where
    their white is known; and whether it holds more images. None for a TIFF that Pillow reads well, and for one that
    cannot be read.

    Raises InputError, before any pixel is decoded, for sides and numbers of pixels out of bounds.

    Args:
        most_pixels: refuse an image with more; None: as of a file.
    """
    tags, more = _tags(data)
    bits, number = max(tags.get(_BITS, (1,))), tags.get(_NUMBER, (1,))[0]
    is_float, in_planes = _FLOATS in tags.get(_KIND, ()), number > 1 and tags.get(_PLANES) == (2,)
    ends = (place + size for places, sizes in _PARTS.items()
            for place, size in zip(tags.get(places, ()), tags.get(sizes, ()), strict=False))
    are_bands = number > 2 and (tags.get(_PHOTOMETRIC) == (_BLACK_IS_ZERO,) or (in_planes and number > 3))
    is_rare = is_float or bits > 16 or bits in (10, 14) or (
        number > 1 and bits > 8 and (in_planes or bits < 16)) or (are_bands and bits in (8, 16))
    if (not is_rare or _DNG in tags or tags.get(_PHOTOMETRIC, (0,))[0] not in (_BLACK_IS_ZERO, _RGB)
            or tags.get(_COMPRESSION, (1,))[0] in _JPEG or max(ends, default=0) > len(data)
            or math.prod(tags.get(side, (1,))[0] for side in _TILE) > _MOST_TILE_PX):
        return None
    height, width = (tags.get(side, (0,))[0] for side in (_HEIGHT, _WIDTH))
    require_shape(height, width, most_pixels)
    is_half = is_float and bits == 16
    has_alpha = number == 4 and not is_float and bits in (8, 16) and tags.get(_EXTRA, (0,))[-1] in _ALPHA
    shown = 4 if has_alpha else 3
    if in_planes:
        read = range(shown if number > 2 else 1)
        planes = [_decoded(_rewritten(data, tags, plane, halves=is_half)) for plane in read]
        values = None if any(plane is None for plane in planes) else np.dstack(planes)  # type: ignore[arg-type]
    else:
        values = _decoded(_rewritten(data, tags, halves=is_half))
    if values is None:
        return None
    if values.ndim == 3:
        values = values[..., :shown] if values.shape[2] > 2 else values[..., 0]
    if is_half:
        values = np.ascontiguousarray(values).view(np.float16).astype(np.float32)
    elif 8 < bits < 16 and values.dtype == np.uint16:  # OpenCV shifts them to the top of 16
        values = np.round((values >> (16 - bits)) * (255 / (2**bits - 1))).astype(np.uint8)
    return values, more


def _tags(data: bytes) -> tuple[_Tags, bool]:
    """The whole numbers that the tags of the first image hold, and whether another image follows; none of a file
    without any.
    """
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    found: _Tags = {}
    with suppress(Exception):  # a damaged file: the decoder tells of it
        read = ImageFileDirectory_v2(data[: 16 if 43 in data[2:4] else 8])
        stream = io.BytesIO(data)
        stream.seek(read.next)
        read.load(stream)
        for tag in read:
            values = read[tag] if isinstance(read[tag], tuple) else (read[tag],)
            if values and all(isinstance(value, int) for value in values):
                found[tag] = values
        return found, read.next != 0
    return {}, False


def _decoded(data: bytes) -> np.ndarray | None:
    import cv2

    with suppress(cv2.error), quiet_opencv():
        values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if values is not None and values.ndim == 3 and values.shape[2] > 2:
            return values[..., [2, 1, 0, *range(3, values.shape[2])]]
        return values
    return None


def _rewritten(data: bytes, tags: _Tags, plane: int | None = None, *, halves: bool) -> bytes:
    """The file with another list of tags at its end, its pixels untouched: that of one plane alone, as a grey image;
    with `halves`, floats of 16 bits called whole numbers, as OpenCV does not read them otherwise.
    """
    order = "<" if data[:1] == b"I" else ">"
    number = tags.get(_NUMBER, (1,))[0]
    kept = 1 if plane is not None else number
    listed = {tag: tags[tag] for tag in _KEPT if tag in tags}
    listed[_ROWS] = (min(tags.get(_ROWS, tags[_HEIGHT])[0], tags[_HEIGHT][0]),)
    listed |= {tag: tags[tag][:1] * kept for tag in (_BITS, _KIND) if tag in tags}
    colours = (_RGB if kept > 2 else tags[_PHOTOMETRIC][0],) if plane is None else (_BLACK_IS_ZERO,)
    listed |= {_PHOTOMETRIC: colours, _NUMBER: (kept,), _PLANES: (1,)}
    if halves:
        listed[_KIND] = (_WHOLE_NUMBERS,) * kept
    for tag in (*_PARTS, *_PARTS.values()):
        if tag in tags:
            each = len(tags[tag]) // number
            listed[tag] = tags[tag] if plane is None else tags[tag][plane * each : (plane + 1) * each]
    start = len(data) + len(data) % 2
    entries, pool, after = b"", b"", start + 2 + 12 * len(listed) + 4
    for tag, values in sorted(listed.items()):
        is_long = tag in (*_PARTS, *_PARTS.values()) or max(values) >= 2**16
        held = struct.pack(f"{order}{len(values)}{'I' if is_long else 'H'}", *values)
        place = held.ljust(4, b"\0") if len(held) <= 4 else struct.pack(f"{order}I", after + len(pool))
        entries += struct.pack(f"{order}HHI", tag, 4 if is_long else 3, len(values)) + place
        pool += held if len(held) > 4 else b""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    return head + data[8:].ljust(start - 8, b"\0") + struct.pack(f"{order}H", len(listed)) + entries + bytes(4) + pool
