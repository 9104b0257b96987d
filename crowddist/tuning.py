"""Search of thresholds for pseudo-labels: a trial concludes anew from predictions that are cached once, and an objective says what its labels are worth."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from crowddist import storage
from crowddist.data.manifest import FILE_NAME
from crowddist.data.shards import ShardReader
from crowddist.errors import InputError
from crowddist.ops.agreement import agreement, disagreement_sums, kept_sums
from crowddist.search_space import lowest_thresholds, search_space, with_values
from crowddist.sweep import sweep_confidence
from crowddist.trial_plan import Listed, Plan, tried

if TYPE_CHECKING:
    from crowddist.config import RunConfig
    from crowddist.evaluate import Truth
    from crowddist.launcher import Launcher
    from crowddist.methods.base import Method
    from crowddist.methods.config import Objective
    from crowddist.predictions import CachedPrediction
    from crowddist.predictor import ImagePrediction

MOST_IMAGES = 400
"""Images that a trial looks at, evenly spread over the data set: their predictions are held in memory. ours."""
BLOCK_PX = 32
"""Side of the blocks in which regression and detection are compared, px of the image as the networks see it. ours."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """Where the trials of a search read, and where each leaves its row."""

    checkpoint_url: str
    """The counter."""
    predictions_url: str
    """What it says, see `cached_predictions`."""
    labelled_url: str = ""
    """Labelled images, of which the predictions are; "": nothing but the predictions is ever read, neither images nor labels."""
    folder: str
    """Of the rows."""

    def row_url(self, values: Mapping[str, float]) -> str:
        """Where the trial of these values leaves its row."""
        return storage.join(self.folder, f"{hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:24]}.json")

    def row(self, values: Mapping[str, float]) -> dict[str, float] | None:
        """The row of a trial; None of one that is not done."""
        url = self.row_url(values)
        return storage.read_json(url) if storage.exists(url) else None


def search_thresholds(
    launcher: Launcher,
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
        launcher: shows the images to the networks, and runs the trials.
        plan: what to try; the others have to beat the first.
        target_url: the target's images, whose labels, should there be any, stay closed.
        labelled_url: labelled images, for the objectives that need some.
        evaluation_url: labelled images of the target that are opened when all is decided, to say how well the objective ranks the trials; "": none.
        work: the folder of all runs; predictions and trials are kept in its `data` folder.

    Returns:
        `objective`; `trials`, as `Trials.run` returns them, in order; `own`, the first, and `best`, one of them; `predictions`, their URL; with an
        evaluation, `truth`, its trials, and `ranking`, see `ranking`; and, of methods that have one, `sweep`, see `sweep.sweep_confidence`, at the best
        trial's other values.

    Raises:
        InputError, FileNotFoundError: bad data, no such checkpoint, or nothing to go by.
    """
    from crowddist.proxy import in_the_style_of  # imports torch

    images = {"agreement": target_url, "labelled": labelled_url}.get(objective) or in_the_style_of(target_url, labelled_url, work, say=say)
    predictions, trials = _tried(launcher, checkpoint_url, plan, images, work, labelled=objective != "agreement", say=say)
    found: dict[str, Any] = {"objective": objective, "trials": trials, "own": trials[0], "best": best_trial(trials), "predictions": predictions}
    evaluation: dict[str, Any] = {}
    if evaluation_url:
        names = [parameter.name for parameter in search_space(recorded_config(checkpoint_url))]
        values = [{name: trial[name] for name in names} for trial in trials]
        true_predictions, truth = _tried(launcher, checkpoint_url, Listed(values=values), evaluation_url, work, labelled=True, say=say)
        found |= {"truth": truth, "ranking": ranking(trials, truth)}
        evaluation = {"evaluated": looked_at(true_predictions), "labelled": ShardReader(evaluation_url)}
    if rows := sweep_confidence(checkpoint_url, found["best"], looked_at(predictions), **evaluation):
        found["sweep"] = rows
    return found


def _tried(
    launcher: Launcher, checkpoint_url: str, plan: Plan, images_url: str, work: str, *, labelled: bool, say: Callable[[str], None]
) -> tuple[str, list[dict[str, float]]]:
    """Does what is left of a plan. Returns: the URL of the predictions, and the rows of the trials in order.

    Args:
        images_url: what the trials are of.
        labelled: whether these images' labels judge them.
    """
    predictions = cached_predictions(launcher, checkpoint_url, images_url, work, say=say)
    kind = f"{predictions} {ShardReader(images_url).manifest.digest if labelled else ''}"
    folder = storage.join(storage.normalise(work), "data", "searches", hashlib.sha256(kind.encode()).hexdigest()[:24])
    search = Search(checkpoint_url=checkpoint_url, predictions_url=predictions, labelled_url=images_url if labelled else "", folder=folder)
    with storage.exclusive(folder):
        num_done = len(tried(plan, search.row))
        say(f"{plan.number} trials" + (f", {num_done} of them done before" if num_done else ""))
        if num_done < plan.number:
            launcher.try_values(search, plan)
    return predictions, [row for values in tried(plan, search.row) if (row := search.row(values)) is not None]


