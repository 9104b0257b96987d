"""Brings pixels of any kind, of files and of arrays, to one form: (H, W, 3) uint8 RGB."""

from __future__ import annotations

from typing import Any

import numpy as np

from crowddist.errors import InputError

SCALED, STRETCHED = "num_scaled_images", "num_stretched_images"
TRANSPARENT, UNUSED_ALPHA = "num_transparent_images", "num_unused_alpha"
SAMPLE_PX = 2**20
"""Pixels that tell which part of the 16-bit range an image uses."""
EXTREMES = 0.1
"""Per cent of pixels at each end that do not count there: dead and hot pixels of a sensor."""
DEPTHS = (8, 10, 12, 14)
"""Bits of cameras that store fewer than 16 in 16."""
FLAT_SHARE = 0.25
"""ours: a grey image that spans less than this share of its range is of a thermal camera."""

_ROUNDED = 0.5 / 255
"""How far floats may lie beyond 0 and 1, as those of an image that was resized: no number of 8 bits changes."""


def to_eight_bits(values: np.ndarray) -> tuple[np.ndarray, str]:
    """Scales uint16 (H, W) or (H, W, 3) to uint8. Returns the note that tells of it, or "".

    Black is 0. White is 65,535 where the numbers use all 16 bits: all are multiples of 257 (8 bits) or of 16 (fewer
    bits, aligned left), or many are large; else the largest number of the fewest bits of `DEPTHS` that hold the
    brightest pixels. A grey image that spans a small part of that range, as of thermal cameras, is stretched from its
    darkest to its brightest pixels. All ours.
    """
    step = max(1, int((values.shape[0] * values.shape[1] / SAMPLE_PX) ** 0.5))
    sample = values[::step, ::step]
    low, high = np.percentile(sample, [EXTREMES, 100 - EXTREMES])
    black, white, note = 0.0, 65535.0, ""
    if (sample % 257).any() and ((sample % 16).any() or high < 4096):
        white = next((2.0**bits - 1 for bits in DEPTHS if high < 2**bits), white)
        note = SCALED if white < 65535 else ""
        if values.ndim == 2 and 0 < high - low < FLAT_SHARE * white and low > 0:
            black, white, note = float(low), float(high), STRETCHED
    table = (np.arange(65536, dtype=np.float32) - black) / ((white - black) / 255)
    return np.clip(np.round(table), 0, 255).astype(np.uint8)[values], note


def on_white(image: np.ndarray) -> tuple[np.ndarray, str]:
    """Puts (H, W, 4) uint8 RGBA on white. Alpha that is 0 everywhere is not in use: the colours are taken as they are.
    Returns the note that tells of it, or "".
    """
    import PIL.Image

    alpha, colours = image[..., 3], np.ascontiguousarray(image[..., :3])
    if not alpha.any():
        return colours, UNUSED_ALPHA
    if alpha.min() == 255:
        return colours, ""
    shown = PIL.Image.fromarray(np.ascontiguousarray(image))
    white = PIL.Image.new("RGBA", shown.size, "white")
    return np.asarray(PIL.Image.alpha_composite(white, shown).convert("RGB")), TRANSPARENT


def to_rgb(values: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """(H, W), (H, W, 1), (H, W, 3) or (H, W, 4) uint8 or uint16 as RGB uint8, with the notes that tell how."""
    notes = []
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.dtype == np.uint16:
        colours, note = to_eight_bits(values[..., :3] if values.ndim == 3 else values)
        notes.append(note)
        if values.ndim == 3 and values.shape[2] == 4:
            colours = np.dstack([colours, np.round(values[..., 3] / np.float32(257)).astype(np.uint8)])
        values = colours
    if values.ndim == 2:
        values = np.repeat(values[..., None], 3, axis=2)
    elif values.shape[2] == 4:
        values, note = on_white(values)
        notes.append(note)
    return values, [note for note in notes if note]


def as_pixels(image: Any) -> np.ndarray:
    """An image that a caller has as an array, as (H, W, 3) uint8 RGB; uint8 RGB stays as it is.

    Takes grey (H, W) or (H, W, 1), RGB and RGBA; uint8, uint16 (as of files, see `to_eight_bits`), and floats from 0 to
    1, or less than half a step of 8 bits beyond. Raises InputError for anything else.
    """
    wanted = "give (H, W, 3) uint8 RGB, e.g. of crowddist.data.images.read_pixels(path)"
    if not isinstance(image, np.ndarray):
        raise InputError(f"an image must be a NumPy array, got {type(image).__name__}; {wanted}")
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)) or 0 in image.shape:
        more = "; its colours come first" if image.ndim == 3 and image.shape[0] in (1, 3, 4) else ""
        raise InputError(f"an image cannot have the shape {image.shape}{more}; {wanted}")
    if image.dtype.kind == "f":
        if not np.isfinite(image).all() or image.min() < -_ROUNDED or image.max() > 1 + _ROUNDED:
            raise InputError(f"an image of {image.dtype} must have numbers from 0 to 1, got {image.min():g} to "
                             f"{image.max():g}; {wanted}")
        image = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    # The other order of bytes is as good, e.g. of a file of another program read with np.fromfile.
    image = image.astype(image.dtype.newbyteorder("="), copy=False)
    if image.dtype not in (np.uint8, np.uint16):
        raise InputError(f"an image cannot have the type {image.dtype}; {wanted}")
    return to_rgb(image)[0]
