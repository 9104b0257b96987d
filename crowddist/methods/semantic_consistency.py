"""Semantic consistency: features that tell persons from background alike in source and target (Han et al., ICASSP 2020,
SE+FD).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import nn

from crowddist.methods.base import Stage, Stream
from crowddist.methods.parts.counting import CountingMethod, CountingObjective, Trained
from crowddist.methods.parts.semantics import SegmenterObjective, Semantics

if TYPE_CHECKING:
    from torch import Tensor

    from crowddist.config import RunConfig
    from crowddist.data.sample import Batch
    from crowddist.methods.settings.train import TrainConfig
    from crowddist.models.counter import Counter


class SemanticObjective(CountingObjective):
    """L_den^s + lambda^s L_seg^s + lambda^t L_seg^t + lambda^d L_adv, beside the discriminator's own loss.

    Source: Han et al., ICASSP 2020, Eq. 5.
    """

    def __init__(self, counter: Counter, semantics: Semantics, train: TrainConfig) -> None:
        super().__init__(counter, train)
        self.semantics = semantics

    def forward(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """The losses by name, and how well the discriminator tells the domains apart: at 1/2 it cannot."""
        source, target = batches["source"], batches["target"]
        source_features, target_features = (self.counter.encode(batch.images) for batch in (source, target))
        density = self.density_loss(source, source_features)
        weighted, terms = self.semantics.loss(source, target, source_features, target_features)
        return {"loss": density + weighted, "source_loss": density, **terms}


class SemanticConsistency(CountingMethod):
    """A counter of the source, then encoder, density, semantic head and discriminator together on source and target."""

    counter: Counter

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.settings = config.semantic_consistency
        self.semantics = Semantics(self.counter, config)
        self._networks = nn.ModuleDict({"counter": self.counter, "semantics": self.semantics})

    def plan(self) -> tuple[Stage, ...]:
        """Source; a segmenter, unless the target has masks of its own; then all losses together."""
        settings, source = self.settings, self.source_stream()
        masks = replace(source, masks=True)
        stages = [Stage(name="source/counter", steps=self.config.train.steps, streams={"source": source},
                        title="no adaptation", num_round=0)]
        if settings.target_masks == "made":
            streams = ({"source": masks, "boxes": replace(masks, data="boxes")} if self.config.boxes
                       else {"source": masks})
            stages.append(
                Stage(name="source/segmenter", steps=settings.segmenter_steps, streams=streams, title="no adaptation",
                      num_round=0)
            )
        target = Stream(data="target", batch_size=settings.target_batch_size, masks=settings.target_masks == "given",
                        stride=self.output_stride)
        streams = {"source": masks, "target": target}
        stages.append(Stage(name="semantic", steps=settings.steps, streams=streams, title="semantic consistency",
                            num_round=1))
        return tuple(stages)

    def objective(self, stage: Stage) -> nn.Module:
        """The losses of a stage."""
        if "target" in stage.streams:
            return SemanticObjective(self.counter, self.semantics, self.config.train)
        if stage.streams["source"].masks:
            return SegmenterObjective(self.semantics.own_segmenter)
        return CountingObjective(self.counter, self.config.train)

    def trained(self, stage: Stage) -> dict[str, Trained]:
        """Encoder, density and head by one optimizer, the discriminator by another of a constant rate."""
        if "target" in stage.streams:
            counter = [*self.density_parameters(), *self.semantics.head.parameters()]
            return {
                "counter": self.one_cycle(counter, stage, self.settings.learning_rate),
                "discriminator": self.semantics.trained_discriminator(),
            }
        if stage.streams["source"].masks:
            return {"segmenter": self.one_cycle(list(self.semantics.own_segmenter.parameters()), stage,
                                                self.settings.segmenter_rate)}
        return {"counter": self.one_cycle(self.density_parameters(), stage, self.config.train.learning_rate)}

    def networks(self) -> nn.Module:
        """See `Method.networks`."""
        return self._networks
