"""Metrics of counting: errors of counts, also by size of the crowd, and peak signal-to-noise ratio of density maps."""

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


def psnr(predicted: Any, true: Any) -> float:
    """Peak signal-to-noise ratio of two density maps, each divided by its own maximum, so that the peak is 1.

    Source: protocol of CP-CNN and CSRNet (Li et al., CVPR 2018, Sec. 4.3), which normalises both maps and so compares
    shapes, not counts; dividing by the maximum is our reading. A map without a positive value stays as it is (ours).

    Args:
        predicted, true: one shape, any unit; NumPy or torch

    Returns:
        dB, at most `LARGEST_PSNR_DB`, the value of equal maps.

    Raises:
        ValueError: shapes differ, or the maps have no pixel or are not finite.
    """
    estimate, truth = _normalised(predicted), _normalised(true)
    if estimate.shape != truth.shape or estimate.size == 0:
        raise ValueError(f"the maps must have one shape and at least one pixel, got {estimate.shape}, {truth.shape}")
    error = float(np.square(estimate - truth).mean())
    return LARGEST_PSNR_DB if error == 0 else min(-10.0 * math.log10(error), LARGEST_PSNR_DB)


def _normalised(density: Any) -> np.ndarray:
    values = density.detach().cpu().numpy() if hasattr(density, "detach") else density
    array = np.asarray(values, np.float64)
    if not np.isfinite(array).all():
        raise ValueError("density maps must be finite, got NaN or infinity")
    peak = array.max(initial=0.0)
    return array / peak if peak > 0 else array
