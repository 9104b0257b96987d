"""Pseudo-labels: turns units of images into shards of labels, and publishes the set."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from crowddist.data.sample import Seen
from crowddist.data.shards import Manifest, ShardInfo, ShardReader, decode_labels, publish_manifest
from crowddist.data.transforms import crop_points
from crowddist.inference.prediction_cache import decode_prediction
from crowddist.inference.predictor import ImagePrediction, Predictor, judge
from crowddist.inference.second_counter import SecondOpinions
from crowddist.inference.units import CHUNK, open_pixels, whole_set, write_unit
from crowddist.inference.zoom_check import disagreements, is_checked, mean_disagreement
from crowddist.methods.base import Method
from crowddist.ops.selection import change_sums, kept_shares, ratio_of_sums

SUMS = ("persons", "kept_persons", "certain_persons", "cells", "kept_cells", "spread_persons")
"""Sums over the images of a unit, in its record."""
NO_SHARD = {"name": "", "num_samples": 0, "num_bytes": 0, "sha256": ""}
"""The fields of a `ShardInfo` in a unit's record; these where all images were skipped."""


def label_unit(
    predictor: Predictor, images: ShardReader, unit: range, labels_url: str, skip: Collection[int] = (), *,
    known: ShardReader | None = None, second: SecondOpinions | None = None
) -> dict[str, Any]:
    """Labels every image of a unit, see `write_unit`. Returns: the record, with the keys of `NO_SHARD` and `SUMS`,
    and the `disagreements` of the images that the counter is checked on, see `zoom_check`.

    Args:
        known: these networks' cached predictions, see `prediction_cache`; None: run the networks.
        second: what another counter saw; None: the labels are these networks' alone.
    """
    folder = labels_url.rstrip("/").split("/")[-2]
    sums = dict.fromkeys(SUMS, 0.0)
    checked: list[float] = []

    def samples(shown: Sequence[int]) -> Iterator[tuple[str, dict[str, Any]]]:
        judged = (_recalled(predictor, images, shown, known, second) if known
                  else _predicted(predictor, images, shown, second))
        for index, (key, size, prediction) in zip(shown, judged, strict=True):
            if is_checked(index, len(images)):
                checked.extend(disagreements([prediction.zoom_counts]))
            windows = training_patches(predictor.method, prediction, size, f"{folder}/{key}")
            keep = kept_cells(prediction, windows)
            shares = kept_shares(prediction.density, keep)
            sums["persons"] += prediction.count
            sums["kept_persons"] += prediction.count * shares["kept_mass"]
            sums["certain_persons"] += float((prediction.density * prediction.certainty).sum(dtype=np.float64))
            sums["cells"] += prediction.density.size
            sums["kept_cells"] += prediction.density.size * shares["kept_pixels"]
            sums["spread_persons"] += prediction.uncertainty
            yield key, {
                "density.npy": prediction.density.astype(np.float16),
                "spread.npy": prediction.spread.astype(np.float16),
                "keep.png": np.where(keep, 255, 0).astype(np.uint8),
                "detections.npy": _heads(prediction.taught),
                "doubtful.npy": _heads(prediction.doubtful),
                "json": {
                    "id": key, "count": prediction.count, "uncertainty": prediction.uncertainty,
                    "extent": [side / predictor.stride for side in prediction.size],
                    "windows": {purpose: part.tolist() for purpose, part in windows.items()},
                    **shares,
                },
            }

    def facts(info: ShardInfo | None) -> dict[str, Any]:
        shard = {name: getattr(info, name) for name in NO_SHARD} if info else NO_SHARD
        return {**shard, **sums, "disagreements": checked}

    return write_unit(labels_url, "labels", images, unit, skip, samples, facts)


def _predicted(
    predictor: Predictor, images: ShardReader, indexes: Sequence[int], second: SecondOpinions | None
) -> Iterator[tuple[str, tuple[int, int], ImagePrediction]]:
    """Runs the networks. Returns: key, (height, width) in px and prediction of each image."""
    for first in range(0, len(indexes), CHUNK):
        chunk = [open_pixels(images, index) for index in indexes[first : first + CHUNK]]
        found = predictor.see([sample.image for sample in chunk], predictor.method.label_views())
        for sample, seen in zip(chunk, found, strict=True):
            size = (sample.image.shape[0], sample.image.shape[1])
            yield sample.key, size, _judged(predictor, sample.key, seen, size, second)


def _judged(predictor: Predictor, key: str, seen: Seen, size: tuple[int, int],
            second: SecondOpinions | None) -> ImagePrediction:
    if second is not None:
        seen = second.beside(key, seen, (seen.size[0] / predictor.stride, seen.size[1] / predictor.stride))
    return judge(predictor.method, seen, size)


