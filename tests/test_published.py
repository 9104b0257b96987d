"""Every published recipe, with its own networks, losses and data layouts, takes real steps: on tiny images, from random
weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crowddist.config import EngineConfig, RunConfig
from crowddist.launch.local import LocalLauncher
from crowddist.methods.parts.training import TrainingMethod
from crowddist.pipeline import adapt
from crowddist.recipes import RECIPES
from crowddist.tracking.tracker import NullTracker
from tests.data.convert.conftest import CrowdHuman, Gcc, Pairs, Shanghai, Wider, WorldExpo

PUBLISHED = [recipe for recipe in RECIPES
             if recipe.__module__.rpartition(".")[2] in ("cvpr2022", "icassp2020", "mm2020")]
EVERY_TIME = ("gcc_to_shb", "icassp2020_gcc_to_shb")
"""Recipes that take a minute; the others differ by data or by one setting, or train for five minutes."""
SIZE = (48, 64)
"""Height and width of the images, px."""
SMALLEST = 1e-8
"""Adam adds this to the size of a gradient, so smaller ones move nothing."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny data sets in their original layouts, as $CROWDDIST_DATA has them."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)

    def heads(number: int) -> Any:
        return rng.uniform(4, [SIZE[1] - 5, SIZE[0] - 5], (number, 2))

    mask = np.zeros(SIZE)
    mask[10:30, 20:50] = 1
    for time in range(3):  # an image that every published scene rule keeps: 400 persons at level 5, by day, clouds
        Gcc(root / "gcc").add("scene_07_2", str(time), heads(400)[:, ::-1].tolist(), size=SIZE, mask=mask, level=5)
    for part in "AB":
        for number in range(1, 4):
            for split in ("train", "test"):
                Shanghai(root / "shanghaitech" / f"part_{part}_final").add(number, heads(9), split=split, size=SIZE)
    for number in range(1, 3):
        for folder in ("Train", "Test"):
            Pairs(root / "ucf_qnrf").add(f"img_{number:04d}", heads(9), folder=folder, size=SIZE)
        Wider(root / "wider_face").add(f"0--Parade/{number}.jpg", [(20 * number, 10, 9, 12)], size=SIZE)
        region = CrowdHuman.region([20, 10, 9, 12], [18, 8, 14, 30])
        CrowdHuman(root / "crowd_human").add(f"{number}", [region], size=SIZE)
    for number in range(1, 51):
        Pairs(root / "ucf_cc_50").add(str(number), heads(9), size=SIZE, mode="L")
    for name, side in (("100140_A", "train"), ("200608_B", "test"), ("104207_C", "test")):
        WorldExpo(root / "worldexpo10").add(name, heads(5), side=side, size=SIZE)
    return root


def tiny(config: RunConfig, storage: Path) -> RunConfig:
    """The same experiment with random weights, small images and few steps, ten or more in all."""
    def random(network: Any) -> Any:
        return replace(network, weights="none")

    # What the published discriminator needs, behind features of 16 px; one crop a step then, for time.
    side, batch = (256, 1) if config.counter.upsamples else (64, 2)
    wide = {"crop_width": side + 16} if config.stream.crop_width else {}
    return replace(
        config, storage=str(storage), launcher="local", tracking_uri="none", threads=1,
        counter=random(config.counter), regressor=random(config.regressor), detector=random(config.detector),
        localiser=random(config.localiser),
        stream=replace(config.stream, image_size=side, crop_size=side, **wide),
        train=replace(config.train, steps=4 if batch > 1 else 6, batch_size=batch),
        # Labels hardly change in two steps: they would have settled.
        self_supervision=replace(config.self_supervision, orientation_steps=2, round_steps=2, target_batch_size=2,
                                 stop_change=0.0),
        semantic_consistency=replace(config.semantic_consistency, steps=3, segmenter_steps=1, target_batch_size=1),
        bi_knowledge=replace(config.bi_knowledge, crop_size=64, regressor_steps=3, boxes_steps=3, detector_steps=2,
                             localiser_steps=2, cycles=min(config.bi_knowledge.cycles, 1), cycle_steps=2, batch_size=2,
                             stop_change=0.0),
        engine=EngineConfig(checkpoint_every=1000),
    )


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [
    pytest.param(recipe, id=recipe.__name__, marks=() if recipe.__name__ in EVERY_TIME else pytest.mark.published)
    for recipe in PUBLISHED
])
def test_it_takes_ten_steps_from_raw_data_to_its_error(recipe: Callable[[], RunConfig], data: Path, tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROWDDIST_DATA", str(data))
    steps, shares = 0, []
    take_step = TrainingMethod.step

    def watched(self: Any, step: int, batches: Any) -> dict[str, torch.Tensor]:
        nonlocal steps
        found = take_step(self, step, batches)
        assert all(bool(value.isfinite().all()) for value in found.values()), found
        steps += 1
        networks = self.networks()
        for name, parameter in networks.named_parameters():
            assert parameter.isfinite().all(), name
        learning = [parameter.grad.abs() for name, parameter in networks.named_parameters()
                    if parameter.grad is not None and ("decoder" in name or name.startswith("regressor."))]
        if learning:
            shares.append(float(torch.cat([gradient.flatten() for gradient in learning]).gt(SMALLEST).float().mean()))
        return found

    monkeypatch.setattr(TrainingMethod, "step", watched)
    config = tiny(recipe(), tmp_path / "runs")
    result = adapt(config, LocalLauncher(config), NullTracker(), say=lambda line: None)
    assert steps >= 10 and len(shares) >= 3
    print(recipe.__name__, steps, [round(share, 3) for share in shares])
    assert np.mean(shares) > 0.5, shares
    errors = {name: value for row in result["rounds"] for name, value in row.items() if name.startswith("target/")}
    assert errors and all(np.isfinite(value) for value in errors.values())
    changed = {field.name for field in dataclasses.fields(config)
               if getattr(config, field.name) != getattr(recipe(), field.name)}
    assert not changed & {"method", "source", "target", "evaluation", "boxes", "more_sources"}
