"""Detector: the anchor-free detector of bi-knowledge transfer, which finds heads by their centre and scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from crowddist.errors import InputError
from crowddist.models.config import DetectorConfig
from crowddist.models.norm import SyncBatchNorm2d, sync_batch_norms
from crowddist.models.normalise import Normalise
from crowddist.models.weights import load_trained, load_weights

PRIOR = 0.01  # C: the confidence that every place begins with.
L2_SCALE = 10.0  # C: the length of every level's features, at first.
LEVEL_CHANNELS, HEAD_CHANNELS = 256, 256  # C: of a level at stride 4, and of the convolution before the three answers.
COMPACT_STEM = 24  # ours
COMPACT_WIDTHS = (64, 96, 128)  # ours, of strides 4, 8 and 16.
COMPACT_LEVEL_CHANNELS, COMPACT_HEAD_CHANNELS = 32, 64  # ours
USUAL_SIZE_PX = 16.0  # ours: the size that every place begins with.
LARGEST_LOG_SIZE = math.log(2048.0)  # ours: no head is larger; keeps a wild answer finite.


class DetectorMaps(NamedTuple):
    """What the detector says of every cell of `Detector.output_stride` px."""

    logits: Tensor
    """(N, 1, h, w), of a head's centre in the cell; their sigmoid is the confidence."""
    log_size: Tensor
    """(N, 1, h, w), natural logarithm of the head's size in px."""
    offset: Tensor
    """(N, 2, h, w), y and x of the centre relative to the cell's centre, in cells, -0.5 to 0.5."""


class Detector(nn.Module):
    """CSP: three levels of an encoder, brought to stride 4, normalised and joined, answer where a head's centre is and how large it is.

    Source: Liu et al., High-level Semantic Feature Detection, CVPR 2019 (CSP), and its released code (C). The size is that of a square
    head in px, where CSP has the height in cells: its logarithm must be positive for the relative error (ours).

    Images of any size are padded at the right and the bottom to multiples of 16.

    Args:
        levels: of the encoder, called one after the other; each gives features of the stride told.
        widths: of the levels.
        strides: of the levels, multiples of 4.
        level_channels: of each level at stride 4.
        head_channels: of the convolution before the three answers.
    """

    output_stride = 4

    def __init__(
        self, levels: Sequence[nn.Module], *, widths: Sequence[int], strides: Sequence[int], level_channels: int, head_channels: int
    ) -> None:
        super().__init__()
        self.normalise = Normalise()
        self.levels = nn.ModuleList(levels)
        self.raise_levels = nn.ModuleList([_raise(width, level_channels, stride // self.output_stride)
                                           for width, stride in zip(widths, strides, strict=True)])
        self.lengths = nn.Parameter(torch.full((len(levels), level_channels), L2_SCALE))
        self.join = nn.Sequential(nn.Conv2d(len(levels) * level_channels, head_channels, 3, padding=1, bias=False),
                                  SyncBatchNorm2d(head_channels), nn.ReLU(inplace=True))
        self.centre, self.size, self.offset = (nn.Conv2d(head_channels, channels, 1) for channels in (1, 1, 2))
        _fill_bias(self.centre, -math.log((1 - PRIOR) / PRIOR))
        _fill_bias(self.size, math.log(USUAL_SIZE_PX))

    def forward(self, images: Tensor) -> DetectorMaps:
        """(N, 3, H, W) images in [0, 1] -> maps of ceil(H / 4) x ceil(W / 4) cells.

        Raises:
            ValueError: `images` is not a batch of RGB images.
        """
        rows, columns = (-(-side // self.output_stride) for side in images.shape[-2:])
        features = self.normalise(images, 16)
        raised = []
        for level, rise, length in zip(self.levels, self.raise_levels, self.lengths, strict=True):
            features = level(features)
            raised.append(functional.normalize(rise(features), dim=1) * length[:, None, None])
        joined = self.join(torch.cat(raised, dim=1))[:, :, :rows, :columns]
        return DetectorMaps(self.centre(joined), self.size(joined).clamp(max=LARGEST_LOG_SIZE), self.offset(joined))


def build_detector(config: DetectorConfig) -> Detector:
    """The detector that `config` describes; random weights come from torch's own generator.

    Raises:
        InputError, FileNotFoundError: the weights cannot be had, or are of another architecture.
    """
    # Files are a run's checkpoint, or torchvision's names for the encoder.
    compact, place = config.backbone == "compact", config.weights
    if place in ("none", "imagenet"):
        network = _compact() if compact else _resnet50(place)
    else:
        network = _compact() if compact else _resnet50("none")
        if not load_trained(network, "detector", place):
            if compact:
                raise InputError(f"weights {place} are of no run: the compact detector starts from a run's checkpoint or from none")
            network = _resnet50(place)
    return network.to(memory_format=torch.channels_last)


def _compact() -> Detector:
    """A stem of stride 4 and three levels of two convolutions, the last dilated (ours)."""
    first, second, third = COMPACT_WIDTHS
    stem = [*_norm_conv(3, COMPACT_STEM, 5, stride=2), *_norm_conv(COMPACT_STEM, COMPACT_STEM, 3), nn.MaxPool2d(2)]
    levels = [
        nn.Sequential(*stem, *_norm_conv(COMPACT_STEM, first, 3), *_norm_conv(first, first, 3)),
        nn.Sequential(nn.MaxPool2d(2), *_norm_conv(first, second, 3), *_norm_conv(second, second, 3)),
        nn.Sequential(nn.MaxPool2d(2), *_norm_conv(second, third, 3), *_norm_conv(third, third, 3, dilation=2)),
    ]
    return Detector(levels, widths=COMPACT_WIDTHS, strides=(4, 8, 16), level_channels=COMPACT_LEVEL_CHANNELS,
                    head_channels=COMPACT_HEAD_CHANNELS)


def _resnet50(weights: str) -> Detector:
    """Stages 3, 4 and 5 of ResNet-50, stage 5 dilated by 2 without a stride (C)."""
    from torchvision.models import resnet50

    network = resnet50(weights=None, replace_stride_with_dilation=[False, False, True])
    del network.fc
    load_weights(network, weights=weights, backbone="resnet50")
    sync_batch_norms(network)
    stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool, network.layer1, network.layer2)
    return Detector([stem, network.layer3, network.layer4], widths=(512, 1024, 2048), strides=(8, 16, 16), level_channels=LEVEL_CHANNELS,
                    head_channels=HEAD_CHANNELS)


def _raise(in_channels: int, channels: int, factor: int) -> nn.Module:
    """Features at stride 4 of features at `factor` times that: a deconvolution of kernel 4 (C), or a convolution where none is needed."""
    if factor == 1:
        return nn.Conv2d(in_channels, channels, 3, padding=1)
    return nn.ConvTranspose2d(in_channels, channels, 4, stride=factor, padding=(4 - factor) // 2)


def _norm_conv(in_channels: int, channels: int, kernel: int, *, stride: int = 1, dilation: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(in_channels, channels, kernel, stride=stride, padding=dilation * (kernel // 2), dilation=dilation, bias=False)
    return [convolution, SyncBatchNorm2d(channels), nn.ReLU(inplace=True)]


def _fill_bias(layer: nn.Conv2d, value: float) -> None:
    assert layer.bias is not None  # a convolution with a bias, by the caller
    nn.init.constant_(layer.bias, value)
