"""Searches the thresholds of pseudo-labels: the networks run once, then each trial judges cached predictions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from crowddist import storage
from crowddist.config import RunConfig, from_json, to_json
from crowddist.data.manifest import FILE_NAME
from crowddist.data.shards import ShardReader
from crowddist.inference.jobs import PredictJob
from crowddist.inference.prediction_cache import publish_predictions
from crowddist.methods.thresholds import lowest_thresholds, own_values, search_space
from crowddist.reports.text_table import text_table
from crowddist.run import checkpoint
from crowddist.search.styled_source import in_the_style_of
from crowddist.search.trial_values import Listed, Plan, make_plan, tried
from crowddist.search.trials import Search, TrialRunner

if TYPE_CHECKING:
    from crowddist.launch.base import Launcher


def search_thresholds(
    config: RunConfig, checkpoint_url: str, urls: Mapping[str, str], launcher: Launcher, run_trials: TrialRunner, *,
    say: Callable[[str], None]
) -> dict[str, Any]:
    """Tries thresholds on a counter's predictions. Neither predictions nor trials are ever made twice.

    Args:
        config: its `search` says what to try and how to judge it (an objective other than none), its method's
            thresholds are the first trial. Predictions and trials are kept in the `data` folder of its `storage`.
        urls: name -> URL of images: `target`, whose labels are never read; `search`, the labelled images of the
            objectives proxy and labelled; `evaluation`, labelled images of the target, opened only once all trials are
            judged, to say how well the objective ranks them. The last two may be missing.
        launcher: runs the networks over the images.

    Returns:
        The content of `search.json`: `objective`; `trials`, the rows of `Trials.run` in order; `own`, the first of
        them, and `best`; `predictions`, the URL of the cached predictions; and, with an evaluation, `truth`, the same
        trials judged by it, and `ranking`, see `ranking`.

    Raises:
        InputError, FileNotFoundError: bad data, no such checkpoint, or nothing to judge by.
    """
    objective, labelled = config.search.objective, urls.get("search", "")
    images = ({"agreement": urls["target"], "labelled": labelled}.get(objective)
              or in_the_style_of(urls["target"], labelled, config.storage, say=say))

    def judged(plan: Plan, images_url: str, *, by_labels: bool) -> tuple[str, list[dict[str, float]]]:
        """Runs the missing trials of a plan on these images. Returns: the predictions' URL and all rows, in order."""
        predictions = cached_predictions(launcher, checkpoint_url, images_url, config.storage, say=say)
        digest = ShardReader(images_url).manifest.digest if by_labels else ""
        name = hashlib.sha256(f"{predictions} {digest}".encode()).hexdigest()[:24]
        search = Search(checkpoint_url=checkpoint_url, predictions_url=predictions,
                        labelled_url=images_url if by_labels else "",
                        folder=storage.join(storage.normalise(config.storage), "data", "searches", name))
        with storage.exclusive(search.folder):
            num_done = len(tried(plan, search.row))
            say(f"{plan.number} trials" + (f", {num_done} of them done before" if num_done else ""))
            if num_done < plan.number:
                launcher.free_places()
                run_trials(search, plan)
        return predictions, [row for values in tried(plan, search.row) if (row := search.row(values)) is not None]

    predictions, trials = judged(make_plan(config), images, by_labels=objective != "agreement")
    found: dict[str, Any] = {"objective": objective, "trials": trials, "own": trials[0], "best": best_trial(trials),
                             "predictions": predictions}
    if urls.get("evaluation"):
        same = Listed(values=[{name: trial[name] for name in own_values(config)} for trial in trials])
        _, truth = judged(same, urls["evaluation"], by_labels=True)
        found |= {"truth": truth, "ranking": ranking(trials, truth)}
    return found


