"""Supervised: a counter trained on the target's own labels. No adaptation, but the ceiling of all adaptations."""

from __future__ import annotations

from dataclasses import replace

from crowddist.methods.base import Stage
from crowddist.methods.parts.counting import CountingMethod


class Supervised(CountingMethod):
    """Trains on the labelled target alone, from scratch: the only method that opens labels of the target."""

    def plan(self) -> tuple[Stage, ...]:
        stage, target = self.source_stage("supervised"), replace(self.source_stream(), data="labelled_target")
        return (replace(stage, streams={"source": target}, title="supervised (the target's labels)"),)
