"""Pseudo-labels: a unit of images in, a shard of labels out, and the set of them published at the end."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from crowddist import storage
from crowddist.data.shards import Manifest, ShardInfo, ShardReader, decode_labels, publish_manifest, write_shard
from crowddist.data.transforms import crop_points
from crowddist.inference.prediction_cache import read_prediction
from crowddist.inference.predictor import ImagePrediction, Predictor, judge
from crowddist.inference.units import CHUNK, open_pixels, set_aside_in
from crowddist.methods.base import Method
from crowddist.ops.selection import change_sums, kept_shares, ratio_of_sums


def label_unit(
    predictor: Predictor, images: ShardReader, unit: range, labels_url: str, skip: Collection[int] = (), *,
    known: ShardReader | None = None
) -> dict[str, Any]:
    """Labels every image of a unit of work once: writes one label shard, then its record; an existing record is
    returned as it is.

    Args:
        unit: indexes of the images, consecutive.
        skip: those of them that are set aside.
        known: what these networks say of the images, where that is kept, see `prediction_cache`; None: they are asked.

    Returns:
        The record: the shard's name (of no shard where all images are set aside), samples, bytes and sha256, sums over
        its images: `persons`, `kept_persons`, `cells`, `kept_cells`, `spread_persons`; and `set_aside`, the keys of
            those set aside.
    """
    name = f"labels-{unit.start:06d}-{unit.stop:06d}"
    record_url = storage.join(labels_url, f"{name}.done.json")
    if storage.exists(record_url):
        return storage.read_json(record_url)
    folder = labels_url.rstrip("/").split("/")[-2]
    sums = dict.fromkeys(("persons", "kept_persons", "cells", "kept_cells", "spread_persons"), 0.0)

    shown = [index for index in unit if index not in skip]

    def samples() -> Iterator[tuple[str, dict[str, Any]]]:
        judged = _recalled(predictor, images, shown, known) if known else _predicted(predictor, images, shown)
        for key, size, prediction in judged:
            windows = training_patches(predictor.method, prediction, size, f"{folder}/{key}")
            keep = kept_cells(prediction, windows)
            shares = kept_shares(prediction.density, keep)
            sums["persons"] += prediction.count
            sums["kept_persons"] += prediction.count * shares["kept_mass"]
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
                    "id": key,
                    "count": prediction.count,
                    "uncertainty": prediction.uncertainty,
                    "extent": [side / predictor.stride for side in prediction.size],
                    "windows": {purpose: part.tolist() for purpose, part in windows.items()},
                    **shares,
                },
            }

    record: dict[str, Any] = {"name": "", "num_samples": 0, "num_bytes": 0, "sha256": ""}
    if shown:
        info = write_shard(labels_url, f"{name}.tar", samples())
        record = {"name": info.name, "num_samples": info.num_samples, "num_bytes": info.num_bytes,
                  "sha256": info.sha256}
    record |= {**sums, "set_aside": [images.read(index, ())[0] for index in skip]}
    storage.write_json(record_url, record)
    return record


def _predicted(predictor: Predictor, images: ShardReader,
               indexes: Sequence[int]) -> Iterator[tuple[str, tuple[int, int], ImagePrediction]]:
    """Key, size and prediction of images that the networks are shown."""
    for first in range(0, len(indexes), CHUNK):
        chunk = [open_pixels(images, index) for index in indexes[first : first + CHUNK]]
        predictions = predictor.predict_views([sample.image for sample in chunk], predictor.method.label_views())
        for sample, prediction in zip(chunk, predictions, strict=True):
            yield sample.key, (sample.image.shape[0], sample.image.shape[1]), prediction


def _recalled(
    predictor: Predictor, images: ShardReader, indexes: Sequence[int], known: ShardReader
) -> Iterator[tuple[str, tuple[int, int], ImagePrediction]]:
    """Likewise, of what the networks have said of them; an image that was set aside then is shown to them now."""
    keys = set(known.keys())
    for index in indexes:
        key, _ = images.read(index, ())
        if key in keys:
            cached = read_prediction(known, known.index_of(key))
            yield key, cached.size, judge(predictor.method, cached.seen, cached.size)
        else:
            yield from _predicted(predictor, images, [index])


def _heads(heads: np.ndarray | None) -> np.ndarray:
    """Heads as label shards hold them: x, y, size, score in px of the image as given; none where the method tells
    none.
    """
    return np.zeros((0, 4), np.float32) if heads is None else heads


def training_patches(method: Method, prediction: ImagePrediction, size: tuple[int, int],
                     key: str) -> dict[str, np.ndarray]:
    """The patches of an image of `size` (height, width) px to train on, by purpose, in cells. Args: `key` decides what
    is random.
    """
    detected = prediction.parts.get("detection")
    found = prediction.points if detected is None or detected.points is None else detected.points
    seen = crop_points(found[:, :2], (0, 0, *size), prediction.size)
    return method.windows(prediction.density, np.column_stack([seen, found[:, 2]]), key)


def kept_cells(prediction: ImagePrediction, windows: Mapping[str, np.ndarray]) -> np.ndarray:
    """The cells that are trained on, (h, w) bool: those that any of the patches covers, or, where there are none, those
    certain enough.
    """
    if not windows:
        return prediction.keep
    keep = np.zeros(prediction.density.shape, bool)
    for top, left, height, width in np.concatenate(list(windows.values())).round().astype(int).tolist():
        keep[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)] = True
    return keep


def publish_labels(labels_url: str, images: ShardReader, records: list[dict[str, Any]], name: str) -> dict[str, float]:
    """Writes the manifest of a whole set of label shards. Returns: the round's label metrics.

    Raises:
        ValueError: there are not as many labels as images.
    """
    num_labelled, set_aside = sum(record["num_samples"] for record in records), set_aside_in(records)
    if num_labelled + len(set_aside) != len(images):
        raise ValueError(f"{num_labelled} labels in {labels_url} for {len(images)} images, {len(set_aside)} of them "
                         "set aside")
    total = {key: sum(record[key] for record in records)
             for key in ("persons", "kept_persons", "cells", "kept_cells", "spread_persons")}
    metrics = {
        "labels/kept_mass": total["kept_persons"] / max(total["persons"], 1e-9),
        "labels/kept_cells": total["kept_cells"] / max(total["cells"], 1.0),
        "labels/mean_count": total["persons"] / max(num_labelled, 1),
        "labels/mean_uncertainty": total["spread_persons"] / max(num_labelled, 1),
    }
    infos = tuple(
        ShardInfo(name=r["name"], num_samples=r["num_samples"], num_bytes=r["num_bytes"], sha256=r["sha256"],
                  persons=r["persons"])
        for r in records if r["num_samples"]
    )
    publish_manifest(
        labels_url,
        Manifest(name=name, split=images.manifest.split, kind="labels", labelled=True, shards=infos, converter="labels",
                 statistics={**metrics, **({"set_aside": set_aside} if set_aside else {})}),
    )
    return metrics


def label_change(previous_url: str, current_url: str, block_cells: int = 1) -> float:
    """How far the labels of all images moved from one set to the next, see `ops.selection.ratio_of_sums`.

    Args:
        block_cells: side of the blocks, in cells, whose persons are compared.
    """
    previous, current = ShardReader(previous_url), ShardReader(current_url)
    set_aside = previous.manifest.statistics.get("set_aside", ())
    change = total = 0.0
    for index in range(len(current)):
        key, members = current.read(index)
        if key in set_aside:
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
