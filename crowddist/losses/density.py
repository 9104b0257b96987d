"""Losses of density maps against points or pseudo-labels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

FLOOR_PERSONS = 0.1
"""Added to a block's predicted count before anything is divided by it. ours."""
LARGEST_PULL = 4.0
"""A block that misses more than this many times what it predicts pulls no harder. ours: else a few dense crops drown all others."""


def count_map_loss(
    prediction: Tensor,
    target: Tensor,
    keep: Tensor | None = None,
    block: int = 8,
    block_weight: float = 0.05,
    *,
    absolute: bool = False,
) -> Tensor:
    """Squared error of cells plus the error of the counts of blocks.

    Source: ours. The squared error of CVPR 2022, stages 1 and 2 (there over the kept cells), learns where heads are; the block term
    learns how many. Its slope at a block's predicted count p and true count y is either the sign of p - y (the absolute error), or that
    of a Poisson count's likelihood, (p - y) / p: it pulls empty blocks to nothing just as hard, but vanishes at the mean of uncertain
    counts, where an absolute error keeps pulling down to their median.

    For an image with K kept cells, e their errors and p their predictions:
    sum e^2 / K + block_weight * sum over blocks (pull * sum of the block's e) / (K / block^2), where
    pull = max(sum of the block's e / (0.1 + sum of its p), -4), or the sign of the block's error, has no gradient.
    Images are averaged, so equally large parts of a batch average to the whole.

    Args:
        prediction: (N, 1, h, w) persons per cell, not negative.
        target: same shape.
        keep: same shape, bool or 0/1: cells to train on; None means all.
        block: side of a block in cells, >= 1; blocks at the right and bottom edge may be cut off.
        block_weight: weight of the block term, >= 0.
        absolute: take the absolute error of blocks instead of the one relative to what is predicted.

    Returns:
        Scalar; an image of which no cell is kept adds 0.

    Raises:
        ValueError: shapes differ or are not (N, 1, h, w) with N >= 1, or block or block_weight is out of range.
    """
    if prediction.ndim != 4 or prediction.shape[1] != 1 or prediction.numel() == 0 or prediction.shape != target.shape:
        raise ValueError(f"prediction and target must be (N, 1, h, w) and not empty, got {tuple(prediction.shape)}, {tuple(target.shape)}")
    if keep is not None and keep.shape != prediction.shape:
        raise ValueError(f"keep must have the shape of the prediction {tuple(prediction.shape)}, got {tuple(keep.shape)}")
    if block < 1 or block_weight < 0:
        raise ValueError(f"block must be at least 1 and block_weight not negative, got {block} and {block_weight}")
    kept = torch.ones_like(prediction) if keep is None else keep.to(prediction.dtype)
    error = (prediction - target) * kept
    squares = error.square().sum((1, 2, 3))
    block_error = _block_sums(error, block)
    relative = block_error / (FLOOR_PERSONS + _block_sums(prediction * kept, block))
    pull = (block_error.sign() if absolute else relative.clamp(min=-LARGEST_PULL)).detach()
    blocks = (pull * block_error).sum((1, 2, 3))
    return ((squares + block_weight * block**2 * blocks) / kept.sum((1, 2, 3)).clamp(min=1)).mean()


def _block_sums(values: Tensor, block: int) -> Tensor:
    edges = (0, -values.shape[3] % block, 0, -values.shape[2] % block)
    return functional.avg_pool2d(functional.pad(values, edges), block) * block**2
