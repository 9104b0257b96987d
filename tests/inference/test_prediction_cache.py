"""Cached predictions: a threshold applied to them gives the prediction of a counter with that threshold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crowddist.config import RunConfig
from crowddist.data.sample import Seen
from crowddist.data.shard_codec import decode_seen, encode, encode_seen
from crowddist.data.shards import ShardReader, decode
from crowddist.errors import InputError
from crowddist.inference.jobs import JobWorker
from crowddist.inference.prediction_cache import predict_unit, publish_predictions, read_predictions
from crowddist.inference.predictor import ImagePrediction, Predictor, judge
from crowddist.methods.base import Method
from crowddist.methods.build import build_method
from crowddist.methods.thresholds import lowest_thresholds, with_values
from crowddist.models.initialisation import init_kaiming
from crowddist.reports.dataset_summary import describe, write_sheet
from crowddist.search.trial_values import trial_values


def strong(config: RunConfig) -> Method:
    """An untrained method with many detections on any image."""
    torch.manual_seed(3)
    method = build_method(config)
    for name, network in method.networks().named_children():
        if name != "semantics":
            init_kaiming(network)
    return method


def same(ours: ImagePrediction, theirs: ImagePrediction) -> None:
    for name in ("count", "uncertainty", "size"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for name in ("density", "spread", "keep", "points", "sizes", "taught", "doubtful"):
        given, wanted = getattr(ours, name), getattr(theirs, name)
        assert (given is None) == (wanted is None), name
        if wanted is not None:
            np.testing.assert_array_equal(given, wanted, name)
    assert {name: part.count for name, part in ours.parts.items()} == {name: part.count
                                                                       for name, part in theirs.parts.items()}


@pytest.mark.parametrize("method", ["self_supervision", "bi_knowledge", "combined"])
def test_every_threshold_of_the_space(tiny_config: RunConfig, tiny_target: str, tmp_path: Path, method: Any) -> None:
    """To the bit, also where the method looks at several sizes of an image."""
    settings = replace(tiny_config.bi_knowledge, fusion="confidence", confidence=0.3)
    views = replace(tiny_config.self_supervision, label_views=(1.0, 1.5))
    config = replace(tiny_config, method=method, bi_knowledge=settings, self_supervision=views)
    networks, images = strong(config), ShardReader(tiny_target)
    predictor = Predictor(networks, image_size=networks.stream.image_size)
    url = (tmp_path / "predictions").as_uri()
    records = [predict_unit(predictor, images, unit, url, lowest_thresholds(config))
               for unit in (range(6), range(6, 10))]
    publish_predictions(url, images, records, name="predictions")
    cached = list(read_predictions(url))
    shown = [decode(*images.read(index)) for index in range(10)]
    assert ([one.key for one in cached] == [sample.key for sample in shown]
            and ShardReader(url).manifest.kind == "predictions")
    counts = set()
    for values in trial_values(config, 5):
        other = networks.with_config(with_values(config, values))
        said = Predictor(other,
                         image_size=other.stream.image_size).predict_views([sample.image for sample in shown],
                                                                           other.label_views())
        for one, sample, wanted in zip(cached, shown, said, strict=True):
            same(judge(other, one.seen, one.size), wanted)
            assert one.size == sample.image.shape[:2]
        counts.add(round(sum(judge(other, one.seen, one.size).count for one in cached), 3))
    assert len(counts) == (1 if method == "self_supervision" else 5), "thresholds matter"


def test_predictions_share_the_file(tiny_checkpoint: str, tiny_target: str, tmp_path: Path) -> None:
    """Their arrays are read-only views of the shard's file; the manifest names their kind."""
    worker = JobWorker(tiny_checkpoint, tiny_target)
    url = (tmp_path / "predictions").as_uri()
    config = lowest_thresholds(worker.predictor.method.config)
    publish_predictions(url, worker.images, [predict_unit(worker.predictor, worker.images, unit, url, config)
                                             for unit in worker.units()], name="predictions")
    described = describe(url)
    assert "10 predictions, 10 shards" in described.lines()[0] and described.lines()[-1] == "unlabelled"
    with pytest.raises(InputError, match="holds predictions, which are no images"):
        write_sheet(described, str(tmp_path / "sheet.png"))
    for one in read_predictions(url):
        owner: Any = one.seen.density
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        assert isinstance(owner.base, memoryview) and not one.seen.density.flags.writeable
        assert (one.seen.density > 0).any() and (one.seen.spread > 0).any() and one.seen.member_counts.std() > 0


