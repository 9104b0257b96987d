"""Losses of a head detector by centre, size and offset (CSP)."""

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
"""Cells at most this far from a centre, along both axes, learn the size. C (CSP)."""


class DetectionTargets(NamedTuple):
    """Target maps of a detector for a batch."""

    centres: Tensor
    """(N, 1, h, w), 1 in the cell of a head's centre, else 0."""
    closeness: Tensor
    """(N, 1, h, w), 0 to 1: the largest Gaussian of all heads, each cut at its head's border."""
    log_size: Tensor
    """(N, 1, h, w), natural logarithm of the nearest head's size in px, where `near` is 1."""
    near: Tensor
    """(N, 1, h, w), 1 in the cells that learn a size, else 0."""
    offset: Tensor
    """(N, 2, h, w), y and x of the centre relative to the cell's centre, cells, where `centres` is 1."""


def detection_targets(heads: Sequence[Tensor], cells: tuple[int, int], stride: int) -> DetectionTargets:
    """The target maps of heads.

    Source: Liu et al., CVPR 2019 (CSP), Eq. 3 and its released code (C): a Gaussian of sigma 0.15 s + 0.35 for a head
    of s cells, cut at the head's border; sizes in the 5 x 5 cells round the centre. Overlaps take the nearest head's
    size; heads are at least `SMALLEST_SIZE_PX`, because the logarithm of the size divides the error (ours).

    Args:
        heads: for each image (M, 3) x, y and size, px; M may be 0
        cells: (height, width) of the maps, cells
        stride: side of a cell, px

    Returns:
        maps (N, 1 or 2, h, w), see `DetectionTargets`.
    """
    maps = [_targets_of_one(one, cells, stride) for one in heads]
    return DetectionTargets(*(torch.stack(parts) for parts in zip(*maps, strict=True)))


def _targets_of_one(heads: Tensor, cells: tuple[int, int], stride: int) -> tuple[Tensor, ...]:
    device = heads.device
    empty = torch.zeros(1, *cells, device=device)
    if not len(heads):
        return empty, empty.clone(), empty.clone(), empty.clone(), empty.repeat(2, 1, 1)
    y, x, row, column = _centres(heads, cells, stride)
    size_px = heads[:, 2].float().clamp(min=SMALLEST_SIZE_PX)
    size = size_px / stride
    down = torch.arange(cells[0], device=device) - row[:, None]
    across = torch.arange(cells[1], device=device) - column[:, None]
    sigma = (0.15 * size + 0.35)[:, None]
    # Separable: the Gaussian and the square that cuts it are products of a row and a column.
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


def updated_heads(heads: Tensor, log_size: Tensor, confidence: Tensor, stride: int, least_confidence: float) -> Tensor:
    """Heads whose sizes are estimates, with the detector's own sizes where it is confident of smaller ones.

    Source: Liu et al., CVPR 2019 (PSDDN): a box begins as the distance to the nearest neighbour, an upper bound, and is
    replaced in training by the most confident prediction that is smaller. Ours: of the centre's cell alone, as a CSP
    detector predicts one size a cell, and without the loss that holds the sizes of a row together.

    Args:
        heads: (M, 3) x, y and estimated size, px; M may be 0
        log_size: (h, w), natural logarithm of the predicted size in px
        confidence: (h, w), 0 to 1
        stride: side of a cell, px
        least_confidence: of a prediction that counts, 0 to 1

    Returns:
        (M, 3), without gradient; sizes are at least `SMALLEST_SIZE_PX` where they are the detector's.
    """
    row, column = _centres(heads, (log_size.shape[0], log_size.shape[1]), stride)[2:]
    own = log_size.detach()[row, column].exp().clamp(min=SMALLEST_SIZE_PX)
    known = heads[:, 2].float()
    sure = confidence.detach()[row, column] >= least_confidence
    return torch.cat([heads[:, :2], torch.where(sure, torch.minimum(known, own), known)[:, None]], dim=1)


def _centres(heads: Tensor, cells: tuple[int, int], stride: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y and x of heads in cells, and the row and the column that they lie in."""
    # Pixel j has its centre at j, and cell i covers the pixels from i * stride - 0.5 on.
    x, y = ((heads[:, axis].float() + 0.5) / stride for axis in (0, 1))
    return y, x, y.long().clamp(0, cells[0] - 1), x.long().clamp(0, cells[1] - 1)


def reach(heads: Sequence[Tensor], cells: tuple[int, int], stride: int) -> Tensor:
    """The cells whose targets heads would change, inside them or near their centres.

    Source: as `detection_targets`.

    Args:
        heads, cells, stride: as in `detection_targets`

    Returns:
        (N, 1, h, w) bool.
    """
    targets = detection_targets(heads, cells, stride)
    return (targets.closeness > 0) | (targets.near > 0)


def centre_loss(logits: Tensor, targets: DetectionTargets, num_heads: Tensor | float, *,
                doubtful: Tensor | None = None) -> Tensor:
    """Focal cross-entropy of the centres, divided by the number of heads.

    Source: Liu et al., CVPR 2019 (CSP), Eqs. 4 and 5: with confidence p, (1 - p)^2 * -log p at a centre, and elsewhere
    (1 - G)^4 p^2 * -log(1 - p), G the closeness.

    Args:
        logits: (N, 1, h, w), unbounded; p = sigmoid(logits)
        targets: of `detection_targets`
        num_heads: divisor, > 0
        doubtful: (N, 1, h, w) bool, cells that are not trained as background (ours); None: no cell

    Returns:
        scalar, >= 0.
    """
    confidence = torch.sigmoid(logits)
    missed = targets.centres * (1 - confidence).square() * functional.softplus(-logits)
    invented = (1 - targets.centres) * (1 - targets.closeness) ** 4 * confidence.square() * functional.softplus(logits)
    if doubtful is not None:
        invented = invented * ~doubtful
    return (missed + invented).sum() / num_heads


def size_loss(log_size: Tensor, targets: DetectionTargets, num_heads: Tensor | float) -> Tensor:
    """Smooth L1 of the relative error of the size's logarithm, mean over the cells near heads.

    Source: Liu et al., CVPR 2019 (CSP), Eq. 6; relative to the true value as in the released code (C).

    Args:
        log_size: (N, 1, h, w), natural logarithm of the size in px
        targets: of `detection_targets`
        num_heads: > 0; the divisor is 25 * num_heads, the most cells near that many heads (C: the cells near heads)

    Returns:
        scalar, >= 0.
    """
    error = (log_size - targets.log_size) / targets.log_size.clamp(min=1e-3)
    costs = functional.smooth_l1_loss(error, torch.zeros_like(error), reduction="none") * targets.near
    return costs.sum() / ((2 * SIZE_REACH + 1) ** 2 * num_heads)


def offset_loss(offset: Tensor, targets: DetectionTargets, num_heads: Tensor | float) -> Tensor:
    """Smooth L1 of the centre's place in its cell, divided by the number of heads.

    Source: Liu et al., CVPR 2019 (CSP), Sec. 3.3, and its released code (C).

    Args:
        offset: (N, 2, h, w), y and x, cells
        targets: of `detection_targets`
        num_heads: divisor, > 0

    Returns:
        scalar, >= 0.
    """
    errors = functional.smooth_l1_loss(offset, targets.offset, reduction="none")
    return (errors * targets.centres).sum() / num_heads
