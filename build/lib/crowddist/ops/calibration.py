"""Calibration: does an uncertainty match the size of the error, and does a larger uncertainty mean a larger error?"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

NUM_BINS = 10
"""Parts of a reliability curve. ours."""


def reliability(errors: ArrayLike, spreads: ArrayLike, num_bins: int = NUM_BINS) -> np.ndarray:
    """Error against spread: predictions sorted by spread and cut into parts of equal size.

    Source: Levi et al., 2019, Sec. 4 (calibration of regression by standard deviation).

    Args:
        errors: (N,) predicted minus true, any unit
        spreads: (N,) standard deviations, unit of `errors`, >= 0
        num_bins: most parts, >= 1; at most N are made

    Returns:
        (B, 3) float64, a row a part: root mean squared spread, root mean squared error, number of predictions.

    Raises:
        ValueError: there is no prediction, lengths differ, a spread is negative, or a number is not finite.
    """
    error, spread = _checked(errors, spreads)
    if num_bins < 1:
        raise ValueError(f"num_bins must be at least 1, got {num_bins}")
    parts = np.array_split(np.argsort(spread, kind="stable"), min(num_bins, len(spread)))
    return np.array([[np.sqrt(np.mean(spread[part] ** 2)), np.sqrt(np.mean(error[part] ** 2)), len(part)]
                     for part in parts])


def calibration_error(curve: np.ndarray) -> float:
    """Mean distance of spread and error over a `reliability` curve, divided by the mean error.

    Source: Levi et al., 2019, Eq. 5 (expected normalised calibration error). The paper divides by the spread; the error
    stays finite for an ensemble without spread (ours).

    Args:
        curve: (B, 3) of `reliability`

    Returns:
        >= 0; 0 is calibrated, 1 means no spread at all.
    """
    spread, error, number = curve.T
    total = float((error * number).sum())
    return float((np.abs(spread - error) * number).sum()) / total if total > 0 else 0.0


def sparsification(errors: ArrayLike, spreads: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean absolute error of the rest as the predictions of largest spread are left out one by one.

    Source: Ilg et al., ECCV 2018, Sec. 5.1. Predictions of equal spread share their mean error (ours).

    Args:
        errors, spreads: as in `reliability`

    Returns:
        (N,) each: the share left out, 0 to 1 - 1/N; the error of the rest over the error of all, >= 0; the same
        with the largest errors left out first, the best possible curve. Without any error both curves are 1.

    Raises:
        ValueError: as `reliability`.
    """
    error, spread = _checked(errors, spreads)
    size = np.abs(error)
    # Equal spreads cannot be ranked, so each gets their mean error.
    _, group = np.unique(spread, return_inverse=True)
    shared = (np.bincount(group, weights=size) / np.bincount(group))[group]
    left = np.arange(len(size), 0, -1)
    curves = []
    for values, order in ((shared, np.argsort(spread, kind="stable")), (size, np.argsort(size, kind="stable"))):
        rest = values[order].cumsum()[::-1] / left
        curves.append(rest / rest[0] if rest[0] > 0 else np.ones(len(rest)))
    return 1 - left / len(size), curves[0], curves[1]


def sparsification_error(errors: ArrayLike, spreads: ArrayLike) -> float:
    """The area between both curves of `sparsification` (AUSE).

    Source: Ilg et al., ECCV 2018, Sec. 5.1; here the mean over the shares (ours).

    Args:
        errors, spreads: as in `reliability`

    Returns:
        >= 0; 0 where the spread ranks the errors perfectly, about 0.5 for a spread without information.

    Raises:
        ValueError: as `reliability`.
    """
    _, by_spread, oracle = sparsification(errors, spreads)
    return float(np.mean(by_spread - oracle))


def _checked(errors: ArrayLike, spreads: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    error, spread = np.asarray(errors, np.float64), np.asarray(spreads, np.float64)
    if error.ndim != 1 or error.shape != spread.shape or not len(error):
        raise ValueError("errors and spreads must be two lists of one length, at least 1, got the shapes "
                         f"{error.shape} and {spread.shape}")
    if not (np.isfinite(error).all() and np.isfinite(spread).all() and (spread >= 0).all()):
        raise ValueError("errors and spreads must be finite, and spreads not negative")
    return error, spread
