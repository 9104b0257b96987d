"""What a photograph's places look like: light, colour, grain and sharpness, measured so that people can match them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

# All of these are ours.
GRID = (4, 6)  # places of an image, down and across, in which grain and sharpness are measured
FLAT_SHARE = 0.15  # of a place's blocks: the smoothest, whose roughness is grain
EDGE_SHARE = 0.02  # of an image's pixels: the steepest, whose width is the sharpness
DIFFERENCE_PX2 = 0.25  # variance of the central difference of two pixels: taps half a pixel from an edge
PROBE_PX = 1.0  # standard deviation of the blur with which edges are compared
GROUND_ALBEDO = 0.16  # of what cameras see, on average: the photograph's mean divided by it is the light
HIGHEST_BLACK = 0.12  # display value; a picture of bright surfaces alone has no haze
_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # P: luma of ITU-R BT.601
_BLOCK_PX = 16


@dataclass(frozen=True, kw_only=True)
class Appearance:
    """How things look in each place of an image; maps are (H, W) or (H, W, 3) float32."""

    light: np.ndarray
    """Linear light on level ground, by colour; 1 shows a white surface as white."""
    black: float
    """Display value of the darkest places, in [0, 1]: haze and night vision lift it."""
    saturation: float
    """Of people's colours: 0 in grey photographs, 1 in colourful ones."""
    grain: np.ndarray
    """Standard deviation of the grain, grey levels of 255."""
    softness_px: np.ndarray
    """Standard deviation of the blur of the sharpest edges, px."""


def measure(image: np.ndarray) -> Appearance:
    """The appearance of an (H, W, 3) uint8 RGB image."""
    size = image.shape[1::-1]
    luma = cv2.transform(image.astype(np.float32), _GREY[None])
    small = cv2.resize(image, (96, 72), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    linear = small ** 2.2
    level = cv2.GaussianBlur(linear @ _GREY, (0, 0), 6)
    middle = float(np.mean(linear @ _GREY))
    # Dark and bright surfaces are not dark and bright light: half of the difference is believed.
    strength = middle * np.clip(np.sqrt(level / max(middle, 1e-4)), 0.6, 1.6) / GROUND_ALBEDO
    tint = np.sqrt(np.maximum(linear.mean((0, 1)), 1e-4) / max(middle, 1e-4))  # half of the colour likewise
    level_light = cv2.resize(strength.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    chroma = float(np.ptp(small, axis=2).mean() * 255)
    light = cv2.merge([level_light * part for part in (tint / (tint @ _GREY)).astype(np.float32)])
    return Appearance(light=light, saturation=min(chroma / 20, 1.0),
                      black=min(float(np.percentile(small @ _GREY, 1)) * 0.7, HIGHEST_BLACK),
                      grain=_spread(grain_levels(luma), size), softness_px=_spread(softness(luma), size))


def grain_levels(luma: np.ndarray) -> np.ndarray:
    """The standard deviation of the grain in each place of the grid, grey levels; (H, W) float32 -> GRID float32.

    Source: Immerkaer, Fast noise variance estimation, 1996, in the smoothest blocks of each place (ours).
    """
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    rough = np.abs(cv2.filter2D(luma, cv2.CV_32F, kernel)) * np.float32(np.sqrt(np.pi / 2) / 6)
    rows, columns = max(luma.shape[0] // _BLOCK_PX, 1), max(luma.shape[1] // _BLOCK_PX, 1)
    blocks, levels = (cv2.resize(part, (columns, rows), interpolation=cv2.INTER_AREA) for part in (rough, luma))
    found = np.full(GRID, np.nan, np.float32)
    for place, window in _windows((rows, columns)):
        usable = (levels[window] > 12) & (levels[window] < 243)  # clipped ones have no grain
        if usable.any():
            found[place] = np.quantile(blocks[window][usable], FLAT_SHARE)
    return _filled(found, 0.0)


def softness(luma: np.ndarray) -> np.ndarray:
    """The standard deviation of the blur of edges in each place of the grid, px; (H, W) float32 -> GRID float32.

    An edge of blur s gets sqrt(s^2 + p^2) by a further blur p, so its steepness falls by R = sqrt(1 + p^2 / s^2).
    Source: Zhuo and Sim, Defocus map estimation from a single image, 2011, Eq. 5.
    """
    steep, blunt = (_steepness(part) for part in (luma, cv2.GaussianBlur(luma, (0, 0), PROBE_PX)))
    edges = steep >= max(float(np.quantile(steep, 1 - EDGE_SHARE)), 4.0)
    ratio = steep / np.maximum(blunt, 1e-3)
    found = np.full(GRID, np.nan, np.float32)
    for place, window in _windows(luma.shape):
        here = ratio[window][edges[window]]
        if len(here) >= 30:
            # In the middle of an edge the ratio is highest; the difference of two pixels has a width of its own.
            ratio_there = float(np.quantile(here, 0.8))
            found[place] = np.sqrt(max(PROBE_PX**2 / max(ratio_there**2 - 1, 0.05) - DIFFERENCE_PX2, 0.0))
    return _filled(found, 0.8)


def _steepness(luma: np.ndarray) -> np.ndarray:
    return cv2.magnitude(cv2.Sobel(luma, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(luma, cv2.CV_32F, 0, 1, scale=1 / 8))


def _windows(shape: tuple[int, ...]) -> list[tuple[tuple[int, int], tuple[slice, slice]]]:
    rows, columns = (np.linspace(0, side, parts + 1).astype(int) for side, parts in zip(shape, GRID, strict=True))
    return [((i, j), (slice(rows[i], rows[i + 1]), slice(columns[j], columns[j + 1])))
            for i in range(GRID[0]) for j in range(GRID[1]) if rows[i] < rows[i + 1] and columns[j] < columns[j + 1]]


def _filled(found: np.ndarray, otherwise: float) -> np.ndarray:
    """Places where nothing could be measured take the median of the others."""
    known = found[np.isfinite(found)]
    return np.where(np.isfinite(found), found, np.median(known) if len(known) else otherwise).astype(np.float32)


def _spread(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(cv2.resize(grid, size, interpolation=cv2.INTER_LINEAR), np.float32)
