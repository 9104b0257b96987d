"""Calibration: whether an uncertainty is as large as the error that it stands for, and whether the larger one marks the
larger error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

NUM_BINS = 10
"""Of a reliability curve. ours."""


def reliability(errors: ArrayLike, spreads: ArrayLike, num_bins: int = NUM_BINS) -> np.ndarray:
    """Error against spread: predictions in the order of their spread, cut into parts of equal number.

    Source: Levi et al., 2019, Sec. 4 (calibration of regression by standard deviation).

    Args:
        errors: (N,) predicted minus true.
        spreads: (N,) standard deviations >= 0, same unit.
        num_bins: the most parts, >= 1; there are no more than predictions.

    Returns:
        (B, 3) float64: the root of the mean squared spread, the root mean squared error, and the number of predictions
        of each part.

    Raises:
        ValueError: no predictions, different lengths, a spread below 0, or a number that is not finite.
    """
    error, spread = _checked(errors, spreads)
    if num_bins < 1:
        raise ValueError(f"num_bins must be at least 1, got {num_bins}")
    parts = np.array_split(np.argsort(spread, kind="stable"), min(num_bins, len(spread)))
    return np.array([[np.sqrt(np.mean(spread[part] ** 2)), np.sqrt(np.mean(error[part] ** 2)), len(part)]
                     for part in parts])


def calibration_error(curve: np.ndarray) -> float:
    """How far spreads are from errors, over the errors: the mean over the parts of a `reliability` curve, each by its
    number.

    Source: Levi et al., 2019, Eq. 5 (expected normalised calibration error), there over the spread; over the error it
    stays finite where an ensemble has none (ours). 0 is calibrated; 1 is what no spread at all gets.
    """
    spread, error, number = curve.T
    total = float((error * number).sum())
    return float((np.abs(spread - error) * number).sum()) / total if total > 0 else 0.0


def sparsification(errors: ArrayLike, spreads: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean absolute error of what is left when the predictions of largest spread are left out, one after the other.

    Source: Ilg et al., ECCV 2018, Sec. 5.1.

    Args:
        errors, spreads: as for `reliability`. Of equal spreads the error is shared, so that their order does not matter
            (ours).

    Returns:
        (N,) each: the share that is left out, 0 to 1 - 1 / N; the error of the rest over the error of all; and likewise
        where those of the largest error are left out, which nothing can be better than. Where there is no error at all,
        both are 1.
    """
    error, spread = _checked(errors, spreads)
    size = np.abs(error)
    # Equal spreads cannot be told apart: each of them stands for their mean.
    _, group = np.unique(spread, return_inverse=True)
    shared = (np.bincount(group, weights=size) / np.bincount(group))[group]
    left = np.arange(len(size), 0, -1)
    curves = []
    for values, order in ((shared, np.argsort(spread, kind="stable")), (size, np.argsort(size, kind="stable"))):
        rest = values[order].cumsum()[::-1] / left
        curves.append(rest / rest[0] if rest[0] > 0 else np.ones(len(rest)))
    return 1 - left / len(size), curves[0], curves[1]


def sparsification_error(errors: ArrayLike, spreads: ArrayLike) -> float:
    """The area between both curves of `sparsification` (AUSE): 0 where the spread ranks the errors perfectly; larger is
    worse.

    Source: Ilg et al., ECCV 2018, Sec. 5.1. A spread that says nothing gets what `1 - oracle` has below it, about 0.5
    (ours: mean over the shares).
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
