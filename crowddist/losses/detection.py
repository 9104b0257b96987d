"""Losses of a detector of heads by centre, size and offset (CSP)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from crowddist.ops.scales import SMALLEST_SIZE_PX

CENTRE_WEIGHT, SIZE_WEIGHT, OFFSET_WEIGHT = 0.01, 1.0, 0.1
"""Weights of the three losses. C (CSP)."""
SIZE_REACH = 2
"""The size is learnt in the cells at most this far from a centre, along both axes. C (CSP)."""


class DetectionTargets(NamedTuple):
    """What a detector should say of a batch; maps of cells."""

    centres: Tensor
    """(N, 1, h, w), 1 in the cell of a head's centre, else 0."""
    closeness: Tensor
    """(N, 1, h, w), 0 to 1: the largest of the Gaussians round the heads' centres, each inside its head."""
    log_size: Tensor
    """(N, 1, h, w), natural logarithm of the nearest head's size in px, where `near`."""
    near: Tensor
    """(N, 1, h, w), 1 in the cells that learn a size."""
    offset: Tensor
    """(N, 2, h, w), y and x of the centre relative to the cell's centre, in cells, where `centres`."""


def detection_targets(heads: Sequence[Tensor], cells: tuple[int, int], stride: int) -> DetectionTargets:
    """The maps that heads ask of a detector.

    Source: Liu et al., CVPR 2019 (CSP), Eq. 3 and its released code (C): a Gaussian of sigma 0.15 s + 0.35 for a head
    of s cells, cut at the head's border; sizes in the 5 x 5 cells round the centre. Where heads overlap, a cell takes
    the nearest one's size, and smaller heads count as `SMALLEST_SIZE_PX` large: the error of the logarithm is relative,
    so it must stay well above 0 (ours).

    Args:
        heads: for each image (M, 3) x, y, size in px; M may be 0.
        cells: (height, width) of the maps.
        stride: px along a cell's side.
    """
    maps = [_targets_of_one(one, cells, stride) for one in heads]
    return DetectionTargets(*(torch.stack(parts) for parts in zip(*maps, strict=True)))


def _targets_of_one(heads: Tensor, cells: tuple[int, int], stride: int) -> tuple[Tensor, ...]:
    device = heads.device
    empty = torch.zeros(1, *cells, device=device)
    if not len(heads):
        return empty, empty.clone(), empty.clone(), empty.clone(), empty.repeat(2, 1, 1)
    # Pixel j has its centre at j, and cell i covers the pixels from i * stride - 0.5 on.
    x, y = ((heads[:, axis].float() + 0.5) / stride for axis in (0, 1))
    column, row = x.long().clamp(0, cells[1] - 1), y.long().clamp(0, cells[0] - 1)
    size_px = heads[:, 2].float().clamp(min=SMALLEST_SIZE_PX)
    size = size_px / stride
    down = torch.arange(cells[0], device=device) - row[:, None]
    across = torch.arange(cells[1], device=device) - column[:, None]
    sigma = (0.15 * size + 0.35)[:, None]
    # Separable: the Gaussian and the square it is cut to are products of a row and a column.
    gauss_down = torch.exp(-down.square() / (2 * sigma**2)) * (down.abs() <= size[:, None] / 2)
    gauss_across = torch.exp(-across.square() / (2 * sigma**2)) * (across.abs() <= size[:, None] / 2)
    closeness = (gauss_down[:, :, None] * gauss_across[:, None, :]).amax(0)
    centres = empty[0].clone()
    centres[row, column] = 1.0
    distance = torch.maximum(down.abs()[:, :, None], across.abs()[:, None, :])
    nearest_distance, nearest = distance.min(0)
    near = (nearest_distance <= SIZE_REACH).float()
    log_size = size_px.log()[nearest] * near
    offset = torch.zeros(2, *cells, device=device)
    offset[0, row, column], offset[1, row, column] = y - row - 0.5, x - column - 0.5
    return centres[None], torch.maximum(closeness, centres)[None], log_size[None], near[None], offset


def reach(heads: Sequence[Tensor], cells: tuple[int, int], stride: int) -> Tensor:
    """(N, 1, h, w) bool: the cells that heads would change the targets of, inside them or near their centres. Args: see
    `detection_targets`.
    """
    targets = detection_targets(heads, cells, stride)
    return (targets.closeness > 0) | (targets.near > 0)


def centre_loss(logits: Tensor, targets: DetectionTargets, num_heads: Tensor | float, *,
                doubtful: Tensor | None = None) -> Tensor:
    """Focal cross-entropy of the centres, over the number of heads.

    Source: Liu et al., CVPR 2019 (CSP), Eqs. 4 and 5: with confidence p, (1 - p)^2 * -log p where a centre is, and
    elsewhere (1 - G)^4 p^2 * -log(1 - p), G the closeness.

    Args:
        logits: (N, 1, h, w), p before the sigmoid.
        num_heads: what the sum is divided by, > 0.
        doubtful: (N, 1, h, w) bool, the cells that are not learnt to be background (ours); None: all are.
    """
    confidence = torch.sigmoid(logits)
    missed = targets.centres * (1 - confidence).square() * functional.softplus(-logits)
    invented = (1 - targets.centres) * (1 - targets.closeness) ** 4 * confidence.square() * functional.softplus(logits)
    if doubtful is not None:
        invented = invented * ~doubtful
    return (missed + invented).sum() / num_heads


def size_loss(log_size: Tensor, targets: DetectionTargets, num_heads: Tensor | float) -> Tensor:
    """Smooth L1 of the relative error of the logarithm of the size, mean over the cells near heads.

    Source: Liu et al., CVPR 2019 (CSP), Eq. 6; relative to the true value in the released code (C).

    Args:
        log_size: (N, 1, h, w).
        num_heads: 1 / 25 of the largest number of cells that can be near so many heads (C divides by the cells
            themselves).
    """
    error = (log_size - targets.log_size) / targets.log_size.clamp(min=1e-3)
    cells = (2 * SIZE_REACH + 1) ** 2
    return (functional.smooth_l1_loss(error, torch.zeros_like(error), reduction="none")
            * targets.near).sum() / (cells * num_heads)


def offset_loss(offset: Tensor, targets: DetectionTargets, num_heads: Tensor | float) -> Tensor:
    """Smooth L1 of the centre's place in its cell, over the number of heads.

    Source: Liu et al., CVPR 2019 (CSP), Sec. 3.3, and its released code (C).

    Args:
        offset: (N, 2, h, w), y and x in cells.
    """
    errors = functional.smooth_l1_loss(offset, targets.offset, reduction="none")
    return (errors * targets.centres).sum() / num_heads
