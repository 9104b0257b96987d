"""Source only: a counter trained on the labelled source, without any adaptation; round 0 of every other method."""

from __future__ import annotations

from crowddist.methods.base import Stage
from crowddist.methods.parts.counting import CountingMethod


class SourceOnly(CountingMethod):
    """Trains on the source and stops."""

    def plan(self) -> tuple[Stage, ...]:
        return (self.source_stage(),)
