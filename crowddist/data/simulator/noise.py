"""Smooth periodic noise and other small helpers that several parts of a picture share."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

NOISE_SIDE = 512
"""Side of the periodic noise table. ours."""


def linear(colour: object) -> np.ndarray:
    """Display values in [0, 1] as linear light; a value that chance drew below 0 is black."""
    return np.maximum(np.asarray(colour, np.float32), 0) ** 2.2


@lru_cache(maxsize=1)
def noise_table() -> np.ndarray:
    """(NOISE_SIDE, NOISE_SIDE) float32 periodic noise of several octaves, mean 0, standard deviation 1."""
    rng = np.random.default_rng(11)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(NOISE_SIDE), np.fft.fftfreq(NOISE_SIDE)))
    spectrum = np.fft.fft2(rng.standard_normal((NOISE_SIDE, NOISE_SIDE))) / np.maximum(frequency, 1 / NOISE_SIDE) ** 1.1
    field = np.real(np.fft.ifft2(spectrum))
    return ((field - field.mean()) / field.std()).astype(np.float32)


@lru_cache(maxsize=1)
def hash_table() -> np.ndarray:
    """4096 float32 uniform values for tiles and windows."""
    return np.random.default_rng(13).random(4096).astype(np.float32)


def noise_at(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The noise table at float positions, repeated without end; one unit is one cell of the table."""
    u, v = np.mod(u, NOISE_SIDE).astype(np.float32), np.mod(v, NOISE_SIDE).astype(np.float32)
    return cv2.remap(noise_table(), u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def hash_at(i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """A uniform value for each pair of whole numbers."""
    return hash_table()[(i.astype(np.int64) * 73 + j.astype(np.int64) * 1559 + (i * j).astype(np.int64) * 7) & 4095]


def blend(canvas: np.ndarray, patch: np.ndarray, alpha: np.ndarray, left: int,
          top: int) -> tuple[slice, slice, np.ndarray] | None:
    """Lay premultiplied `patch` over `canvas` in place; the rows and columns touched and the alpha there, None off the
    canvas.
    """
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + patch.shape[1], canvas.shape[1]), min(top + patch.shape[0], canvas.shape[0])
    if x0 >= x1 or y0 >= y1:
        return None
    rows, columns = slice(y0, y1), slice(x0, x1)
    cut = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    under = canvas[rows, columns]
    cover = alpha[cut]
    under *= 1 - cover[..., None]
    under += patch[cut]
    return rows, columns, cover
