"""Agreement: how well a selection of pseudo-labels keeps the count and leaves the ensemble's doubt, measured without
ground truth.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def kept_sums(density: Any, spread: Any, keep: Any) -> dict[str, float]:
    """The sums that `agreement` is made of, for one image or many; those of several parts of the data add up.

    Args:
        density: any shape, persons per cell >= 0.
        spread: same shape, standard deviation of the density over the ensemble >= 0, persons per cell.
        keep: bool or 0/1, same shape: the cells selected.

    Returns:
        `persons`, `spread` and `cells` over all cells, `kept_persons`, `kept_spread` and `kept_cells` over those
        selected.

    Raises:
        ValueError: the shapes differ.
    """
    mass, doubt, kept = (np.asarray(values) for values in (density, spread, keep))
    if not mass.shape == doubt.shape == kept.shape:
        raise ValueError(f"density, spread and keep must have one shape, got {mass.shape}, {doubt.shape} and "
                         f"{kept.shape}")
    kept = kept.astype(bool)
    # float64: sums of float32 maps over a data set would drift.
    sums = {"persons": mass, "spread": doubt, "kept_persons": mass[kept], "kept_spread": doubt[kept]}
    totals = {name: float(values.sum(dtype=np.float64)) for name, values in sums.items()}
    return {**totals, "cells": float(kept.size), "kept_cells": float(kept.sum())}


def disagreement_sums(density: np.ndarray, places: np.ndarray, block_cells: int) -> dict[str, float]:
    """How far a density and a set of heads are apart, in blocks so large that it does not matter where in a cell a head
    lies.

    Source: ours. Over several images and sets the sums add up; `apart` / `said` is 0 where both say the same everywhere
    and 1 where they never see anybody in the same block.

    Args:
        density: (h, w) persons per cell >= 0.
        places: (M, 2) x, y of the heads in cells, the first cell from 0 to 1; those outside belong to the nearest cell.
        block_cells: side of a block, >= 1; the last ones hold what is left.

    Returns:
        `apart`, the sum over the blocks of the difference of persons, and `said`, the persons of both.
    """
    height, width = density.shape
    rows, columns = (np.arange(0, side, block_cells) for side in (height, width))
    regressed = np.add.reduceat(np.add.reduceat(density.astype(np.float64), rows, axis=0), columns, axis=1)
    x, y = (np.clip(places[:, axis], 0, side - 1).astype(np.int64) // block_cells
            for axis, side in ((0, width), (1, height)))
    found = np.bincount(y * len(columns) + x, minlength=regressed.size).reshape(regressed.shape)
    return {"apart": float(np.abs(regressed - found).sum()), "said": float(regressed.sum() + found.sum())}


def agreement(sums: Mapping[str, float]) -> float:
    """The share of the count that a selection keeps, minus the share of the ensemble's spread that it keeps with it.

    Source: ours. 0 for keeping nothing or everything, near 0 for a random part, at most 1. Adding cells to a selection
    raises it as long as they are more certain, relative to their count, than the predictions are on the whole, and
    lowers it otherwise. Scaling all densities or all spreads changes nothing, so an ensemble that is too sure of itself
    everywhere, as a few masks of one network may be, does no harm.

    What it cannot tell: errors that all members share, such as counting a whole street short, and whether the labels as
    a whole are good: of good labels, too, it leaves the less certain out. Where it is near 0 for every selection, the
    spread does not tell cells apart.

    Args:
        sums: as `kept_sums` returns them, added up over the data.

    Raises:
        ValueError: there is no count or no spread to take shares of.
    """
    if not (sums["persons"] > 0 and sums["spread"] > 0):
        raise ValueError(f"agreement needs a count and a spread above 0, got {sums['persons']} and {sums['spread']}")
    return sums["kept_persons"] / sums["persons"] - sums["kept_spread"] / sums["spread"]
