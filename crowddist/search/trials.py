"""A trial: what other thresholds would have made of cached predictions, and what that is worth."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from crowddist import storage
from crowddist.data.shards import ShardReader
from crowddist.errors import InputError
from crowddist.methods.thresholds import search_space, with_values
from crowddist.ops.agreement import agreement, disagreement_sums, kept_sums

if TYPE_CHECKING:
    from crowddist.inference.evaluation import Truth
    from crowddist.inference.prediction_cache import CachedPrediction
    from crowddist.inference.predictor import ImagePrediction
    from crowddist.methods.base import Method

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
    """Labelled images, of which the predictions are; "": nothing but the predictions is ever read, neither images nor
    labels."""
    folder: str
    """Of the rows."""

    def row_url(self, values: Mapping[str, float]) -> str:
        """Where the trial of these values leaves its row."""
        return storage.join(self.folder,
                            f"{hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:24]}.json")

    def row(self, values: Mapping[str, float]) -> dict[str, float] | None:
        """The row of a trial; None of one that is not done."""
        url = self.row_url(values)
        return storage.read_json(url) if storage.exists(url) else None


def looked_at(predictions_url: str) -> Iterator[CachedPrediction]:
    """The predictions that a search goes by, of a set of them: at most `MOST_IMAGES`, evenly spread, in order."""
    from crowddist.inference.prediction_cache import read_predictions

    step = max(-(-len(ShardReader(predictions_url)) // MOST_IMAGES), 1)
    return itertools.islice(read_predictions(predictions_url), 0, None, step)


class Trials:
    """Tries values on the predictions of one checkpoint; it holds them, and what was concluded last, so that the next
    trial costs little.
    """

    def __init__(self, search: Search) -> None:
        from crowddist.inference.evaluation import read_truth
        from crowddist.inference.predictor import Predictor

        self._search = search
        self._method: Method = Predictor.from_checkpoint(search.checkpoint_url).method
        self._select_only = {parameter.name
                             for parameter in search_space(self._method.config) if parameter.selects_only}
        self._cached = list(looked_at(search.predictions_url))
        stream, stride = self._method.stream, self._method.output_stride
        labelled = ShardReader(search.labelled_url) if search.labelled_url else None
        self._truths = ([read_truth(labelled, cached.key, cached.seen, stream, stride) for cached in self._cached]
                        if labelled else [])
        self._concluded: dict[str, float] | None = None
        self._judged: list[ImagePrediction] = []

    def run(self, values: Mapping[str, float]) -> dict[str, float]:
        """One trial, whose row is left in the search's folder; one that is there is returned as it is.

        Returns:
            The values; `score`, larger is better; and what it is made of, see `scored`.

        Raises:
            InputError: a value is out of range, or the predictions hold nobody, or no spread where nothing else tells
                labels apart.
        """
        from crowddist.inference.predictor import judge
        from crowddist.inference.pseudo_labels import kept_cells, training_patches

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
            sums = {"images": 1.0, **kept_sums(judged.density, judged.spread, keep),
                    **_disagreement(method, judged, cached.size)}
            if self._truths:
                sums |= _errors(judged, self._truths[number], keep)
            for name, value in sums.items():
                total[name] = total.get(name, 0.0) + value
        if self._truths:
            from crowddist.ops.localization import mean_average_precision

            total["map"] = mean_average_precision([judged.points for judged in self._judged],
                                                  [truth.points for truth in self._truths])
        row = scored(dict(values), total)
        storage.write_json(self._search.row_url(values), row)
        return row


def _disagreement(method: Method, judged: ImagePrediction, size: tuple[int, int]) -> dict[str, float]:
    """How far the parts that give heads are from the part that gives a density, see
    `ops.agreement.disagreement_sums`.
    """
    regressed = judged.parts.get("regression")
    if regressed is None or regressed.density is None:
        return {}
    total: dict[str, float] = {}
    cells_per_px = [seen / given / method.output_stride for seen, given in zip(judged.size, size, strict=True)]
    for part in judged.parts.values():
        if part.points is not None:
            places = (part.points[:, :2] + 0.5) * cells_per_px[::-1]
            for name, value in disagreement_sums(regressed.density, places,
                                                 max(BLOCK_PX // method.output_stride, 1)).items():
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

    Source: ours. Without labels (`agreement`): the share of the persons that is kept, less that of the ensemble's
    spread kept with it, less how far regression and detection are apart. With labels (`proxy`, `labelled`): the mean
    average precision of the heads, less the mean error of the count over the mean count, and the share of the persons
    that is kept, less that of the density's error kept with it.

    Args:
        total: sums over the data of `ops.agreement.kept_sums` and `disagreement_sums`, and, with labels, of errors, and
            `map`.

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
        score = row["map"] - total["count_error"] / max(total["true_persons"],
                                                        1.0) + row["kept_mass"] - row["kept_error"]
    elif agreed is None and "disagreement" not in row:
        raise InputError("the counter's predictions have no spread: it has no ensemble; give a counter with "
                         "masksembles, or another objective")
    else:
        score = (agreed or 0.0) - row.get("disagreement", 0.0)
    return {**values, "score": score, **row}
