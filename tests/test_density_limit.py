"""Density regularisation: the source's densest cell by hand and naively, and predictions that may not exceed it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from crowddist import storage
from crowddist.config import RunConfig
from crowddist.data.config import StreamConfig
from crowddist.data.shards import ShardReader, ShardWriter, decode
from crowddist.data.stream import densest_cell, whole_image
from crowddist.errors import InputError
from crowddist.inference.predictor import Predictor
from crowddist.launch.local import LocalLauncher
from crowddist.methods.build import build_method
from crowddist.pipeline import adapt
from crowddist.tracking.tracker import NullTracker


def test_the_densest_cell_by_hand(tmp_path: Path) -> None:
    """Heads far narrower than a cell, at cells' centres: a cell holds as many as stand in it."""
    _, png = cv2.imencode(".png", np.zeros((64, 128, 3), np.uint8))
    with ShardWriter(tmp_path, name="a", split="all", labelled=True, converter="test") as shards:
        for key, heads in (("apart", [[19.5, 11.5], [27.5, 11.5]]), ("together", [[43.5, 35.5]] * 3),
                           ("nobody", np.zeros((0, 2)))):
            shards.add(key, {"png": png.tobytes(), "json": {"id": key, "height": 64, "width": 128},
                             "points.npy": np.asarray(heads, np.float32)})
    images, narrow = ShardReader(tmp_path), StreamConfig(image_size=128, sigma_px=0.5)
    assert [densest_cell(images, [index], narrow, stride=8) for index in range(3)] == pytest.approx([1, 3, 0])
    assert densest_cell(images, range(3), narrow, stride=8) == pytest.approx(3)
    # At half the size, the two that stood in cells beside each other stand in one.
    assert densest_cell(images, [0], narrow, stride=8, scale=0.5) == pytest.approx(2)
    assert densest_cell(images, [0], replace(narrow, image_size=64), stride=8) == pytest.approx(2)


@pytest.mark.parametrize("stream",
                         [StreamConfig(image_size=96, sigma_px=4), StreamConfig(image_size=144, sigma_of_size=0.5)])
def test_the_densest_cell_is_that_of_the_maps_that_are_learnt(tiny_source: str, stream: StreamConfig) -> None:
    from crowddist.data.stream import cell_density, known_sizes

    images, most = ShardReader(tiny_source), 0.0
    for index in range(len(images)):
        sample = decode(*images.read(index))
        seen = whole_image(sample.image, stream.image_size)
        factor = seen.shape[1] / sample.image.shape[1]  # tiny images keep their proportions
        assert sample.points is not None
        points = (sample.points + 0.5) * factor - 0.5
        heads = np.column_stack([points, known_sizes(sample) * factor]) if stream.sigma_of_size else points
        most = max(most, cell_density(heads, (seen.shape[0] // 8, seen.shape[1] // 8), stream).max())
    assert densest_cell(images, range(len(images)), stream, stride=8) == pytest.approx(most, rel=1e-5)


@pytest.mark.parametrize("ensemble", ["masksembles", "deep"])
def test_cells_above_the_limit_hold_nobody(tiny_config: RunConfig, ensemble: Any) -> None:
    config = replace(tiny_config, counter=replace(tiny_config.counter, ensemble=ensemble),
                     train=replace(tiny_config.train, density_limit=True))
    torch.manual_seed(0)
    method = build_method(config)
    images = torch.rand(2, 3, 64, 64)
    free = method.predict(images)
    # without a limit yet, as without the option
    assert torch.equal(free.density, build_like(config, method).predict(images).density)
    with torch.inference_mode():
        maps = method.counter.members(method.counter.encode(images))  # type: ignore[attr-defined]
    limit = float(maps.median())
    method.limit_density(limit)
    limited = method.predict(images)
    expected = torch.where(maps <= limit, maps, torch.zeros(()))
    assert 0.3 < float((expected == 0).float().mean()) < 0.7
    assert (torch.equal(limited.density, expected.mean(0))
            and torch.allclose(limited.spread, expected.std(0, unbiased=False)))
    assert torch.allclose(limited.member_counts, expected.sum((2, 3, 4)))


def build_like(config: RunConfig, method: Any) -> Any:
    """The same networks without the option."""
    other = build_method(replace(config, train=replace(config.train, density_limit=False)))
    weights = method.networks().state_dict()
    del weights["density_limit"]
    other.networks().load_state_dict(weights)
    return other


def test_a_run_finds_the_limit_and_its_checkpoints_keep_it(short_config: RunConfig,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(short_config, train=replace(short_config.train, density_limit=True))
    scales = build_method(config).label_views()
    limit = densest_cell(ShardReader(config.source), range(12), config.stream, stride=8, scale=min(1.0, *scales))
    lines: list[str] = []
    result = adapt(config, LocalLauncher(config), NullTracker(), say=lines.append)
    told = f"source: its densest cell holds {limit:.3f} persons; where the counter says more, nobody is counted"
    assert told in lines
    for row in result["rounds"]:
        counter = Predictor.from_checkpoint(storage.local_file(row["checkpoint"])).method.networks()
        assert float(counter.get_buffer("density_limit")) == np.float32(limit)
    monkeypatch.setattr("crowddist.data.stream.densest_cell", lambda *given, **named: pytest.fail("looked for again"))
    assert adapt(config, LocalLauncher(config), NullTracker(), say=lines.append)["rounds"] == result["rounds"]


@pytest.mark.parametrize("method", ["bi_knowledge", "supervised"])
def test_methods_without_such_a_counter_refuse_it(tiny_config: RunConfig, method: Any) -> None:
    with pytest.raises(InputError,
                       match=r"train\.density_limit is for counters that learn from the source, not for " + method):
        replace(tiny_config, method=method, train=replace(tiny_config.train, density_limit=True))
