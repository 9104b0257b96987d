"""Ray Tune over thresholds: resident actors that conclude from cached predictions, one trial after the other."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from ray import tune
from ray.exceptions import RayTaskError
from ray.tune.search import Searcher

from crowddist import storage
from crowddist.distributed.ray_launcher import interruptible
from crowddist.process.progress_bar import watched
from crowddist.search.trial_values import Plan, Values, tried
from crowddist.search.trials import Search, Trials

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


class _Planned(Searcher):
    """Hands the trials of a plan to Tune: those that have no row yet, so many at once, and a batch when the one before
    it has ended.
    """

    def __init__(self, plan: Plan, search: Search, num_at_once: int) -> None:
        super().__init__(metric="score", mode="max")
        self._search, self._num_at_once = search, num_at_once
        self._batches: Iterator[list[Values]] | None = plan.batches(search.row)
        self._waiting: deque[Values] = deque()
        self._live: set[str] = set()
        self._progress = watched(range(plan.number - len(tried(plan, search.row))), "trials")

    def suggest(self, trial_id: str) -> Any:
        while not self._waiting and not self._live and self._batches is not None:
            batch = next(self._batches, None)
            if batch is None:
                self._batches = None
            else:
                self._waiting.extend(values for values in batch if self._search.row(values) is None)
        if self._waiting and len(self._live) < self._num_at_once:
            self._live.add(trial_id)
            return {"values": self._waiting.popleft()}
        return None if self._live else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._live.discard(trial_id)
        next(self._progress, None)
        if error:  # `fit` tells of it; nothing else is begun
            self._batches = None
            self._waiting.clear()

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: what is left to do follows from the plan and the rows."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing either; Tune keeps a copy of its arguments that is never read."""
        return {}


def run_trials(search: Search, plan: Plan, *, num_at_once: int) -> None:
    """Runs a plan's missing trials. Tune's own files are never read again: a search that was stopped goes on from the
    rows.

    Raises:
        InputError: what a trial raised.
        RayError: actors keep dying over a trial.
    """
    tuner = tune.Tuner(
        tune.with_parameters(_Trial, search=search),
        tune_config=tune.TuneConfig(search_alg=_Planned(plan, search, num_at_once), num_samples=plan.number,
                                    reuse_actors=True),
        run_config=tune.RunConfig(
            name=str(time.time_ns()),
            storage_path=str(storage.scratch_folder(storage.join(search.folder, ".ray-tune"))),
            failure_config=tune.FailureConfig(max_failures=MAX_LOST),
            verbose=0,
        ),
    )
    with interruptible():
        errors = tuner.fit().errors
    for error in errors:
        raise error.cause if isinstance(error, RayTaskError) else error
