"""The contract of every adaptation method: a plan of stages, a training step, a prediction and a state."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from crowddist.data.config import STRIDE
from crowddist.data.sample import Verdict
from crowddist.ops.peaks import density_points

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

    from crowddist.config import RunConfig
    from crowddist.data.config import StreamConfig
    from crowddist.data.sample import Batch, Prediction, Seen


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One of the inputs that a stage reads in every step."""

    data: Literal["source", "target", "labelled_target", "boxes", "translated"]
    """Data set to read. `translated`: the source, translated by the newest networks. `labelled_target`: the target with
    its true labels, for `supervised` only."""
    batch_size: int
    """Crops per step, over all workers."""
    labels: bool = False
    """Train on the newest pseudo-labels of this data set."""
    scale_jitter: tuple[float, float] | None = None
    """Range of the crops' random scale; None: the run's own."""
    crop_size: int = 0
    """Side of the crops in px; 0: the run's own."""
    whole_px: int = 0
    """Whole images, resized to this width in px (a multiple of 32) and three quarters of it in height, instead of
    crops; 0: crops."""
    plain: bool = False
    """Keep the colours, the sharpness and the people of the images."""
    stride: int = STRIDE
    """Side of a density cell in px of the crop."""
    windows: str = ""
    """Key of `Method.windows`: crops are these patches of the pseudo-labels; "": crops are cut anywhere."""
    heads: bool = False
    """Batches hold the heads and their sizes."""
    masks: bool = False
    """Batches hold masks of persons. Of the target, the masks are then the only labels that are opened."""
    share: float = 1.0
    """Share of the data set's images that are read at all, above 0 to 1."""
    weak_scales: tuple[float, float] | None = None
    """Batches hold each crop a second time, without random colours, blur, noise and erased patches: at its own scale or
    another one on the way to this range; None: they do not."""
    weak_zoom: float = 1.0
    """Largest factor between both scales, at least 1."""
    erased_share: float = 0.0
    """Share of the crops with an erased patch, 0 to 1; the cells under it are not trained on."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A training with one objective, from one checkpoint to the next.

    All stages run in order, except that stages of one round that train different networks may run at the same time.
    """

    name: str
    """Folder below the run, e.g. "source", or "source/detector" where a round has several stages."""
    steps: int
    """Optimisation steps."""
    streams: Mapping[str, Stream]
    """Name -> stream; `Method.step` gets one batch of each, under the same name."""
    title: str
    """Name of the stage's row in tables, e.g. "no adaptation"."""
    num_round: int
    """Number of the row; 0 is the counter before any adaptation. Stages of one round share a row."""
    trains: str = ""
    """Child of `Method.networks` whose weights the stage changes; "": all."""
    fresh: bool = False
    """Start from new networks, not from those of the stage before."""
    average_decay: float = 0.0
    """Share that a step keeps of the moving average of the weights, in this stage; 0: `engine.average_decay`."""
    draws: str = ""
    """Name that the stage's random numbers are derived from; "": its own. Where methods share it, they draw alike."""
    settings: tuple[str, ...] = ()
    """Settings, or groups of them, that the training depends on beside the crops, e.g. "train"; (): the method's. A
    stage that names its own may be trained once for several methods, see `run.reuse`."""

    @property
    def seed_name(self) -> str:
        """The purpose of the stage's random numbers, see `randomness.derive`."""
        return self.draws or self.name

    @property
    def round_name(self) -> str:
        """Folder of the stage's round."""
        return self.name.partition("/")[0]

    @property
    def needs_labels(self) -> bool:
        """Whether the target must be labelled first, by the networks of the stage before."""
        return any(stream.labels for stream in self.streams.values())

    @property
    def needs_translation(self) -> bool:
        """Whether the source must be translated first, by the networks of the stages before."""
        return any(stream.data == "translated" for stream in self.streams.values())


class Runtime(Protocol):
    """The worker that runs a stage: one process of `world_size`."""

    rank: int
    world_size: int
    device: torch.device

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module with gradients averaged over the workers. Call its forward exactly once per step."""

    def report(self, step: int, scalars: Mapping[str, float]) -> None:
        """Tells the launcher that a checkpoint is written; every worker calls it at the same steps."""

    def at(self, step: int, doing: str) -> None:
        """Notes what the worker does next, so that messages can name a worker that hangs. Costs nothing."""

    def stop_requested(self) -> bool:
        """Whether to stop after this step. All workers get the same answer, so all must ask in every step."""

    def waited_s(self) -> float:
        """Seconds that a backward pass, the newest that is measured, waited for the other workers' gradients."""

    def gather(self, seconds: Mapping[str, float]) -> list[dict[str, float]]:
        """Every worker's seconds by phase (`stopwatch.PHASES`), by rank; every worker calls it at the same steps."""


