"""Masksembles: a layer of fixed binary masks over channels, one mask a member of the ensemble."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crowddist.ops.masksembles import make_masks


class Masksembles(nn.Module):
    """Keeps the channels of one mask per sample and zeroes the rest, without rescaling.

    The masks are a persistent buffer: a reloaded network has the members it was trained with, whatever its seed.
    Source: Durasov et al., Masksembles, CVPR 2021; one mask a sample as in the paper, not one a part of the batch (C).
    """

    masks: Tensor

    def __init__(self, channels: int, num_masks: int, scale: float, seed: int) -> None:
        super().__init__()
        self.register_buffer("masks", torch.from_numpy(make_masks(channels, num_masks, scale, seed)))

    def forward(self, features: Tensor, members: Tensor) -> Tensor:
        """Apply mask `members[n]` to sample n.

        Args:
            features: (N, channels, h, w)
            members: (N,) int64, 0 to the number of masks - 1

        Returns:
            shape of `features`.

        Raises:
            ValueError: `members` is not an int64 vector of the batch's length.
        """
        if members.shape != features.shape[:1] or members.dtype != torch.int64:
            raise ValueError(f"members must be {len(features)} int64 indexes, got {members.dtype} of shape "
                             f"{tuple(members.shape)}")
        return features * self.masks[members].to(features.dtype)[:, :, None, None]

    def mean(self, features: Tensor) -> Tensor:
        """(N, channels, h, w) features times the mean of all masks: one pass instead of one a mask (ours)."""
        return features * self.masks.to(features.dtype).mean(0)[:, None, None]
