"""What the methods of a single counter share: its optimizer, its source loss and its prediction."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from crowddist.data.sample import Prediction
from crowddist.losses.density import count_map_loss
from crowddist.methods.base import Method, OneCycle, Runtime, Schedule, Stage, Stream, make_optimizer, set_learning_rate
from crowddist.models.backbones.table import BACKBONES
from crowddist.models.ensemble import build_networks
from crowddist.models.norm import frozen_norm
from crowddist.ops.selection import keep_most_certain

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from crowddist.config import RunConfig
    from crowddist.data.sample import Batch
    from crowddist.methods.settings.train import TrainConfig
    from crowddist.models.backbones.table import BACKBONES
    from crowddist.models.counter import Counter
from crowddist.models.ensemble import DeepEnsemble

FROZEN_SHARE = 0.2
"""Part of the source stage, at its end, that trains with the running statistics, as images are counted (ours). In
`renderer_to_shb` the loss falls by a third where it begins."""


DENSITY_LIMIT = "density_limit"
"""Name of the counter's buffer of the most persons that a cell may hold."""


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
        maps = maps[..., : batch.density.shape[2], : batch.density.shape[3]]
        repeats = (len(maps) // len(batch.images), 1, 1, 1)  # a deep ensemble gives every member's maps
        keep = None if batch.keep is None else batch.keep.repeat(repeats)
        target = batch.density.repeat(repeats)
        return count_map_loss(maps, target, keep, block_weight=self.train_config.block_weight,
                              cell_error=self.train_config.cell_error)

    def forward(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """The losses by name; `loss` is what is minimised."""
        return {"loss": self.source_loss(batches["source"])}


class LabelObjective(CountingObjective):
    """Stage 2: L2(source) + mu * sum_p k(p) (F(x_t)(p) - y(p))^2 / sum_p k(p), the second sum over each target image.

    Source: Liu et al., CVPR 2022, section 3, in words; the formula is our reading. y and k are the round's labels.
    """

    def __init__(self, counter: Counter | DeepEnsemble, train: TrainConfig, *, target_weight: float) -> None:
        super().__init__(counter, train)
        self.target_weight = target_weight

    def forward(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """The losses by name."""
        target_batch = batches["target"]
        source = self.source_loss(batches["source"])
        target = self.density_loss(target_batch, self.counter.encode(target_batch.images))
        return {"loss": source + self.target_weight * target, "source_loss": source, "target_loss": target}


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What one optimizer of a stage trains, and how."""

    parameters: list[nn.Parameter]
    schedule: Schedule
    """Its learning rate of every step."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of Adam."""
    weight_decay: float = 0.0


class CountingMethod(Method):
    """A method that trains one counter, and maybe others beside it, with AdamW and the one-cycle schedule."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.counter = build_networks(config.counter)
        if config.train.density_limit:
            self.counter.register_buffer(DENSITY_LIMIT, torch.tensor(math.inf))  # every checkpoint holds it
        self._schedules: dict[str, Schedule] = {}
        self._optimizers: dict[str, torch.optim.Optimizer] = {}
        self._objective: nn.Module | None = None

    @abstractmethod
    def objective(self, stage: Stage) -> nn.Module:
        """The losses of a stage by name, of its batches; `loss` is what is minimised."""

    @abstractmethod
    def trained(self, stage: Stage) -> dict[str, Trained]:
        """Name of an optimizer -> what it trains in a stage; all other parameters are frozen."""

    @property
    def output_stride(self) -> int:
        """See `Method.output_stride`."""
        return self.counter.output_stride

    @property
    def margin_px(self) -> int:
        """See `Method.margin_px`."""
        counter = self.config.counter
        return BACKBONES[counter.backbone].uses["upsampling" if counter.upsamples else "counter"].context_px

    def one_cycle(self, parameters: list[nn.Parameter], stage: Stage, peak_rate: float) -> Trained:
        """Trained by AdamW with the one-cycle schedule, as the source is."""
        return Trained(parameters=parameters, schedule=OneCycle(peak_rate, stage.steps),
                       weight_decay=self.config.train.weight_decay)

    def source_stream(self) -> Stream:
        """The source's crops, as every stage reads them."""
        return Stream(data="source", batch_size=self.config.train.batch_size, stride=self.output_stride)

    def density_parameters(self) -> list[nn.Parameter]:
        """The counter's parameters but for the orientation head's."""
        unused = set(self.counter.orientation_parameters())
        return [parameter for parameter in self.counter.parameters() if parameter not in unused]

    def start(self, stage: Stage, runtime: Runtime) -> None:
        """See `Method.start`."""
        self.networks().requires_grad_(False).to(runtime.device)
        self._optimizers, self._schedules = {}, {}
        for name, trained in self.trained(stage).items():
            self._schedules[name] = trained.schedule
            self._optimizers[name] = make_optimizer(
                self.networks(), trained.parameters, self.config.train, weight_decay=trained.weight_decay,
                betas=trained.betas
            )
        self._objective = runtime.wrap(self.objective(stage))
        self._stage = stage

    def step(self, step: int, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """See `Method.step`."""
        assert self._objective is not None  # start() comes first
        self._objective.train()
        for name, optimizer in self._optimizers.items():
            set_learning_rate(optimizer, self._schedules[name].at(step))
            optimizer.zero_grad(set_to_none=True)
        with frozen_norm(self.networks(), frozen=self._normalises_as_counting(step)):
            losses = self._objective(batches)
        losses["loss"].backward()
        for optimizer in self._optimizers.values():
            optimizer.step()
        return {name: value.detach() for name, value in losses.items()}

    def _normalises_as_counting(self, step: int) -> bool:
        """Whether a step keeps the running statistics: at the end of a stage that begins a counter, and in every stage
        that goes on with one.

        Otherwise whatever a counter says differently with the running statistics than with its batch's would be learned
        away by the first stage that keeps them, and look like an effect of adaptation.
        """
        goes_on = self._stage.num_round > 0 and not self._stage.fresh
        return goes_on or step >= (1 - FROZEN_SHARE) * self._stage.steps

    def predict(self, images: Tensor) -> Prediction:
        """See `Method.predict`: mean and standard deviation over the ensemble's members.

        Source: Liu et al., CVPR 2022, section 3: y = 1/n sum_m F_m(x), u = std_m F_m(x).
        """
        self.counter.eval()
        rows, columns = (-(-side // self.output_stride) for side in images.shape[2:])
        with torch.inference_mode():
            maps = self.counter.members(self.counter.encode(images))[..., :rows, :columns].float()
        if self.config.train.density_limit:
            maps = torch.where(maps > self.counter.get_buffer(DENSITY_LIMIT), 0, maps)
        density, spread = maps.mean(0), maps.std(0, unbiased=False)
        return Prediction(
            density=density,
            spread=spread,
            member_counts=maps.sum((2, 3, 4)),
        )

    def limit_density(self, persons: float) -> None:
        """See `Method.limit_density`. Source: density regularisation, Wang et al., CVPR 2019; here for each member of
        the ensemble.
        """
        self.counter.get_buffer(DENSITY_LIMIT).fill_(persons)

    def select(self, density: np.ndarray, spread: np.ndarray) -> np.ndarray:
        """See `Method.select`."""
        return keep_most_certain(density, spread, self.config.self_supervision.kept_share)

    def networks(self) -> nn.Module:
        """See `Method.networks`."""
        return self.counter

    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        """See `Method.optimizers`."""
        return self._optimizers


