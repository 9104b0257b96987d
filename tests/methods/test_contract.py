"""The contract that every method keeps, on one worker (two workers: tests/distributed)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from crowddist.config import RunConfig
from crowddist.data.sample import Batch, Seen
from crowddist.inference.predictor import Predictor
from crowddist.methods.base import Method, Stage, belongs_to
from crowddist.methods.build import build_method
from crowddist.methods.parts.training import one_cycle_rate
from crowddist.methods.table import METHODS
from crowddist.models.config import CounterConfig, DetectorConfig, RegressorConfig
from crowddist.models.norm import SyncBatchNorm2d
from crowddist.run.engine import LocalRuntime

ENSEMBLES = ("masksembles", "dropout", "deep", "none")


def on_pretrained(config: RunConfig) -> RunConfig:
    """The same configuration with networks that start from ImageNet's weights."""
    start: dict[str, Any] = {"backbone": "efficientnet_lite0", "weights": "imagenet"}
    return replace(
        config,
        counter=CounterConfig(**start),
        regressor=RegressorConfig(**start),
        detector=DetectorConfig(**start),
        train=replace(config.train, pretrained_share=0.3),
    )


def with_teacher(config: RunConfig) -> RunConfig:
    """The same configuration with a mean teacher in the rounds of labels, and erased patches."""
    taught = replace(config.self_supervision, teacher_share=0.6, teacher_decay=0.7, erased_share=0.5)
    return replace(config, self_supervision=taught)


def with_one_round(config: RunConfig) -> RunConfig:
    """The same configuration with one round of labels, which the next ones only repeat."""
    return replace(config, self_supervision=replace(config.self_supervision, rounds=1),
                   bi_knowledge=replace(config.bi_knowledge, cycles=1))


def with_steps(config: RunConfig, steps: int) -> RunConfig:
    """The same configuration with so many steps in each stage."""
    transfer = replace(config.bi_knowledge, regressor_steps=steps, detector_steps=steps, localiser_steps=steps,
                       cycle_steps=steps)
    return replace(
        config, train=replace(config.train, steps=steps), bi_knowledge=transfer,
        self_supervision=replace(config.self_supervision, orientation_steps=steps, round_steps=steps),
        semantic_consistency=replace(config.semantic_consistency, steps=steps, segmenter_steps=steps),
        translation=replace(config.translation, steps=steps, counting_steps=steps))


QUICK = {*((method, "compact") for method in METHODS), ("self_supervision", "efficientnet_lite0"),
         ("bi_knowledge", "efficientnet_lite0"), ("self_supervision", "teacher")}
"""The others are made of the same networks, which are larger, so they are tried with the slow tests."""
ALL = (*((method, backbone) for backbone in ("compact", "efficientnet_lite0") for method in METHODS),
       ("self_supervision", "teacher"), ("combined", "teacher"))


@pytest.fixture(params=[pytest.param(pair, marks=() if pair in QUICK else pytest.mark.slow, id="-".join(pair))
                        for pair in ALL])
def config(request: pytest.FixtureRequest, tiny_config: RunConfig) -> RunConfig:
    """A small configuration of each method, with networks from scratch and from ImageNet's weights (for one round), and
    with a teacher where there may be one.
    """
    method, kind = request.param
    config = with_steps(replace(tiny_config, method=method), 3)
    if kind == "teacher":
        return with_teacher(config)
    return config if kind == "compact" else with_one_round(on_pretrained(config))


def make(config: RunConfig, seed: int = 0) -> Method:
    torch.manual_seed(seed)
    return build_method(config)


def made_up_batches(stage: Stage, step: int, side_px: int = 64) -> dict[str, Batch]:
    """Random batches for the streams of a stage, of square images."""
    batches = {}
    for name, use in stage.streams.items():
        generator = torch.Generator().manual_seed(1000 * step + len(name))
        labelled = use.data != "target" or use.labels
        size, cells = use.batch_size, side_px // use.stride
        heads = [torch.rand(4, 3, generator=generator) * torch.tensor([side_px, side_px, 12.0]) for _ in range(size)]
        batches[name] = Batch(
            images=torch.rand(size, 3, side_px, side_px, generator=generator),
            density=0.2 * torch.rand(size, 1, cells, cells, generator=generator) * (use.stride / 8) ** 2 if labelled
            else None,
            keep=(torch.rand(size, 1, cells, cells, generator=generator) > 0.3).float() if use.labels
            and not use.windows else None,
            heads=heads if use.heads else None,
            mask=(torch.rand(size, 1, side_px, side_px, generator=generator) > 0.7).float() if use.masks else None,
            doubtful=[one[:2] + 20 for one in heads] if use.heads and use.labels else None,
            draws=torch.randint(0, 1 << 30, (size,), generator=generator),
            weak=[torch.rand(3, 48 + 16 * (index % 3), 64, generator=generator) for index in range(size)]
            if use.weak_scales else None,
        )
    return batches


