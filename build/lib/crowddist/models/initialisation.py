"""Initialisation: random weights from torch's own generator."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

NORMAL_STD = 0.01  # C: the released counters draw their decoders from N(0, 0.01).


def init_normal(module: nn.Module) -> None:
    """Convolutions as in the published code: weights N(0, 0.01), biases 0."""
    _init(module, lambda weight: nn.init.normal_(weight, std=NORMAL_STD))


def init_kaiming(module: nn.Module) -> None:
    """Convolutions that keep the variance through ReLUs, for training from scratch; biases 0."""
    _init(module, lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"))


def fill_bias(layer: nn.Module, value: float) -> None:
    """Set the bias of a convolution."""
    assert isinstance(layer, nn.Conv2d) and layer.bias is not None
    nn.init.constant_(layer.bias, value)


def _init(module: nn.Module, draw: Callable[[Tensor], Tensor]) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d):
            draw(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