def test_a_unit_is_done_once(tiny_checkpoint: str, tiny_target: str, tmp_path: Path) -> None:
    worker = JobWorker(tiny_checkpoint, tiny_target)
    url, config = (tmp_path / "predictions").as_uri(), worker.predictor.method.config
    first = predict_unit(worker.predictor, worker.images, range(2, 5), url, config, (3,))
    assert first["skipped"] == [worker.images.read(3)[0]] and first["shard"]["num_samples"] == 2
    worker.predictor.method.networks().requires_grad_(False).zero_grad()
    for parameter in worker.predictor.method.networks().parameters():
        parameter.zero_()
    assert predict_unit(worker.predictor, worker.images, range(2, 5), url, config) == first
    with pytest.raises(ValueError, match=r"2 predictions in .* for 10 images, 1 of them skipped"):
        publish_predictions(url, worker.images, [first], name="predictions")
    assert predict_unit(worker.predictor, worker.images, range(3, 4), url, config, (3,))["shard"] is None


def some_seen() -> Seen:
    return Seen(size=(20, 30), density=np.ones((3, 4), np.float32), spread=np.zeros((3, 4), np.float32),
                member_counts=np.array([12.0, 13.0]),
                detections=np.array([[1, 2, 3, 0.5]], np.float32))


def test_what_is_encoded_is_decoded() -> None:
    members = {name: encode(name, value)
               for name, value in encode_seen(some_seen()).items()} | {"json": b'{"seen": [20, 30]}'}
    back = decode_seen("k", members)
    assert back.size == (20, 30) and back.member_counts.tolist() == [12.0, 13.0] and back.transformed is None
    assert (back.detections is not None and back.detections.tolist() == [[1, 2, 3, 0.5]]
            and back.density.dtype == np.float32)


@pytest.mark.parametrize(("change", "message"), [
    ({"seen.density.npy": None}, "predictions need seen.density.npy"),
    ({"seen.heads.npy": b"nothing"}, "member seen.heads.npy is damaged"),
    ({"seen.counts.npy": encode("seen.heads.npy", np.zeros((1, 4)))}, "numbers are float32, expected float64"),
    ({"seen.heads.npy": encode("seen.density.npy", np.zeros((1, 3)))}, "shape is"),
    ({"seen.density.npy": encode("seen.density.npy", np.ones((3, 4)))[:-8]}, "is damaged"),
    ({"seen.density.npy": b"\x93NUMPY\x03\x00" + bytes(200)}, "are not read"),
])
def test_damaged_members_are_named(change: dict[str, bytes | None], message: str) -> None:
    members = {name: encode(name, value) for name, value in encode_seen(some_seen()).items()} | change
    with pytest.raises(InputError, match=message):
        decode_seen("k", {name: value for name, value in members.items() if value is not None})


@pytest.mark.parametrize("method", ["self_supervision", "bi_knowledge", "combined"])
def test_what_the_networks_say_lies_in_one_piece(tiny_config: RunConfig, method: Any) -> None:
    """As what is read back does: the sum over a window of a larger map has other last bits. Of a size that is no
    multiple of the networks' stride.
    """
    networks = strong(replace(tiny_config, method=method))
    (seen,) = Predictor(networks, image_size=0).see([np.random.default_rng(0).integers(0, 256, (70, 101, 3), np.uint8)])
    assert all(part.flags.c_contiguous for part in (seen.density, seen.spread, seen.member_counts))
