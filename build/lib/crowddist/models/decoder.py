"""Decoders from an encoder's features to persons per cell, in two parts: before and after the ensemble's masks."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor, nn

from crowddist.models.backbones.base import HeadWidth
from crowddist.models.config import DecoderName
from crowddist.models.initialisation import fill_bias, init_kaiming, init_normal
from crowddist.models.norm import SyncBatchNorm2d
from crowddist.models.spatial import SpatialEncoder

PUBLISHED_TRUNK = 512  # C: the convolution before the masks.
PUBLISHED_WIDTHS = (512, 512, 256, 128, 64)  # C: the convolutions after the masks.
PUBLISHED_ORIENTATION = (512, 512, 512, 256, 128, 64)  # C
UPSAMPLING_TRUNK = 256  # ours
UPSAMPLING_WIDTHS = (128, 64, 32)  # ours: the paper shows a chain and prints no widths.
UPSAMPLING_KERNELS = (3, 3, 3, 3)  # P: each 3x3 convolution is followed by an upsampling.
LARGE_KERNELS = (9, 7, 5, 3)  # C: of the authors' later code, behind a 1x1 convolution.
SMALL_TRUNK = 96  # ours
SMALL_WIDTHS = (96, 64)  # ours
SMALL_ORIENTATION = (64, 64, 32)  # ours
UPSAMPLING = 2 ** len(UPSAMPLING_KERNELS)
DILATION = 2  # C; taken over by the small decoder.
INITIAL_DENSITY = 0.05  # ours, persons per cell of 8x8 px; ShanghaiTech B has 0.04, A 0.2 (longest side 512 px).
ORIENTATION_GRID = (8, 4)  # ours, rows x columns; the published 96x128 ties the head to one image size.


class Decoder(nn.Module):
    """The two parts of a decoder: `rest(masks(trunk(features)))` is the density; all members share `trunk`."""

    def __init__(self, trunk: nn.Sequential, rest: nn.Sequential, *, channels: int, upsampling: int = 1) -> None:
        super().__init__()
        self.trunk, self.rest = trunk, rest
        self.channels = channels
        """Channels of the trunk, which the masks choose from."""
        self.upsampling = upsampling
        """Cells of the density along the side of a cell of the features."""


def published_decoder(in_channels: int, factor: float = 1.0) -> Decoder:
    """The paper's decoder: six dilated convolutions without normalisation, the spatial encoder of SFCN, 1x1, ReLU.

    Source: Liu et al., Leveraging Self-Supervision for Cross-Domain Crowd Counting, CVPR 2022; released model.py.

    Args:
        factor: the last layer's values for a person, see `CounterConfig.density_factor`; also below
    """
    trunk = nn.Sequential(*_dilated_relus(in_channels, PUBLISHED_TRUNK))
    layers = _dilated_relus(PUBLISHED_TRUNK, *PUBLISHED_WIDTHS)
    density = nn.Conv2d(PUBLISHED_WIDTHS[-1], 1, 1)
    rest = nn.Sequential(*layers, SpatialEncoder(PUBLISHED_WIDTHS[-1]), density, nn.ReLU())
    decoder = Decoder(trunk, rest, channels=PUBLISHED_TRUNK)
    init_normal(decoder)
    # ours: with the published bias of 0 half of all seeds start below zero everywhere, where ReLU has no gradient.
    fill_bias(density, INITIAL_DENSITY * factor)
    return decoder


def upsampling_decoder(in_channels: int, cell_px: float, *, large: bool, factor: float = 1.0,
                       norm: bool = False) -> Decoder:
    """A chain of convolutions, each followed by a bilinear x2 upsampling, then 1x1 and ReLU.

    Source: Han et al., ICASSP 2020, Sec. 2.1, kernels 3x3; `large`: kernels of the authors' later code.

    Args:
        cell_px: side of a cell of the density, px of the image
        norm: batch normalisation behind every convolution but the last, as in the authors' later code (C); the paper
            prints a chain of convolutions and upsamplings, so it is off as printed
    """
    first, *others = LARGE_KERNELS if large else UPSAMPLING_KERNELS
    layers = _convolved(in_channels, in_channels, 1, norm) if large else []
    trunk = nn.Sequential(*layers, *_convolved(in_channels, UPSAMPLING_TRUNK, first, norm))
    layers, channels = [_doubled()], UPSAMPLING_TRUNK
    for width, kernel in zip(UPSAMPLING_WIDTHS, others, strict=True):
        layers += [*_convolved(channels, width, kernel, norm), _doubled()]
        channels = width
    density = nn.Conv2d(channels, 1, 1)
    rest = nn.Sequential(*layers, density, nn.ReLU())
    decoder = Decoder(trunk, rest, channels=UPSAMPLING_TRUNK, upsampling=UPSAMPLING)
    init_normal(decoder)
    fill_bias(density, INITIAL_DENSITY * (cell_px / 8) ** 2 * factor)  # ours, as in published_decoder
    return decoder


def small_decoder(in_channels: int, factor: float = 1.0) -> Decoder:
    """A small decoder to train from scratch (ours): three dilated, normalised convolutions, 1x1, softplus."""
    trunk = nn.Sequential(*_dilated_norm(in_channels, SMALL_TRUNK))
    layers = [layer for before, width in pairwise((SMALL_TRUNK, *SMALL_WIDTHS))
              for layer in _dilated_norm(before, width)]
    # Torch's default weights: with N(0, 0.01) in the last layer, as published, no places are learnt for 100s of steps.
    density = nn.Conv2d(SMALL_WIDTHS[-1], 1, 1)
    first = INITIAL_DENSITY * factor
    fill_bias(density, math.log(math.expm1(first)) if first < 30 else first)  # softplus(x) is x for large x
    return Decoder(trunk, nn.Sequential(*layers, density, nn.Softplus()), channels=SMALL_TRUNK)


def build_decoder(name: DecoderName, in_channels: int, stride: int, heads: HeadWidth, *, factor: float = 1.0,
                  norm: bool = False) -> Decoder:
    """The decoder called `name`, behind features of `stride` px. Args: `factor` and `norm`, as above."""
    if name != "usual":
        return upsampling_decoder(in_channels, stride / UPSAMPLING, large=name == "upsampling_large", factor=factor,
                                  norm=norm)
    return (small_decoder if heads == "small" else published_decoder)(in_channels, factor)


class OrientationHead(nn.Module):
    """Tells upright images from upside-down ones: dilated convolutions, average pooling, linear (D_aux, CVPR 2022).

    It works the same in training and eval mode.

    Args:
        scaled: bring each image's features to mean 0 and variance 1 first. Those of EfficientNet are 20 times as large
            as those of the compact encoder, and the loss would move either too much or not at all.
    """

    def __init__(self, in_channels: int, widths: tuple[int, ...], *, scaled: bool = False) -> None:
        super().__init__()
        self.scale = nn.GroupNorm(1, in_channels, affine=False) if scaled else nn.Identity()
        self.convolutions = nn.Sequential(*_dilated_relus(in_channels, *widths))
        self.pool = nn.AdaptiveAvgPool2d(ORIENTATION_GRID)
        self.linear = nn.Linear(widths[-1] * ORIENTATION_GRID[0] * ORIENTATION_GRID[1], 2)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, h, w) features -> (N, 2) logits: upright, upside-down."""
        return self.linear(self.pool(self.convolutions(self.scale(features))).flatten(1))


def build_orientation_head(in_channels: int, heads: HeadWidth) -> OrientationHead:
    """The head behind an encoder of that many channels, with random weights from torch's own generator."""
    small = heads == "small"
    head = OrientationHead(in_channels, SMALL_ORIENTATION if small else PUBLISHED_ORIENTATION, scaled=small)
    (init_kaiming if small else init_normal)(head)
    return head


def _doubled() -> nn.Upsample:
    return nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)


def _convolved(in_channels: int, width: int, kernel: int, norm: bool) -> list[nn.Module]:
    return [nn.Conv2d(in_channels, width, kernel, padding=kernel // 2), *([SyncBatchNorm2d(width)] if norm else []),
            nn.ReLU(inplace=True)]


def _dilated(in_channels: int, width: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(in_channels, width, 3, padding=DILATION, dilation=DILATION, bias=bias)


def _dilated_relus(*channels: int) -> list[nn.Module]:
    return [layer for before, width in pairwise(channels)
            for layer in (_dilated(before, width), nn.ReLU(inplace=True))]


def _dilated_norm(in_channels: int, width: int) -> list[nn.Module]:
    return [_dilated(in_channels, width, bias=False), SyncBatchNorm2d(width), nn.ReLU(inplace=True)]
