"""Cached predictions: the networks' exact output for every image, so that trials need not run the networks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from crowddist.config import RunConfig
from crowddist.data.config import STRIDE
from crowddist.data.sample import Seen
from crowddist.data.shard_codec import Member, decode_scene, decode_seen, encode_seen
from crowddist.data.shards import Manifest, ShardReader, publish_manifest
from crowddist.inference.predictor import Predictor
from crowddist.inference.units import CHUNK, open_pixels, whole_set, write_unit


@dataclass(frozen=True, kw_only=True)
class CachedPrediction:
    """The networks' output for one image."""

    key: str
    seen: Seen
    size: tuple[int, int]
    """(height, width) of the image as given, px."""
    extent: tuple[float, float]
    """(height, width) of the image in cells; the last cells may reach beyond it."""


def predict_unit(predictor: Predictor, images: ShardReader, unit: range, url: str, config: RunConfig,
                 skip: Collection[int] = ()) -> dict[str, Any]:
    """Runs the networks over every image of a unit, as for labels, see `write_unit`. Returns: the record, `shard` with
    the fields of a `ShardInfo`.

    Args:
        config: has the lowest thresholds; detections below them are dropped.
    """
    lowest = predictor.with_config(config)

    def samples(shown: Sequence[int]) -> Iterator[tuple[str, dict[str, Member]]]:
        for first in range(0, len(shown), CHUNK):
            chunk = [open_pixels(images, index) for index in shown[first : first + CHUNK]]
            for sample, seen in zip(chunk, lowest.see([sample.image for sample in chunk], lowest.method.label_views()),
                                    strict=True):
                height, width = sample.image.shape[:2]
                yield sample.key, {**encode_seen(seen), "json": {"id": sample.key, "height": height, "width": width,
                                                                 "seen": list(seen.size),
                                                                 "extent": [side / lowest.stride for side in seen.size],
                                                                 "zooms": list(seen.zoom_counts.items())}}

    return write_unit(url, "predictions", images, unit, skip, samples, lambda info: {"shard": info and asdict(info)})


def publish_predictions(url: str, images: ShardReader, records: list[dict[str, Any]], name: str) -> None:
    """Writes the manifest of a whole set. Raises: ValueError where predictions are not as many as images."""
    shards, skipped = whole_set(url, images, records, "predictions")
    statistics = {"predictions_of": images.manifest.digest, **({"skipped": skipped} if skipped else {})}
    publish_manifest(url, Manifest(name=name, split=images.manifest.split, kind="predictions", labelled=False,
                                   shards=shards, converter="predictions", statistics=statistics))


def read_predictions(url: str) -> Iterator[CachedPrediction]:
    """All predictions of a set, in order. Their arrays are read-only views of the shards' files on this machine, which
    all of its processes share.
    """
    for key, members in ShardReader(url).views():
        yield decode_prediction(key, members)


def decode_prediction(key: str, members: Mapping[str, bytes | memoryview]) -> CachedPrediction:
    """The prediction in a sample."""
    facts = decode_scene(key, {"json": bytes(members["json"])})
    seen = decode_seen(key, members)
    height, width = facts.get("extent") or [side / STRIDE for side in seen.size]  # none in those of version 0.2
    return CachedPrediction(key=key, seen=seen, size=(facts["height"], facts["width"]), extent=(height, width))
