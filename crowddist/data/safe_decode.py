"""How large an encoded image says it is, and the most pixels that are decoded: asked before a decoder takes any
memory.
"""

from __future__ import annotations

import os
import struct

import numpy as np

from crowddist.errors import InputError

MAX_MEGAPIXELS = "CROWDDIST_MAX_MEGAPIXELS"
"""The one setting: million pixels of an image, whole and above 0. Every node reads its own environment."""
# ours: the largest cameras have as many; decoded they are 600 MB. What claims more is a mistake or a decompression
# bomb.
_DEFAULT_MEGAPIXELS = 200
_PNG = b"\x89PNG\r\n\x1a\n"


def max_pixels() -> int:
    """The most pixels that an image may have. Raises InputError where the setting is no whole number above 0."""
    text = os.environ.get(MAX_MEGAPIXELS, "") or str(_DEFAULT_MEGAPIXELS)
    if not (text.isascii() and text.isdecimal() and 0 < int(text[:9]) == int(text)):
        raise InputError(f"{MAX_MEGAPIXELS} must be a whole number of million pixels, got {text!r}")
    return int(text) * 1_000_000


def require_decodable(height: int, width: int) -> None:
    """Raises InputError for an image of more pixels than are decoded."""
    most = max_pixels()
    if height * width > most:
        raise InputError(f"too large: {width} x {height} px; at most {most} pixels are read ({MAX_MEGAPIXELS})")


def jpg_size(data: bytes) -> tuple[int, int]:
    """(height, width) that a JPEG's header tells. Raises ValueError for what is none, InputError for one that is too
    large.
    """
    import simplejpeg

    height, width, *_ = simplejpeg.decode_jpeg_header(data)
    require_decodable(height, width)
    return height, width


def read_png(data: bytes, *, grey: bool = False) -> np.ndarray:
    """A PNG as stored, (H, W, 3) RGB or (H, W), uint8, whatever a rotation tag says: annotations refer to that.

    Other formats, which OpenCV would tell by their content, are refused unread. Raises InputError for those, for what
    is damaged or too large.
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
