"""Zones of a mask image: each grey value but 0 is one."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np

from crowddist.data.safe_decode import max_pixels, require_checksums, require_shape
from crowddist.data.zones.zone import Zone, ZoneSet
from crowddist.errors import InputError

FORMATS = ("PNG", "BMP", "TIFF")
"""Formats that keep every value as it was drawn; JPEG and WebP smear values into others."""
MOST_VALUES = 64
"""ours: more are a photograph, or the smooth edges of a drawing program."""
SMALL_PX = 64
"""ours: a zone of fewer pixels, one cell of a density map, is rather a slip."""


def read_mask(path: Path, data: bytes) -> ZoneSet:
    """The zones of a mask, named by their value: "zone 1". A palette's numbers are the values.

    Raises InputError, naming the file, for a damaged or too large image, one with colours, transparency or too many
    values, and one of a format that changes values.
    """
    try:
        values = _values(data)
    except Exception as error:
        raise InputError(f"{path}: {' '.join(str(error).split()) or type(error).__name__}") from None
    found, numbers = np.unique(values, return_counts=True)
    zones = [(int(value), int(number)) for value, number in zip(found, numbers, strict=True) if value]
    if not zones:
        raise InputError(f"{path}: the mask is black everywhere; give each zone a grey value of its own, above 0")
    if len(zones) > MOST_VALUES:
        raise InputError(f"{path}: {len(zones)} grey values, each of which would be a zone; a mask has at most "
                         f"{MOST_VALUES}: draw it without smooth edges, and save it as PNG")
    notes = [f"{path}: the zone of grey value {value} has {number} px only; smooth edges of another?"
             for value, number in zones if number < SMALL_PX]
    return ZoneSet([Zone(name=f"zone {value}", pixels=values == value) for value, _ in zones],
                   size=(values.shape[0], values.shape[1]), place=str(path), notes=notes)


def _values(data: bytes) -> np.ndarray:
    """(H, W) values of a mask. Raises any of Pillow's exceptions for a damaged file."""
    import PIL.Image

    PIL.Image.MAX_IMAGE_PIXELS = 2 * max_pixels()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = PIL.Image.open(io.BytesIO(data))
        if image.format not in FORMATS:
            raise InputError(f"a mask in {image.format}, which changes values; save it as PNG")
        require_shape(image.height, image.width)
        image.load()
        if image.format == "PNG":
            require_checksums(data)
    values = np.asarray(image)
    if image.mode in ("LA", "RGBA"):
        if values[..., -1].min() < 255:
            raise InputError("the mask is transparent in places; save it as grey without alpha")
        values = values[..., :-1]
    if values.ndim == 3:
        if (values != values[..., :1]).any():
            raise InputError("the mask has colours; save it as grey, with a value for each zone")
        values = values[..., 0]
    if values.dtype.kind not in "bui":
        raise InputError(f"a mask needs whole numbers, got {image.mode}")
    return values.astype(np.int64)
