"""Frozen passes: through a network to its inputs, past its weights."""

from __future__ import annotations

from torch import Tensor, nn
from torch.func import functional_call


def frozen_forward(network: nn.Module, *inputs: Tensor) -> Tensor:
    """The network's output, whose gradients reach the inputs but not the weights.

    So the losses of two opponents are one sum: each one's part moves its own weights alone, and a wrapped (DDP) forward is called once a step.
    """
    weights = {name: parameter.detach() for name, parameter in network.named_parameters()}
    return functional_call(network, weights, inputs)
