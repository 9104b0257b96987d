"""Source only: the counter as the labelled source makes it, without any adaptation; every method's round 0."""

from __future__ import annotations

from crowddist.methods.base import Stage
from crowddist.methods.parts.counting import CountingMethod, CountingObjective, Trained


class SourceOnly(CountingMethod):
    """Trains on the source and stops."""

    def plan(self) -> tuple[Stage, ...]:
        """One stage."""
        streams = {"source": self.source_stream()}
        return (Stage(name="source", steps=self.config.train.steps, streams=streams, title="no adaptation",
                      num_round=0),)

    def objective(self, stage: Stage) -> CountingObjective:
        """The density loss on the source."""
        return CountingObjective(self.counter, self.config.train)

    def trained(self, stage: Stage) -> dict[str, Trained]:
        """The counter at the training's rate."""
        return {"counter": self.one_cycle(self.density_parameters(), stage, self.config.train.learning_rate)}
