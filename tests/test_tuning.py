"""The search of the kept share without Ray: what is cached, what a trial says of it, and what it never opens."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crowddist import checkpoint, storage
from crowddist.config import RunConfig, to_json
from crowddist.data import members
from crowddist.data.shards import ShardReader, ShardWriter
from crowddist.errors import InputError
from crowddist.launcher import UnitWorker
from crowddist.ops.selection import keep_most_certain
from crowddist.tuning import (
    best_trial,
    cached_maps,
    cached_predictions,
    require_kept_share,
    require_uncertainty,
    share_grid,
    trial_table,
    try_share,
)

PROJECT = Path(__file__).resolve().parents[1]


def label(checkpoint_url: str, images_url: str, labels_url: str) -> list[dict[str, Any]]:
    worker = UnitWorker(checkpoint_url, images_url)
    return [worker.label(unit, labels_url) for unit in worker.units()]


def unused(*arguments: str) -> list[dict[str, Any]]:
    raise AssertionError("the cache should have been used")


@pytest.fixture(scope="module")
def predictions(tiny_checkpoint: str, tiny_target: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return cached_predictions(tiny_checkpoint, tiny_target, str(tmp_path_factory.mktemp("work")), label, say=lambda line: None)


def read_naively(url: str) -> list[dict[str, np.ndarray]]:
    """Every array of every image, straight from the tars."""
    images: dict[str, dict[str, np.ndarray]] = {}
    for path in sorted(storage.local_folder(url).glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                key, _, extension = member.name.partition(".")
                if extension.endswith("npy"):
                    stream = archive.extractfile(member)
                    assert stream is not None
                    images.setdefault(key, {})[extension] = np.load(io.BytesIO(stream.read())).astype(np.float64)
    return list(images.values())


def test_a_trial_equals_the_naive_sums(predictions: str, tiny_target: str) -> None:
    images = read_naively(predictions)
    assert len(images) == len(ShardReader(tiny_target)) == 10
    for share in (0.3, 0.7):
        kept_persons = persons = kept_spread = spread = kept_cells = cells = 0.0
        for image in images:
            keep = keep_most_certain(image["density.npy"], image["spread.npy"], share)
            for row in range(keep.shape[0]):
                for column in range(keep.shape[1]):
                    person, doubt = image["density.npy"][row, column], image["spread.npy"][row, column]
                    persons, spread, cells = persons + person, spread + doubt, cells + 1
                    if keep[row, column]:
                        kept_persons, kept_spread, kept_cells = kept_persons + person, kept_spread + doubt, kept_cells + 1
        assert try_share(predictions, share) == pytest.approx(
            {
                "kept_share": share,
                "agreement": kept_persons / persons - kept_spread / spread,
                "kept_mass": kept_persons / persons,
                "kept_spread": kept_spread / spread,
                "kept_cells": kept_cells / cells,
                "relative_spread": kept_spread / kept_persons,
            }
        )
        assert kept_cells / cells == pytest.approx(share, abs=0.01)


def test_the_cache_holds_what_the_counter_says(predictions: str, tiny_checkpoint: str, tiny_target: str) -> None:
    worker = UnitWorker(tiny_checkpoint, tiny_target)
    images = [members.decode(*worker.data.read(index)).image for index in range(len(worker.data))]
    views = worker.predictor.predict_views(images, worker.predictor.method.label_views())
    for cached, prediction in zip(cached_maps(predictions), views, strict=True):
        for stored, said in zip(cached, (prediction.density, prediction.spread), strict=True):
            assert said.max() > 0
            np.testing.assert_allclose(stored, said, rtol=1e-3, atol=1e-7)


def test_the_cache_is_used_again_and_never_for_others(
    predictions: str, tiny_checkpoint: str, tiny_target: str, tiny_evaluation: str, tmp_path: Path
) -> None:
    work = str(storage.local_folder(predictions).parents[2])
    assert cached_predictions(tiny_checkpoint, tiny_target, work, unused, say=lambda line: None) == predictions
    other = tmp_path / "other.pt"
    other.write_bytes(storage.read_bytes(tiny_checkpoint) + b" ")
    for counter, data in ((other.as_uri(), tiny_target), (tiny_checkpoint, tiny_evaluation)):
        with pytest.raises(AssertionError):
            cached_predictions(counter, data, work, unused, say=lambda line: None)


def test_labels_of_the_target_are_never_opened(
    tiny_checkpoint: str, tmp_path: Path, make_images: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    labelled = make_images(tmp_path / "labelled", count=3)

    def trap(data: bytes) -> np.ndarray:
        raise AssertionError("a label of the target was opened")

    for name in ("points.npy", "mask.png"):
        monkeypatch.setitem(members._DECODERS, name, trap)
    predictions = cached_predictions(tiny_checkpoint, labelled, str(tmp_path), label, say=lambda line: None)
    assert 0 < try_share(predictions, 0.5)["kept_mass"] < 1


def test_patches_have_no_kept_share(tmp_path: Path, tiny_config: RunConfig) -> None:
    content = {"method": {}, "config": to_json(replace(tiny_config, method="bi_knowledge"))}
    with pytest.raises(InputError, match="the labels of bi_knowledge are patches, which no kept share selects"):
        require_kept_share(checkpoint.save(tmp_path.as_uri(), 1, content))
    require_kept_share(checkpoint.save(tmp_path.as_uri(), 2, {**content, "config": to_json(tiny_config)}))


def test_the_best_trial_keeps_more_where_two_are_equal() -> None:
    trials = [{"kept_share": share, "agreement": worth} for share, worth in zip(share_grid(4), (0.1, 0.3, 0.3, 0.0), strict=True)]
    assert best_trial(trials)["kept_share"] == 0.75


def test_the_grid_and_the_table(predictions: str) -> None:
    assert share_grid(4) == [0.25, 0.5, 0.75, 1.0]
    trials = [try_share(predictions, share) for share in share_grid(2)]
    assert trials[1]["agreement"] == pytest.approx(0) and trials[1]["kept_mass"] == 1
    heading, *rows = trial_table(trials).splitlines()
    assert heading.split("  ")[:2] == ["kept share", "agreement"] and [float(row.split()[0]) for row in rows] == [0.5, 1.0]
    assert [row.endswith("<- best") for row in rows] == [trial is best_trial(trials) for trial in trials]


@pytest.mark.parametrize(("given", "message"), [({}, "hold no spread"), ({"spread.npy": np.zeros((4, 4))}, "have no spread")])
def test_predictions_that_nothing_can_be_told_from(tmp_path: Path, given: dict[str, np.ndarray], message: str) -> None:
    with ShardWriter(tmp_path, name="labels", split="all", kind="labels", labelled=True, converter="test") as writer:
        writer.add("k", {"density.npy": np.ones((4, 4)), "keep.png": np.ones((4, 4)), **given})
    with pytest.raises(InputError, match=message):
        require_uncertainty(tmp_path.as_uri())


def test_trials_need_no_torch() -> None:
    """Its import would be most of what a trial's process does."""
    command = [sys.executable, "-c", "import crowddist.tuning, sys; print('torch' in sys.modules)"]
    assert subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT).stdout.split() == ["False"]