def _recalled(
    predictor: Predictor, images: ShardReader, indexes: Sequence[int], known: ShardReader,
    second: SecondOpinions | None
) -> Iterator[tuple[str, tuple[int, int], ImagePrediction]]:
    """As `_predicted`, from cached predictions; runs the networks on images that were skipped then."""
    keys = set(known.keys())
    for index in indexes:
        key, _ = images.read(index, ())
        if key in keys:
            cached = decode_prediction(*known.read(known.index_of(key)))
            yield key, cached.size, _judged(predictor, key, cached.seen, cached.size, second)
        else:
            yield from _predicted(predictor, images, [index], second)


def _heads(heads: np.ndarray | None) -> np.ndarray:
    """Heads as label shards hold them: x, y, size, score in px of the image as given."""
    return np.zeros((0, 4), np.float32) if heads is None else heads


def training_patches(method: Method, prediction: ImagePrediction, size: tuple[int, int],
                     key: str) -> dict[str, np.ndarray]:
    """The patches of an image of `size` (height, width) px to train on: purpose -> K x 4, in cells; `key` seeds random
    ones.
    """
    detected = prediction.parts.get("detection")
    found = prediction.points if detected is None or detected.points is None else detected.points
    seen = crop_points(found[:, :2], (0, 0, *size), prediction.size)
    return method.windows(prediction.density, np.column_stack([seen, found[:, 2]]), key)


def kept_cells(prediction: ImagePrediction, windows: Mapping[str, np.ndarray]) -> np.ndarray:
    """The cells to train on, (h, w) bool: all that a patch covers; without patches, the certain ones."""
    if not windows:
        assert prediction.keep is not None  # judged for labels
        return prediction.keep
    keep = np.zeros(prediction.density.shape, bool)
    for top, left, height, width in np.concatenate(list(windows.values())).round().astype(int).tolist():
        keep[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)] = True
    return keep


def publish_labels(labels_url: str, images: ShardReader, records: list[dict[str, Any]], name: str) -> dict[str, float]:
    """Writes the manifest of a whole set of label shards. Returns: the round's label metrics.

    Raises:
        ValueError: the labels are not as many as the images.
    """
    units = [{**record, "shard": {name: record[name] for name in (*NO_SHARD, "persons")} if record["name"] else None}
             for record in records]
    shards, skipped = whole_set(labels_url, images, units, "labels")
    num_labelled = sum(shard.num_samples for shard in shards)
    total = {name: sum(record[name] for record in records) for name in SUMS}
    metrics = {
        "labels/kept_mass": total["kept_persons"] / max(total["persons"], 1e-9),
        "labels/kept_cells": total["kept_cells"] / max(total["cells"], 1.0),
        "labels/certainty": total["certain_persons"] / max(total["persons"], 1e-9),
        "labels/mean_count": total["persons"] / max(num_labelled, 1),
        "labels/mean_uncertainty": total["spread_persons"] / max(num_labelled, 1),
    }
    disagreement = mean_disagreement(record["disagreements"] for record in records)
    if math.isfinite(disagreement):
        metrics["labels/zoom_disagreement"] = disagreement
    statistics = {**metrics, **({"skipped": skipped} if skipped else {})}
    publish_manifest(labels_url, Manifest(name=name, split=images.manifest.split, kind="labels", labelled=True,
                                          shards=shards, converter="labels", statistics=statistics))
    return metrics


def label_change(previous_url: str, current_url: str, block_cells: int = 1) -> float:
    """How far all labels moved from one set to the next, see `ops.selection.ratio_of_sums`; compares the persons in
    blocks of `block_cells` x `block_cells` cells.
    """
    previous, current = ShardReader(previous_url), ShardReader(current_url)
    skipped = previous.manifest.statistics.get("skipped", ())
    change = total = 0.0
    for index in range(len(current)):
        key, members = current.read(index)
        if key in skipped:
            continue
        before = decode_labels(*previous.read(previous.index_of(key)))
        moved, persons = change_sums(*(_blocks(part.density, block_cells)
                                       for part in (before, decode_labels(key, members))))
        change, total = change + moved, total + persons
    return ratio_of_sums(change, total)


def _blocks(density: np.ndarray, side: int) -> np.ndarray:
    """Persons in blocks of side x side cells; the last ones hold what is left."""
    rows, columns = (np.arange(0, length, side) for length in density.shape)
    return np.add.reduceat(np.add.reduceat(density.astype(np.float64), rows, axis=0), columns, axis=1)
