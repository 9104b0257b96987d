"""A network as another one's judge: gradients pass through it, and leave it as it is."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.func import functional_call


def frozen_forward(module: nn.Module, *inputs: Any) -> Any:
    """What a module says of its inputs, with gradients that reach the inputs but none of the module's parameters.

    So two networks that play against each other share one forward and one backward pass: one's loss goes through the
    other one frozen, the other's loss sees detached inputs. Parameters keep `requires_grad`, which
    DistributedDataParallel looks at once and for all. Whatever else a forward changes (running statistics) it changes
    here too.
    """
    return functional_call(module, {name: parameter.detach() for name, parameter in module.named_parameters()}, inputs)
