"""Search of thresholds for pseudo-labels: a trial concludes anew from predictions that are cached once, and an
objective says what its labels are worth.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from crowddist import storage
from crowddist.data.manifest import FILE_NAME
from crowddist.data.shards import ShardReader
from crowddist.methods.thresholds import lowest_thresholds, search_space
from crowddist.reports.text_table import text_table
from crowddist.search.confidence_sweep import sweep_confidence
from crowddist.search.trial_values import Listed, Plan, tried
from crowddist.search.trials import Search, looked_at

if TYPE_CHECKING:
    from crowddist.config import Objective, RunConfig
    from crowddist.inference.jobs import Job



class Runner(Protocol):
    """What a search needs of a launcher."""

    @property
    def arithmetic(self) -> str:
        """What the last bits of its predictions depend on."""

    def run(self, job: Job) -> list[Any]:
        """Does a job on every image of its data set. Returns: the records of its units."""

    def try_values(self, search: Search, plan: Plan) -> None:
        """Runs the trials of a plan that have no row yet."""


def search_thresholds(
    runner: Runner,
    checkpoint_url: str,
    plan: Plan,
    *,
    objective: Objective,
    target_url: str,
    labelled_url: str = "",
    evaluation_url: str = "",
    work: str,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Tries thresholds on what a counter predicts; predictions, and trials that are done, are never made again.

    Args:
        runner: shows the images to the networks, and runs the trials.
        plan: what to try; the others have to beat the first.
        target_url: the target's images, whose labels, should there be any, stay closed.
        labelled_url: labelled images, for the objectives that need some.
        evaluation_url: labelled images of the target that are opened when all is decided, to say how well the objective
            ranks the trials; "": none.
        work: the folder of all runs; predictions and trials are kept in its `data` folder.

    Returns:
        `objective`; `trials`, as `Trials.run` returns them, in order; `own`, the first, and `best`, one of them;
        `predictions`, their URL; with an evaluation, `truth`, its trials, and `ranking`, see `ranking`; and, of methods
        that have one, `sweep`, see `sweep_confidence`, at the best trial's other values.

    Raises:
        InputError, FileNotFoundError: bad data, no such checkpoint, or nothing to go by.
    """
    from crowddist.search.styled_source import in_the_style_of  # imports torch

    images = ({"agreement": target_url, "labelled": labelled_url}.get(objective)
              or in_the_style_of(target_url, labelled_url, work, say=say))
    predictions, trials = _tried(runner, checkpoint_url, plan, images, work, labelled=objective != "agreement", say=say)
    found: dict[str, Any] = {"objective": objective, "trials": trials, "own": trials[0], "best": best_trial(trials),
                             "predictions": predictions}
    evaluation: dict[str, Any] = {}
    if evaluation_url:
        names = [parameter.name for parameter in search_space(recorded_config(checkpoint_url))]
        values = [{name: trial[name] for name in names} for trial in trials]
        true_predictions, truth = _tried(runner, checkpoint_url, Listed(values=values), evaluation_url, work,
                                         labelled=True, say=say)
        found |= {"truth": truth, "ranking": ranking(trials, truth)}
        evaluation = {"evaluated": looked_at(true_predictions), "labelled": ShardReader(evaluation_url)}
    if rows := sweep_confidence(checkpoint_url, found["best"], looked_at(predictions), **evaluation):
        found["sweep"] = rows
    return found


def _tried(
    runner: Runner, checkpoint_url: str, plan: Plan, images_url: str, work: str, *, labelled: bool,
    say: Callable[[str], None]
) -> tuple[str, list[dict[str, float]]]:
    """Does what is left of a plan. Returns: the URL of the predictions, and the rows of the trials in order.

    Args:
        images_url: what the trials are of.
        labelled: whether these images' labels judge them.
    """
    predictions = cached_predictions(runner, checkpoint_url, images_url, work, say=say)
    kind = f"{predictions} {ShardReader(images_url).manifest.digest if labelled else ''}"
    folder = storage.join(storage.normalise(work), "data", "searches", hashlib.sha256(kind.encode()).hexdigest()[:24])
    search = Search(checkpoint_url=checkpoint_url, predictions_url=predictions,
                    labelled_url=images_url if labelled else "", folder=folder)
    with storage.exclusive(folder):
        num_done = len(tried(plan, search.row))
        say(f"{plan.number} trials" + (f", {num_done} of them done before" if num_done else ""))
        if num_done < plan.number:
            runner.try_values(search, plan)
    return predictions, [row for values in tried(plan, search.row) if (row := search.row(values)) is not None]


