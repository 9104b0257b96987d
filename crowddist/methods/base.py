"""What every method is: a plan of stages, a step, a prediction and a state."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from crowddist.data.sample import Batch, Prediction


@dataclass(frozen=True, kw_only=True)
class Stream:
    """What a stage reads in every step."""

    data: Literal["source", "target"]
    """Which data set of the run."""
    batch_size: int
    """Crops of a step, over all workers."""
    labels: bool = False
    """Whether the stage trains on the newest pseudo-labels of this data set."""
    scale_jitter: tuple[float, float] | None = None
    """Range of the crops' random scale; None is the run's own."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A piece of training with one optimisation problem; stages run in order, each from the one before."""

    name: str
    """Its folder below the run, e.g. "source" or "round-2"."""
    steps: int
    """Optimisation steps."""
    streams: Mapping[str, Stream]
    """Name -> stream; `Method.step` gets one batch of each, by the same names."""
    title: str
    """What the row of this stage is called in tables, e.g. "no adaptation"."""
    num_round: int
    """The row's number; 0 is the counter before any adaptation."""

    @property
    def needs_labels(self) -> bool:
        """Whether target labels must be made, with the stage before, first."""
        return any(stream.labels for stream in self.streams.values())


class Runtime(Protocol):
    """The worker a stage runs on; one process of `world_size`."""

    rank: int
    world_size: int
    device: torch.device

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with gradients averaged over the workers; its forward is called exactly once a step."""

    def report(self, step: int, scalars: Mapping[str, float]) -> None:
        """Tells the launcher that a checkpoint is written; every worker calls it at the same steps."""


class Method(ABC):
    """An adaptation method. It owns its networks and optimizers; engine, labeller and evaluation know no more than this."""

    @abstractmethod
    def plan(self) -> tuple[Stage, ...]:
        """The stages of a whole adaptation, in order."""

    @abstractmethod
    def start(self, stage: Stage, runtime: Runtime) -> None:
        """Prepares networks and fresh optimizers for a stage; the networks' weights stay as they are."""

    @abstractmethod
    def step(self, step: int, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """One optimisation step on a batch of each stream. Returns: detached scalars to log, `loss` among them."""

    @abstractmethod
    def predict(self, images: Tensor) -> Prediction:
        """Density, spread, kept cells and detections of (N, 3, H, W) images in [0, 1], without gradients."""

    @abstractmethod
    def select(self, density: Any, spread: Any) -> Any:
        """The cells certain enough to be labels: bool, shape and kind (NumPy or torch) of `density`, as `predict` selects them."""

    def label_views(self) -> tuple[float, ...]:
        """The sizes, relative to the usual one, that labels are made at; see `ops.views`."""
        return (1.0,)

    @abstractmethod
    def networks(self) -> nn.Module:
        """The networks whose weights and buffers are the result."""

    @abstractmethod
    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        """The optimizers of the stage under way, by name; empty before the first `start`."""

    def state_dict(self) -> dict[str, Any]:
        """Networks and optimizers, as plain containers of tensors."""
        return {
            "networks": self.networks().state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers().items()},
        }

    def load_state_dict(self, state: Mapping[str, Any], *, optimizers: bool = True) -> None:
        """Takes back what `state_dict` gave; `optimizers=False` takes the weights alone, at the start of another stage."""
        self.networks().load_state_dict(state["networks"])
        if optimizers:
            for name, optimizer in self.optimizers().items():
                optimizer.load_state_dict(state["optimizers"][name])


@dataclass(frozen=True)
class OneCycle:
    """Learning rate as a pure function of the step: a linear-cosine rise to the peak, a cosine fall to nearly zero.

    Source: Smith and Topin, 2018; the shape is PyTorch's OneCycleLR with its default shares.
    """

    peak: float
    steps: int
    warm_share: float = field(default=0.3)

    def at(self, step: int) -> float:
        """The rate of step 0..steps-1."""
        warm = self.warm_share * self.steps - 1
        if step <= warm:
            return _anneal(self.peak / 25, self.peak, step / max(warm, 1))
        return _anneal(self.peak, self.peak / 25e4, (step - warm) / max(self.steps - 1 - warm, 1))


def _anneal(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * min(share, 1)))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = rate
