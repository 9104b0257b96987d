"""Source only: the counter as the labelled source makes it, without any adaptation; every method's round 0."""

from __future__ import annotations

from crowddist.methods.base import Stage, Stream
from crowddist.methods.counting import CountingMethod, CountingObjective


class SourceOnly(CountingMethod):
    """Trains on the source and stops. On the target's own labelled images it is the supervised ceiling."""

    def plan(self) -> tuple[Stage, ...]:
        """One stage."""
        train = self.config.train
        streams = {"source": Stream(data="source", batch_size=train.batch_size)}
        return (Stage(name="source", steps=train.steps, streams=streams, title="no adaptation", num_round=0),)

    def objective(self, stage: Stage) -> CountingObjective:
        """The density loss on the source."""
        return CountingObjective(self.counter, self.config.train)

    def peak_rate(self, stage: Stage) -> float:
        """The training's rate."""
        return self.config.train.learning_rate