def cached_predictions(runner: Runner, checkpoint_url: str, images_url: str, work: str, *,
                       say: Callable[[str], None]) -> str:
    """The set that holds a checkpoint's predictions for a data set, made now unless it is there. Returns: its URL.

    Its place is named by the bytes of the checkpoint and of the data and by what the last bits of a prediction depend
    on: other ones never meet.

    Args:
        work: the folder of all runs; predictions lie below its `data` folder, and a set that was begun is taken up
            again.

    Raises:
        FileNotFoundError, InputError: there is no such checkpoint or data, its method has no thresholds, or another
            process makes the same predictions.
    """
    from crowddist.config import to_json
    from crowddist.inference.jobs import PredictJob
    from crowddist.inference.prediction_cache import publish_predictions

    images, lowest = ShardReader(images_url), to_json(lowest_thresholds(recorded_config(checkpoint_url)))
    content = hashlib.sha256(storage.read_bytes(checkpoint_url))
    for part in (images.manifest.digest, lowest, runner.arithmetic):
        content.update(part.encode())
    url = storage.join(storage.normalise(work), "data", "predictions", content.hexdigest()[:24])
    with storage.exclusive(url):
        if storage.exists(storage.join(url, FILE_NAME)):
            say(f"predictions of {len(images)} images: cached at {url}")
        else:
            say(f"predicting {len(images)} images")
            records = runner.run(
                PredictJob(checkpoint_url=checkpoint_url, images_url=images_url, predictions_url=url,
                           config_json=lowest)
            )
            publish_predictions(url, images, records, name=f"{images.manifest.name}-predictions"[:100])
    return url


def recorded_config(checkpoint_url: str) -> RunConfig:
    """The configuration that a checkpoint was made with. Raises: InputError where it is none of a counter whose labels
    thresholds decide.
    """
    from crowddist.config import from_json
    from crowddist.run import checkpoint

    config = from_json(checkpoint.load(checkpoint_url)["config"])
    search_space(config)
    return config


def best_trial(trials: Sequence[dict[str, float]]) -> dict[str, float]:
    """The trial of largest score; of equal ones the first, which is the configuration's own where that is among
    them.
    """
    return max(trials, key=lambda trial: trial["score"])


def ranking(trials: Sequence[dict[str, float]], truths: Sequence[dict[str, float]]) -> dict[str, float]:
    """How well the scores of a search rank its trials, where the truth is known of other images.

    Args:
        trials: as the search judged them, the configuration's own first.
        truths: the same values, judged by the labels of images that the search has not seen.

    Returns:
        `rank_correlation`, Spearman's, of the scores; `regret`, how much worse in truth the chosen trial is than the
        best one, and `own_regret`, likewise of the configuration's own; `mae`, `own_mae` and `best_mae`, the mean error
        of the count of the chosen, the own and the best trial; and `mae_rank_correlation`, of the scores with less
        error, where the error depends on the values. 0 where all scores are equal.

    Raises:
        ValueError: the trials are not the same.
    """
    from scipy.stats import rankdata

    names = [name for name in trials[0] if "." in name]
    if [[trial[name] for name in names] for trial in trials] != [[truth[name] for name in names] for truth in truths]:
        raise ValueError("the trials and the truths must be of the same values in the same order")

    def correlation(one: Sequence[float], other: Sequence[float]) -> float:
        ranks = [rankdata(np.round(values, 9)) for values in (one, other)]
        return float(np.corrcoef(*ranks)[0, 1]) if all(len(set(part)) > 1 for part in ranks) else 0.0

    scores, worth, error = ([row[name] for row in rows]
                            for rows, name in ((trials, "score"), (truths, "score"), (truths, "mae")))
    chosen = trials.index(best_trial(trials))
    found = {
        "rank_correlation": correlation(scores, worth),
        "regret": max(worth) - worth[chosen],
        "own_regret": max(worth) - worth[0],
        "mae": error[chosen],
        "own_mae": error[0],
        "best_mae": min(error),
    }
    if len(set(error)) > 1:
        found["mae_rank_correlation"] = correlation(scores, [-value for value in error])
    return found


def trial_table(trials: Sequence[dict[str, float]], *, most: int = 12) -> str:
    """The best trials as plain text, best first, and the configuration's own, which is the first of all."""
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
