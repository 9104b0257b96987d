"""Losses of density maps against points or pseudo-labels."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

CellError = Literal["poisson", "squared", "squared_sum"]
FLOOR_PERSONS_CELL = 1e-3
FLOOR_PERSONS_BLOCK = 0.1
"""Added to the persons of a cell and of a block before dividing by them. ours."""
LARGEST_PULL = 4.0
"""Largest shortfall of a block, over its prediction, that counts. ours: else a few dense crops drown all others."""


def count_map_loss(
    prediction: Tensor, target: Tensor, keep: Tensor | None = None, block: int = 8, block_weight: float = 0.1,
    cell_error: CellError = "poisson", cell_px: int = 1,
) -> Tensor:
    """Error of cells, which teaches places, plus error of block counts, which teaches numbers.

    Source: ours; with `squared` and block_weight 0 the squared error of CVPR 2022, stages 1 and 2 (there over the kept
    cells). Persons in a cell are counts, so the default is the deviance of a Poisson count: it weighs an error by the
    prediction, so dense crowds do not drown sparse ones, and its minimum is at the mean for any cell size. The block
    term has the same slope, (P - Y) / P, in the block's predicted count P and true count Y.

    For an image with K kept cells, p and y their persons, P and Y the sums of a block's kept cells:
    (sum over cells of error + block_weight * sum over blocks of pull * (P - Y)) / K, where
    error = p - y - y log(p / y), p and y each 0.001 larger, or (p - y)^2; and
    pull = max((P - Y) / (0.1 + P), -4) has no gradient.

    `squared_sum` is Eq. 6 of Han et al., ICASSP 2020: half the sum over the pixels of an image, not their mean. A cell
    of s x s px spreads its persons evenly over its pixels (ours: the paper has a cell a pixel), so its pixels add
    s^2 ((p - y) / s^2)^2: sum over cells of (p - y)^2 / (2 s^2) + block_weight * sum over blocks of pull * (P - Y).
    Thus the weights of other losses beside it mean the same for any cell. On a crop of K cells of 1 px it is K / 2
    times `squared`.

    Images are averaged, so equally large parts of a batch average to the whole.

    Args:
        prediction: (N, 1, h, w), persons per cell, >= 0
        target: shape and unit of `prediction`, >= 0
        keep: shape of `prediction`, bool or 0/1, cells to train on; None: all
        block: side of a block, cells, >= 1; blocks at the right and bottom edge may be cut off
        block_weight: weight of the block term, >= 0
        cell_error: `poisson`, `squared` or `squared_sum`
        cell_px: s, side of a cell, px of the crop, >= 1; only `squared_sum` depends on it

    Returns:
        scalar; an image without kept cells adds 0.

    Raises:
        ValueError: shapes differ or are not (N, 1, h, w) with N >= 1, or block, block_weight or cell_px is out
            of range.
    """
    if prediction.ndim != 4 or prediction.shape[1] != 1 or prediction.numel() == 0 or prediction.shape != target.shape:
        raise ValueError(f"prediction and target must be (N, 1, h, w) and not empty, got {tuple(prediction.shape)}, "
                         f"{tuple(target.shape)}")
    if keep is not None and keep.shape != prediction.shape:
        raise ValueError(f"keep must have the prediction's shape {tuple(prediction.shape)}, got {tuple(keep.shape)}")
    if block < 1 or block_weight < 0 or cell_px < 1:
        raise ValueError("block and cell_px must be at least 1 and block_weight not negative, got "
                         f"{block}, {cell_px} and {block_weight}")
    kept = torch.ones_like(prediction) if keep is None else keep.to(prediction.dtype)
    difference = (prediction - target) * kept
    cells = poisson_deviance(prediction, target) * kept if cell_error == "poisson" else difference.square()
    block_error = _block_sums(difference, block)
    pull = block_error / (FLOOR_PERSONS_BLOCK + _block_sums(prediction * kept, block))
    pull = pull.clamp(min=-LARGEST_PULL).detach()
    blocks = block_weight * (pull * block_error).sum((1, 2, 3))
    if cell_error == "squared_sum":
        return (cells.sum((1, 2, 3)) / (2 * cell_px**2) + blocks).mean()
    errors = cells.sum((1, 2, 3)) + blocks
    return (errors / kept.sum((1, 2, 3)).clamp(min=1)).mean()


def poisson_deviance(prediction: Tensor, target: Tensor) -> Tensor:
    """Half the deviance of Poisson counts in each cell: p - y - y log(p / y), p and y each `FLOOR_PERSONS_CELL` larger.

    Source: McCullagh and Nelder, Generalized Linear Models, Sec. 2.3 (deviance).

    Args:
        prediction: p, any shape, persons per cell, >= 0
        target: y, shape and unit of `prediction`, >= 0

    Returns:
        shape of `prediction`, >= 0 but for rounding; 0 where both agree.
    """
    p, y = prediction + FLOOR_PERSONS_CELL, target + FLOOR_PERSONS_CELL
    return p - y - y * torch.log(p / y)


def _block_sums(values: Tensor, block: int) -> Tensor:
    edges = (0, -values.shape[3] % block, 0, -values.shape[2] % block)
    return functional.avg_pool2d(functional.pad(values, edges), block) * block**2
