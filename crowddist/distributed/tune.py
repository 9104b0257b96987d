"""Ray Tune over the kept share: resident trial actors that select from predictions cached once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ray import tune
from ray.exceptions import RayTaskError

from crowddist import storage
from crowddist.distributed.labeler import run_units
from crowddist.distributed.runtime import connect, has_gpus
from crowddist.tuning import OBJECTIVE, best_trial, cached_predictions, require_uncertainty, share_grid, try_share


def search_kept_share(
    checkpoint_url: str, images_url: str, work: str, *, num_trials: int, num_workers: int, threads: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Tries kept shares on a checkpoint's predictions for a data set, whose labels, should there be any, stay closed.

    Args:
        work: the folder of all runs; predictions are cached there.
        num_trials: kept shares, evenly from 1 / num_trials to 1.
        num_workers: actors that predict, and trials at once.
        threads: CPU threads of each predicting actor.

    Returns:
        `objective`, its name; `trials`, as `tuning.try_share` returns them, by rising share; `best`, one of them; `predictions`, their URL.

    Raises:
        InputError, FileNotFoundError: bad data, no such checkpoint, or one without an ensemble.
    """
    shares = share_grid(num_trials)
    connect(num_workers)

    def label(checkpoint_url: str, images_url: str, labels_url: str) -> list[dict[str, Any]]:
        use_gpu = has_gpus(num_workers)
        return run_units("label", checkpoint_url, images_url, (labels_url,), num_actors=num_workers, threads=threads, use_gpu=use_gpu)

    predictions = cached_predictions(checkpoint_url, images_url, work, label, say=say)
    require_uncertainty(predictions)
    say(f"trying {num_trials} kept shares")
    trials = _run_trials(predictions, shares, num_workers)
    return {"objective": OBJECTIVE, "trials": trials, "best": best_trial(trials), "predictions": predictions}


def _run_trials(predictions: str, shares: list[float], num_at_once: int) -> list[dict[str, float]]:
    def trial(config: dict[str, float]) -> None:
        tune.report(try_share(predictions, config["kept_share"]))

    tuner = tune.Tuner(
        trial,
        param_space={"kept_share": tune.grid_search(shares)},
        tune_config=tune.TuneConfig(metric=OBJECTIVE, mode="max", max_concurrent_trials=num_at_once, reuse_actors=True),
        run_config=tune.RunConfig(
            name=f"kept-share-{time.time_ns()}",
            storage_path=str(storage.scratch_folder(storage.join(predictions, ".ray-tune"))),
            # A trial whose actor dies is tried again.
            failure_config=tune.FailureConfig(max_failures=2),
            verbose=0,
        ),
    )
    results = tuner.fit()
    for error in results.errors:
        raise error.cause if isinstance(error, RayTaskError) else error
    names = ("kept_share", OBJECTIVE, "kept_mass", "kept_spread", "kept_cells", "relative_spread")
    reported = [{name: float((results[index].metrics or {})[name]) for name in names} for index in range(len(results))]
    return sorted(reported, key=lambda values: values["kept_share"])
