"""What every method is: a plan of stages, a step, a prediction and a state."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch

from crowddist.data.sample import Verdict
from crowddist.data.stream import STRIDE
from crowddist.models.backbones.encoder import pretrained_parameters
from crowddist.ops.peaks import density_points

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from crowddist.config import RunConfig
    from crowddist.data.config import StreamConfig
    from crowddist.data.sample import Batch, Prediction, Seen
    from crowddist.methods.settings.train import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Stream:
    """What a stage reads in every step."""

    data: Literal["source", "target", "labelled_target", "boxes", "translated"]
    """Which data set of the run; `translated` is the source as the newest networks show it, and `labelled_target`, the
    target with its true labels, is for `supervised` alone."""
    batch_size: int
    """Crops of a step, over all workers."""
    labels: bool = False
    """Whether the stage trains on the newest pseudo-labels of this data set."""
    scale_jitter: tuple[float, float] | None = None
    """Range of the crops' random scale; None is the run's own."""
    crop_size: int = 0
    """Side of the crops in px; 0 is the run's own."""
    plain: bool = False
    """Whether crops keep the colours and the sharpness of their images."""
    stride: int = STRIDE
    """Pixels of a crop along a side of the density's cells."""
    windows: str = ""
    """The purpose whose patches of the pseudo-labels are the crops; "" cuts anywhere."""
    heads: bool = False
    """Whether batches carry the heads and their sizes."""
    masks: bool = False
    """Whether batches carry masks of persons; of the target, nothing else is opened."""
    share: float = 1.0
    """Part of the data set's images that are read at all, above 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A piece of training with one optimisation problem.

    Stages of one round that train different networks do not wait for each other; all others run in order, each from the
    one before.
    """

    name: str
    """Its folder below the run, e.g. "source", or "source/detector" where a round has several."""
    steps: int
    """Optimisation steps."""
    streams: Mapping[str, Stream]
    """Name -> stream; `Method.step` gets one batch of each, by the same names."""
    title: str
    """What the row of this stage is called in tables, e.g. "no adaptation"."""
    num_round: int
    """The row's number; 0 is the counter before any adaptation. Stages of one round share a row."""
    trains: str = ""
    """The child of `Method.networks` whose weights the stage changes; "" is all of them."""
    fresh: bool = False
    """Whether its networks begin anew, rather than as the stage before left them."""

    @property
    def round_name(self) -> str:
        """The folder of the round that the stage belongs to."""
        return self.name.partition("/")[0]

    @property
    def needs_labels(self) -> bool:
        """Whether target labels must be made, with the stage before, first."""
        return any(stream.labels for stream in self.streams.values())

    @property
    def needs_translation(self) -> bool:
        """Whether the source must be translated, with the stages before, first."""
        return any(stream.data == "translated" for stream in self.streams.values())


