"""The first ten convolutions of VGG-16, block by block, for networks that take their features between the blocks."""

from __future__ import annotations

from torch import nn

from crowddist.models.initialisation import init_kaiming
from crowddist.models.weights import load_weights

VGG_WIDTHS = (64, 128, 256, 512)
"""Channels of the four blocks."""
VGG_LAYERS = 13
"""C: entries of torchvision's table up to conv4_3: ten convolutions and three poolings."""
VGG_WHOLE_LAYERS = 17
"""C: likewise up to conv5_3: thirteen convolutions and four poolings."""


def vgg_convolutions(weights: str) -> list[list[nn.Conv2d]]:
    """The convolutions of the four blocks: conv1_1 and conv1_2, conv2_1 and conv2_2, conv3_1 to conv3_3, conv4_1 to conv4_3.

    Args:
        weights: as `CounterConfig.weights`; random ones come from torch's own generator.

    Raises:
        InputError, FileNotFoundError: the weights cannot be had, or are of another architecture.
    """
    from torchvision.models import vgg

    features = vgg.make_layers(vgg.cfgs["D"][:VGG_LAYERS])
    init_kaiming(features)
    load_weights(nn.ModuleDict({"features": features}), weights=weights, backbone="vgg16")
    blocks: list[list[nn.Conv2d]] = [[]]
    for layer in features:
        if isinstance(layer, nn.MaxPool2d):
            blocks.append([])
        elif isinstance(layer, nn.Conv2d):
            blocks[-1].append(layer)
    return blocks
