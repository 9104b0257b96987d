"""Detector: the anchor-free detector of bi-knowledge transfer, which finds heads by centre and size."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from crowddist.models.backbones.base import HeadWidth
from crowddist.models.backbones.encoder import Encoder, accept_former_names
from crowddist.models.backbones.table import BACKBONES
from crowddist.models.config import DetectorConfig
from crowddist.models.initialisation import fill_bias
from crowddist.models.norm import SyncBatchNorm2d
from crowddist.models.weights import load_start

PRIOR = 0.01  # C: initial confidence of every place.
L2_SCALE = 10.0  # C: initial length of every level's features.
WIDTHS: dict[HeadWidth, tuple[int, int]] = {"published": (256, 256), "small": (32, 64)}
"""Channels of a level at stride 4, and of the convolution before the three outputs; C, and ours."""
USUAL_SIZE_PX = 16.0  # ours: initial size at every place.
LARGEST_LOG_SIZE = math.log(2048.0)  # ours: no head is larger; keeps wild predictions finite.


class DetectorMaps(NamedTuple):
    """The detector's output for every cell of `Detector.output_stride` px."""

    logits: Tensor
    """(N, 1, h, w), unbounded; their sigmoid is the confidence that a head's centre is in the cell."""
    log_size: Tensor
    """(N, 1, h, w), natural logarithm of the head's size in px."""
    offset: Tensor
    """(N, 2, h, w), y and x of the centre relative to the cell's centre, cells, trained to -0.5..0.5."""


class Detector(nn.Module):
    """CSP: three levels of an encoder, brought to stride 4, normalised and joined, predict centres and sizes of heads.

    Source: Liu et al., High-level Semantic Feature Detection, CVPR 2019 (CSP), and its released code (C). The size is
    the side of a square head in px; CSP's is the height in cells. Its logarithm must be positive for the relative error
    (ours). Images of any size are padded at the right and the bottom to multiples of the encoder's coarsest stride.

    Args:
        encoder: its levels have strides of 4, 8 or 16
        level_channels: of each level at stride 4
        head_channels: of the convolution before the three outputs
    """

    output_stride = 4

    def __init__(self, encoder: Encoder, *, level_channels: int, head_channels: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.raise_levels = nn.ModuleList([_raise(width, level_channels, stride // self.output_stride)
                                           for width, stride in zip(encoder.widths, encoder.strides, strict=True)])
        num_levels = len(encoder.widths)
        self.lengths = nn.Parameter(torch.full((num_levels, level_channels), L2_SCALE))
        self.join = nn.Sequential(nn.Conv2d(num_levels * level_channels, head_channels, 3, padding=1, bias=False),
                                  SyncBatchNorm2d(head_channels), nn.ReLU(inplace=True))
        self.centre, self.size, self.offset = (nn.Conv2d(head_channels, channels, 1) for channels in (1, 1, 2))
        fill_bias(self.centre, -math.log((1 - PRIOR) / PRIOR))
        fill_bias(self.size, math.log(USUAL_SIZE_PX))
        accept_former_names(self, "levels.", "encoder.levels.")

    def forward(self, images: Tensor) -> DetectorMaps:
        """(N, 3, H, W) images, 0 to 1 -> maps of ceil(H / 4) x ceil(W / 4) cells. Raises: as `Encoder.features`."""
        rows, columns = (-(-side // self.output_stride) for side in images.shape[-2:])
        raised = []
        for features, rise, length in zip(self.encoder.features(images), self.raise_levels, self.lengths, strict=True):
            raised.append(functional.normalize(rise(features), dim=1) * length[:, None, None])
        joined = self.join(torch.cat(raised, dim=1))[:, :, :rows, :columns]
        return DetectorMaps(self.centre(joined), self.size(joined).clamp(max=LARGEST_LOG_SIZE), self.offset(joined))


def build_detector(config: DetectorConfig) -> Detector:
    """The detector that `config` describes; random weights from torch's own generator. Raises: as `build_counter`."""
    backbone = BACKBONES[config.backbone]
    level_channels, head_channels = WIDTHS[backbone.heads]
    encoder = Encoder(backbone, "detector", pretrained=config.weights != "none", joined=False)
    network = Detector(encoder, level_channels=level_channels, head_channels=head_channels)
    load_start(network, encoder, name="detector", weights=config.weights, backbone=backbone)
    return network.to(memory_format=torch.channels_last)


def _raise(in_channels: int, channels: int, factor: int) -> nn.Module:
    """Brings features to stride 4: a deconvolution of kernel 4 (C), or a convolution if the stride is 4 already."""
    if factor == 1:
        return nn.Conv2d(in_channels, channels, 3, padding=1)
    return nn.ConvTranspose2d(in_channels, channels, 4, stride=factor, padding=(4 - factor) // 2)
