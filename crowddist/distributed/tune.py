"""Ray Tune over thresholds: resident actors that conclude from cached predictions, one trial after the other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from ray import tune
from ray.exceptions import RayTaskError

from crowddist import storage
from crowddist.tuning import Search, Trials

MAX_LOST = 2
"""Actors that one trial may lose."""


class _Trial(tune.Trainable):
    """One trial after the other in an actor that keeps the predictions."""

    def setup(self, config: dict[str, Any], search: Search | None = None) -> None:
        self._search, self._values = search, config["values"]
        self._trials: Trials | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._values = new_config["values"]
        return True

    def step(self) -> dict[str, Any]:
        assert self._search is not None  # of with_parameters
        self._trials = self._trials or Trials(self._search)
        return {"score": self._trials.run(self._values)["score"], "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to save, which Tune asks for at the end: a trial's state is its row."""

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """See `save_checkpoint`."""


def run_trials(search: Search, values: Sequence[dict[str, float]], *, num_at_once: int) -> None:
    """See `Launcher.try_values`: a search that was stopped is restored, and a trial whose row is there is not run again.

    Raises:
        InputError: what a trial raised.
        RayError: actors keep dying over a trial.
    """
    folder = storage.scratch_folder(storage.join(search.folder, ".ray-tune"))
    name = hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]
    trainable = tune.with_parameters(_Trial, search=search)
    if tune.Tuner.can_restore(str(folder / name)):
        tuner = tune.Tuner.restore(str(folder / name), trainable=trainable, resume_unfinished=True, restart_errored=True)
    else:
        tuner = tune.Tuner(
            trainable,
            param_space={"values": tune.grid_search(list(values))},
            tune_config=tune.TuneConfig(metric="score", mode="max", max_concurrent_trials=num_at_once, reuse_actors=True),
            run_config=tune.RunConfig(
                name=name, storage_path=str(folder), failure_config=tune.FailureConfig(max_failures=MAX_LOST), verbose=0
            ),
        )
    for error in tuner.fit().errors:
        raise error.cause if isinstance(error, RayTaskError) else error