class Method(ABC):
    """An adaptation method. A new one implements:

    1. `plan`: its stages, in order;
    2. `start` and `step`: prepare a stage; train on one batch of each stream (`parts.training` does both for methods
       that give an objective and what to optimise);
    3. `predict`, `conclude` and `select`: tiles become maps and heads, a whole image a count, some of its cells labels;
    4. `networks` and `optimizers`: the state that checkpoints hold.

    Training loop, labelling and evaluation use a method only through this class.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config

    def with_config(self, config: RunConfig) -> Method:
        """The same networks with other thresholds. `config` must describe the same networks and data."""
        other = copy.copy(self)
        other.config = config
        return other

    @abstractmethod
    def plan(self) -> tuple[Stage, ...]:
        """The stages of a whole adaptation, in order."""

    @abstractmethod
    def start(self, stage: Stage, runtime: Runtime) -> None:
        """Prepares networks and fresh optimizers for a stage, without changing weights."""

    @abstractmethod
    def step(self, step: int, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """One optimisation step on a batch of each stream. Returns detached scalars to log; one is called `loss`."""

    @abstractmethod
    def networks(self) -> nn.Module:
        """The networks whose weights and buffers are the result."""

    @abstractmethod
    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        """The current stage's optimizers by name; empty before the first `start`."""

    def training(self, stage: Stage) -> dict[str, Any]:
        """What a stage trains with, beside the settings that it depends on, as values for JSON; methods that train a
        stage alike say the same.
        """
        del stage
        return {"method": type(self).__qualname__}

    def reads(self, stage: Stage) -> set[str]:
        """The names in `networks` of all weights and buffers that the training of a stage reads or changes."""
        del stage
        return set(self.networks().state_dict())

    @property
    def root(self) -> str:
        """Name of `networks`, e.g. "counter", where they are one of the networks that other methods have as a child."""
        return ""

    @property
    @abstractmethod
    def margin_px(self) -> int:
        """Context in px around each tile of a large image: about as far as the networks see, a multiple of 32."""

    @abstractmethod
    def predict(self, images: Tensor) -> Prediction:
        """Maps and heads of (N, 3, H, W) images in [0, 1], which may be tiles of larger ones; without gradients."""

    def conclude(self, seen: Seen, *, labels: bool = True) -> Verdict:
        """The count and the heads of a whole image, from the joined predictions of its tiles.

        Args:
            labels: False may leave out `sizes`, `taught` and `doubtful` of the verdict.
        """
        del labels
        return density_verdict(seen, self.output_stride, self.stream.sigma_px)

    @abstractmethod
    def select(self, density: np.ndarray, certainty: np.ndarray) -> np.ndarray:
        """The cells of a whole image that become labels: (h, w) bool.

        Args:
            density: (h, w) persons per cell, of the verdict.
            certainty: (h, w), 0 to 1, see `ops.views.certainty`.
        """

    def windows(self, density: np.ndarray, points: np.ndarray, key: str) -> dict[str, np.ndarray]:
        """The patches of an image to train on: purpose -> K x 4 top, left, height, width in cells; empty: anywhere.

        Args:
            density: (h, w) persons per cell.
            points: M x 3 x, y and score of the detected heads, in px of the image as the networks saw it.
            key: names the image and the round; seeds all random choices.
        """
        del density, points, key
        return {}

    @property
    def stream(self) -> StreamConfig:
        """How samples become crops and densities."""
        return self.config.stream

    @property
    def output_stride(self) -> int:
        """Side of a density cell in px of the image."""
        return STRIDE

    @property
    def settling_px(self) -> int:
        """Side in px of the blocks whose counts are compared between two rounds of labels, to see if they settle."""
        return self.output_stride

    @property
    def stop_change(self) -> float:
        """Rounds stop when labels change by less than this share of their mean; 0: never."""
        return 0.0

    @property
    def drop_rise(self) -> float:
        """A round of labels is dropped when its counter disagrees with itself over zooms more than the one before, by
        this share, or below 0 when it does not do so less by this share; 0: never.
        """
        return 0.0

    @property
    def second_counter(self) -> str:
        """Another counter that labels the target beside the newest networks, as `find_checkpoint` takes it; "": none.
        """
        return ""

    def label_views(self) -> tuple[float, ...]:
        """Sizes, relative to `stream.image_size`, at which images are labelled; see `ops.views`."""
        return self.stream.zooms

    def translate(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) source images in [0, 1], made to look like the target. Only for plans with `translated` data."""
        raise NotImplementedError(f"{type(self).__name__} translates no images")

    def limit_density(self, persons: float) -> None:
        """Sets predicted cells that hold more than `persons` to 0 from now on. Only for counters."""
        raise NotImplementedError(f"{type(self).__name__} has no density limit")

    def state_dict(self, trained: str = "") -> dict[str, Any]:
        """Networks and optimizers, as plain containers of tensors. `trained`: as `Stage.trains`, leaves out the other
        networks.
        """
        networks = {name: tensor for name, tensor in self.networks().state_dict().items() if belongs_to(name, trained)}
        optimizers = {name: optimizer.state_dict() for name, optimizer in self.optimizers().items()}
        return {"trained": trained, "networks": networks, "optimizers": optimizers}

    def load_state_dict(self, state: Mapping[str, Any], *, optimizers: bool = True) -> None:
        """Restores what `state_dict` returned; networks that the state leaves out stay as they are.

        Args:
            optimizers: False loads the weights only, to start another stage.

        Raises:
            RuntimeError: the state belongs to other networks.
        """
        trained = state.get("trained", "")  # the oldest checkpoints lack it; they hold all networks
        others = {name: tensor for name, tensor in self.networks().state_dict().items()
                  if not belongs_to(name, trained)}
        self.networks().load_state_dict({**others, **state["networks"]})
        if optimizers:
            for name, optimizer in self.optimizers().items():
                optimizer.load_state_dict(_as_computed_here(state["optimizers"][name], optimizer))


def _as_computed_here(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's saved state with this one's way of computing, which follows from the device, not from the run."""
    groups = [{**saved, **{name: own[name] for name in ("foreach", "capturable", "fused") if name in own}}
              for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=True)]
    return {**state, "param_groups": groups}


def belongs_to(parameter: str, network: str) -> bool:
    """Whether `parameter`, a full name, belongs to that child of the networks; "": all do."""
    return not network or parameter.startswith(f"{network}.")


def density_verdict(seen: Seen, stride_px: int, sigma_px: float) -> Verdict:
    """The verdict of a density alone, with the heads of `density_points`, which tells of both numbers."""
    return Verdict(density=seen.density, spread=seen.spread, uncertainty=float(seen.member_counts.std()),
                   points=density_points(seen.density, stride_px, sigma_px))
