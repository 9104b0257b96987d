"""The bounds of an image's sides, ratio and pixels, checked in its header before a decoder takes any memory."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from crowddist.data.file_kinds import OWN_TEXT
from crowddist.errors import InputError, TooLargeError

MAX_SIDE_PX = 20_000
"""ours: longer strips are scans or stitched panoramas; the longest camera images have about 16,000 px."""
MIN_SIDE_PX = 8
"""ours: one cell of a density map; nothing smaller can hold a crowd."""
MAX_RATIO = 64
"""ours: longest side over shortest. The widest panoramas have about 20; shrunk to 768 px, 12 px are left of 64."""
JPEG_QUALITY = 95
"""ours: no visible loss at heads of a few pixels."""

MAX_MEGAPIXELS = "CROWDDIST_MAX_MEGAPIXELS"
"""Environment variable: most pixels of an image in millions, a whole number above 0. Every node reads its own."""
# ours: the resolution of the largest cameras; decoded they take 600 MB. More is a mistake or a decompression bomb.
_DEFAULT_MEGAPIXELS = 200
PNG = b"\x89PNG\r\n\x1a\n"
"""The first bytes of every PNG."""
_SHOWING = (b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT")
"""Chunks that a reader may skip, but that tell what is clear, upright, or the first of several pictures."""


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """In the block OpenCV prints nothing of its own on stderr, unless its environment variable asks."""
    import cv2

    logging = cv2.utils.logging
    before = logging.getLogLevel()
    if "OPENCV_LOG_LEVEL" not in os.environ:
        logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(before)


def max_pixels() -> int:
    """Most pixels of an image. Raises InputError if the environment variable is not a whole number above 0."""
    text = os.environ.get(MAX_MEGAPIXELS, "") or str(_DEFAULT_MEGAPIXELS)
    if not (text.isascii() and text.isdecimal() and 0 < int(text[:9]) == int(text)):
        raise InputError(f"{MAX_MEGAPIXELS} must be a whole number of million pixels, got {text!r}")
    return int(text) * 1_000_000


def require_decodable(height: int, width: int, most_pixels: int | None = None) -> None:
    """Raises TooLargeError for an image with more than `max_pixels`, or than the number that is given."""
    most = max_pixels() if most_pixels is None else min(max_pixels(), most_pixels)
    if height * width > most:
        raise TooLargeError(f"too large: {width} x {height} px; at most {most} pixels are read ({MAX_MEGAPIXELS})")


def require_shape(height: int, width: int, most_pixels: int | None = None) -> None:
    """Raises InputError for an image with too many pixels (see `require_decodable`), or with sides too long, too short,
    or too unlike.
    """
    require_decodable(height, width, most_pixels)
    if max(width, height) > MAX_SIDE_PX:
        raise TooLargeError(f"too large: {width} x {height} px; at most {MAX_SIDE_PX} px on a side are read")
    if min(width, height) < MIN_SIDE_PX:
        raise InputError(f"too small: {width} x {height} px; each side needs at least {MIN_SIDE_PX} px")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise InputError(f"too thin: {width} x {height} px, and nothing of it is left once it is shrunk; at most "
                         f"{MAX_RATIO} : 1 is read, cut it into pieces")


def require_visible(size: tuple[int, int], resized: tuple[int, int]) -> None:
    """Raises InputError where resizing an image, (height, width) px, shrinks a side to less than `MIN_SIDE_PX`."""
    if min(resized) < min(MIN_SIDE_PX, *size):
        raise InputError(f"too small once shrunk: {size[1]} x {size[0]} px become {resized[1]} x {resized[0]}; each "
                         f"side needs at least {MIN_SIDE_PX} px, allow a larger size or cut the image into pieces")


def jpeg_divisor(height: int, width: int, *, progressive: bool) -> int:
    """1, or 2 or 4 for a JPEG that is too large to be read whole, but not at that part of its size.

    Raises InputError as `require_shape` for one that is too large even so: four times `max_pixels`, but only
    `max_pixels` of a progressive one, of which the decoder keeps the whole.
    """
    for divisor in (1, 2, 4):
        if max(height, width) <= divisor * MAX_SIDE_PX and height * width <= divisor**2 * max_pixels():
            if divisor > 2 or progressive:
                require_decodable(height, width)
            require_shape(-(-height // divisor), -(-width // divisor))
            return divisor
    require_shape(height, width)
    raise AssertionError("a JPEG has at most 65,535 px on a side")


def jpg_size(data: bytes) -> tuple[int, int]:
    """(height, width) in a JPEG's header, px. Raises ValueError if it is not a JPEG, InputError if it is too large."""
    import simplejpeg

    height, width, *_ = simplejpeg.decode_jpeg_header(data)
    require_decodable(height, width)
    return height, width


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, begin and end of each chunk of a PNG, also of one that ends beyond the file."""
    place, kind = len(PNG), b""
    while place + 8 <= len(data) and kind != b"IEND":
        begin, kind = place, data[place + 4 : place + 8]
        place += 12 + int.from_bytes(data[place : place + 4])
        yield kind, begin, place


def require_chunks(data: bytes) -> None:
    """Raises InputError for a PNG with a chunk that ends beyond the file: OpenCV would take the memory that it claims.
    The last one, IEND, holds nothing; its checksum may be cut off.
    """
    for kind, begin, end in _chunks(data):
        if end - begin > 12 if kind == b"IEND" else end > len(data):
            raise InputError("a PNG that ends early, or is damaged")


def require_checksums(data: bytes) -> None:
    """Raises InputError for a PNG whose pixels are not those that were written, which Pillow does not check."""
    view = memoryview(data)
    for kind, begin, end in _chunks(data):
        if kind == b"IDAT" and end <= len(data) and zlib.crc32(view[begin + 4 : end - 4]) != int.from_bytes(
                view[end - 4 : end]):
            raise InputError("the checksum of its pixels is wrong; it may be damaged: copy it again")


def without_metadata(data: bytes) -> bytes:
    """A PNG without the chunks that change nothing of what it shows: texts, profiles, resolutions."""
    return PNG + b"".join(
        data[begin:end] for kind, begin, end in _chunks(data)
        if kind[:1].isupper() or kind in _SHOWING or data.startswith(b"Raw profile type exif\0", begin + 8))


def read_png(data: bytes, *, grey: bool = False) -> np.ndarray:
    """Decodes a PNG: (H, W, 3) RGB or (H, W), uint8. Ignores rotation tags: annotations refer to the stored pixels.

    Raises InputError for other formats (OpenCV would decode them), and for a damaged or too large image.
    """
    import cv2

    if data[:8] != PNG or data[12:16] != b"IHDR" or len(data) < 33:
        raise InputError("not a PNG image")
    width, height = struct.unpack(">II", data[16:24])
    require_decodable(height, width)
    require_chunks(data)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8),
                             cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        image = None
    if image is None:
        raise InputError("not an image")
    return image


def encode_png(image: np.ndarray) -> bytes:
    """An (H, W, 3) uint8 RGB image as a PNG that says crowddist drew it, see `OWN_TEXT`."""
    import cv2

    data = cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()
    text = struct.pack(">I", len(OWN_TEXT) - 4) + OWN_TEXT + struct.pack(">I", zlib.crc32(OWN_TEXT))
    head = 33  # the signature and IHDR, which must be the first chunk
    return data[:head] + text + data[head:]
