"""Folding of batch normalisation into the convolution before it, for inference."""

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


def _fold(layer: nn.Conv2d, norm: SyncBatchNorm2d) -> None:
    with torch.no_grad():
        layer.weight, layer.bias = fuse_conv_bn_weights(layer.weight, layer.bias, norm.running_mean, norm.running_var,
                                                        norm.epsilon, norm.weight, norm.bias)
