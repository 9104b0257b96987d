"""Cached predictions: what the networks say of every image, kept exactly, so that other thresholds are tried without
asking them again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from crowddist import storage
from crowddist.config import RunConfig
from crowddist.data.sample import Seen
from crowddist.data.shard_codec import Member, decode_scene, decode_seen, encode_seen
from crowddist.data.shards import Manifest, ShardReader, publish_manifest, write_shard
from crowddist.inference.predictor import Predictor
from crowddist.inference.units import CHUNK, open_pixels, whole_set


@dataclass(frozen=True, kw_only=True)
class CachedPrediction:
    """What the networks said of one image."""

    key: str
    seen: Seen
    size: tuple[int, int]
    """(height, width) of the image as given, px."""


def predict_unit(predictor: Predictor, images: ShardReader, unit: range, url: str, config: RunConfig,
                 skip: Collection[int] = ()) -> dict[str, Any]:
    """Shows every image of a unit of work to the networks once, as for labels: writes one shard, then its record; an
    existing record is returned.

    Args:
        unit: indexes of the images, consecutive.
        config: of the lowest thresholds: what lies below them is not kept.
        skip: indexes of images that workers died over.

    Returns:
        The record: the shard as a manifest tells of it (`shard`; None where all images are skipped), and `skipped`,
            the keys of those skipped.
    """
    name = f"predictions-{unit.start:06d}-{unit.stop:06d}"
    record_url = storage.join(url, f"{name}.done.json")
    if storage.exists(record_url):
        return storage.read_json(record_url)
    shown = [index for index in unit if index not in skip]
    lowest = predictor.with_config(config)

    def samples() -> Iterator[tuple[str, dict[str, Member]]]:
        for first in range(0, len(shown), CHUNK):
            chunk = [open_pixels(images, index) for index in shown[first : first + CHUNK]]
            for sample, seen in zip(chunk, lowest.see([sample.image for sample in chunk], lowest.method.label_views()),
                                    strict=True):
                height, width = sample.image.shape[:2]
                yield sample.key, {**encode_seen(seen), "json": {"id": sample.key, "height": height, "width": width,
                                                                 "seen": list(seen.size)}}

    info = asdict(write_shard(url, f"{name}.tar", samples())) if shown else None
    record = {"shard": info, "skipped": [images.read(index, ())[0] for index in skip]}
    storage.write_json(record_url, record)
    return record


def publish_predictions(url: str, images: ShardReader, records: list[dict[str, Any]], name: str) -> None:
    """Writes the manifest of a whole set of predictions.

    Raises:
        ValueError: there are not as many predictions as images.
    """
    shards, skipped = whole_set(url, images, records, "predictions")
    manifest = Manifest(name=name, split=images.manifest.split, kind="predictions", labelled=False, shards=shards,
                        converter="predictions",
                        statistics={"predictions_of": images.manifest.digest,
                                    **({"skipped": skipped} if skipped else {})})
    publish_manifest(url, manifest)


def read_predictions(url: str) -> Iterator[CachedPrediction]:
    """Every prediction of a set, in order. Their arrays lie in the shards' files on this machine, which all of its
    processes share; read-only.
    """
    for key, members in ShardReader(url).views():
        yield _decode(key, members)


def read_prediction(predictions: ShardReader, index: int) -> CachedPrediction:
    """One prediction of a set."""
    return _decode(*predictions.read(index))


def _decode(key: str, members: Mapping[str, bytes | memoryview]) -> CachedPrediction:
    facts = decode_scene(key, {"json": bytes(members["json"])})
    return CachedPrediction(key=key, seen=decode_seen(key, members), size=(facts["height"], facts["width"]))
