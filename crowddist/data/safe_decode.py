"""Checks the size in an image's header before a decoder takes any memory."""

from __future__ import annotations

import os
import struct

import numpy as np

from crowddist.errors import InputError

MAX_MEGAPIXELS = "CROWDDIST_MAX_MEGAPIXELS"
"""Environment variable: most pixels of an image in millions, a whole number above 0. Every node reads its own."""
# ours: the resolution of the largest cameras; decoded they take 600 MB. More is a mistake or a decompression bomb.
_DEFAULT_MEGAPIXELS = 200
_PNG = b"\x89PNG\r\n\x1a\n"


def max_pixels() -> int:
    """Most pixels of an image. Raises InputError if the environment variable is not a whole number above 0."""
    text = os.environ.get(MAX_MEGAPIXELS, "") or str(_DEFAULT_MEGAPIXELS)
    if not (text.isascii() and text.isdecimal() and 0 < int(text[:9]) == int(text)):
        raise InputError(f"{MAX_MEGAPIXELS} must be a whole number of million pixels, got {text!r}")
    return int(text) * 1_000_000


def require_decodable(height: int, width: int) -> None:
    """Raises InputError for an image with more than `max_pixels`."""
    most = max_pixels()
    if height * width > most:
        raise InputError(f"too large: {width} x {height} px; at most {most} pixels are read ({MAX_MEGAPIXELS})")


def jpg_size(data: bytes) -> tuple[int, int]:
    """(height, width) in a JPEG's header, px. Raises ValueError if it is not a JPEG, InputError if it is too large."""
    import simplejpeg

    height, width, *_ = simplejpeg.decode_jpeg_header(data)
    require_decodable(height, width)
    return height, width


def read_png(data: bytes, *, grey: bool = False) -> np.ndarray:
    """Decodes a PNG: (H, W, 3) RGB or (H, W), uint8. Ignores rotation tags: annotations refer to the stored pixels.

    Raises InputError for other formats (OpenCV would decode them), and for a damaged or too large image.
    """
    import cv2

    if data[:8] != _PNG or data[12:16] != b"IHDR" or len(data) < 33:
        raise InputError("not a PNG image")
    width, height = struct.unpack(">II", data[16:24])
    require_decodable(height, width)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8),
                             cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        image = None
    if image is None:
        raise InputError("not an image")
    return image


def encode_png(image: np.ndarray) -> bytes:
    """An (H, W, 3) uint8 RGB image as PNG."""
    import cv2

    return cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()
