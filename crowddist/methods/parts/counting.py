"""Methods with one counter: its losses, its stages on the source and on pseudo-labels, and its prediction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from crowddist.data.sample import Prediction
from crowddist.losses.density import count_map_loss
from crowddist.methods.base import Runtime, Stage, Stream
from crowddist.methods.parts.teacher import Teacher
from crowddist.methods.parts.training import Trained, TrainingMethod
from crowddist.methods.settings.self_supervision import LABEL_SCALE_MARGIN
from crowddist.models.backbones.table import BACKBONES
from crowddist.models.ensemble import build_networks, member_maps

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from crowddist.config import RunConfig
    from crowddist.data.sample import Batch
    from crowddist.methods.settings.train import TrainConfig
    from crowddist.models.counter import Counter
    from crowddist.models.ensemble import DeepEnsemble

SOURCE_SETTINGS = ("train", "counter.backbone", "counter.decoder", "counter.weights", "counter.ensemble",
                   "counter.num_masks", "counter.density_factor", "counter.decoder_norm")
"""Settings that the counter's stage on the source depends on; it leaves the orientation head alone."""
DENSITY_LIMIT = "density_limit"
"""The counter's buffer with the most persons that a cell may hold."""
ORIENTATION_HEAD = "orientation_head"
"""A counter's child, see `Counter`."""


