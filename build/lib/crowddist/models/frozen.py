"""Frozen forward passes: gradients pass through a network without changing it."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.func import functional_call


def frozen_forward(module: nn.Module, *inputs: Any) -> Any:
    """The module's output, with gradients for its inputs but not for its parameters.

    Two adversarial networks share one forward and one backward pass this way: one's loss goes through the frozen other,
    the other's loss sees detached inputs. Parameters keep `requires_grad`, which DistributedDataParallel reads only
    once. Other effects of a forward pass (running statistics) happen here too.
    """
    return functional_call(module, {name: parameter.detach() for name, parameter in module.named_parameters()}, inputs)
