"""Self-supervision: an orientation pretext on the target, then rounds of certain pseudo-labels (Liu et al., CVPR
2022).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from crowddist.methods.base import Stage, Stream
from crowddist.methods.parts.counting import CountingMethod, CountingObjective, LabelObjective, Trained
from crowddist.methods.parts.shared_losses import orientation_terms
from crowddist.methods.settings.self_supervision import LABEL_SCALE_JITTER

if TYPE_CHECKING:
    from torch import Tensor

    from crowddist.data.sample import Batch
    from crowddist.methods.settings.self_supervision import SelfSupervisionConfig
    from crowddist.methods.settings.train import TrainConfig
    from crowddist.models.counter import Counter
    from crowddist.models.ensemble import DeepEnsemble


class OrientationObjective(CountingObjective):
    """Stage 1: L2(D(E(x_s)), y_s) + lambda * CE(D_aux(E(x_t)), upside-down?).

    Source: Liu et al., CVPR 2022, section 3. Every target image is shown upright and upside-down; lambda is ours.
    """

    def __init__(self, counter: Counter | DeepEnsemble, train: TrainConfig, *, orientation_weight: float) -> None:
        super().__init__(counter, train)
        self.orientation_weight = orientation_weight

    def forward(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """The losses by name, and the share of target images whose orientation was told right."""
        source = self.source_loss(batches["source"])
        terms = orientation_terms(self.counter, batches["target"].images)
        return {"loss": source + self.orientation_weight * terms["orientation_loss"], "source_loss": source, **terms}


class SelfSupervision(CountingMethod):
    """Both stages of the paper, behind a source stage whose counter is the row without adaptation."""

    @property
    def settings(self) -> SelfSupervisionConfig:
        """The method's part of the configuration."""
        return self.config.self_supervision

    def plan(self) -> tuple[Stage, ...]:
        """Source; source and orientation; then K rounds of source and labels."""
        train, settings = self.config.train, self.settings
        source = self.source_stream()
        target = Stream(data="target", batch_size=settings.target_batch_size)
        stages = [Stage(name="source", steps=train.steps, streams={"source": source}, title="no adaptation",
                        num_round=0)]
        if settings.orientation_steps:
            stages.append(
                Stage(
                    name="orientation",
                    steps=settings.orientation_steps,
                    streams={"source": source, "target": target},
                    title="orientation",
                    num_round=1,
                )
            )
        labelled = replace(target, labels=True, scale_jitter=LABEL_SCALE_JITTER, stride=self.output_stride)
        first = len(stages)
        for number in range(settings.rounds):
            stages.append(
                Stage(
                    name=f"labels-{number + 1}",
                    steps=settings.round_steps,
                    streams={"source": source, "target": labelled},
                    title=f"labels, round {number + 1}",
                    num_round=first + number,
                )
            )
        return tuple(stages)

    def label_views(self) -> tuple[float, ...]:
        """See `Method.label_views`."""
        return self.settings.label_views

    @property
    def stop_change(self) -> float:
        """See `Method.stop_change`."""
        return self.settings.stop_change

    def objective(self, stage: Stage) -> CountingObjective:
        """The losses of the paper's stage that this one belongs to."""
        train, settings = self.config.train, self.settings
        if stage.needs_labels:
            return LabelObjective(self.counter, train, target_weight=settings.target_weight)
        if "target" in stage.streams:
            return OrientationObjective(self.counter, train, orientation_weight=settings.orientation_weight)
        return CountingObjective(self.counter, train)

    def trained(self, stage: Stage) -> dict[str, Trained]:
        """The training's rate on the source alone, the adaptation's afterwards; the orientation head only where the
        stage uses it.
        """
        adapts = "target" in stage.streams
        uses_head = adapts and not stage.needs_labels
        parameters = list(self.counter.parameters()) if uses_head else self.density_parameters()
        return {"counter": self.one_cycle(parameters, stage,
                                          self.settings.learning_rate if adapts else self.config.train.learning_rate)}
