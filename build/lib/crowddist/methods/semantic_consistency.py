"""Semantic consistency (SE+FD; Han et al., ICASSP 2020): features that tell persons from background in both domains.

1. source/counter: the counter on the source, for the row without adaptation.
2. source/segmenter: a segmenter on the source's masks, unless the target has masks of its own.
3. semantic: density, masks of persons and a discriminator of features together (Eq. 5,
   `parts.semantics.SemanticObjective`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crowddist.methods.base import Stage
from crowddist.methods.parts.semantics import SemanticMethod, SemanticObjective
from crowddist.methods.parts.training import Trained

if TYPE_CHECKING:
    from torch import nn


class SemanticConsistency(SemanticMethod):
    """A counter on the source; then encoder, density, semantic head and discriminator on source and target."""

    def plan(self) -> tuple[Stage, ...]:
        semantic = Stage(name="semantic", steps=self.config.semantic_consistency.steps, streams=self.aligned_streams(),
                         title="semantic consistency", num_round=1)
        return (self.source_stage("source/counter", draws="source"), *self.segmenter_stages(), semantic)

    def objective(self, stage: Stage) -> nn.Module:
        if stage.name == "semantic":
            return SemanticObjective(self.counter, self.semantics, self.config)
        return super().objective(stage)

    def trained(self, stage: Stage) -> dict[str, Trained]:
        if stage.name == "semantic":
            return self.trained_by_alignment(stage, self.density_parameters())
        return super().trained(stage)
