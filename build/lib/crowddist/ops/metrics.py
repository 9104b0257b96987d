"""Metrics of counting: errors of counts, also by size of the crowd, and peak signal-to-noise ratio of density maps, at
cells or at pixels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

LARGEST_PSNR_DB = 100.0
"""Value of equal maps instead of infinity: means over images and JSON stay finite. ours."""
RANGE_STARTS = (0, 10, 50, 100, 500)
"""First true count of each range, persons; the last range has no end. ours."""


def count_errors(predicted: ArrayLike, true: ArrayLike) -> dict[str, float]:
    """Mean absolute error and root mean squared error of counts ("MSE" in crowd counting papers is this root).

    Source: Wang et al., CVPR 2019, Eq. 7 and 8.

    Args:
        predicted: (N,) persons
        true: (N,) persons

    Returns:
        `mae` and `rmse`, persons, >= 0.

    Raises:
        ValueError: there is no image, lengths differ, or a count is not finite.
    """
    estimate, truth = _checked_counts(predicted, true)
    error = estimate - truth
    return {"mae": float(np.abs(error).mean()), "rmse": math.sqrt(float(np.square(error).mean()))}


def count_errors_by_range(predicted: ArrayLike, true: ArrayLike) -> dict[str, dict[str, float]]:
    """Mean absolute error and bias by range of the true count: crowded images dominate the overall mean (ours).

    Args:
        predicted: (N,) persons
        true: (N,) persons

    Returns:
        for each range with an image, in order, named "010-049" or "500-up" so that names sort: `mae` and `bias`
        (mean of predicted minus true), persons, and `num_images`.

    Raises:
        ValueError: as `count_errors`, and if a true count is negative.
    """
    estimate, truth = _checked_counts(predicted, true)
    if truth.min() < 0:
        raise ValueError(f"true counts must not be negative, got {truth.min():g}")
    ends = [f"{start - 1:03d}" for start in RANGE_STARTS[1:]] + ["up"]
    places = np.searchsorted(RANGE_STARTS, truth, side="right") - 1
    errors = {}
    for place in np.unique(places):
        error = (estimate - truth)[places == place]
        errors[f"{RANGE_STARTS[place]:03d}-{ends[place]}"] = {
            "mae": float(np.abs(error).mean()), "bias": float(error.mean()), "num_images": float(len(error))}
    return errors


def _checked_counts(predicted: ArrayLike, true: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    estimate, truth = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    if estimate.ndim != 1 or estimate.shape != truth.shape or not len(estimate):
        raise ValueError("predicted and true counts must be two lists of one length, at least 1, got the shapes "
                         f"{estimate.shape} and {truth.shape}")
    if not (np.isfinite(estimate).all() and np.isfinite(truth).all()):
        raise ValueError("counts must be finite, got NaN or infinity")
    return estimate, truth


def psnr(predicted: Any, true: Any, peak: float | None = None) -> float:
    """Peak signal-to-noise ratio of two density maps, each divided by its own maximum or both by `peak`.

    Source: protocol of CP-CNN and CSRNet (Li et al., CVPR 2018, Sec. 4.3), which normalises both maps and does not say
    by what. With their own maxima only shapes are compared: three times the truth has the PSNR of equal maps. With the
    truth's maximum as `peak`, the usual definition, the scale counts too. The ICASSP 2020 paper does not tell its way;
    C^3 Framework, on which such code is often built, divides both maps so where it shows them (C).

    Args:
        predicted, true: one shape, any unit; NumPy or torch
        peak: divisor of both maps, their unit, > 0; None: each map's own maximum, or 1 for a map without a positive
            value (ours)

    Returns:
        dB, at most `LARGEST_PSNR_DB`, the value of equal maps.

    Raises:
        ValueError: shapes differ, the maps have no pixel or are not finite, or peak is not positive.
    """
    if peak is not None and not peak > 0:
        raise ValueError(f"peak must be positive, got {peak}")
    estimate, truth = _normalised(predicted, peak), _normalised(true, peak)
    if estimate.shape != truth.shape or estimate.size == 0:
        raise ValueError(f"the maps must have one shape and at least one pixel, got {estimate.shape}, {truth.shape}")
    error = float(np.square(estimate - truth).mean())
    return LARGEST_PSNR_DB if error == 0 else min(-10.0 * math.log10(error), LARGEST_PSNR_DB)


def pixel_density(density: np.ndarray, size: tuple[int, int], stride: int) -> np.ndarray:
    """A density map of cells at the image's full resolution: persons per pixel, with the same sum.

    Source: CSRNet's protocol of PSNR and SSIM (Li et al., CVPR 2018, Sec. 4.3): interpolated to the image's size, here
    bilinearly between the centres of the cells, and divided by the pixels of a cell. The last cells may reach beyond
    the image: their persons lie inside it (ours).

    Args:
        density: (h, w) persons per cell, >= 0
        size: (height, width) of the image, px
        stride: side of a cell, px

    Returns:
        (height, width) float32, persons per pixel, >= 0.

    Raises:
        ValueError: an image of this size has other cells.
    """
    import cv2

    rows, columns = density.shape
    if (rows, columns) != tuple(-(-side // stride) for side in size):
        raise ValueError(f"an image of {size} px has no {density.shape} cells of {stride} px")
    down, across = (_pixels_of_cells(side, count, stride) for side, count in zip(size, density.shape, strict=True))
    per_pixel = (density / (down[:, None] * across)).astype(np.float32)
    whole = cv2.resize(per_pixel, (columns * stride, rows * stride), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(whole[: size[0], : size[1]])


def _pixels_of_cells(length: int, cells: int, stride: int) -> np.ndarray:
    """(cells,) float64, the sum of each cell's weights in the interpolation over `length` pixels; `stride` inside."""
    place = np.clip((np.arange(length) + 0.5) / stride - 0.5, 0, cells - 1)
    below = np.floor(place).astype(np.int64)
    share = place - below
    return (np.bincount(below, 1 - share, cells)
            + np.bincount(np.minimum(below + 1, cells - 1), share, cells))


def _normalised(density: Any, peak: float | None = None) -> np.ndarray:
    values = density.detach().cpu().numpy() if hasattr(density, "detach") else density
    array = np.asarray(values, np.float64)
    if not np.isfinite(array).all():
        raise ValueError("density maps must be finite, got NaN or infinity")
    divisor = array.max(initial=0.0) if peak is None else peak
    return array / divisor if divisor > 0 else array
