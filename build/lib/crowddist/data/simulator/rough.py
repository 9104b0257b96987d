"""Rough surfaces: fine texture with the spectrum of photographs, and litter that is not people.

Rendered surfaces are smoother than photographed ones, and a counter that never saw leaves, gravel or ripples takes them
for crowds.
"""

from __future__ import annotations

import cv2
import numpy as np

from crowddist.data.simulator.config import Look
from crowddist.data.simulator.noise import linear

# All of these are ours.
PIECES = 5000  # of litter in an image
PIECE_M = (0.02, 0.4)  # radius of a piece, smallest and largest; most are small
COARSEST_PX = 40  # wave of the coarsest texture, px at 960 columns
_PALETTE = ((0.42, 0.33, 0.22), (0.3, 0.36, 0.2), (0.55, 0.52, 0.47), (0.25, 0.24, 0.25), (0.75, 0.72, 0.66),
            (0.5, 0.36, 0.3), (0.35, 0.4, 0.46), (0.62, 0.5, 0.35))


def roughen(rng: np.random.Generator, look: Look, albedo: np.ndarray, surface: np.ndarray, distance: np.ndarray,
            flatness: np.ndarray, focal_px: float) -> None:
    """Litters and textures the surfaces of a place, in place; the sky has an albedo of 0 and stays.

    Args:
        albedo: (H, W, 3) float32, linear.
        surface: (H, W) uint8 surface ids, each with a strength of texture of its own.
        distance: (H, W) metres to the surface.
        flatness: (H, W) height over width of a circle that lies on the surface, as the camera sees it.
        focal_px: focal length.
    """
    size = (albedo.shape[0], albedo.shape[1])
    if look.litter[1] > 0 and (share := rng.uniform(*look.litter)) > 0.01:
        pieces = _dead_leaves(rng, size, distance, flatness, focal_px)
        field = _natural_noise(rng, size, rng.uniform(1.2, 2.0))  # ragged patches
        cover = field > np.quantile(field, 1 - share)
        level = np.float32(max(float(albedo[albedo > 0].mean()), 0.02) if (albedo > 0).any() else 0.2)
        lit = pieces * (level / max(float(pieces.mean()), 1e-3))
        albedo[cover] = np.where(albedo[cover] > 0, lit[cover], 0)
    if look.texture[1] > 0:
        strengths = np.exp(rng.normal(0, 0.35, int(surface.max()) + 1)) * rng.uniform(*look.texture)
        grain = _natural_noise(rng, size, rng.uniform(0.5, 1.0), coarsest_px=COARSEST_PX * size[1] / 960)
        albedo *= np.exp(grain * strengths.astype(np.float32)[surface])[..., None]


def _natural_noise(rng: np.random.Generator, size: tuple[int, int], slope: float, *,
                   coarsest_px: float = np.inf) -> np.ndarray:
    """(H, W) float32 noise, mean 0 and standard deviation 1, whose amplitude falls with frequency^slope, as that of
    photographs does with a slope of about 1 (Field, 1987); for waves of up to `coarsest_px`, beyond it is even.
    """
    rows, columns = np.fft.fftfreq(size[0]), np.fft.rfftfreq(size[1])
    frequency = np.maximum(np.hypot(rows[:, None], columns[None]), 1 / min(max(size), coarsest_px))
    spectrum = np.fft.rfft2(rng.standard_normal(size, dtype=np.float32)) / frequency**slope
    spectrum[0, 0] = 0
    noise = np.fft.irfft2(spectrum, size)
    return (noise / noise.std()).astype(np.float32)


def _dead_leaves(rng: np.random.Generator, size: tuple[int, int], distance: np.ndarray, flatness: np.ndarray,
                 focal_px: float) -> np.ndarray:
    """(H, W, 3) float32 linear: pieces of all sizes over each other, smaller with distance (dead leaves: Lee, Mumford
    and Huang, 2001).
    """
    canvas = np.full((*size, 3), 0.2, np.float32)
    colours = linear(np.array(_PALETTE)[rng.integers(len(_PALETTE), size=rng.integers(1, 4))])
    contrast = rng.uniform(0.15, 0.6)
    low, high = PIECE_M
    # Areas as frequent as they are small, the smallest alike: a power law of -3 for the radius.
    radii = 1 / np.sqrt(rng.uniform(1 / high**2, 1 / low**2, PIECES)) * rng.uniform(0.6, 2.5)
    places = rng.uniform(0, 1, (PIECES, 2)) * size
    tones = np.exp(rng.normal(0, contrast, PIECES))
    chosen, turns, round_ones = rng.integers(len(colours), size=PIECES), rng.uniform(0, 180, PIECES), rng.random(PIECES)
    for number in np.argsort(-radii, kind="stable"):
        row, column = places[number].astype(int).tolist()
        across = radii[number] * focal_px / max(float(distance[row, column]), 0.5)
        if not 0.3 < across < 0.15 * size[1]:
            continue
        down = across * (float(flatness[row, column]) if round_ones[number] < 0.5 else rng.uniform(0.3, 1.0))
        axes = (max(round(across * 8), 4), max(round(down * 8), 4))
        turn = float(turns[number]) if round_ones[number] >= 0.5 else 0.0
        colour = (colours[chosen[number]] * tones[number]).tolist()
        cv2.ellipse(canvas, (column * 8, row * 8), axes, turn, 0, 360, colour, -1, cv2.LINE_8, 3)
    return canvas
