"""Supervised: the counter as the target's own labels make it, the ceiling of every adaptation and no adaptation
itself.
"""

from __future__ import annotations

from crowddist.methods.base import Stage, Stream
from crowddist.methods.parts.counting import CountingMethod, CountingObjective, Trained


class Supervised(CountingMethod):
    """Trains on the labelled target alone, from scratch: the only method that opens labels of the target."""

    def plan(self) -> tuple[Stage, ...]:
        """One stage."""
        train = self.config.train
        streams = {"source": Stream(data="labelled_target", batch_size=train.batch_size, stride=self.output_stride)}
        return (Stage(name="supervised", steps=train.steps, streams=streams, title="supervised (the target's labels)",
                      num_round=0),)

    def objective(self, stage: Stage) -> CountingObjective:
        """The density loss on the target."""
        return CountingObjective(self.counter, self.config.train)

    def trained(self, stage: Stage) -> dict[str, Trained]:
        """The counter at the training's rate."""
        return {"counter": self.one_cycle(self.density_parameters(), stage, self.config.train.learning_rate)}
