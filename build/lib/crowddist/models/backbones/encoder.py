"""Encoder: the layers of a backbone between the images and the features that a network needs."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from crowddist.models.backbones.base import Backbone, Use
from crowddist.models.initialisation import init_kaiming
from crowddist.models.norm import SyncBatchNorm2d
from crowddist.models.normalise import Normalise

PYRAMID_CHANNELS = 128  # ours: channels of every level of a pyramid.


class Encoder(nn.Module):
    """Groups of layers that run one after the other, and a pyramid that joins their features if there are several.

    Args:
        backbone: row of the table
        use: which of its features
        pretrained: it starts from weights, and keeps their statistics if the row says so
        joined: join features of several strides into one map, as `forward` needs
    Attributes:
        stride: side of a cell of `forward`'s map, px of the image
        channels: of `forward`'s map
    """

    def __init__(self, backbone: Backbone, use: Use, *, pretrained: bool = False, joined: bool = True) -> None:
        super().__init__()
        features = backbone.uses[use]
        self.levels = nn.ModuleList(features.build())
        self.strides, self.widths = features.strides, features.channels
        self.pyramid = FeaturePyramid(features.channels, PYRAMID_CHANNELS) if joined and len(self.levels) > 1 else None
        self.stride = features.strides[0]
        self.channels = PYRAMID_CHANNELS if self.pyramid is not None else features.channels[-1]
        self.normalise = Normalise(backbone.mean, backbone.std)
        self.pretrained = pretrained
        for layer in self.levels.modules():
            if isinstance(layer, SyncBatchNorm2d):
                layer.frozen = pretrained and backbone.keeps_statistics
        accept_former_names(self, "layers.", "levels.0.")

    def features(self, images: Tensor) -> list[Tensor]:
        """(N, 3, H, W) images, 0 to 1 -> every group's features; images are padded to the coarsest stride.

        Raises:
            ValueError: `images` is not a batch of RGB images.
        """
        current, found = self.normalise(images, max(self.strides)), []
        for level in self.levels:
            current = level(current)
            found.append(current)
        return found

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) images, 0 to 1 -> (N, channels, ceil(H / stride), ceil(W / stride)). Raises: as `features`."""
        found = self.features(images)
        joined = found[-1] if self.pyramid is None else self.pyramid(found)
        rows, columns = ((side + self.stride - 1) // self.stride for side in images.shape[-2:])
        return joined[..., :rows, :columns]


class FeaturePyramid(nn.Module):
    """Features of several strides joined at the finest: a 1x1 convolution of each level plus the upsampled coarser sum.

    Source: Lin et al., CVPR 2017 (FPN), without the 3x3 convolutions after the sums: a decoder follows (ours).
    """

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList([nn.Conv2d(number, width, 1) for number in channels])
        init_kaiming(self)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Features (N, C_i, h / 2^i, w / 2^i), fine to coarse -> (N, width, h, w)."""
        levels = [lateral(level) for lateral, level in zip(self.laterals, features, strict=True)]
        joined = levels.pop()
        while levels:
            coarser = functional.interpolate(joined, scale_factor=2.0, mode="bilinear", align_corners=False)
            joined = levels.pop() + coarser
        return joined


class SharedLevel(nn.Sequential):
    """A group of layers that treats images of all sizes alike."""

    def forward(self, features: Tensor, size: int) -> Tensor:  # type: ignore[override]
        """(N, C, h, w) features and the index of the image's size -> the group's features."""
        del size
        return super().forward(features)


def pretrained_parameters(network: nn.Module, stride_px: float = math.inf) -> set[nn.Parameter]:
    """Encoder parameters that started from weights, of layers with features of at most this stride, px.

    Layers without `stride_px` count as infinitely coarse.
    """
    return {parameter for encoder in network.modules() if isinstance(encoder, Encoder) and encoder.pretrained
            for layer in encoder.levels.modules() if getattr(layer, "stride_px", math.inf) <= stride_px
            for parameter in layer.parameters()}


def accept_former_names(module: nn.Module, former: str, now: str) -> None:
    """Let checkpoints of version 0.1 load, in which parameters named `<now>...` were named `<former>...`."""
    module.register_load_state_dict_pre_hook(partial(_rename, former, now))


def _rename(former: str, now: str, module: nn.Module, state: dict[str, Any], prefix: str, *others: Any) -> None:
    for name in [name for name in state if name.startswith(prefix + former)]:
        state[prefix + now + name.removeprefix(prefix + former)] = state.pop(name)
