"""Semantic consistency: its losses by the printed formulas, and which network learns from which loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crowddist.config import RunConfig
from crowddist.data.sample import Batch
from crowddist.errors import InputError
from crowddist.launch.local import LocalLauncher
from crowddist.methods.build import build_method
from crowddist.methods.parts import semantics
from crowddist.methods.semantic_consistency import SemanticConsistency
from crowddist.models.config import CounterConfig
from crowddist.models.segmenter import mask_cells
from crowddist.pipeline import adapt
from crowddist.run.engine import LocalRuntime
from crowddist.tracking.tracker import NullTracker
from tests.methods.test_contract import made_up_batches


def make(config: RunConfig, **settings: Any) -> SemanticConsistency:
    torch.manual_seed(0)
    semantic = replace(config.semantic_consistency, **settings)
    method = build_method(replace(config, method="semantic_consistency", semantic_consistency=semantic))
    assert isinstance(method, SemanticConsistency)
    return method


def losses(method: SemanticConsistency, batches: dict[str, Batch]) -> dict[str, torch.Tensor]:
    stage = method.plan()[-1]
    method.start(stage, LocalRuntime())
    objective = method.objective(stage)
    objective.eval()
    return objective(batches)


def test_the_loss_is_equation_5(tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(semantics, "PERSON_THRESHOLD", 0.5)  # an untrained segmenter says about 0.5 everywhere
    method = make(tiny_config, source_mask_weight=0.3, target_mask_weight=0.2, adversarial_weight=0.1)
    batches = made_up_batches(method.plan()[-1], 0)
    found = {name: float(value.detach()) for name, value in losses(method, batches).items()}
    source, target = batches["source"], batches["target"]
    with torch.no_grad():
        source_features, target_features = (method.counter.encode(batch.images) for batch in (source, target))
        z_source, z_target = (method.semantics.head(features).sigmoid().double().numpy()
                              for features in (source_features, target_features))
        p_source, p_target = (method.semantics.discriminator(features).sigmoid().double().numpy()
                              for features in (source_features, target_features))
        assert method.semantics.segmenter is not None and source.mask is not None
        persons = method.semantics.segmenter(target.images).sigmoid().numpy() >= 0.5
    truth = mask_cells(source.mask, z_source.shape[2:]).numpy()
    assert 0 < persons.sum() < persons.size
    eq7 = -np.mean(truth * np.log(z_source) + (1 - truth) * np.log(1 - z_source))
    filled = np.where(persons, 1.0, z_target)  # Eq. 8
    eq9 = -np.sum(np.where(persons, np.log(filled), np.log(np.where(persons, 0.5, 1 - filled)))) / (~persons).sum()
    eq10 = -np.mean(np.log(p_target))
    discriminator = -(np.mean(np.log(p_source)) + np.mean(np.log(1 - p_target))) / 2
    assert found["source_mask_loss"] == pytest.approx(eq7, rel=1e-5)
    assert found["target_mask_loss"] == pytest.approx(eq9, rel=1e-5)
    assert found["adversarial_loss"] == pytest.approx(eq10, rel=1e-5)
    assert found["discriminator_loss"] == pytest.approx(discriminator, rel=1e-5)
    assert found["loss"] == pytest.approx(found["source_loss"] + 0.3 * eq7 + 0.2 * eq9 + 0.1 * eq10 + discriminator,
                                          rel=1e-5)


def test_equation_10_as_printed_sums_an_image_s_patches(tiny_config: RunConfig) -> None:
    """Crops of 64 x 128 px have features of 8 x 16 cells, so the small discriminator judges two patches."""
    config = replace(tiny_config, stream=replace(tiny_config.stream, crop_width=128))
    found = {}
    for patches in ("mean", "sum"):
        method = make(config, adversarial_patches=patches, target_masks="given")
        batches = made_up_batches(method.plan()[-1], 0)
        for batch in batches.values():
            batch.images = torch.cat([batch.images, batch.images.flip(1)], 3)
            batch.density, batch.mask = (None if one is None else torch.cat([one, one], 3)
                                         for one in (batch.density, batch.mask))
        found[patches] = {name: float(value.detach()) for name, value in losses(method, batches).items()}
    weight = config.semantic_consistency.adversarial_weight
    adversarial = found["mean"].pop("adversarial_loss")
    assert found["sum"].pop("adversarial_loss") == pytest.approx(2 * adversarial, rel=1e-5)
    assert found["sum"].pop("loss") == pytest.approx(found["mean"].pop("loss") + weight * adversarial, rel=1e-5)
    assert found["sum"] == pytest.approx(found["mean"]), "the discriminator's own loss stays the mean"


def test_rates_are_constant_as_printed(tiny_config: RunConfig) -> None:
    for schedule, rates in (("constant", {3e-5}), ("one_cycle", None)):
        method = make(replace(tiny_config, train=replace(tiny_config.train, schedule=schedule, learning_rate=3e-5)),
                      learning_rate=3e-5, segmenter_rate=3e-5)
        for stage in method.plan():
            trained = {name: {each.schedule(step) for step in range(stage.steps)}
                       for name, each in method.trained(stage).items() if name != "discriminator"}
            assert trained and all(found == rates if rates else len(found) > 1 for found in trained.values())


def slopes(network: torch.nn.Module) -> float:
    return sum(float(parameter.grad.abs().sum()) for parameter in network.parameters() if parameter.grad is not None)


def test_each_opponent_learns_from_its_own_loss_alone(tiny_config: RunConfig) -> None:
    method = make(tiny_config)
    found = losses(method, made_up_batches(method.plan()[-1], 0))
    found["adversarial_loss"].backward(retain_graph=True)
    assert (slopes(method.counter.encoder) > 0 and slopes(method.semantics.discriminator)
            == slopes(method.semantics.head) == slopes(method.counter.decoder) == 0)
    method.networks().zero_grad()
    found["discriminator_loss"].backward(retain_graph=True)
    assert slopes(method.semantics.discriminator) > 0 and slopes(method.counter) == slopes(method.semantics.head) == 0
    method.networks().zero_grad()
    found["loss"].backward()
    assert method.semantics.segmenter is not None and slopes(method.semantics.segmenter) == 0


def test_the_discriminator_tells_apart_what_differs(tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bright against dark images, and an encoder that does not try to deceive it."""
    monkeypatch.setattr(semantics, "DISCRIMINATOR_RATE", 1e-3)
    method = make(tiny_config, adversarial_weight=0.0)
    stage = replace(method.plan()[-1], steps=40)
    method.start(stage, LocalRuntime())
    accuracy = []
    for step in range(stage.steps):
        batches = made_up_batches(stage, step)
        for name, factor in (("source", 0.5), ("target", 1.0)):
            batches[name].images = factor * batches[name].images
        accuracy.append(float(method.step(step, batches)["discriminator_accuracy"]))
    assert np.mean(accuracy[:10]) == 0.5 and np.mean(accuracy[-20:]) > 0.75


