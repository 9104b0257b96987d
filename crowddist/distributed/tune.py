"""Ray Tune over thresholds: resident actors that conclude from cached predictions; a trial that is done is never done again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from ray import tune
from ray.exceptions import RayTaskError

from crowddist import storage
from crowddist.config import RunConfig
from crowddist.data.shards import ShardReader
from crowddist.distributed.labeler import run_units
from crowddist.distributed.runtime import connect, has_gpus
from crowddist.search_space import trial_values
from crowddist.tuning import Objective, Trials, best_trial, cached_predictions

MAX_LOST = 2
"""Actors that one trial may lose."""


def search_thresholds(
    checkpoint_url: str,
    config: RunConfig,
    images_url: str,
    work: str,
    *,
    objective: Objective,
    num_trials: int,
    num_workers: int,
    threads: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Tries thresholds on what a checkpoint predicts for a data set.

    Args:
        checkpoint_url: of the counter; `config` is what it records.
        images_url: the target's images, whose labels, should there be any, stay closed; or, where the objective needs labels, those images.
        work: the folder of all runs; predictions and trials are kept there.
        num_trials: the first is the configuration as it is, see `search_space.trial_values`.
        num_workers: actors that predict, and trials at once.
        threads: CPU threads of each predicting actor.

    Returns:
        `objective`; `trials`, as `Trials.run` returns them, in order; `own`, the first, and `best`, one of them; `predictions`, their URL.

    Raises:
        InputError, FileNotFoundError: bad data, no such checkpoint, or nothing to go by.
    """
    values = trial_values(config, num_trials)
    connect(num_workers)

    def predict(checkpoint_url: str, images_url: str, url: str, lowest: str) -> list[dict[str, Any]]:
        use_gpu = has_gpus(num_workers)
        return run_units("predict", checkpoint_url, images_url, (url, lowest), num_actors=num_workers, threads=threads, use_gpu=use_gpu)

    predictions = cached_predictions(checkpoint_url, images_url, work, predict, say=say)
    labelled = "" if objective == "agreement" else images_url
    kind = f"agreement {predictions}" if not labelled else f"labelled {predictions} {ShardReader(labelled).manifest.digest}"
    place = storage.join(storage.normalise(work), "data", "searches", hashlib.sha256(kind.encode()).hexdigest()[:24])
    with storage.exclusive(place):
        left = [point for point in values if _known(place, point) is None]
        say(f"{num_trials} trials, {num_trials - len(left)} of them done before" if len(left) < num_trials else f"{num_trials} trials")
        if left:
            _run_trials((checkpoint_url, predictions, labelled), place, left, num_workers)
    trials = [row for point in values if (row := _known(place, point)) is not None]
    return {"objective": objective, "trials": trials, "own": trials[0], "best": best_trial(trials), "predictions": predictions}


class _Trial(tune.Trainable):
    """One trial after the other in an actor that keeps the predictions."""

    def setup(self, config: dict[str, Any], source: tuple[str, str, str] = ("", "", ""), place: str = "") -> None:
        self._source, self._place, self._values = source, place, config["values"]
        self._trials: Trials | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._values = new_config["values"]
        return True

    def step(self) -> dict[str, Any]:
        row = _known(self._place, self._values)
        if row is None:
            self._trials = self._trials or Trials(*self._source)
            row = self._trials.run(self._values)
            storage.write_json(_record(self._place, self._values), row)
        return {"score": row["score"], "done": True}


def _record(place: str, values: dict[str, float]) -> str:
    """Where a trial's row is kept."""
    return storage.join(place, f"{hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:24]}.json")


def _known(place: str, values: dict[str, float]) -> dict[str, float] | None:
    """The row of a trial that is done."""
    url = _record(place, values)
    return storage.read_json(url) if storage.exists(url) else None


def _run_trials(source: tuple[str, str, str], place: str, values: list[dict[str, float]], num_at_once: int) -> None:
    folder = storage.scratch_folder(storage.join(place, ".ray-tune"))
    name = hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]
    trainable = tune.with_parameters(_Trial, source=source, place=place)
    if tune.Tuner.can_restore(str(folder / name)):
        tuner = tune.Tuner.restore(str(folder / name), trainable=trainable, resume_unfinished=True, restart_errored=True)
    else:
        tuner = tune.Tuner(
            trainable,
            param_space={"values": tune.grid_search(values)},
            tune_config=tune.TuneConfig(metric="score", mode="max", max_concurrent_trials=num_at_once, reuse_actors=True),
            run_config=tune.RunConfig(
                name=name, storage_path=str(folder), failure_config=tune.FailureConfig(max_failures=MAX_LOST), verbose=0
            ),
        )
    for error in tuner.fit().errors:
        raise error.cause if isinstance(error, RayTaskError) else error
