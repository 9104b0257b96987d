"""WeightAverage: the exponential moving average of a network's weights, which is what counts and labels once a stage
has ended.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """Follows a network's weights and running statistics, step by step.

    The average begins as the weights themselves: at step t it keeps min(decay, (1 + t) / (10 + t)) of what it was, so
    that it has forgotten them before it matters. It is a pure function of the weights of all steps, so workers that
    train alike average alike.

    Args:
        network: to be followed, on its device.
        decay: largest share that is kept in a step, 0 to below 1.

    Source: Polyak and Juditsky, 1992; the warm-up is that of TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay = network, decay
        self._learned = {name for name, _ in network.named_parameters()}
        self.values = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    def update(self, step: int) -> None:
        """Takes in the weights as step 0, 1, ... has left them."""
        kept = min(self.decay, (1 + step) / (10 + step))
        now = self.network.state_dict()
        averaged = [name for name in now if name in self._learned or name.endswith(("running_mean", "running_var"))]
        torch._foreach_lerp_([self.values[name] for name in averaged], [now[name] for name in averaged], 1 - kept)
        # masks and limits, of which there is no mean: a limit begins at infinity
        for name in now.keys() - set(averaged):
            self.values[name].copy_(now[name])

    def load(self, values: Mapping[str, Tensor]) -> None:
        """Goes on from an average that a checkpoint holds; names that it leaves out stay as they are."""
        for name, tensor in values.items():
            self.values[name].copy_(tensor)

    def apply(self) -> None:
        """Makes the network the average."""
        self.network.load_state_dict(self.values)
