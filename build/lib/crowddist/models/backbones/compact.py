"""The compact networks (ours): small, without pretrained weights, for tests and as a baseline of pretrained ones."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from crowddist.models.norm import SyncBatchNorm2d

COUNTER_STEM = 24
COUNTER_WIDTHS = ((32,), (64, 64), (96, 96))  # max-pooling by 2 before the second and the third group
DETECTOR_STEM = 24
DETECTOR_WIDTHS = (64, 96, 128)
REGRESSOR_WIDTHS = (16, 32, 64, 96)
LOCALISER_WIDTHS = (8, 16, 32, 64)  # an eighth of VGG's


def counter_levels() -> list[nn.Module]:
    """One group of stride 8: a stem 5x5 of stride 2, then 3x3 convolutions with batch normalisation."""
    layers = norm_conv(3, COUNTER_STEM, 5, stride=2)
    channels = COUNTER_STEM
    for index, widths in enumerate(COUNTER_WIDTHS):
        layers += [nn.MaxPool2d(2)] if index else []
        for width in widths:
            layers += norm_conv(channels, width, 3)
            channels = width
    return [nn.Sequential(*layers)]


def detector_levels() -> list[nn.Module]:
    """Three groups of two convolutions, of strides 4, 8 and 16; the last one is dilated."""
    first, second, third = DETECTOR_WIDTHS
    stem = [*norm_conv(3, DETECTOR_STEM, 5, stride=2), *norm_conv(DETECTOR_STEM, DETECTOR_STEM, 3), nn.MaxPool2d(2)]
    return [
        nn.Sequential(*stem, *norm_conv(DETECTOR_STEM, first, 3), *norm_conv(first, first, 3)),
        nn.Sequential(nn.MaxPool2d(2), *norm_conv(first, second, 3), *norm_conv(second, second, 3)),
        nn.Sequential(nn.MaxPool2d(2), *norm_conv(second, third, 3), *norm_conv(third, third, 3, dilation=2)),
    ]


def regressor_levels() -> list[nn.Module]:
    """Four blocks of strides 2, 4, 8 and 16, with a normalisation for each size of the image."""
    return [SizedBlock(before, width, num_sizes=3, stem=level == 0)
            for level, (before, width) in enumerate(pairwise((3, *REGRESSOR_WIDTHS)))]


def localiser_levels() -> list[nn.Module]:
    """Four blocks of two convolutions for a density map; the network pools between them."""
    return [plain_block(before, width) for before, width in pairwise((1, *LOCALISER_WIDTHS))]


class SizedBlock(nn.Module):
    """Two 3x3 convolutions, with a normalisation of its own for each size of the image.

    An image enlarged to twice its size is blurred, so statistics of one size do not fit another.
    """

    def __init__(self, in_channels: int, channels: int, *, num_sizes: int, stem: bool) -> None:
        super().__init__()
        first = nn.Conv2d(in_channels, channels, 5, stride=2, padding=2, bias=False)
        self.pool = nn.Identity() if stem else nn.MaxPool2d(2)
        self.first = first if stem else nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.ModuleList([SyncBatchNorm2d(channels) for _ in range(num_sizes)])
                                    for _ in range(2)])

    def forward(self, features: Tensor, size: int) -> Tensor:
        """(N, C, h, w) features and the index of the image's size -> (N, channels, h', w'), not activated."""
        first, second = self.norms
        hidden = functional.relu(first[size](self.first(self.pool(features))))  # type: ignore[index]
        return second[size](self.second(hidden))  # type: ignore[index]


def norm_conv(in_channels: int, channels: int, kernel: int, *, stride: int = 1, dilation: int = 1) -> list[nn.Module]:
    """A convolution with batch normalisation and ReLU; it keeps the size at stride 1."""
    padding = dilation * (kernel // 2)
    convolution = nn.Conv2d(in_channels, channels, kernel, stride, padding, dilation, bias=False)
    return [convolution, SyncBatchNorm2d(channels), nn.ReLU(inplace=True)]


def plain_block(in_channels: int, channels: int) -> nn.Sequential:
    """Two 3x3 convolutions with ReLU, without normalisation."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=1), nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(inplace=True),
    )
