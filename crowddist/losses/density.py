"""Losses of density maps against points or pseudo-labels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def count_map_loss(prediction: Tensor, target: Tensor, keep: Tensor | None = None, block: int = 8, block_weight: float = 0.05) -> Tensor:
    """Squared error of cells plus the squared error of the counts of blocks, relative to their size.

    Source: ours. The squared error of CVPR 2022, stages 1 and 2 (there over the kept cells), learns where heads are; the block term
    learns how many. Counts vary as their size does, so a block's squared error is divided by what is predicted for it, as in Pearson's
    chi-squared: the few dense crops do not drown the others, and because the divisor knows nothing of the label, the mean stays right
    (absolute errors, or dividing by the true count, pull below it: they lost a fifth to a quarter of the persons in training crops).

    For an image with K kept cells, e their errors and p their predictions without gradient:
    sum e^2 / K + block_weight * sum over blocks ((sum of the block's e)^2 / (1 + sum of its p)) / (K / block^2).
    Images are averaged, so equally large parts of a batch average to the whole.

    Args:
        prediction: (N, 1, h, w) persons per cell, not negative.
        target: same shape.
        keep: same shape, bool or 0/1: cells to train on; None means all.
        block: side of a block in cells, >= 1; blocks at the right and bottom edge may be cut off.
        block_weight: weight of the block term, >= 0.

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
    relative = _block_sums(error, block).square() / (1 + _block_sums(prediction.detach() * kept, block))
    return ((squares + block_weight * block**2 * relative.sum((1, 2, 3))) / kept.sum((1, 2, 3)).clamp(min=1)).mean()


def _block_sums(values: Tensor, block: int) -> Tensor:
    edges = (0, -values.shape[3] % block, 0, -values.shape[2] % block)
    return functional.avg_pool2d(functional.pad(values, edges), block) * block**2
