"""Brings pixels of any kind, of files and of arrays, to one form: (H, W, 3) uint8 RGB."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from crowddist.errors import InputError

SCALED, STRETCHED, GUESSED, MISSING = (
    "num_scaled_images", "num_stretched_images", "num_guessed_whites", "num_missing_pixels")
TRANSPARENT, UNUSED_ALPHA = "num_transparent_images", "num_unused_alpha"
SAMPLE_PX = 2**20
"""Pixels that tell which part of the 16-bit range an image uses."""
EXTREMES = 0.1
"""Per cent of pixels at each end that do not count there: dead and hot pixels of a sensor."""
DEPTHS = (8, 10, 12, 14)
"""Bits of cameras that store fewer than 16 in 16."""
FLAT_SHARE = 0.25
"""ours: a grey image that spans less than this share of its range is of a thermal camera."""

_WHITES = (1, *(2**bits - 1 for bits in (8, 10, 12, 14, 16)))
_LOWEST = -460
"""Absolute zero in Fahrenheit: thermal cameras store degrees, and nothing below is a temperature."""
_ROUNDED = 0.5 / 255
"""How far floats may lie beyond 0 and 1, as those of an image that was resized: no number of 8 bits changes."""
_OVERSHOOT = 4
"""ours: floats of which most are below 1 and nearly all below this have white 1, and some lights beyond it."""
_NEARLY_CLEAR = 16
"""ours: of 255. Alpha below this everywhere would leave nothing to be seen."""
_AT_ONCE_PX = 2**20
"""Pixels that are brought to 8 bits at once: what is in between takes several times their memory."""


def in_rows(convert: Callable[[slice], np.ndarray], height: int, width: int) -> np.ndarray:
    """The uint8 pixels that a function makes of an image's rows, of a large one some rows at a time."""
    step = max(1, _AT_ONCE_PX // width)
    if step >= height:
        return convert(slice(0, height))
    first = convert(slice(0, step))
    done = np.empty((height, *first.shape[1:]), np.uint8)
    done[:step] = first
    for top in range(step, height, step):
        rows = slice(top, min(top + step, height))
        done[rows] = convert(rows)
    return done


def _sampled(values: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The numbers of some pixels, in one row, without those that measure nothing; and the note that tells of it.

    Missing pixels, frames and captions share one number (0, 65,535, -9,999): the lowest or the highest, and further
    from all others than those are from each other. All ours.
    """
    step = max(1, int((values.shape[0] * values.shape[1] / SAMPLE_PX) ** 0.5))
    sample = values[::step, ::step].ravel()
    if sample.dtype != np.uint16:
        sample = sample[np.isfinite(sample)].astype(np.float64)
    low, high = (sample.min(), sample.max()) if sample.size else (0, 0)
    # Single pixels do not count anyway.
    often = [end for end in (low, high) if np.count_nonzero(sample == end) > sample.size * EXTREMES / 100]
    inner = sample[(sample > low) & (sample < high)] if often else sample[:0]
    if 10 * inner.size <= sample.size:  # of two levels each is far from the other
        return sample, []
    first, last = float(inner.min()), float(inner.max())
    far = [end for end in often if max(first - float(end), float(end) - last) > last - first > 0]
    return (sample[~np.isin(sample, far)], [MISSING]) if far else (sample, [])


def to_eight_bits(values: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Scales uint16 (H, W) or (H, W, 3) to uint8. Returns the notes that tell of it.

    Black is 0. White is 65,535 where the numbers use all 16 bits: all are multiples of 257 (8 bits) or of 16 (fewer
    bits, aligned left), or many are large; else the largest number of the fewest bits of `DEPTHS` that hold the
    brightest pixels. A grey image that spans a small part of that range, as of thermal cameras, is stretched from its
    darkest to its brightest pixels. All ours.
    """
    sample, notes = _sampled(values)
    low, high = np.percentile(sample, [EXTREMES, 100 - EXTREMES])
    black, white, note = 0.0, 65535.0, ""
    if (sample % 257).any() and ((sample % 16).any() or high < 4096):
        white = next((2.0**bits - 1 for bits in DEPTHS if high < 2**bits), white)
        note = SCALED if white < 65535 else ""
        if values.ndim == 2 and 0 < high - low < FLAT_SHARE * white and low > 0:
            black, white, note = float(low), float(high), STRETCHED
    shares = (np.arange(65536, dtype=np.float32) - black) / ((white - black) / 255)
    table = np.clip(np.round(shares), 0, 255).astype(np.uint8)
    return in_rows(lambda rows: table[values[rows]], *values.shape[:2]), [name for name in (note, *notes) if name]


def of_unknown_white(values: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Scales floats, or integers of 32 bits, (H, W) or (H, W, 3), to uint8. Returns the notes that tell of it.

    White is 1 where the numbers say so, else the largest number of the fewest of 8 to 16 bits that hold the brightest
    pixels. A grey image with numbers below 0, or that spans a small part of that range, as of thermal cameras, is
    stretched from its darkest to its brightest pixels. All ours. Raises InputError where no white fits.
    """
    sample, notes = _sampled(values)
    low, high = map(float, np.percentile(sample, [EXTREMES, 100 - EXTREMES]) if sample.size else (np.nan, np.nan))
    whites, below = [white for white in _WHITES if high <= white + _ROUNDED], low < -_ROUNDED
    unknown = f"its numbers, from {low:g} to {high:g}, have no known white; save it with 8 or 16 bits"
    if not whites or not low >= _LOWEST or (below and values.ndim == 3):
        raise InputError(unknown)
    black, white, note = 0.0, float(whites[0]), ""
    if below or (values.ndim == 2 and white > 1 and 0 < high - low < FLAT_SHARE * white and low > 0):
        black, white, note = low, max(high, low + 1), STRETCHED
    elif white > 1:
        note = GUESSED
        if np.median(sample[sample > 0]) < 1:  # nearly all is black, whatever white above 1 is taken
            if high > _OVERSHOOT:
                raise InputError(unknown)
            white = 1.0

    def scaled(rows: slice) -> np.ndarray:
        shown = np.nan_to_num(values[rows].astype(np.float32), nan=black, posinf=white, neginf=black)
        return np.clip(np.round((shown - black) * (255 / (white - black))), 0, 255).astype(np.uint8)

    return in_rows(scaled, *values.shape[:2]), [name for name in (note, *notes) if name]


def _eight_bit_alpha(alpha: np.ndarray) -> np.ndarray:
    """Alpha (H, W) of uint8 or uint16 as uint8. Opaque is its largest number where that is the white of any depth (1:
    a mask), else that of its type.
    """
    most = int(alpha.max())
    white = most if most in _WHITES else np.iinfo(alpha.dtype).max
    if white == 255:
        return alpha.astype(np.uint8, copy=False)
    return in_rows(lambda rows: np.round(alpha[rows] * np.float32(255 / white)).astype(np.uint8), *alpha.shape)


def on_white(colours: np.ndarray, alpha: np.ndarray) -> tuple[np.ndarray, str]:
    """Puts (H, W, 3) uint8 RGB with an alpha (H, W) of uint8 on white. Alpha that is near 0 everywhere is not in use:
    the colours are taken as they are. Returns the note that tells of it, or "".
    """
    import PIL.Image

    if alpha.max() < _NEARLY_CLEAR:
        return np.ascontiguousarray(colours), UNUSED_ALPHA
    if alpha.min() == 255:
        return np.ascontiguousarray(colours), ""

    def put(rows: slice) -> np.ndarray:
        shown = PIL.Image.fromarray(np.dstack([colours[rows], alpha[rows]]))
        white = PIL.Image.new("RGBA", shown.size, "white")
        return np.asarray(PIL.Image.alpha_composite(white, shown).convert("RGB"))

    return in_rows(put, *alpha.shape), TRANSPARENT


def to_rgb(values: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """(H, W), (H, W, 1), (H, W, 3) or (H, W, 4) uint8 or uint16, or (H, W) or (H, W, 3) of others as of
    `of_unknown_white`, as RGB uint8, with the notes that tell how.
    """
    notes: list[str] = []
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    colours, alpha = (values[..., :3], values[..., 3]) if values.ndim == 3 and values.shape[2] == 4 else (values, None)
    if values.dtype != np.uint8:
        colours, notes = (to_eight_bits if values.dtype == np.uint16 else of_unknown_white)(colours)
    if colours.ndim == 2:
        colours = np.repeat(colours[..., None], 3, axis=2)
    if alpha is not None:
        colours, note = on_white(colours, _eight_bit_alpha(alpha))
        notes += [note] * bool(note)
    return colours, notes


def as_pixels(image: Any) -> tuple[np.ndarray, list[str]]:
    """An image that a caller has as an array, as (H, W, 3) uint8 RGB, with the notes that tell how; uint8 RGB stays as
    it is.

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
    return to_rgb(image)
