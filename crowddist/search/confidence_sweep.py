"""How the count depends on the least confidence of a detection, all else as a search has chosen it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from crowddist.methods.settings.bi_knowledge import CONFIDENCE
from crowddist.methods.thresholds import search_space, with_values

if TYPE_CHECKING:
    from crowddist.data.shards import ShardReader
    from crowddist.inference.prediction_cache import CachedPrediction
    from crowddist.methods.base import Method

NUM_THRESHOLDS = 50
"""Least confidences that are counted with, at even steps over the range that is searched. ours."""


def sweep_confidence(
    checkpoint_url: str,
    values: Mapping[str, float],
    images: Iterable[CachedPrediction],
    *,
    evaluated: Iterable[CachedPrediction] = (),
    labelled: ShardReader | None = None,
) -> list[dict[str, float]]:
    """What would be counted at every least confidence of a detection, from cached predictions of which one at a time is
    held.

    Args:
        checkpoint_url: the counter whose predictions they are.
        values: of the other thresholds, by their names; whatever has no dot in its name is no threshold.
        images: that the search has looked at; no label is opened of them.
        evaluated, labelled: predictions of labelled images, and where their labels are; None: nothing is opened.

    Returns:
        A row a threshold, in rising order: the threshold by its name; `mean_count`, persons an image, of `images`; and,
        with labelled ones, `mae`, the mean absolute error of the count, of `evaluated`. No row where the method has no
        such count, see `Method.count_by_confidence`.

    Raises:
        InputError: as `evaluation.read_truth`.
    """
    from crowddist.inference.evaluation import read_truth
    from crowddist.inference.predictor import Predictor  # imports torch

    method: Method = Predictor.from_checkpoint(checkpoint_url).method
    parameter = next((one for one in search_space(method.config) if one.name == CONFIDENCE), None)
    if parameter is None:
        return []
    method = method.with_config(with_values(method.config,
                                            {name: value for name, value in values.items() if "." in name}))
    thresholds = [parameter.at(share) for share in np.linspace(0, 1, NUM_THRESHOLDS).tolist()]
    total, num_images = np.zeros(NUM_THRESHOLDS), 0
    for cached in images:
        counts = method.count_by_confidence(cached.seen, np.array(thresholds))
        if counts is None:
            return []
        total, num_images = total + counts, num_images + 1
    rows = [{CONFIDENCE: threshold, "mean_count": count}
            for threshold, count in zip(thresholds, (total / num_images).tolist(), strict=True)]
    if labelled is None:
        return rows
    errors, num_images = np.zeros(NUM_THRESHOLDS), 0
    for cached in evaluated:
        counts = method.count_by_confidence(cached.seen, np.array(thresholds))
        assert counts is not None  # as of the others
        truth = read_truth(labelled, cached.key, cached.seen, method.stream, method.output_stride)
        errors, num_images = errors + np.abs(counts - len(truth.points)), num_images + 1
    return [{**row, "mae": error} for row, error in zip(rows, (errors / num_images).tolist(), strict=True)]
