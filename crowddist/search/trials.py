"""A trial: judges cached predictions with other thresholds and scores the labels they would give."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from crowddist import storage
from crowddist.data.sample import Seen
from crowddist.data.shards import ShardReader
from crowddist.errors import InputError
from crowddist.inference.evaluation import Truth, read_truth
from crowddist.inference.prediction_cache import CachedPrediction, read_predictions
from crowddist.inference.predictor import ImagePrediction, Predictor, judge
from crowddist.inference.pseudo_labels import kept_cells, training_patches
from crowddist.methods.base import Method
from crowddist.methods.thresholds import search_space, with_values
from crowddist.ops.agreement import agreement, block_persons, disagreement_sums, kept_sums
from crowddist.ops.localization import mean_average_precision
from crowddist.ops.sums import total
from crowddist.process.progress_bar import watched
from crowddist.search.trial_values import Plan, tried

MOST_IMAGES = 400
"""Images that a trial uses at most, evenly spread over the data set; their predictions stay in memory. ours."""
BLOCK_PX = 32
"""Side of the blocks in which regression and detection are compared, px of the image as the networks see it. ours."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """Where the trials of a search read, and where each writes its row."""

    checkpoint_url: str
    predictions_url: str
    """The checkpoint's predictions, see `cached_predictions`."""
    labelled_url: str = ""
    """The labelled images that were predicted; "": judge by the predictions alone, read neither images nor labels."""
    folder: str
    """URL of the rows' folder."""

    def row_url(self, values: Mapping[str, float]) -> str:
        """Where the trial of these values writes its row."""
        return storage.join(self.folder,
                            f"{hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:24]}.json")

    def row(self, values: Mapping[str, float]) -> dict[str, float] | None:
        """The row of a trial; None until it is done."""
        url = self.row_url(values)
        return storage.read_json(url) if storage.exists(url) else None


TrialRunner = Callable[[Search, Plan], None]
"""Runs the trials of a plan that have no row yet; each writes its row. `run_trials_here`, or Ray Tune."""


def run_trials_here(search: Search, plan: Plan) -> None:
    """Runs a plan's missing trials in this process, one after the other."""
    trials, num_left = Trials(search), plan.number - len(tried(plan, search.row))
    left = (point for batch in plan.batches(search.row) for point in batch if search.row(point) is None)
    for point in watched(left, "trials", number=num_left):
        trials.run(point)


