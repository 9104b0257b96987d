"""The exponential moving average of a network's weights, which counts and labels once a stage has ended."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """Averages a network's weights and running statistics over the steps.

    The average begins as the weights themselves. Step t keeps min(decay, (1 + t) / (10 + t)) of it, so that it soon
    forgets the first weights. It depends on the weights alone, so workers that train alike average alike.

    Args:
        decay: largest share that a step keeps, 0 to below 1.

    Source: Polyak and Juditsky, 1992; the warm-up is that of TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay = network, decay
        self._learned = {name for name, _ in network.named_parameters()}
        self.values = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    def update(self, step: int) -> None:
        """Adds the weights after step 0, 1, ..."""
        kept = min(self.decay, (1 + step) / (10 + step))
        now = self.network.state_dict()
        averaged = [name for name in now if name in self._learned or name.endswith(("running_mean", "running_var"))]
        torch._foreach_lerp_([self.values[name] for name in averaged], [now[name] for name in averaged], 1 - kept)
        # Masks and limits have no mean: a limit begins at infinity.
        for name in now.keys() - set(averaged):
            self.values[name].copy_(now[name])

    def load(self, values: Mapping[str, Tensor]) -> None:
        """Continues from a checkpoint's average; names it lacks stay as they are."""
        for name, tensor in values.items():
            self.values[name].copy_(tensor)

    def apply(self) -> None:
        """Writes the average into the network."""
        self.network.load_state_dict(self.values)
