"""Self-supervision (Liu et al., CVPR 2022): the target teaches the counter which way is up, then its pseudo-labels.

1. source: the counter on the source, for the row without adaptation.
2. orientation: a new counter on source density and upright or upside-down target images, both from the first step (the
   paper's stage 1, `parts.orientation`).
3. labels-1 to labels-K: label the target with the ensemble, keep the most certain cells, train on both (stage 2,
   `parts.counting.LabelObjective`); a mean teacher may label the crops of each step, too (ours, `parts.teacher`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crowddist.methods.base import Stage
from crowddist.methods.parts.counting import CountingMethod
from crowddist.methods.parts.orientation import ORIENTATION, OrientationObjective, orientation_stages
from crowddist.methods.parts.training import Trained

if TYPE_CHECKING:
    from torch import nn

    from crowddist.methods.settings.self_supervision import SelfSupervisionConfig


class SelfSupervision(CountingMethod):
    """Both stages of the paper, after a stage on the source."""

    @property
    def settings(self) -> SelfSupervisionConfig:
        return self.config.self_supervision

    def plan(self) -> tuple[Stage, ...]:
        stages = [self.source_stage(), *orientation_stages(self)]
        first = len(stages)
        for number in range(self.settings.rounds):
            stages.append(Stage(name=f"labels-{number + 1}", steps=self.settings.round_steps,
                                streams=self.labelled_streams(), title=f"labels, round {number + 1}",
                                num_round=first + number))
        return tuple(stages)

    def objective(self, stage: Stage) -> nn.Module:
        if stage.name == ORIENTATION:
            return OrientationObjective(self.counter, self.config.train,
                                        orientation_weight=self.settings.orientation_weight)
        return super().objective(stage)

    def trained(self, stage: Stage) -> dict[str, Trained]:
        if stage.name == ORIENTATION:  # the only stage that uses the counter's orientation head
            return {"counter": self.one_cycle(list(self.counter.parameters()), stage, self.config.train.learning_rate)}
        return super().trained(stage)

    def label_views(self) -> tuple[float, ...]:
        return self.settings.label_views or super().label_views()
