"""Agreement: how well a selection of pseudo-labels keeps the count and drops the spread, without ground truth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from crowddist.ops.sums import total


def kept_sums(density: Any, spread: Any, keep: Any) -> dict[str, float]:
    """The sums that `agreement` needs, for one image or many; sums of several parts of the data add up (ours).

    Args:
        density: any shape, persons per cell, >= 0
        spread: shape of `density`, persons per cell, >= 0; standard deviation over the ensemble
        keep: shape of `density`, bool or 0/1; the selected cells

    Returns:
        `persons`, `spread` and `cells` over all cells; `kept_persons`, `kept_spread`, `kept_cells` over `keep`.

    Raises:
        ValueError: the shapes differ.
    """
    mass, doubt, kept = (np.asarray(values) for values in (density, spread, keep))
    if not mass.shape == doubt.shape == kept.shape:
        raise ValueError(f"density, spread and keep must have one shape, got {mass.shape}, {doubt.shape}, {kept.shape}")
    kept = kept.astype(bool)
    return {"persons": total(mass), "spread": total(doubt), "cells": float(kept.size),
            "kept_persons": total(mass, kept), "kept_spread": total(doubt, kept),
            "kept_cells": float(np.count_nonzero(kept))}


def zoom_disagreement(counts: Mapping[float, float]) -> float:
    """How far the counts of one image at several zooms are apart: their standard deviation over their mean, or over one
    person where they are fewer (ours).

    Args:
        counts: zoom -> persons, >= 0; at least one

    Returns:
        >= 0, without unit; 0 where all are equal.
    """
    persons = np.array(list(counts.values()), np.float64)
    return float(persons.std() / max(persons.mean(), 1.0))


def block_persons(density: np.ndarray, block_cells: int) -> np.ndarray:
    """Persons in blocks of a density (ours).

    Args:
        density: (h, w), persons per cell, >= 0
        block_cells: side of a block, cells, >= 1; the last blocks hold the rest

    Returns:
        (rows, columns) float64, >= 0.
    """
    rows, columns = (np.arange(0, side, block_cells) for side in density.shape)
    return np.add.reduceat(np.add.reduceat(density.astype(np.float64), rows, axis=0), columns, axis=1)


def disagreement_sums(persons: np.ndarray, places: np.ndarray, cells: tuple[int, int],
                      block_cells: int) -> dict[str, float]:
    """How far a density and a set of heads disagree, in blocks that are larger than the error of a head's place.

    Source: ours. The sums add up over images: `apart` / `said` is 0 where density and heads agree in every block, and 1
    where they never see persons in the same block.

    Args:
        persons: of `block_persons`
        places: (M, 2) x and y of heads, cells; the first cell spans 0 to 1; heads outside go to the nearest cell
        cells: (height, width) of the density
        block_cells: side of a block, cells

    Returns:
        `apart`, the sum over blocks of |density - heads|, and `said`, density plus heads; persons, >= 0.
    """
    x, y = (np.clip(places[:, axis], 0, cells[1 - axis] - 1).astype(np.int64) // block_cells for axis in (0, 1))
    found = np.bincount(y * persons.shape[1] + x, minlength=persons.size).reshape(persons.shape)
    return {"apart": float(np.abs(persons - found).sum()), "said": float(persons.sum() + found.sum())}


def agreement(sums: Mapping[str, float]) -> float:
    """The kept share of the count minus the kept share of the spread.

    Source: ours. It is 0 for keeping nothing or everything, near 0 for a random part, and at most 1. A cell raises it
    if its spread relative to its density is below the average of all cells. Scaling all densities or all spreads
    changes nothing, so an ensemble that is overconfident everywhere, like masks of one network, does no harm.

    Not visible here: errors that all members share, such as a street counted short, and whether the labels are good as
    a whole (the least certain are dropped even then). If it stays near 0, the spread does not tell cells apart.

    Args:
        sums: of `kept_sums`, added up over the data

    Returns:
        -1 to 1.

    Raises:
        ValueError: the count or the spread is 0.
    """
    if not (sums["persons"] > 0 and sums["spread"] > 0):
        raise ValueError(f"agreement needs a count and a spread above 0, got {sums['persons']} and {sums['spread']}")
    return sums["kept_persons"] / sums["persons"] - sums["kept_spread"] / sums["spread"]
