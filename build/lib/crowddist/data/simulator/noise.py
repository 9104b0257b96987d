"""Smooth periodic noise, hashes and linear colours, shared by all parts of a picture."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

NOISE_SIDE = 512  # ours: side of the periodic noise table
_HASHES = np.random.default_rng(13).random(4096).astype(np.float32)


def linear(colour: object) -> np.ndarray:
    """Display values in [0, 1] as linear light; a random value below 0 is black."""
    return np.maximum(np.asarray(colour, np.float32), 0) ** 2.2


@cache
def noise_table() -> np.ndarray:
    """(NOISE_SIDE, NOISE_SIDE) float32 periodic noise of several octaves, mean 0, standard deviation 1."""
    rng = np.random.default_rng(11)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(NOISE_SIDE), np.fft.fftfreq(NOISE_SIDE)))
    spectrum = np.fft.fft2(rng.standard_normal((NOISE_SIDE, NOISE_SIDE))) / np.maximum(frequency, 1 / NOISE_SIDE) ** 1.1
    field = np.real(np.fft.ifft2(spectrum))
    return ((field - field.mean()) / field.std()).astype(np.float32)


def noise_at(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The noise table at float positions, repeated endlessly; one unit is one cell of the table."""
    u, v = np.mod(u, NOISE_SIDE).astype(np.float32), np.mod(v, NOISE_SIDE).astype(np.float32)
    return cv2.remap(noise_table(), u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def hash_at(i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """A uniform value for each pair of whole numbers."""
    return _HASHES[(i.astype(np.int64) * 73 + j.astype(np.int64) * 1559 + (i * j).astype(np.int64) * 7) & 4095]
