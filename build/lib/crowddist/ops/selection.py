"""Selection of pseudo-labels: how much of a density was selected; when rounds settle."""

from __future__ import annotations

from typing import Any

import numpy as np


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
