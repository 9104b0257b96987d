"""VGG-16, the papers' encoder, in groups that end before a pooling; layers have torchvision's numbers."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from crowddist.models.backbones.encoder import SharedLevel
from crowddist.models.initialisation import init_kaiming
from crowddist.models.norm import sync_batch_norms

WIDTHS = (64, 128, 256, 512)
"""Channels of the first four blocks."""
STRIDE_8_LAYERS = 13
"""C: entries of torchvision's table up to conv4_3: ten convolutions and three poolings."""
STRIDE_16_LAYERS = 17
"""C: entries up to conv5_3: thirteen convolutions and four poolings."""


def counter_levels(*, batch_norm: bool) -> list[nn.Module]:
    """One group of stride 8: the first ten convolutions."""
    return [_features(STRIDE_8_LAYERS, batch_norm=batch_norm)]


def upsampling_levels() -> list[nn.Module]:
    """One group of stride 16: all thirteen convolutions with batch normalisation.

    Source: the released SE+FD of Han et al., ICASSP 2020, which cuts torchvision's features before the last pooling.
    """
    return [_features(STRIDE_16_LAYERS, batch_norm=True)]


def regressor_levels() -> list[nn.Module]:
    """The four blocks of strides 1 to 8 for images of several sizes; the last convolution of each is not activated."""
    blocks: list[nn.Module] = []
    for group in _convolutions():
        layers: list[tuple[str, nn.Module]] = [("pool", nn.MaxPool2d(2))] if blocks else []
        for index, (name, convolution) in enumerate(group):
            layers += [(f"activation{index}", nn.PReLU())] if index else []  # C: the VGG of DSSINet has PReLUs.
            layers.append((name, convolution))
        blocks.append(SharedLevel(OrderedDict(layers)))
    return blocks


def localiser_levels() -> list[nn.Module]:
    """The four blocks for a density map of one channel, without their poolings."""
    groups = _convolutions()
    one_channel = nn.Conv2d(1, WIDTHS[0], 3, padding=1)
    init_kaiming(one_channel)
    groups[0][0] = ("0", one_channel)
    return [nn.Sequential(OrderedDict(layer for name, convolution in group for layer in
                                      ((name, convolution), (f"activation{name}", nn.ReLU(inplace=True)))))
            for group in groups]


def _features(num_layers: int, *, batch_norm: bool = False) -> nn.Sequential:
    from torchvision.models import vgg

    features = vgg.make_layers(vgg.cfgs["D"][:num_layers], batch_norm=batch_norm)
    init_kaiming(features)
    return sync_batch_norms(features)  # type: ignore[return-value]


def _convolutions() -> list[list[tuple[str, nn.Conv2d]]]:
    """Numbers and convolutions of each of the first four blocks."""
    groups: list[list[tuple[str, nn.Conv2d]]] = [[]]
    for name, layer in _features(STRIDE_8_LAYERS).named_children():
        if isinstance(layer, nn.MaxPool2d):
            groups.append([])
        elif isinstance(layer, nn.Conv2d):
            groups[-1].append((name, layer))
    return groups
