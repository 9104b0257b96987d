"""The contract that every method keeps, on one worker (two workers: tests/distributed)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest
import torch

from crowddist.config import RunConfig
from crowddist.data.sample import Batch
from crowddist.engine import LocalRuntime
from crowddist.methods.base import Method, OneCycle, Stage
from crowddist.methods.config import MethodName
from crowddist.methods.table import build_method
from crowddist.models.config import CounterConfig

ENSEMBLES = ("masksembles", "dropout", "deep", "none")


@pytest.fixture(params=get_args(MethodName))
def config(request: pytest.FixtureRequest, tiny_config: RunConfig) -> RunConfig:
    """A small configuration of each method."""
    return replace(tiny_config, method=request.param)


def make(config: RunConfig, seed: int = 0) -> Method:
    torch.manual_seed(seed)
    return build_method(config)


def made_up_batches(stage: Stage, step: int) -> dict[str, Batch]:
    """Random batches of the kind that a stage asks for."""
    batches = {}
    for name, use in stage.streams.items():
        generator = torch.Generator().manual_seed(1000 * step + len(name))
        labelled = use.data == "source" or use.labels
        size = use.batch_size
        batches[name] = Batch(
            images=torch.rand(size, 3, 64, 64, generator=generator),
            density=0.2 * torch.rand(size, 1, 8, 8, generator=generator) if labelled else None,
            keep=(torch.rand(size, 1, 8, 8, generator=generator) > 0.3).float() if use.labels else None,
            draws=torch.randint(0, 1 << 30, (size,), generator=generator),
        )
    return batches


def train(method: Method, stage: Stage, steps: range) -> list[dict[str, torch.Tensor]]:
    logged = []
    for step in steps:
        torch.manual_seed(step)
        logged.append(method.step(step, made_up_batches(stage, step)))
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
    assert len({stage.name for stage in plan}) == len(plan) and [stage.num_round for stage in plan] == list(range(len(plan)))
    assert all(use.data == "source" for use in plan[0].streams.values()) and plan[0].title == "no adaptation"
    assert not plan[0].needs_labels and all(stage.steps > 0 for stage in plan)


def test_every_stage_trains_logs_and_resumes_bit_for_bit(config: RunConfig) -> None:
    method, twin = make(config), make(config, seed=1)
    for stage in make(config).plan():
        before = {name: value.clone() for name, value in method.networks().state_dict().items()}
        method.start(stage, LocalRuntime())
        assert equal(method.networks().state_dict(), before), "start() must not move weights"
        scalars = train(method, stage, range(2))
        assert all("loss" in entry and not value.requires_grad for entry in scalars for value in entry.values())
        assert not equal(method.networks().state_dict(), before), "a stage must train"
        saved = {name: value for name, value in method.state_dict().items()}
        saved = torch.load(_stored(saved), weights_only=True)
        rest = train(method, stage, range(2, stage.steps))
        twin.start(stage, LocalRuntime())
        twin.load_state_dict(saved)
        assert equal(train(twin, stage, range(2, stage.steps)), rest)
        assert equal(twin.networks().state_dict(), method.networks().state_dict())


def _stored(state: dict[str, Any]) -> Any:
    import io

    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer


def test_the_running_statistics_rest_at_the_end_of_the_source_stage_and_ever_after(config: RunConfig) -> None:
    method = make(replace(config, train=replace(config.train, steps=10)))

    def statistics() -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in method.networks().state_dict().items() if "running" in name}

    source, *others = method.plan()
    method.start(source, LocalRuntime())
    train(method, source, range(7))
    before = statistics()
    train(method, source, range(7, 8))
    at_rest = statistics()
    assert before and not any(equal(before[name], at_rest[name]) for name in before)
    train(method, source, range(8, 10))
    for stage in others:
        method.start(stage, LocalRuntime())
        train(method, stage, range(2))
    assert equal(statistics(), at_rest)


def test_a_method_selects_as_its_predictions_do(config: RunConfig) -> None:
    method = make(config)
    method.start(method.plan()[0], LocalRuntime())
    train(method, method.plan()[0], range(1))
    prediction = method.predict(torch.rand(2, 3, 50, 70))
    assert torch.equal(method.select(prediction.density, prediction.spread), prediction.keep)
    alone = method.select(prediction.density[0, 0].numpy(), prediction.spread[0, 0].numpy())
    assert (alone == prediction.keep[0, 0].numpy()).all()
    assert 1.0 in method.label_views()


def test_predictions_have_the_agreed_shapes_and_leave_training_alone(config: RunConfig) -> None:
    method = make(config)
    stage = method.plan()[0]
    method.start(stage, LocalRuntime())
    train(method, stage, range(1))
    prediction = method.predict(torch.rand(2, 3, 50, 70))
    for part in (prediction.density, prediction.spread, prediction.keep):
        assert part.shape == (2, 1, 7, 9)
    assert prediction.density.dtype == torch.float32 and prediction.keep.dtype == torch.bool
    assert (prediction.density >= 0).all() and (prediction.spread >= 0).all() and prediction.spread.isfinite().all()
    assert prediction.member_counts is not None
    assert torch.allclose(prediction.member_counts.mean(0), prediction.density.sum((1, 2, 3)), rtol=1e-5)
    train(method, stage, range(1, 2))  # still trains


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
    schedule = OneCycle(peak, steps)
    assert schedule.at(0) == pytest.approx(peak / 25) and schedule.at(11) == pytest.approx(peak)
    for step in range(steps):
        assert schedule.at(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
        optimizer.step()
        if step + 1 < steps:
            reference.step()
