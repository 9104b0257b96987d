"""Patches of an image that are worth training on."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import ArrayLike

MEDIUM_DENSITY = (0.5, 0.7)
"""Ranks by density that a regressor learns from. P (MM 2020, Sec. 3.4)."""


@functools.lru_cache(maxsize=64)
def patch_grid(size: tuple[float, float], patch: float) -> np.ndarray:
    """Patches side by side without overlap, centred in the image, starting at whole numbers (ours).

    Args:
        size: (height, width) of the image, any unit, > 0
        patch: side of a patch, same unit, > 0; a narrower image gets one patch across, which sticks out on both sides

    Returns:
        (P, 4) float64 top, left, height and width, same unit, row by row; P >= 1. Read-only, for it is kept: trials of
        thresholds ask for the same one again and again.

    Raises:
        ValueError: the size or the patch is not positive.
    """
    if not patch > 0 or min(size) <= 0:
        raise ValueError(f"patches need a positive side and an image, got {patch} and {size}")
    starts = []
    for length in size:
        number = max(int(length // patch), 1)
        starts.append(np.floor((length - number * patch) / 2) + patch * np.arange(number))
    top, left = np.meshgrid(*starts, indexing="ij")
    grid = np.stack([top.ravel(), left.ravel(), np.full(top.size, patch), np.full(top.size, patch)], axis=1)
    grid.flags.writeable = False
    return grid


def medium_density(persons: ArrayLike, low: float = MEDIUM_DENSITY[0], high: float = MEDIUM_DENSITY[1]) -> np.ndarray:
    """The patches whose density lies between two percentiles of their image.

    Source: Liu et al., MM 2020, Sec. 3.4: "randomly selecting from the density ranges 50% - 70%". Our reading: patches
    are ranked by their persons; patch i of P, from the sparsest, covers the ranks i / P to (i + 1) / P and is taken if
    these overlap the range. So every image has one.

    Args:
        persons: (P,) persons per patch, >= 0; P >= 1
        low, high: ranks, 0 <= low < high <= 1

    Returns:
        (M,) int64 indexes of patches, sparsest first; M >= 1.

    Raises:
        ValueError: there is no patch or the ranks are out of order.
    """
    values = np.asarray(persons, np.float64)
    if values.ndim != 1 or not len(values) or not 0 <= low < high <= 1:
        raise ValueError(f"needs at least one patch and ranks 0 <= low < high <= 1, got {values.shape}, {low}, {high}")
    order = np.argsort(values, kind="stable")
    rank = np.arange(len(values))
    return order[(rank + 1 > low * len(values) + 1e-9) & (rank < high * len(values) - 1e-9)]


def most_confident(scores: ArrayLike, inside: ArrayLike, number: int) -> np.ndarray:
    """The patches of highest mean detection confidence.

    Source: Liu et al., MM 2020, Sec. 3.4.

    Args:
        scores: (D,) confidence of each detection, 0 to 1
        inside: (P, D) bool; is the detection in the patch?
        number: most patches, >= 1

    Returns:
        (M,) int64 indexes of the patches with a detection, most confident first; M <= number.
    """
    held = np.asarray(inside, bool)
    counts = held.sum(1)
    means = held @ np.asarray(scores, np.float64) / np.maximum(counts, 1)
    order = np.argsort(-means, kind="stable")
    return order[counts[order] > 0][:number]
