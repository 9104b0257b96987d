"""Pyramid pooling: from features to a mask of persons, with context of the whole image (S of SE+FD)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from crowddist.models.backbones.base import HeadWidth
from crowddist.models.initialisation import init_kaiming

POOL_SIZES = (1, 2, 4, 6)  # C: cells along a side of each level of the pyramid; PSPNet's own are 1, 2, 3, 6.
PUBLISHED_WIDTH = 256  # C: channels after the fusion, of 512.
SMALL_WIDTH = 48  # ours


class PyramidHead(nn.Module):
    """PSP module and a 1x1 convolution: the logit of "person" in every cell.

    Source: Han et al., ICASSP 2020, Eq. 2; Zhao et al., CVPR 2017, for the module. It has no normalisation, as ICASSP
    2020 prints none (C and PSPNet have some): the head is new in a stage whose other networks keep their statistics,
    and its level of one cell has a single value a channel and image, too few to normalise (ours).
    """

    def __init__(self, in_channels: int, heads: HeadWidth) -> None:
        super().__init__()
        width = SMALL_WIDTH if heads == "small" else PUBLISHED_WIDTH
        self.levels = nn.ModuleList([nn.Conv2d(in_channels, in_channels // len(POOL_SIZES), 1) for _ in POOL_SIZES])
        fused = in_channels + len(POOL_SIZES) * (in_channels // len(POOL_SIZES))
        self.fuse = nn.Conv2d(fused, width, 1)
        self.logit = nn.Conv2d(width, 1, 1)
        init_kaiming(self)
        nn.init.normal_(self.logit.weight, std=0.01)  # ours: every cell starts undecided

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, h, w) features, any size -> (N, 1, h, w) logits."""
        parts = [features]
        for cells, level in zip(POOL_SIZES, self.levels, strict=True):
            pooled = functional.relu(level(functional.adaptive_avg_pool2d(features, cells)))
            parts.append(functional.interpolate(pooled, features.shape[2:], mode="bilinear", align_corners=False))
        return self.logit(functional.relu(self.fuse(torch.cat(parts, 1))))
