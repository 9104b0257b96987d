"""Selection of pseudo-labels: the cells of a density that are certain enough to train on; when rounds settle."""

from __future__ import annotations

from typing import Any

import numpy as np

EPSILON_PERSONS = 1e-6
"""Added to the density in the relative uncertainty, so that it is finite in empty cells. ours."""
BACKGROUND_MASS = 0.01
"""An image's background: its sparsest cells that together hold this share of the count. ours."""
NUM_STRATA = 10
"""Density strata of an image's occupied cells. ours."""
SMALLEST_STRATUM_CELLS = 8
"""Least cells of a stratum; sparse images get fewer strata. ours."""


def keep_most_certain(density: Any, spread: Any, share: float) -> Any:
    """Keep a share of each image's cells: those the ensemble agrees on most, at every level of density.

    Source: CVPR 2022, stage 2 (in words only); the rule is ours. Ranking by spread keeps only empty background, because
    density 0 has spread 0, and labels would teach only emptiness; ranking by spread / density keeps only crowds. So
    cells compete within strata of similar density: the cells of the last `BACKGROUND_MASS` of the count form one, the
    others `NUM_STRATA` equally large ones. Each keeps its `share` of cells with the least spread / (density + epsilon),
    so the kept share of the count is near `share` too. Equal cells (exactly empty background) are taken in a fixed
    order scattered over the map, not from the top row down.

    Args:
        density: (N, 1, h, w) or (h, w), persons per cell, >= 0, mean over the ensemble; NumPy or torch
        spread: shape and unit of `density`, >= 0, standard deviation over the ensemble
        share: part of each image's cells to keep, 0 to 1

    Returns:
        bool, shape, kind and device of `density`; each image keeps `share` of its cells to the nearest cell.

    Raises:
        ValueError: shapes differ or are neither, values are not finite and >= 0, or share is not in 0..1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must lie in 0..1, got {share}")
    mean, deviations = _as_array(density), _as_array(spread)
    if mean.shape != deviations.shape or not (mean.ndim == 2 or (mean.ndim == 4 and mean.shape[1] == 1)):
        raise ValueError(f"density and spread must both be (N, 1, h, w) or (h, w), got {mean.shape} and "
                         f"{deviations.shape}")
    if not (np.isfinite(mean).all() and np.isfinite(deviations).all() and (mean >= 0).all()
            and (deviations >= 0).all()):
        raise ValueError("density and spread must be finite and not negative")
    images = mean.reshape(-1, mean.shape[-2] * mean.shape[-1])
    deviations = deviations.reshape(images.shape)
    scatter = _scattered(images.shape[1])
    kept = np.zeros(images.shape, bool)
    for row, image, deviation in zip(kept, images, deviations, strict=True):
        row[_kept_cells(image, deviation, share, scatter)] = True
    keep = kept.reshape(mean.shape)
    if not hasattr(density, "detach"):
        return keep
    import torch

    return torch.from_numpy(keep).to(density.device)


def kept_shares(density: Any, keep: Any) -> dict[str, float]:
    """Size of a selection: `kept_pixels`, the share of cells, and `kept_mass`, the share of the count (ours).

    Args:
        density: any shape, persons per cell, >= 0; NumPy or torch
        keep: shape of `density`, bool or 0/1

    Returns:
        both shares, 0 to 1. If the count is 0, `kept_mass` is the share of cells (ours).

    Raises:
        ValueError: the shapes differ or there is no cell.
    """
    mass, kept = _as_array(density), _as_array(keep).astype(bool)
    if mass.shape != kept.shape or mass.size == 0:
        raise ValueError(f"density and keep must have one shape with at least one cell, got {mass.shape} and "
                         f"{kept.shape}")
    kept_pixels = float(kept.mean())
    total = float(mass.sum())
    return {"kept_pixels": kept_pixels, "kept_mass": float(mass[kept].sum()) / total if total > 0 else kept_pixels}


def change_sums(previous: Any, current: Any) -> tuple[float, float]:
    """The two sums of `ratio_of_sums` for one part of the data.

    Source: ours (CVPR 2022 says "until predictions settle").

    Args:
        previous, current: maps of two rounds, one shape, persons per cell, >= 0; NumPy or torch

    Returns:
        sum of |current - previous| and sum of previous, persons, >= 0.

    Raises:
        ValueError: the shapes differ.
    """
    before, after = _as_array(previous), _as_array(current)
    if before.shape != after.shape:
        raise ValueError(f"the maps of two rounds must have one shape, got {before.shape} and {after.shape}")
    return float(np.abs(after - before).sum()), float(before.sum())


def ratio_of_sums(change: float, count: float) -> float:
    """Relative change of the predictions in one round, mean |y_k - y_{k-1}| / mean y_{k-1}; needs no labels (ours).

    Args:
        change, count: sums of `change_sums` over all data, persons, >= 0

    Returns:
        change / count, >= 0; 0 if both are 0, infinity if only the count is.
    """
    if count > 0:
        return change / count
    return 0.0 if change == 0 else float("inf")


def _as_array(values: Any) -> np.ndarray:
    """Values as float64 or bool: sums of float32 maps over a data set would drift."""
    array = values.detach().cpu().float().numpy() if hasattr(values, "detach") else np.asarray(values)
    return array if array.dtype == bool else array.astype(np.float64)


def _scattered(num_cells: int) -> np.ndarray:
    """A fixed rank for each cell, scattered over the map: the golden-ratio (Fibonacci) hash of its index."""
    return (np.arange(num_cells, dtype=np.uint64) * np.uint64(2654435769)) & np.uint64(0xFFFFFFFF)


def _kept_cells(density: np.ndarray, spread: np.ndarray, share: float, scatter: np.ndarray) -> np.ndarray:
    """Flat indexes of one image's cells to keep."""
    by_density = np.lexsort((scatter, density))
    mass = np.cumsum(density[by_density])
    num_background = int(np.searchsorted(mass, BACKGROUND_MASS * mass[-1], side="right"))
    num_occupied = len(density) - num_background
    strata = max(1, min(NUM_STRATA, num_occupied // SMALLEST_STRATUM_CELLS))
    ends = num_background + num_occupied * np.arange(strata + 1) // strata
    stratum = np.empty(len(density), np.int64)
    stratum[by_density] = np.searchsorted(ends, np.arange(len(density)), side="right")
    ranked = np.lexsort((scatter, spread / (density + EPSILON_PERSONS), stratum))
    # Rounding the running total, not each stratum, keeps the image's share exact to half a cell.
    bounds = np.concatenate(([0], ends))
    quotas = np.floor(share * bounds + 0.5).astype(np.int64)
    return np.concatenate([ranked[start:start + quota]
                           for start, quota in zip(bounds[:-1], np.diff(quotas), strict=True)])