class Trials:
    """Runs trials on one checkpoint's predictions. Keeps them and the newest verdicts, so that the next trial is
    cheap.
    """

    def __init__(self, search: Search) -> None:
        self._search = search
        self._method: Method = Predictor.from_checkpoint(search.checkpoint_url).method
        self._select_only = {parameter.name
                             for parameter in search_space(self._method.config) if parameter.selects_only}
        step = max(-(-len(ShardReader(search.predictions_url)) // MOST_IMAGES), 1)
        self._cached = list(itertools.islice(read_predictions(search.predictions_url), 0, None, step))
        stream, stride = self._method.stream, self._method.output_stride
        labelled = ShardReader(search.labelled_url) if search.labelled_url else None
        self._truths = ([read_truth(labelled, cached.key, cached.seen, stream, stride) for cached in self._cached]
                        if labelled else [])
        self._concluded: dict[str, float] | None = None
        self._judged: list[ImagePrediction] = []

    def run(self, values: Mapping[str, float]) -> dict[str, float]:
        """Runs one trial and writes its row, unless it is there.

        Returns:
            The row: the values; `score`, larger is better; and its parts, see `scored`.

        Raises:
            InputError: a value is out of range, or as `scored`.
        """
        known = self._search.row(values)
        if known is not None:
            return known
        method = self._method.with_config(with_values(self._method.config, values))
        concluding = {name: value for name, value in values.items() if name not in self._select_only}
        if concluding != self._concluded:
            self._judged = [judge(method, cached.seen, cached.size, labels=False) for cached in self._cached]
            self._concluded = concluding
        total: dict[str, float] = {}
        for number, (cached, judged) in enumerate(zip(self._cached, self._judged, strict=True)):
            sums = image_sums(method, cached, judged, self._truths[number] if self._truths else None)
            for name, value in sums.items():
                total[name] = total.get(name, 0.0) + value
        if self._truths:
            total["map"] = mean_average_precision([judged.points for judged in self._judged],
                                                  [truth.points for truth in self._truths])
        row = scored(dict(values), total)
        storage.write_json(self._search.row_url(values), row)
        return row


def image_sums(method: Method, cached: CachedPrediction, judged: ImagePrediction,
               truth: Truth | None = None) -> dict[str, float]:
    """What an image adds to the sums of a trial, see `scored`."""
    # Every trial draws the same random patches.
    windows = training_patches(method, judged, cached.size, cached.key)
    keep = kept_cells(judged, windows) if windows else method.select(judged.density, judged.certainty)
    return {"images": 1.0, **kept_sums(judged.density, judged.spread, keep), **_disagreement(method, judged, cached),
            **(_errors(judged, truth, keep) if truth else {})}


def _disagreement(method: Method, judged: ImagePrediction, cached: CachedPrediction) -> dict[str, float]:
    """How far heads and regressed density are apart, see `ops.agreement.disagreement_sums`; {} without both."""
    if "regression" not in judged.parts:
        return {}
    total: dict[str, float] = {}
    block = max(BLOCK_PX // method.output_stride, 1)
    regressed = cached.seen.once(_block_persons, block)
    cells_per_px = [seen / given / method.output_stride for seen, given in zip(judged.size, cached.size, strict=True)]
    for part in judged.parts.values():
        if part.points is not None:
            places = (part.points[:, :2] + 0.5) * cells_per_px[::-1]
            for name, value in disagreement_sums(regressed, places, judged.density.shape, block).items():
                total[name] = total.get(name, 0.0) + value
    return total


def _block_persons(seen: Seen, block_cells: int) -> np.ndarray:
    """Of the regressed density, which is what the networks said."""
    return block_persons(seen.density, block_cells)


def _errors(judged: ImagePrediction, truth: Truth, keep: np.ndarray) -> dict[str, float]:
    error = np.abs(judged.density - truth.density)
    return {"true_persons": float(len(truth.points)), "count_error": abs(judged.count - len(truth.points)),
            "error": total(error), "kept_error": total(error, keep)}


def scored(values: dict[str, float], total: Mapping[str, float]) -> dict[str, float]:
    """A trial's row: its values, its score, and the score's parts.

    Source: ours. Without labels (`agreement`): the share of the persons kept, less the share of the ensemble's spread
    kept with them, less the disagreement of regression and detection. With labels (`proxy`, `labelled`): the heads'
    mean average precision, less the mean error of the count over the mean count, plus the share of the persons kept,
    less the share of the density's error kept with them.

    Args:
        total: sums over the images of `ops.agreement.kept_sums` and `disagreement_sums`; with labels also of the
            errors, and `map`.

    Raises:
        InputError: no part sees anybody in any image, or there is neither spread nor a second opinion.
    """
    if not (total["persons"] > 0 or total.get("said", 0.0) > 0 or "map" in total):
        raise InputError("the counter sees nobody in these images: a search has nothing to judge by")
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
        relative_error = total["count_error"] / max(total["true_persons"], 1.0)
        score = row["map"] - relative_error + row["kept_mass"] - row["kept_error"]
    elif agreed is None and "disagreement" not in row:
        raise InputError("the counter's predictions have no spread: it has no ensemble; give a counter with "
                         "masksembles, or another objective")
    else:
        score = (agreed or 0.0) - row.get("disagreement", 0.0)
    return {**values, "score": score, **row}
