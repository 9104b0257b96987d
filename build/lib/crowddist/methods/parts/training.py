"""Training of a stage: an objective, optimizers with their learning rates, and the step that joins them."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from crowddist.methods.base import Method, Runtime, Stage
from crowddist.models.backbones.encoder import pretrained_parameters
from crowddist.models.norm import frozen_norm

if TYPE_CHECKING:
    from torch import Tensor, nn

    from crowddist.config import RunConfig
    from crowddist.data.sample import Batch

FROZEN_SHARE = 0.2
"""Share of a stage from new networks, at its end, that trains with the running statistics, as images are counted
(ours). In `renderer_to_shb` the loss falls by a third where it begins."""

TRAINING_SETTINGS = ("train.pretrained_share", "train.frozen_px", "train.weight_decay")
"""Settings that every stage depends on."""

Schedule = Callable[[int], float]
"""Step, from 0 to steps - 1 -> learning rate."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What one optimizer (AdamW) of a stage trains, and how."""

    parameters: list[nn.Parameter]
    schedule: Schedule
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0


class TrainingMethod(Method):
    """A method whose stages each have one objective. Subclasses set `_networks` and give `objective` and `trained`."""

    _networks: nn.Module

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self._schedules: dict[str, Schedule] = {}
        self._optimizers: dict[str, torch.optim.Optimizer] = {}

    @abstractmethod
    def objective(self, stage: Stage) -> nn.Module:
        """All losses of a stage as one module, so that its wrapped (DDP) forward is called once per step.

        It maps batches (name -> batch) to losses by name; `loss` is minimised.
        """

    @abstractmethod
    def trained(self, stage: Stage) -> dict[str, Trained]:
        """Name of an optimizer -> what it trains in a stage; all other parameters are frozen."""

    def networks(self) -> nn.Module:
        return self._networks

    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        return self._optimizers

    def training(self, stage: Stage) -> dict[str, Any]:
        """The objective's name; of each optimizer the number of its parameters and its constants."""
        steps = (0, stage.steps // 2, stage.steps - 1)
        return {
            "objective": type(self.objective(stage)).__qualname__,
            **{name: {"parameters": len(each.parameters), "rates": [each.schedule(step) for step in steps],
                      "betas": list(each.betas), "weight_decay": each.weight_decay}
               for name, each in self.trained(stage).items()},
        }

    def reads(self, stage: Stage) -> set[str]:
        """Those of the objective's networks."""
        used = {id(tensor) for tensor in self.objective(stage).state_dict(keep_vars=True).values()}
        return {name for name, tensor in self._networks.state_dict(keep_vars=True).items() if id(tensor) in used}

    def start(self, stage: Stage, runtime: Runtime) -> None:
        self._stage = stage
        self._networks.requires_grad_(False).to(runtime.device)
        trained = self.trained(stage)
        self._schedules = {name: each.schedule for name, each in trained.items()}
        self._optimizers = {name: self._optimizer(each) for name, each in trained.items()}
        self._objective = runtime.wrap(self.objective(stage))

    def step(self, step: int, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        self._objective.train()
        for name, optimizer in self._optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = self._schedules[name](step) * group["share"]
            optimizer.zero_grad(set_to_none=True)
        with frozen_norm(self._networks, frozen=self._keeps_statistics(step)):
            losses = self._objective(batches)
        losses["loss"].backward()
        for optimizer in self._optimizers.values():
            optimizer.step()
        return {name: value.detach() for name, value in losses.items()}

    def _keeps_statistics(self, step: int) -> bool:
        """Whether a step uses the running statistics: at the end of a stage from new networks, and in all stages after.

        A network predicts a little differently with the running statistics than with its batch's. Unless the first
        stage already corrects this difference, the next one does, and that looks like an effect of adaptation.
        """
        continues = self._stage.num_round > 0 and not self._stage.fresh
        return continues or step >= (1 - FROZEN_SHARE) * self._stage.steps

    def _optimizer(self, trained: Trained) -> torch.optim.AdamW:
        """Unfreezes all but the first pretrained layers; the other pretrained layers learn more slowly."""
        train = self.config.train
        frozen = pretrained_parameters(self._networks, train.frozen_px)
        pretrained = pretrained_parameters(self._networks) if train.pretrained_share < 1 else set()
        parameters = [parameter for parameter in trained.parameters if parameter not in frozen]
        for parameter in parameters:
            parameter.requires_grad_(True)
        new = [parameter for parameter in parameters if parameter not in pretrained]
        slow = [parameter for parameter in parameters if parameter in pretrained]
        groups: list[dict[str, Any]] = [{"params": new, "share": 1.0}]
        if slow:
            groups.append({"params": slow, "share": train.pretrained_share})
        return torch.optim.AdamW(groups, lr=0.0, betas=trained.betas, weight_decay=trained.weight_decay)

    def one_cycle(self, parameters: list[nn.Parameter], stage: Stage, peak_rate: float) -> Trained:
        """Training with the run's weight decay and the one-cycle schedule, or at the peak alone where the run's rates
        are constant.
        """
        train = self.config.train
        schedule = one_cycle_rate(peak_rate, stage.steps) if train.schedule == "one_cycle" else lambda step: peak_rate
        return Trained(parameters=parameters, schedule=schedule, weight_decay=train.weight_decay)


def one_cycle_rate(peak: float, steps: int) -> Schedule:
    """A cosine rise to the peak in 30 % of the steps, then a cosine fall to nearly 0.

    Source: Smith and Topin, 2018. The values are those of PyTorch's OneCycleLR with its defaults, here as a function of
    the step alone.
    """
    warm = 0.3 * steps - 1

    def anneal(start: float, end: float, share: float) -> float:
        return end + (start - end) / 2 * (1 + math.cos(math.pi * min(share, 1)))

    def rate(step: int) -> float:
        if step <= warm:
            return anneal(peak / 25, peak, step / max(warm, 1))
        return anneal(peak, peak / 25e4, (step - warm) / max(steps - 1 - warm, 1))

    return rate


def mean_over_workers(value: Tensor, *, least: float) -> Tensor:
    """Mean of a scalar over all workers, without gradient; a sum below `least` counts as `least`."""
    total = value.detach().clone()
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return total.clamp(min=least)
    torch.distributed.all_reduce(total)
    return total.clamp(min=least) / torch.distributed.get_world_size()
