"""ResNet-50 and ResNet-101, with torchvision's names of layers."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Literal

from torch import nn

from crowddist.models.norm import sync_batch_norms

Depth = Literal[50, 101]


def counter_levels(depth: Depth) -> list[nn.Module]:
    """One group of stride 8: up to the third layer, which keeps its stride.

    Source: the released SFCN (C-3-Framework), which sets the stride of `layer3` to 1 without dilating its convolutions.
    """
    network = _network(depth)
    block = network.layer3[0]
    block.conv2.stride = block.downsample[0].stride = (1, 1)
    return [_named(network, "conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3")]


def detector_levels(depth: Depth) -> list[nn.Module]:
    """Stages 3, 4 and 5, of strides 8, 16 and 16: stage 5 is dilated by 2 instead of strided (C, of CSP)."""
    network = _network(depth, replace_stride_with_dilation=[False, False, True])
    stem = _named(network, "conv1", "bn1", "relu", "maxpool", "layer1", "layer2")
    return [stem, _named(network, "layer3"), _named(network, "layer4")]


def _network(depth: Depth, **options: Any) -> Any:
    from torchvision.models import resnet50, resnet101

    return sync_batch_norms((resnet50 if depth == 50 else resnet101)(weights=None, **options))


def _named(network: nn.Module, *names: str) -> nn.Sequential:
    return nn.Sequential(OrderedDict((name, network.get_submodule(name)) for name in names))