def test_the_segmenter_learns_and_then_rests(tiny_config: RunConfig) -> None:
    method = make(tiny_config)
    assert method.semantics.segmenter is not None
    before = {name: value.clone() for name, value in method.semantics.segmenter.state_dict().items()}

    def same() -> bool:
        assert method.semantics.segmenter is not None
        return all(torch.equal(value, before[name]) for name, value in method.semantics.segmenter.state_dict().items())

    source, segmenter, semantic = method.plan()
    for stage, rests in ((source, True), (segmenter, False), (semantic, True)):
        before = {name: value.clone() for name, value in method.semantics.segmenter.state_dict().items()}
        method.start(stage, LocalRuntime())
        for step in range(2):
            method.step(step, made_up_batches(stage, step))
        assert same() == rests, stage.name


def test_masks_that_are_given_need_no_segmenter(tiny_config: RunConfig) -> None:
    method = make(tiny_config, target_masks="given")
    assert [stage.name for stage in method.plan()] == ["source/counter", "semantic"]
    assert (method.plan()[-1].streams["target"].masks
            and not any("segmenter" in name for name in method.networks().state_dict()))
    batch = made_up_batches(method.plan()[-1], 0)["target"]
    batch.mask = torch.zeros(4, 1, 64, 64)
    batch.mask[0, 0, 9, 17] = 1
    persons = method.semantics.possible_persons(batch)
    assert persons.shape == (4, 1, 8, 8) and persons.nonzero().tolist() == [[0, 0, 1, 2]]


def test_what_cannot_be_aligned_is_refused(tiny_config: RunConfig) -> None:
    deep = replace(tiny_config, counter=replace(tiny_config.counter, ensemble="deep"))
    with pytest.raises(InputError, match="features of one encoder"):
        make(deep)
    for side in ("crop_size", "crop_width"):
        with pytest.raises(InputError, match=rf"stream\.{side} is 56; .* needs at least 64 px"):
            make(replace(tiny_config, stream=replace(tiny_config.stream, **{side: 56})))


def test_a_source_without_masks_is_refused_before_anything_is_trained(tiny_config: RunConfig, make_images: Any,
                                                                      tmp_path: Path) -> None:
    bare = make_images(tmp_path / "bare", count=4, masks=False)
    config = replace(tiny_config, method="semantic_consistency", source=bare)
    with pytest.raises(InputError, match=r"the source at .* has no masks of persons"):
        adapt(config, LocalLauncher(config), NullTracker(), say=lambda line: None)
    assert not list((tmp_path / "runs" / "tiny").rglob("*.json"))


def test_a_whole_run_with_masks_of_boxes(tiny_config: RunConfig, make_images: Any, tmp_path: Path) -> None:
    boxes = make_images(tmp_path / "boxes", count=4, boxes=True)
    config = replace(tiny_config, method="semantic_consistency", boxes=boxes)
    result = adapt(config, LocalLauncher(config), NullTracker(), say=lambda line: None)
    assert [row["title"] for row in result["rounds"]] == ["no adaptation", "semantic consistency"]
    from crowddist.run.engine import read_curve

    curve = read_curve((tmp_path / "runs" / "tiny" / "source" / "segmenter" / "curve.jsonl").as_uri())
    assert {"source_mask_loss", "boxes_mask_loss"} <= curve[-1].keys()


def test_the_published_networks_train_and_count_in_pixels(tiny_config: RunConfig) -> None:
    counter = CounterConfig(backbone="vgg16_bn", decoder="upsampling", ensemble="none", orientation=False)
    stream, train = replace(tiny_config.stream, crop_size=256), replace(tiny_config.train, batch_size=1,
                                                                        cell_error="squared", block_weight=0.0)
    config = replace(tiny_config, method="semantic_consistency", counter=counter, stream=stream, train=train)
    method = make(config, target_masks="given", target_batch_size=1)
    stage = method.plan()[-1]
    method.start(stage, LocalRuntime())
    generator = torch.Generator().manual_seed(0)
    batches = {
        name: Batch(
            images=torch.rand(1, 3, 256, 256, generator=generator),
            density=torch.full((1, 1, 256, 256), 1e-3) if name == "source" else None,
            mask=torch.zeros(1, 1, 256, 256),
            draws=torch.zeros(1, dtype=torch.int64),
        )
        for name in stage.streams
    }
    assert stage.streams["source"].stride == 1 and torch.isfinite(method.step(0, batches)["loss"])
    assert method.predict(torch.rand(2, 3, 50, 70, generator=generator)).density.shape == (2, 1, 50, 70)
