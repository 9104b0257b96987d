"""Networks for inference: batch normalisation folded into the convolution before it, and torch's own layers alone."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from crowddist.models.backbones.efficientnet_lite import NormedConvolution
from crowddist.models.norm import SyncBatchNorm2d


def fold_norms(network: nn.Module) -> nn.Module:
    """Fold every batch normalisation that follows a convolution, in place; results change by rounding only.

    Never train or save the network afterwards: its parameters are not those it was built with. Returns it in eval mode.
    """
    network.eval()
    for module in network.modules():
        if isinstance(module, NormedConvolution) and module.conv.bias is None:
            _fold(module.conv, module.norm)
        elif isinstance(module, nn.Sequential):
            layers = list(module.named_children())
            for (_, layer), (next_name, following) in pairwise(layers):
                if isinstance(layer, nn.Conv2d) and isinstance(following, SyncBatchNorm2d):
                    _fold(layer, following)
                    setattr(module, next_name, nn.Identity())
    return network


def plain_layers(network: nn.Module) -> nn.Module:
    """Put torch's own layers in the place of ours that call what only torch has, in place, in a network of
    `fold_norms`; results change by rounding only. Slower on a CPU, but other programs know the layers. Returns it.
    """
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, NormedConvolution):
                setattr(parent, name, layer.plain())
    return network


def _fold(layer: nn.Conv2d, norm: SyncBatchNorm2d) -> None:
    with torch.no_grad():
        layer.weight, layer.bias = fuse_conv_bn_weights(layer.weight, layer.bias, norm.running_mean, norm.running_var,
                                                        norm.epsilon, norm.weight, norm.bias)
