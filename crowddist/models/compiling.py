"""Compiling networks for training."""

from __future__ import annotations

from typing import Any

from torch import nn

from crowddist.models.backbones.encoder import Encoder
from crowddist.models.detector import Detector
from crowddist.models.dssinet import Dssinet
from crowddist.models.nested_unet import NestedUnet
from crowddist.models.translator import Generator

COMPILED = (Encoder, Dssinet, Detector, NestedUnet, Generator)
"""Where a step's time goes. A published decoder is left out: its passes over rows and columns would be hundreds of
layers to a compiler. Losses are: batches carry the names of their samples, and each new name would be compiled anew."""


def compile_networks(networks: nn.Module, **options: Any) -> None:
    """Compiles the large parts of networks in place, at their first use; names of weights stay as they are.

    Args:
        options: of torch.compile.
    """
    inside: set[nn.Module] = set()
    for module in networks.modules():  # a part comes before what it is made of
        if isinstance(module, COMPILED) and module not in inside:
            module.compile(**options)
            inside.update(module.modules())