def train(method: Method, stage: Stage, steps: range) -> list[dict[str, torch.Tensor]]:
    """On images of 32 px; the discriminators of some methods, behind the source, need 8 cells a side."""
    side_px = 64 if stage.num_round and method.config.method in ("semantic_consistency", "combined") else 32
    logged = []
    for step in steps:
        torch.manual_seed(step)
        logged.append(method.step(step, made_up_batches(stage, step, side_px)))
    return logged


def equal(a: Any, b: Any) -> bool:
    """Bit-equality of nested containers of tensors."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def test_the_plan_has_names_of_its_own_and_begins_without_the_target(config: RunConfig) -> None:
    plan = make(config).plan()
    assert len({stage.name for stage in plan}) == len(plan)
    rounds = [stage.num_round for stage in plan]
    assert rounds == sorted(rounds) and set(rounds) == set(range(rounds[-1] + 1))
    first = [stage for stage in plan if stage.num_round == 0]
    assert all(use.data != "target" for stage in first for use in stage.streams.values())
    title = "supervised (the target's labels)" if config.method == "supervised" else "no adaptation"
    assert {stage.title for stage in first} == {title} and all(stage.steps > 0 for stage in plan)
    for number in set(rounds):
        members = [stage for stage in plan if stage.num_round == number]
        assert len({stage.round_name for stage in members}) == len({stage.title for stage in members}) == 1
        assert len({stage.needs_labels
                    for stage in members}) == 1, "the stages of a round start from the same labels, or from none"
    children = {name for name, _ in make(config).networks().named_children()}
    assert all(not stage.trains or stage.trains in children for stage in plan)


def test_every_stage_trains_logs_and_resumes_bit_for_bit(config: RunConfig) -> None:
    method, twin = make(config), make(config, seed=1)
    for stage in make(config).plan():
        before = {name: value.clone() for name, value in method.networks().state_dict().items()}
        method.start(stage, LocalRuntime())
        assert equal(method.networks().state_dict(), before), "start() must not move weights"
        scalars = train(method, stage, range(2))
        assert all("loss" in entry and not value.requires_grad for entry in scalars for value in entry.values())
        changed = {name for name,
                   value in method.networks().state_dict().items() if not torch.equal(value, before[name])}
        assert changed, "a stage must train"
        assert all(belongs_to(name, stage.trains) for name in changed), "a stage changes what it says it trains"
        saved = torch.load(_stored(method.state_dict(stage.trains)), weights_only=True)
        rest = train(method, stage, range(2, stage.steps))
        twin.load_state_dict({**method.state_dict(), "networks": before}, optimizers=False)
        twin.start(stage, LocalRuntime())
        for each in saved["optimizers"].values():
            each["param_groups"] = [{**group, "fused": True} for group in each["param_groups"]]  # as a GPU leaves it
        twin.load_state_dict(saved)
        assert not any(group["fused"] for each in twin.optimizers().values() for group in each.param_groups)
        assert equal(train(twin, stage, range(2, stage.steps)), rest)
        assert equal(twin.networks().state_dict(), method.networks().state_dict())


def _stored(state: dict[str, Any]) -> Any:
    import io

    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer


def test_the_running_statistics_rest_at_the_end_of_stages_from_new_networks_and_ever_after(config: RunConfig) -> None:
    method = make(with_steps(config, 5))

    def statistics() -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in method.networks().state_dict().items() if "running" in name}

    num_with_norms = 0
    for stage in method.plan():
        method.start(stage, LocalRuntime())
        if stage.num_round > 0 and not stage.fresh:
            at_rest = statistics()
            train(method, stage, range(2))
            assert equal(statistics(), at_rest)
            continue
        trained = {name.rpartition(".")[0]
                   for name, value in method.networks().named_parameters() if value.requires_grad}
        kept = {name for name,
                layer in method.networks().named_modules() if isinstance(layer, SyncBatchNorm2d) and layer.frozen}
        own = [name for name in statistics() if name.rpartition(".")[0] in trained - kept]
        num_with_norms += bool(own)
        train(method, stage, range(3))
        before = statistics()
        train(method, stage, range(3, 4))
        at_rest = statistics()
        assert not any(equal(before[name], at_rest[name]) for name in own)
        assert all(equal(before[name], at_rest[name])
                   for name in before if name.rpartition(".")[0] in kept), "ImageNet's are kept throughout"
        train(method, stage, range(4, 5))
        assert equal(statistics(), at_rest)
    assert num_with_norms


def test_predictions_have_the_agreed_shapes_and_leave_training_alone(config: RunConfig) -> None:
    method = make(config)
    stage = method.plan()[0]
    method.start(stage, LocalRuntime())
    train(method, stage, range(1))
    prediction = method.predict(torch.rand(2, 3, 50, 70))
    cells = (-(-50 // method.output_stride), -(-70 // method.output_stride))
    for part in (prediction.density, prediction.spread):
        assert part.shape == (2, 1, *cells) and part.dtype == torch.float32
    assert (prediction.density >= 0).all() and (prediction.spread >= 0).all() and prediction.spread.isfinite().all()
    if prediction.member_counts is not None:
        assert torch.allclose(prediction.member_counts.mean(0), prediction.density.sum((1, 2, 3)), rtol=1e-5)
    for heads in (prediction.detections, prediction.transformed):
        assert (heads is None
                or (len(heads) == 2 and all(one.shape[1] == 4 and one.dtype == np.float32 for one in heads)))
    train(method, stage, range(1, 2))  # still trains


def test_conclusions_count_what_they_show(config: RunConfig) -> None:
    method = make(config)
    density = np.random.default_rng(0).random((-(-50 // method.output_stride),
                                               -(-70 // method.output_stride))).astype(np.float32) / 50
    heads = np.array([[10, 12, 8, 0.9], [40, 30, 10, 0.5], [41, 31, 10, 0.7]], np.float32)
    seen = Seen(size=(50, 70), density=density, spread=density / 3, member_counts=np.array([2.0, 3.0]),
                detections=heads, transformed=heads[1:])
    verdict = method.conclude(seen)
    assert (verdict.density.shape == verdict.spread.shape == density.shape and (verdict.density >= 0).all()
            and verdict.uncertainty >= 0)
    assert verdict.points.ndim == 2 and verdict.points.shape[1] == 3
    assert verdict.sizes is None or verdict.sizes.shape == (len(verdict.points),)
    keep = method.select(verdict.density, np.full(density.shape, 0.9, np.float32))
    assert keep.shape == density.shape and keep.dtype == bool and keep.any()
    assert method.label_views()
    again = method.windows(verdict.density, verdict.points, "key")
    for purpose, windows in method.windows(verdict.density, verdict.points, "key").items():
        assert len(windows) and windows.shape[1] == 4 and np.array_equal(windows, again[purpose])


def test_every_method_counts_at_several_zooms(config: RunConfig) -> None:
    """Count, heads and labels come from the merged views, and the usual size alone is one of them."""
    method, image = make(config), np.random.default_rng(0).integers(0, 256, (70, 101, 3), np.uint8)
    usual = Predictor(method, image_size=96).predict(image)
    found = Predictor(method, image_size=96, zooms=(0.5, 1.0, 1.5)).predict(image)
    assert found.density.shape == usual.density.shape and found.keep.shape == usual.keep.shape
    assert found.count == pytest.approx(float(found.density.sum()), rel=1e-5) and np.isfinite(found.count)
    assert list(found.zoom_counts) == [0.5, 1.0, 1.5] and usual.zoom_counts == {}
    seen = next(Predictor(method, image_size=96).see([image]))
    assert found.zoom_counts[1.0] == pytest.approx(float(seen.density.sum()), rel=1e-5)
    assert (found.points[:, 0] <= 100).all() and (found.points[:, 1] <= 69).all()


def test_pretrained_layers_learn_more_slowly_and_the_first_ones_not_at_all(tiny_config: RunConfig) -> None:
    start = CounterConfig(backbone="efficientnet_lite0", weights="imagenet")
    method = make(replace(tiny_config, method="source_only", counter=start,
                          train=replace(tiny_config.train, pretrained_share=0.25)))
    before = {name: value.clone() for name, value in method.networks().named_parameters()}
    (stage,) = method.plan()
    method.start(stage, LocalRuntime())
    train(method, stage, range(2))
    (optimizer,) = method.optimizers().values()
    new, pretrained = optimizer.param_groups
    assert (pretrained["lr"] == pytest.approx(0.25 * new["lr"])
            and new["lr"] == pytest.approx(one_cycle_rate(2e-3, stage.steps)(1)))
    moved = {name for name, value in method.networks().named_parameters() if not torch.equal(value, before[name])}
    assert not any(name.startswith("encoder.levels.0.") for name in moved), "the level of stride 8"
    assert {"encoder.levels.1.block5.expand.conv.weight", "encoder.levels.1.block10.project.norm.bias",
            "encoder.pyramid.laterals.0.weight"} < moved
    assert len(new["params"]) + len(pretrained["params"]) == len(moved)


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_uncertainty_by_one_option(tiny_config: RunConfig, ensemble: Any) -> None:
    config = replace(tiny_config, counter=CounterConfig(ensemble=ensemble))
    method = make(config)
    for stage in method.plan():
        method.start(stage, LocalRuntime())
        train(method, stage, range(2))
    prediction = method.predict(torch.rand(2, 3, 64, 64))
    assert prediction.member_counts is not None
    assert prediction.member_counts.shape == (1 if ensemble == "none" else 3, 2)
    assert bool((prediction.spread > 0).any()) == (ensemble != "none")


def test_one_cycle_by_hand_and_against_torch() -> None:
    peak, steps = 2e-3, 40
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=peak, total_steps=steps)
    schedule = one_cycle_rate(peak, steps)
    assert schedule(0) == pytest.approx(peak / 25) and schedule(11) == pytest.approx(peak)
    for step in range(steps):
        assert schedule(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
        optimizer.step()
        if step + 1 < steps:
            reference.step()
