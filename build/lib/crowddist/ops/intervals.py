"""Intervals of counts by split conformal prediction: how far off a counter was on labelled images that it never saw."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

FLOOR_PERSONS = 1.0
"""The scale where nobody is counted and nothing disagrees, persons. ours: small, so that the disagreement decides."""
SHARE = 0.02
"""What the scale grows by with each person counted, persons. ours: small likewise, but counters without members and
zooms have nothing else. Chosen from B to A, see docs/adaptation.md."""


def error_scale(counts: ArrayLike, uncertainties: ArrayLike, *, floor_persons: float = FLOOR_PERSONS,
                share: float = SHARE) -> np.ndarray:
    """How large a count's error is expected to be, known without a label, up to one factor for all images.

    Source: ours: f + a c + u, with the floor f, the share a, the count c and its uncertainty u. u is the standard
    deviation of the count over members and zooms, so the scale grows where those disagree more.

    Args:
        counts: (N,) persons, >= 0
        uncertainties: (N,) persons, >= 0
        floor_persons: f, > 0
        share: a, >= 0

    Returns:
        (N,) float64, persons, > 0.

    Raises:
        ValueError: lengths differ, or a value is negative or not finite, or the floor is not positive.
    """
    count, uncertainty = _numbers(counts, "counts"), _numbers(uncertainties, "uncertainties")
    if count.shape != uncertainty.shape:
        raise ValueError(f"counts and uncertainties must be equally many, got {len(count)} and {len(uncertainty)}")
    if not (floor_persons > 0 and share >= 0 and math.isfinite(floor_persons + share)):
        raise ValueError(f"the floor must be positive and the share not negative, got {floor_persons:g} and {share:g}")
    if len(count) and min(count.min(), uncertainty.min()) < 0:
        raise ValueError("counts and uncertainties must not be negative")
    return floor_persons + share * count + uncertainty


def conformal_scores(counts: ArrayLike, truths: ArrayLike, scales: ArrayLike) -> np.ndarray:
    """The error of each count in units of its scale.

    Source: Lei et al., JASA 2018, Sec. 5.2 (locally weighted conformal prediction): |y - mu(x)| / rho(x).

    Args:
        counts, truths: (N,) persons
        scales: (N,) persons, > 0

    Returns:
        (N,) float64, >= 0, rising.

    Raises:
        ValueError: lengths differ, a value is not finite, or a scale is not positive.
    """
    count, truth, scale = _numbers(counts, "counts"), _numbers(truths, "truths"), _numbers(scales, "scales")
    if not count.shape == truth.shape == scale.shape:
        raise ValueError(f"counts, truths and scales must be equally many, got {len(count)}, {len(truth)} and "
                         f"{len(scale)}")
    if len(scale) and scale.min() <= 0:
        raise ValueError(f"scales must be positive, got {scale.min():g}")
    return np.sort(np.abs(truth - count) / scale)


def conformal_quantile(scores: Sequence[float] | np.ndarray, level: float) -> float:
    """The factor of the scale that holds the error of a further image of the same kind with probability `level`.

    Source: Vovk et al., 2005 (inductive conformal prediction); Lei et al., JASA 2018, Alg. 2: the k-th smallest of n
    scores, k = ceil((n + 1) level). Its coverage is at least `level` for an image exchangeable with the n; for images
    of another kind nothing is promised.

    Args:
        scores: (N,) of `conformal_scores`
        level: above 0 and below 1, e.g. 0.9

    Returns:
        >= 0; infinite where n is below level / (1 - level), too few for the level.

    Raises:
        ValueError: the level is out of its range.
    """
    if not 0 < level < 1:
        raise ValueError(f"the level must lie between 0 and 1, got {level:g}")
    # 100 x 0.55 is a little above 55 in floating point, and would ask for one score more than the equation.
    rank = math.ceil(round((len(scores) + 1) * level, 9))
    return math.inf if rank > len(scores) else float(np.sort(np.asarray(scores, np.float64))[rank - 1])


def fewest_scores(level: float) -> int:
    """The smallest number of scores with a finite `conformal_quantile` at this level: 9 for 0.9."""
    return math.ceil(round(level / (1 - level), 9))


def coverage_and_width(lows: ArrayLike, highs: ArrayLike, truths: ArrayLike) -> tuple[float, float]:
    """How good intervals are: the share of images whose truth lies inside, ends included, 0 to 1; and the mean width.

    Args:
        lows, highs, truths: (N,) persons

    Raises:
        ValueError: there is no image, lengths differ, a value is not finite, or an interval ends before it begins.
    """
    low, high, truth = _numbers(lows, "lows"), _numbers(highs, "highs"), _numbers(truths, "truths")
    if not len(low) or not low.shape == high.shape == truth.shape:
        raise ValueError("lows, highs and truths must be equally many, at least one, got "
                         f"{len(low)}, {len(high)} and {len(truth)}")
    if (high < low).any():
        raise ValueError("an interval ends before it begins")
    return float(((low <= truth) & (truth <= high)).mean()), float((high - low).mean())


def _numbers(values: ArrayLike, name: str) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise ValueError(f"{name} must be a list of finite numbers")
    return array