class Runtime(Protocol):
    """The worker a stage runs on; one process of `world_size`."""

    rank: int
    world_size: int
    device: torch.device

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with gradients averaged over the workers; its forward is called exactly once a step."""

    def report(self, step: int, scalars: Mapping[str, float]) -> None:
        """Tells the launcher that a checkpoint is written; every worker calls it at the same steps."""

    def at(self, step: int, doing: str) -> None:
        """Notes what the worker is about to do, so that one that is waited for can be named; costs nothing."""

    def stop_requested(self) -> bool:
        """Whether training is to stop after this step: all workers are told the same, so every one calls it in every
        step.
        """


class Method(ABC):
    """An adaptation method. It owns its networks and optimizers; engine, labeller and evaluation know no more than
    this.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config

    def with_config(self, config: RunConfig) -> Method:
        """The same networks under another configuration, whose networks and data are alike: to conclude and select by
        other thresholds.
        """
        other = copy.copy(self)
        other.config = config
        return other

    @abstractmethod
    def plan(self) -> tuple[Stage, ...]:
        """The stages of a whole adaptation, in order."""

    @abstractmethod
    def start(self, stage: Stage, runtime: Runtime) -> None:
        """Prepares networks and fresh optimizers for a stage; the networks' weights stay as they are."""

    @abstractmethod
    def step(self, step: int, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """One optimisation step on a batch of each stream. Returns: detached scalars to log, `loss` among them."""

    @property
    @abstractmethod
    def margin_px(self) -> int:
        """Context that a tile of a large image is seen with on every side, px: about as far as the networks look; a
        multiple of 32.
        """

    @property
    def settling_px(self) -> int:
        """Side of the blocks, px, whose persons are compared from one set of labels to the next to see whether they
        settle.
        """
        return self.output_stride

    @abstractmethod
    def predict(self, images: Tensor) -> Prediction:
        """What the networks say of (N, 3, H, W) images in [0, 1], which may be tiles of larger ones; without
        gradients.
        """

    def conclude(self, seen: Seen) -> Verdict:
        """The count and the heads of a whole image, of what its tiles were predicted to hold."""
        return Verdict(
            density=seen.density,
            spread=seen.spread,
            uncertainty=float(seen.member_counts.std()),
            points=density_points(seen.density, self.output_stride, self.stream.sigma_px),
        )

    def count_by_confidence(self, seen: Seen, thresholds: np.ndarray) -> np.ndarray | None:
        """The count that `conclude` would come to at every least confidence of a detection, all else as configured, in
        one pass.

        Args:
            thresholds: (T,), above 0.

        Returns:
            (T,) float64, persons; None where there is no such confidence, or no way to all these counts at once that is
            exact.
        """
        del seen, thresholds
        return None

    @abstractmethod
    def select(self, density: np.ndarray, spread: np.ndarray) -> np.ndarray:
        """The cells of a whole image that are good enough to be labels: (h, w) bool of two (h, w) maps."""

    def windows(self, density: np.ndarray, points: np.ndarray, key: str) -> dict[str, np.ndarray]:
        """Purpose -> K x 4 top, left, height, width in cells: the patches of an image that labels are trained on; none
        means anywhere.

        Args:
            density: (h, w) persons per cell.
            points: M x 3 x, y and score of the heads that were detected, in px of the image as the networks saw it.
            key: of the image and the round; whatever is random follows from it.
        """
        del density, points, key
        return {}

    @property
    def stream(self) -> StreamConfig:
        """How samples become crops and densities."""
        return self.config.stream

    @property
    def output_stride(self) -> int:
        """Pixels of the image along a side of a density's cells."""
        return STRIDE

    @property
    def stop_change(self) -> float:
        """Rounds stop when labels change less than this, relative to their mean; 0 never stops."""
        return 0.0

    def label_views(self) -> tuple[float, ...]:
        """The sizes, relative to the usual one, that labels are made at; see `ops.views`."""
        return (1.0,)

    def translate(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) images of the source in [0, 1] as the target would show them; for methods whose plan reads
        `translated` data.
        """
        raise NotImplementedError(f"{type(self).__name__} translates no images")

    def limit_density(self, persons: float) -> None:
        """From now on, no cell of a prediction holds more than so many persons: what would is taken to hold none. For
        counters.
        """
        raise NotImplementedError(f"{type(self).__name__} has no limit of its density")

    @abstractmethod
    def networks(self) -> nn.Module:
        """The networks whose weights and buffers are the result."""

    @abstractmethod
    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        """The optimizers of the stage under way, by name; empty before the first `start`."""

    def state_dict(self, trained: str = "") -> dict[str, Any]:
        """Networks and optimizers, as plain containers of tensors. Args: `trained` as `Stage.trains`; the other
        networks are left out.
        """
        networks = {name: tensor for name, tensor in self.networks().state_dict().items() if belongs_to(name, trained)}
        optimizers = {name: optimizer.state_dict() for name, optimizer in self.optimizers().items()}
        return {"trained": trained, "networks": networks, "optimizers": optimizers}

    def load_state_dict(self, state: Mapping[str, Any], *, optimizers: bool = True) -> None:
        """Takes back what `state_dict` gave; `optimizers=False` takes the weights alone, at the start of another stage.

        Networks that the state leaves out stay as they are.

        Raises:
            RuntimeError: the state is of other networks.
        """
        trained = state.get("trained", "")  # checkpoints of former versions hold everything
        others = {name: tensor
                  for name, tensor in self.networks().state_dict().items() if not belongs_to(name, trained)}
        self.networks().load_state_dict({**others, **state["networks"]})
        if optimizers:
            for name, optimizer in self.optimizers().items():
                optimizer.load_state_dict(state["optimizers"][name])


def belongs_to(parameter: str, network: str) -> bool:
    """Whether a parameter of that full name belongs to a child of the networks; "" is all of them."""
    return not network or parameter.startswith(f"{network}.")


def mean_over_workers(value: Tensor, *, least: float) -> Tensor:
    """The mean of a number over all workers, whose sum counts as `least` at the least; without a gradient."""
    total = value.detach().clone()
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return total.clamp(min=least)
    torch.distributed.all_reduce(total)
    return total.clamp(min=least) / torch.distributed.get_world_size()


class Schedule(Protocol):
    """A learning rate as a function of the step."""

    def at(self, step: int) -> float:
        """The rate of step 0..steps-1."""


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


@dataclass(frozen=True)
class Constant:
    """The same learning rate at every step, as the papers' plain Adam has it."""

    peak: float

    def at(self, step: int) -> float:
        """The rate of any step."""
        del step
        return self.peak


def _anneal(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * min(share, 1)))


def make_optimizer(
    network: nn.Module, parameters: list[nn.Parameter], train: TrainConfig, *, weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.999)
) -> torch.optim.Optimizer:
    """AdamW for some of a network's parameters, which are no longer frozen, but for those that keep the weights they
    came with.

    Those with pretrained weights are a group of their own, which learns more slowly. `set_learning_rate` sets the
    rates.
    """
    frozen = pretrained_parameters(network, train.frozen_px)
    parameters = [parameter for parameter in parameters if parameter not in frozen]
    for parameter in parameters:
        parameter.requires_grad_(True)
    pretrained = pretrained_parameters(network) if train.pretrained_share < 1 else set()
    groups: list[dict[str, Any]] = [{"params": [parameter for parameter in parameters if parameter not in pretrained],
                                     "share": 1.0}]
    slow = [parameter for parameter in parameters if parameter in pretrained]
    if slow:
        groups.append({"params": slow, "share": train.pretrained_share})
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, weight_decay=weight_decay)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the rate of all parameter groups, of each to its share of it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("share", 1.0)