def looked_at(predictions_url: str) -> Iterator[CachedPrediction]:
    """The predictions that a search goes by, of a set of them: at most `MOST_IMAGES`, evenly spread, in order."""
    from crowddist.predictions import read_predictions

    step = max(-(-len(ShardReader(predictions_url)) // MOST_IMAGES), 1)
    return itertools.islice(read_predictions(predictions_url), 0, None, step)


def cached_predictions(launcher: Launcher, checkpoint_url: str, images_url: str, work: str, *, say: Callable[[str], None]) -> str:
    """The set that holds a checkpoint's predictions for a data set, made now unless it is there. Returns: its URL.

    Its place is named by the bytes of the checkpoint and of the data and by what the last bits of a prediction depend on: other ones never meet.

    Args:
        work: the folder of all runs; predictions lie below its `data` folder, and a set that was begun is taken up again.

    Raises:
        FileNotFoundError, InputError: there is no such checkpoint or data, its method has no thresholds, or another process makes the same predictions.
    """
    from crowddist.config import to_json
    from crowddist.predictions import publish_predictions

    images, lowest = ShardReader(images_url), to_json(lowest_thresholds(recorded_config(checkpoint_url)))
    content = hashlib.sha256(storage.read_bytes(checkpoint_url))
    for part in (images.manifest.digest, lowest, launcher.arithmetic):
        content.update(part.encode())
    url = storage.join(storage.normalise(work), "data", "predictions", content.hexdigest()[:24])
    with storage.exclusive(url):
        if storage.exists(storage.join(url, FILE_NAME)):
            say(f"predictions of {len(images)} images: cached at {url}")
        else:
            say(f"predicting {len(images)} images")
            records = launcher.predict(checkpoint_url, images_url, url, lowest)
            publish_predictions(url, images, records, name=f"{images.manifest.name}-predictions"[:100])
    return url


def recorded_config(checkpoint_url: str) -> RunConfig:
    """The configuration that a checkpoint was made with. Raises: InputError where it is none of a counter whose labels thresholds decide."""
    from crowddist import checkpoint
    from crowddist.config import from_json

    config = from_json(checkpoint.load(checkpoint_url)["config"])
    search_space(config)
    return config


class Trials:
    """Tries values on the predictions of one checkpoint; it holds them, and what was concluded last, so that the next trial costs little."""

    def __init__(self, search: Search) -> None:
        from crowddist.evaluate import read_truth
        from crowddist.predictor import Predictor

        self._search = search
        self._method: Method = Predictor.from_checkpoint(search.checkpoint_url).method
        self._select_only = {parameter.name for parameter in search_space(self._method.config) if parameter.selects_only}
        self._cached = list(looked_at(search.predictions_url))
        stream, stride = self._method.stream, self._method.output_stride
        labelled = ShardReader(search.labelled_url) if search.labelled_url else None
        self._truths = [read_truth(labelled, cached.key, cached.seen, stream, stride) for cached in self._cached] if labelled else []
        self._concluded: dict[str, float] | None = None
        self._judged: list[ImagePrediction] = []

    def run(self, values: Mapping[str, float]) -> dict[str, float]:
        """One trial, whose row is left in the search's folder; one that is there is returned as it is.

        Returns:
            The values; `score`, larger is better; and what it is made of, see `scored`.

        Raises:
            InputError: a value is out of range, or the predictions hold nobody, or no spread where nothing else tells labels apart.
        """
        from crowddist.labels import kept_cells, training_patches
        from crowddist.predictor import judge

        known = self._search.row(values)
        if known is not None:
            return known
        method = self._method.with_config(with_values(self._method.config, values))
        concluding = {name: value for name, value in values.items() if name not in self._select_only}
        if concluding != self._concluded:
            self._judged = [judge(method, cached.seen, cached.size) for cached in self._cached]
            self._concluded = concluding
        total: dict[str, float] = {}
        for number, (cached, judged) in enumerate(zip(self._cached, self._judged, strict=True)):
            # What is drawn at random is drawn alike in every trial.
            windows = training_patches(method, judged, cached.size, cached.key)
            keep = kept_cells(judged, windows) if windows else method.select(judged.density, judged.spread)
            sums = {"images": 1.0, **kept_sums(judged.density, judged.spread, keep), **_disagreement(method, judged, cached.size)}
            if self._truths:
                sums |= _errors(judged, self._truths[number], keep)
            for name, value in sums.items():
                total[name] = total.get(name, 0.0) + value
        if self._truths:
            from crowddist.ops.localization import mean_average_precision

            total["map"] = mean_average_precision([judged.points for judged in self._judged], [truth.points for truth in self._truths])
        row = scored(dict(values), total)
        storage.write_json(self._search.row_url(values), row)
        return row


def _disagreement(method: Method, judged: ImagePrediction, size: tuple[int, int]) -> dict[str, float]:
    """How far the parts that give heads are from the part that gives a density, see `ops.agreement.disagreement_sums`."""
    regressed = judged.parts.get("regression")
    if regressed is None or regressed.density is None:
        return {}
    total: dict[str, float] = {}
    cells_per_px = [seen / given / method.output_stride for seen, given in zip(judged.size, size, strict=True)]
    for part in judged.parts.values():
        if part.points is not None:
            places = (part.points[:, :2] + 0.5) * cells_per_px[::-1]
            for name, value in disagreement_sums(regressed.density, places, max(BLOCK_PX // method.output_stride, 1)).items():
                total[name] = total.get(name, 0.0) + value
    return total


def _errors(judged: ImagePrediction, truth: Truth, keep: np.ndarray) -> dict[str, float]:
    error = np.abs(judged.density - truth.density)
    return {
        "true_persons": float(len(truth.points)),
        "count_error": abs(judged.count - len(truth.points)),
        "error": float(error.sum(dtype=np.float64)),
        "kept_error": float(error[keep].sum(dtype=np.float64)),
    }


def scored(values: dict[str, float], total: Mapping[str, float]) -> dict[str, float]:
    """A trial's row: its values, its score, and what that is made of.

    Source: ours. Without labels (`agreement`): the share of the persons that is kept, less that of the ensemble's spread kept with it, less how far
    regression and detection are apart. With labels (`proxy`, `labelled`): the mean average precision of the heads, less the mean error of the count
    over the mean count, and the share of the persons that is kept, less that of the density's error kept with it.

    Args:
        total: sums over the data of `ops.agreement.kept_sums` and `disagreement_sums`, and, with labels, of errors, and `map`.

    Raises:
        InputError: nobody is seen in any image by any part, or there is neither spread nor a second opinion.
    """
    if not (total["persons"] > 0 or total.get("said", 0.0) > 0 or "map" in total):
        raise InputError("the counter sees nobody in these images: there is nothing that a search could go by")
    row = {
        "kept_mass": total["kept_persons"] / max(total["persons"], 1e-9),
        "kept_cells": total["kept_cells"] / total["cells"],
        "relative_spread": total["kept_spread"] / max(total["kept_persons"], 1e-9),
        "mean_count": total["persons"] / total["images"],
    }
    agreed = agreement(total) if total["persons"] > 0 and total["spread"] > 0 else None
    if "apart" in total:
        row["disagreement"] = total["apart"] / max(total["said"], 1e-9)
    if "map" in total:
        row["map"], row["mae"] = total["map"], total["count_error"] / total["images"]
        row["kept_error"] = total["kept_error"] / max(total["error"], 1e-9)
        score = row["map"] - total["count_error"] / max(total["true_persons"], 1.0) + row["kept_mass"] - row["kept_error"]
    elif agreed is None and "disagreement" not in row:
        raise InputError("the counter's predictions have no spread: it has no ensemble; give a counter with masksembles, or another objective")
    else:
        score = (agreed or 0.0) - row.get("disagreement", 0.0)
    return {**values, "score": score, **row}


def best_trial(trials: Sequence[dict[str, float]]) -> dict[str, float]:
    """The trial of largest score; of equal ones the first, which is the configuration's own where that is among them."""
    return max(trials, key=lambda trial: trial["score"])


def ranking(trials: Sequence[dict[str, float]], truths: Sequence[dict[str, float]]) -> dict[str, float]:
    """How well the scores of a search rank its trials, where the truth is known of other images.

    Args:
        trials: as the search judged them, the configuration's own first.
        truths: the same values, judged by the labels of images that the search has not seen.

    Returns:
        `rank_correlation`, Spearman's, of the scores; `regret`, how much worse in truth the chosen trial is than the best one, and `own_regret`, likewise
        of the configuration's own; `mae`, `own_mae` and `best_mae`, the mean error of the count of the chosen, the own and the best trial; and
        `mae_rank_correlation`, of the scores with less error, where the error depends on the values. 0 where all scores are equal.

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

    scores, worth, error = ([row[name] for row in rows] for rows, name in ((trials, "score"), (truths, "score"), (truths, "mae")))
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
    headings = [name.rpartition(".")[2].replace("_", " ") for name in names]
    lines = ["  ".join(headings)]
    for trial in shown:
        cells = [f"{trial[name]:.3f}".rjust(len(heading)) for heading, name in zip(headings, names, strict=True)]
        marks = ("  <- best" if trial is best else "") + ("  <- as configured" if trial is own else "")
        lines.append("  ".join(cells) + marks)
    return "\n".join(lines)
