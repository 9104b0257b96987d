"""What the methods of a single counter share: its optimizer, its source loss and its prediction."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from crowddist.data.sample import Prediction
from crowddist.losses.density import count_map_loss
from crowddist.methods.base import Method, OneCycle, Runtime, Stage, set_learning_rate
from crowddist.models.ensemble import build_networks
from crowddist.models.norm import frozen_norm
from crowddist.ops.selection import keep_most_certain

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from crowddist.config import RunConfig
    from crowddist.data.sample import Batch
    from crowddist.methods.config import TrainConfig
    from crowddist.models.counter import Counter
    from crowddist.models.ensemble import DeepEnsemble


FROZEN_SHARE = 0.2
"""Part of the source stage, at its end, that trains with the running statistics, as images are counted (ours). In
`renderer_to_shb` the loss falls by a third where it begins."""


class CountingObjective(nn.Module):
    """All losses of a step as one module, so that a wrapped (DDP) forward is called once a step."""

    def __init__(self, counter: Counter | DeepEnsemble, train: TrainConfig) -> None:
        super().__init__()
        self.counter, self.train_config = counter, train

    def source_loss(self, batch: Batch) -> Tensor:
        """Loss of the density on labelled crops, each by the ensemble member that the sample drew."""
        return self.density_loss(batch, self.counter.encode(batch.images))

    def density_loss(self, batch: Batch, features: Tensor) -> Tensor:
        """Loss of the density on crops whose features are known, over the cells to keep where the batch says which."""
        assert batch.density is not None  # a stream of density labels, by the stage's plan
        # With mixed precision the maps come in bfloat16, whose sums over blocks would be rounded to three digits.
        maps = self.counter.training_maps(features, batch.draws).float()
        repeats = (len(maps) // len(batch.images), 1, 1, 1)  # a deep ensemble gives every member's maps
        keep = None if batch.keep is None else batch.keep.repeat(repeats)
        target = batch.density.repeat(repeats)
        return count_map_loss(maps, target, keep, block_weight=self.train_config.block_weight, cell_error=self.train_config.cell_error)

    def forward(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """The losses by name; `loss` is what is minimised."""
        return {"loss": self.source_loss(batches["source"])}


class CountingMethod(Method):
    """A method that trains one counter with AdamW and the one-cycle schedule."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.counter = build_networks(config.counter)
        self._optimizer: torch.optim.Optimizer | None = None
        self._objective: nn.Module | None = None

    @abstractmethod
    def objective(self, stage: Stage) -> CountingObjective:
        """The losses of a stage."""

    @abstractmethod
    def peak_rate(self, stage: Stage) -> float:
        """The peak learning rate of a stage."""

    def trained_parameters(self, stage: Stage) -> list[nn.Parameter]:
        """The parameters a stage changes; the others are frozen."""
        del stage
        unused = set(self.counter.orientation_parameters())
        return [parameter for parameter in self.counter.parameters() if parameter not in unused]

    def start(self, stage: Stage, runtime: Runtime) -> None:
        """See `Method.start`."""
        trained = self.trained_parameters(stage)
        for parameter in self.counter.parameters():
            parameter.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)
        self.counter.to(runtime.device)
        self._schedule = OneCycle(self.peak_rate(stage), stage.steps)
        self._optimizer = torch.optim.AdamW(trained, lr=self._schedule.peak, weight_decay=self.config.train.weight_decay)
        self._objective = runtime.wrap(self.objective(stage))
        self._stage = stage

    def step(self, step: int, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """See `Method.step`."""
        assert self._objective is not None and self._optimizer is not None  # start() comes first
        self._objective.train()
        set_learning_rate(self._optimizer, self._schedule.at(step))
        with frozen_norm(self.counter, frozen=self._normalises_as_counting(step)):
            losses = self._objective(batches)
        self._optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        self._optimizer.step()
        return {name: value.detach() for name, value in losses.items()}

    def _normalises_as_counting(self, step: int) -> bool:
        """Whether a step keeps the running statistics: at the end of a stage that begins a counter, and in every stage that goes on with one.

        Otherwise whatever a counter says differently with the running statistics than with its batch's would be learned away by the first
        stage that keeps them, and look like an effect of adaptation.
        """
        goes_on = self._stage.num_round > 0 and not self._stage.fresh
        return goes_on or step >= (1 - FROZEN_SHARE) * self._stage.steps

    def predict(self, images: Tensor) -> Prediction:
        """See `Method.predict`: mean and standard deviation over the ensemble's members.

        Source: Liu et al., CVPR 2022, section 3: y = 1/n sum_m F_m(x), u = std_m F_m(x).
        """
        self.counter.eval()
        with torch.inference_mode():
            maps = self.counter.members(self.counter.encode(images)).float()
        density, spread = maps.mean(0), maps.std(0, unbiased=False)
        return Prediction(
            density=density,
            spread=spread,
            member_counts=maps.sum((2, 3, 4)),
        )

    def select(self, density: np.ndarray, spread: np.ndarray) -> np.ndarray:
        """See `Method.select`."""
        return keep_most_certain(density, spread, self.config.self_supervision.kept_share)

    def networks(self) -> nn.Module:
        """See `Method.networks`."""
        return self.counter

    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        """See `Method.optimizers`."""
        return {} if self._optimizer is None else {"counter": self._optimizer}


