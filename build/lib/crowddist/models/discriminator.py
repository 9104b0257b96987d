"""Discriminator: tells features of source images from those of target images (D of SE+FD)."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from crowddist.models.backbones.base import HeadWidth
from crowddist.models.initialisation import init_kaiming

KERNEL, STRIDE, SLOPE = 4, 2, 0.2  # P: 4x4, stride 2; C: leaky ReLU 0.2, padding 1 (AdaptSegNet).
PUBLISHED_WIDTHS = (64, 128, 256)  # C: before the convolution of the logit; four in all, as printed.
SMALL_WIDTHS = (32, 64)  # ours: three in all, for crops of 64 px and more.


class FeatureDiscriminator(nn.Module):
    """Convolutions of stride 2 with leaky ReLU; the last one gives the logit of "source" for every patch.

    Source: Han et al., ICASSP 2020, Eq. 3; Tsai et al., CVPR 2018.
    """

    def __init__(self, in_channels: int, heads: HeadWidth) -> None:
        super().__init__()
        widths = SMALL_WIDTHS if heads == "small" else PUBLISHED_WIDTHS
        layers = [layer for before, width in pairwise((in_channels, *widths))
                  for layer in (nn.Conv2d(before, width, KERNEL, STRIDE, padding=1), nn.LeakyReLU(SLOPE))]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, KERNEL, STRIDE, padding=1))
        init_kaiming(self)
        self.least_cells = STRIDE ** (len(widths) + 1)
        """Smallest side of the features, cells."""

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, h, w) features -> (N, 1, h', w') logits; every convolution halves h and w.

        Raises:
            ValueError: the features are smaller than `least_cells`.
        """
        if min(features.shape[2:]) < self.least_cells:
            raise ValueError(f"features of {tuple(features.shape[2:])} cells are too few for the discriminator: it "
                             f"needs {self.least_cells} a side")
        return self.layers(features)