class CountingObjective(nn.Module):
    """The density loss on the source."""

    def __init__(self, counter: Counter | DeepEnsemble, train: TrainConfig) -> None:
        super().__init__()
        self.counter, self.train_config = counter, train

    def density_loss(self, batch: Batch, features: Tensor | None = None) -> Tensor:
        """Density loss of labelled crops over the cells in `batch.keep`. Each sample teaches the member that it draws.

        Both maps are compared in the network's own unit, `CounterConfig.density_factor` times the persons.

        Args:
            features: the encoded crops, where they are known.
        """
        assert batch.density is not None  # a stream of density labels, by the stage's plan
        if features is None:
            features = self.counter.encode(batch.images)
        # In bfloat16 (mixed precision) sums over blocks would be rounded to three digits.
        maps = self.counter.training_maps(features, batch.draws).float()
        maps = maps[..., : batch.density.shape[2], : batch.density.shape[3]]
        repeats = (len(maps) // len(batch.images), 1, 1, 1)  # a deep ensemble gives every member's maps
        keep = None if batch.keep is None else batch.keep.repeat(repeats)
        density, factor = batch.density.repeat(repeats), self.counter.density_factor
        if factor is not None:
            maps, density = factor * maps, factor * density
        return count_map_loss(maps, density, keep, block_weight=self.train_config.block_weight,
                              cell_error=self.train_config.cell_error, cell_px=self.counter.output_stride)

    def forward(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        return {"loss": self.density_loss(batches["source"])}


class LabelObjective(CountingObjective):
    """Stage 2: L2(source) + mu * sum_p k(p) (F(x_t)(p) - y(p))^2 / sum_p k(p), the second sum over each target image.

    Source: Liu et al., CVPR 2022, section 3, in words; the formula is our reading. y and k are the round's labels. With
    a teacher y is (1 - share) times the round's label plus share times the teacher's (ours, after Tarvainen and
    Valpola, NeurIPS 2017); k is the round's selection still, and both labels are of the same place.

    Args:
        teacher: labels the crops in `Batch.weak`; None: the round's labels alone.
        teacher_share: weight of its labels, 0 to 1.
    """

    def __init__(self, counter: Counter | DeepEnsemble, train: TrainConfig, *, target_weight: float,
                 teacher: Teacher | None = None, teacher_share: float = 0.0) -> None:
        super().__init__(counter, train)
        self.target_weight, self.teacher, self.teacher_share = target_weight, teacher, teacher_share

    def forward(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        target = batches["target"]
        told: dict[str, Tensor] = {}
        if self.teacher is not None:
            target, told = self._taught(target, self.teacher)
        source_loss, target_loss = self.density_loss(batches["source"]), self.density_loss(target)
        return {"loss": source_loss + self.target_weight * target_loss, "source_loss": source_loss,
                "target_loss": target_loss, **told}

    def _taught(self, target: Batch, teacher: Teacher) -> tuple[Batch, dict[str, Tensor]]:
        """The batch with both labels mixed; the persons in the kept cells of a crop by each, to see the teacher drift.
        """
        assert target.density is not None and target.weak is not None  # by the stage's plan
        taught = teacher.densities(target.weak, (target.density.shape[2], target.density.shape[3]))
        told = {f"{name}_persons": (density if target.keep is None else density * target.keep).sum() / len(density)
                for name, density in (("round", target.density), ("teacher", taught))}
        return replace(target, density=torch.lerp(target.density, taught, self.teacher_share)), told


class CountingMethod(TrainingMethod):
    """A method that trains one counter: on the source, and maybe in rounds of pseudo-labels as self-supervision does.

    Stages of any other kind, and networks beside the counter, come from its subclasses.
    """

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.counter = build_networks(config.counter)
        if config.train.density_limit:
            self.counter.register_buffer(DENSITY_LIMIT, torch.tensor(math.inf))  # every checkpoint holds it
        self._networks = self.counter
        self._teacher: Teacher | None = None

    def source_stream(self) -> Stream:
        """The source's crops with densities."""
        return Stream(data="source", batch_size=self.config.train.batch_size, stride=self.output_stride)

    def source_stage(self, name: str = "source", *, draws: str = "") -> Stage:
        """The counter alone, on the source: the row without adaptation. `draws`: see `Stage.draws`."""
        return Stage(name=name, steps=self.config.train.steps, streams={"source": self.source_stream()},
                     title="no adaptation", num_round=0, draws=draws, settings=SOURCE_SETTINGS)

    def labelled_streams(self) -> dict[str, Stream]:
        """Source and target of a round of pseudo-labels."""
        rounds, zooms = self.config.self_supervision, self.stream.zooms
        scales = (LABEL_SCALE_MARGIN[0] * min(zooms), LABEL_SCALE_MARGIN[1] * max(zooms))
        views = self.label_views()
        target = Stream(data="target", batch_size=rounds.target_batch_size, labels=True, scale_jitter=scales,
                        stride=self.output_stride, erased_share=rounds.erased_share, weak_zoom=rounds.teacher_zoom,
                        weak_scales=(min(views), max(views)) if rounds.teacher_share else None)
        return {"source": self.source_stream(), "target": target}

    def objective(self, stage: Stage) -> nn.Module:
        """The density loss on the source and, in a round of pseudo-labels, on the target."""
        if stage.needs_labels:
            rounds = self.config.self_supervision
            return LabelObjective(self.counter, self.config.train, target_weight=rounds.target_weight,
                                  teacher=self._teacher, teacher_share=rounds.teacher_share)
        return CountingObjective(self.counter, self.config.train)

    def trained(self, stage: Stage) -> dict[str, Trained]:
        """The counter, at the rate of the source or of a round of pseudo-labels."""
        rate = self.config.self_supervision.learning_rate if stage.needs_labels else self.config.train.learning_rate
        return {"counter": self.one_cycle(self.density_parameters(), stage, rate)}

    def start(self, stage: Stage, runtime: Runtime) -> None:
        taught = any(use.weak_scales for use in stage.streams.values())
        self._teacher = (Teacher(self.counter, self.config.self_supervision.teacher_decay, runtime.device) if taught
                         else None)
        super().start(stage, runtime)

    def step(self, step: int, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        scalars = super().step(step, batches)
        if self._teacher is not None:
            self._teacher.update()
        return scalars

    def state_dict(self, trained: str = "") -> dict[str, Any]:
        state = super().state_dict(trained)
        return state if self._teacher is None else {**state, "teacher": self._teacher.network.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any], *, optimizers: bool = True) -> None:
        super().load_state_dict(state, optimizers=optimizers)
        if self._teacher is not None and optimizers:  # another stage has a teacher of its own
            self._teacher.network.load_state_dict(state["teacher"])

    @property
    def root(self) -> str:
        return "counter" if self._networks is self.counter else ""

    def reads(self, stage: Stage) -> set[str]:
        """Without the orientation head where the stage does not train it: nothing else uses it."""
        names, head = super().reads(stage), {id(parameter) for parameter in self.counter.orientation_parameters()}
        if any(id(parameter) in head for each in self.trained(stage).values() for parameter in each.parameters):
            return names
        return {name for name in names if ORIENTATION_HEAD not in name.split(".")}

    def density_parameters(self) -> list[nn.Parameter]:
        """The counter's parameters without those of its orientation head."""
        unused = set(self.counter.orientation_parameters())
        return [parameter for parameter in self.counter.parameters() if parameter not in unused]

    @property
    def output_stride(self) -> int:
        return self.counter.output_stride

    @property
    def margin_px(self) -> int:
        counter = self.config.counter
        return BACKBONES[counter.backbone].uses["upsampling" if counter.upsamples else "counter"].context_px

    @property
    def stop_change(self) -> float:
        return self.config.self_supervision.stop_change

    @property
    def drop_rise(self) -> float:
        return self.config.self_supervision.drop_rise

    @property
    def second_counter(self) -> str:
        return self.config.self_supervision.second_counter

    def predict(self, images: Tensor) -> Prediction:
        """Mean and standard deviation over the ensemble's members.

        Source: Liu et al., CVPR 2022, section 3: y = 1/n sum_m F_m(x), u = std_m F_m(x).
        """
        self.counter.eval()
        with torch.inference_mode():
            maps = self.member_maps(images)
        return Prediction(density=maps.mean(0), spread=maps.std(0, unbiased=False), member_counts=maps.sum((2, 3, 4)))

    def member_maps(self, images: Tensor) -> Tensor:
        """(M, N, 1, h, w) float32 persons per cell of (N, 3, H, W) images in [0, 1], by every member."""
        maps = member_maps(self.counter, images)
        if self.config.train.density_limit:
            maps = torch.where(maps > self.counter.get_buffer(DENSITY_LIMIT), 0, maps)
        return maps

    def limit_density(self, persons: float) -> None:
        """Density regularisation (Wang et al., CVPR 2019), here of each member of the ensemble."""
        self.counter.get_buffer(DENSITY_LIMIT).fill_(persons)
        if self._teacher is not None:
            self._teacher.most_persons = persons

    def select(self, density: np.ndarray, certainty: np.ndarray) -> np.ndarray:
        return certainty >= self.config.self_supervision.min_certainty