def cached_predictions(launcher: Launcher, checkpoint_url: str, images_url: str, work: str, *,
                       say: Callable[[str], None]) -> str:
    """URL of the set that holds a checkpoint's predictions for a data set; made now, or continued, unless it is there.

    Its name is a digest of the checkpoint, the data and the arithmetic, so predictions that differ never mix.

    Args:
        work: the folder of all runs; predictions lie in its `data` folder.

    Raises:
        FileNotFoundError, InputError: no such checkpoint or data.
    """
    images, config = ShardReader(images_url), from_json(checkpoint.load(checkpoint_url)["config"])
    lowest = to_json(lowest_thresholds(config))
    content = hashlib.sha256(storage.read_bytes(checkpoint_url))
    for part in (images.manifest.digest, lowest, launcher.arithmetic):
        content.update(part.encode())
    url = storage.join(storage.normalise(work), "data", "predictions", content.hexdigest()[:24])
    with storage.exclusive(url, waiting=lambda: say(f"waiting for another process, which makes {url}")):
        if storage.exists(storage.join(url, FILE_NAME)):
            say(f"predictions of {len(images)} images: cached at {url}")
        else:
            say(f"predicting {len(images)} images")
            records = launcher.run(PredictJob(checkpoint_url=checkpoint_url, images_url=images_url, predictions_url=url,
                                              config_json=lowest))
            publish_predictions(url, images, records, name=f"{images.manifest.name}-predictions"[:100])
    return url


def recorded_config(checkpoint_url: str) -> RunConfig:
    """The configuration in a checkpoint. Raises: InputError for a method whose labels depend on no threshold."""
    config = from_json(checkpoint.load(checkpoint_url)["config"])
    search_space(config)
    return config


def best_trial(trials: Sequence[dict[str, float]]) -> dict[str, float]:
    """The trial with the largest score; the first of equal ones, so the configured values win a tie."""
    return max(trials, key=lambda trial: trial["score"])


def ranking(trials: Sequence[dict[str, float]], truths: Sequence[dict[str, float]]) -> dict[str, float]:
    """How well a search's scores rank its trials, compared with true labels of other images.

    Args:
        trials: as the search judged them, the configured values first.
        truths: the same values, judged by the labels of images that the search did not use.

    Returns:
        `rank_correlation`, Spearman's, of search score and true score, 0 where all scores are equal; `regret` and
        `own_regret`, the best true score less that of the chosen and of the configured trial; `mae`, `own_mae` and
        `best_mae`, the mean error of the count by the chosen, the configured and the best trial; and, where errors
        differ, `mae_rank_correlation`, of search score and negative error.

    Raises:
        ValueError: the trials are not the same.
    """
    from scipy.stats import rankdata  # slow to import

    names = [name for name in trials[0] if "." in name]
    if [[trial[name] for name in names] for trial in trials] != [[truth[name] for name in names] for truth in truths]:
        raise ValueError("the trials and the truths must be of the same values in the same order")

    def correlation(one: Sequence[float], other: Sequence[float]) -> float:
        ranks = [rankdata(np.round(values, 9)) for values in (one, other)]
        return float(np.corrcoef(*ranks)[0, 1]) if all(len(set(part)) > 1 for part in ranks) else 0.0

    scores = [trial["score"] for trial in trials]
    worth, error = [truth["score"] for truth in truths], [truth["mae"] for truth in truths]
    chosen = trials.index(best_trial(trials))
    found = {"rank_correlation": correlation(scores, worth), "regret": max(worth) - worth[chosen],
             "own_regret": max(worth) - worth[0], "mae": error[chosen], "own_mae": error[0], "best_mae": min(error)}
    if len(set(error)) > 1:
        found["mae_rank_correlation"] = correlation(scores, [-value for value in error])
    return found


def trial_table(trials: Sequence[dict[str, float]], *, most: int = 12) -> str:
    """The best trials as plain text, best first, and the first trial, which has the configured values."""
    own, best = trials[0], best_trial(trials)
    shown = sorted(trials, key=lambda trial: -trial["score"])[:most]
    if own not in shown:
        shown.append(own)
    names = list(own)
    lines = [[*(name.rpartition(".")[2].replace("_", " ") for name in names), ""]]
    for trial in shown:
        marks = [mark for mark, other in (("<- best", best), ("<- as configured", own)) if trial is other]
        lines.append([*(f"{trial[name]:.3f}" for name in names), "  ".join(marks)])
    return text_table(lines, align=">" * len(names) + "<")
