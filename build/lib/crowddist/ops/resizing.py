"""Maps of persons per cell on another grid of cells; the sum stays."""

from __future__ import annotations

import torch
from torch import Tensor


def resize_sums(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Shares the persons of each cell out to the cells of another grid over the same place, by the area they share.

    Source: ours; as `data.transforms.crop_mass`, for tensors on any device. float64 inside: mixed precision would round
    the areas to three digits.

    Args:
        maps: (..., h, w), persons per cell
        size: (height, width) of the new grid, cells, >= 1

    Returns:
        (..., height, width), kind of `maps`; every sum stays, but for rounding.
    """
    if tuple(maps.shape[-2:]) == size:
        return maps
    rows, columns = (_shares(new, old, maps.device) for new, old in zip(size, maps.shape[-2:], strict=True))
    return (rows @ maps.double() @ columns.T).to(maps.dtype)


def _shares(new: int, old: int, device: torch.device) -> Tensor:
    """(new, old) float64: the part of each old cell that lies in each new one; columns add up to 1."""
    edges = torch.arange(new + 1, dtype=torch.float64, device=device) * old / new  # in old cells
    cells = torch.arange(old, dtype=torch.float64, device=device)
    return (torch.minimum(edges[1:, None], cells + 1) - torch.maximum(edges[:-1, None], cells)).clamp(min=0)
