"""Self-supervision (Liu et al., CVPR 2022): the target teaches the counter which way is up, then its pseudo-labels.

1. source: the counter on the source, for the row without adaptation.
2. orientation: source density plus upright or upside-down target images (the paper's stage 1, `OrientationObjective`).
3. labels-1 to labels-K: label the target with the ensemble, keep the most certain cells, train on both (stage 2,
   `parts.counting.LabelObjective`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from crowddist.methods.base import Stage, Stream
from crowddist.methods.parts.counting import CountingMethod, CountingObjective, orientation_terms
from crowddist.methods.parts.training import Trained

if TYPE_CHECKING:
    from torch import Tensor, nn

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
        source = self.density_loss(batches["source"])
        terms = orientation_terms(self.counter, batches["target"].images)
        return {"loss": source + self.orientation_weight * terms["orientation_loss"], "source_loss": source, **terms}


class SelfSupervision(CountingMethod):
    """Both stages of the paper, after a stage on the source."""

    @property
    def settings(self) -> SelfSupervisionConfig:
        return self.config.self_supervision

    def plan(self) -> tuple[Stage, ...]:
        settings, stages = self.settings, [self.source_stage()]
        if settings.orientation_steps:
            streams = {"source": self.source_stream(),
                       "target": Stream(data="target", batch_size=settings.target_batch_size)}
            stages.append(Stage(name="orientation", steps=settings.orientation_steps, streams=streams,
                                title="orientation", num_round=1))
        first = len(stages)
        for number in range(settings.rounds):
            stages.append(Stage(name=f"labels-{number + 1}", steps=settings.round_steps,
                                streams=self.labelled_streams(), title=f"labels, round {number + 1}",
                                num_round=first + number))
        return tuple(stages)

    def objective(self, stage: Stage) -> nn.Module:
        if stage.name == "orientation":
            return OrientationObjective(self.counter, self.config.train,
                                        orientation_weight=self.settings.orientation_weight)
        return super().objective(stage)

    def trained(self, stage: Stage) -> dict[str, Trained]:
        if stage.name == "orientation":  # the only stage that uses the counter's orientation head
            return {"counter": self.one_cycle(list(self.counter.parameters()), stage, self.settings.learning_rate)}
        return super().trained(stage)

    def label_views(self) -> tuple[float, ...]:
        return self.settings.label_views or super().label_views()
