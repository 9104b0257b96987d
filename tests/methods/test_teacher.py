"""The mean teacher of a round of labels: its weights by hand, its labels cell by cell, its place in checkpoints."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crowddist.config import RunConfig, to_json
from crowddist.data.sample import Batch
from crowddist.data.shards import ShardReader
from crowddist.errors import InputError
from crowddist.methods.base import Stage
from crowddist.methods.build import build_method
from crowddist.methods.parts.counting import CountingMethod, LabelObjective
from crowddist.methods.parts.teacher import Teacher
from crowddist.methods.settings.self_supervision import SelfSupervisionConfig
from crowddist.methods.settings.train import TrainConfig
from crowddist.models.config import CounterConfig
from crowddist.models.counter import Counter, build_counter
from crowddist.run import checkpoint
from crowddist.run.engine import LocalRuntime, StageData, fit
from tests.data.test_stream import write_set
from tests.methods.test_contract import ENSEMBLES, equal, make, train, with_teacher
from tests.ops.test_resizing import naive

CPU = torch.device("cpu")


@pytest.fixture
def counter() -> Counter:
    """In eval mode, so that every image is counted by itself."""
    torch.manual_seed(0)
    return build_counter(CounterConfig()).eval()


def views() -> list[torch.Tensor]:
    """Three weak views of crops of 64 px."""
    return [torch.rand(3, side, side, generator=torch.Generator().manual_seed(side)) for side in (64, 48, 104)]


def batch(seed: int, *, taught: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(images=torch.rand(3, 3, 64, 64, generator=generator),
                 density=0.3 * torch.rand(3, 1, 8, 8, generator=generator),
                 keep=(torch.rand(3, 1, 8, 8, generator=generator) < 0.6).float() if taught else None,
                 weak=views() if taught else None, draws=torch.tensor([4, 11, 3]))


def labels_of(network: Counter, view: torch.Tensor) -> np.ndarray:
    """The mean over the masks, each alone, brought to 8 x 8 cells."""
    members = [network(view[None], torch.tensor([index])).detach().numpy()[0, 0] for index in range(3)]
    return naive(np.mean(members, axis=0), (8, 8))


def test_its_weights_by_hand(counter: Counter) -> None:
    """It begins as the counter and has no warm-up: 0.9 x + 0.1 (x + 1), then 0.9 (x + 0.1) + 0.1 (x + 3)."""
    teacher = Teacher(counter, 0.9, CPU)
    first = {name: value.clone() for name, value in counter.named_parameters()}
    assert equal(dict(teacher.network.named_parameters()), first)
    for moved in (1.0, 2.0):
        with torch.no_grad():
            for value in counter.parameters():
                value.add_(moved)
        teacher.update()
    for name, value in teacher.network.named_parameters():
        torch.testing.assert_close(value, first[name] + 0.1 * 0.9 + 0.1 * 3.0)
        assert not value.requires_grad
    assert all(torch.equal(value, first[name] + 1.0 + 2.0) for name, value in counter.named_parameters())


def test_its_labels_view_by_view(counter: Counter) -> None:
    """Persons stay, whatever the size of a view; no label depends on the other views."""
    teacher = Teacher(counter, 0.9, CPU)
    found = teacher.densities(views(), (8, 8))
    assert found.shape == (3, 1, 8, 8) and not found.requires_grad
    for one, view in zip(found, views(), strict=True):
        np.testing.assert_allclose(one[0].numpy(), labels_of(counter, view), rtol=1e-4, atol=1e-7)
        assert torch.equal(teacher.densities([view], (8, 8))[0], one)


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_its_first_labels_are_the_predictions_of_the_counter(tiny_config: RunConfig, ensemble: Any) -> None:
    config = with_teacher(replace(tiny_config, counter=CounterConfig(ensemble=ensemble)))
    method = make(config)
    assert isinstance(method, CountingMethod)
    method.start(rounds(config)[0], LocalRuntime())
    assert method._teacher is not None
    view = views()[0]
    assert torch.equal(method._teacher.densities([view], (8, 8)), method.predict(view[None]).density)


def test_density_regularisation_also_limits_its_labels(counter: Counter) -> None:
    teacher = Teacher(counter, 0.9, CPU)
    (view, *_), whole = views(), teacher.densities(views()[:1], (8, 8))
    teacher.most_persons = float(whole.median())
    members = np.stack([counter(view[None], torch.tensor([index])).detach().numpy()[0, 0] for index in range(3)])
    limited = np.where(members > teacher.most_persons, 0, members).mean(0)
    np.testing.assert_allclose(teacher.densities([view], (8, 8))[0, 0].numpy(), limited, rtol=1e-5, atol=1e-7)
    assert limited.sum() < float(whole.sum())


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_both_labels_are_mixed_by_the_formula(counter: Counter, share: float) -> None:
    """The loss is that of fixed labels (1 - share) y + share y', y' by a teacher that is no longer the counter."""
    teacher = Teacher(counter, 0.9, CPU)
    assert isinstance(teacher.network, Counter)
    with torch.no_grad():
        for value in teacher.network.decoder.parameters():
            value.mul_(1.1)
    batches = {"source": batch(1), "target": batch(2, taught=True)}
    assert batches["target"].density is not None and batches["target"].keep is not None
    by_round, keep = batches["target"].density.clone(), batches["target"].keep
    by_teacher = torch.from_numpy(np.stack([labels_of(teacher.network, view) for view in views()])).float()[:, None]
    told = LabelObjective(counter, TrainConfig(), target_weight=0.7, teacher=teacher,
                          teacher_share=share).eval()(batches)
    mixed = replace(batches["target"], density=(1 - share) * by_round + share * by_teacher)
    fixed = LabelObjective(counter, TrainConfig(), target_weight=0.7).eval()({**batches, "target": mixed})
    for name in ("loss", "source_loss", "target_loss"):
        torch.testing.assert_close(told[name], fixed[name], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(told["round_persons"], (by_round * keep).sum() / 3)
    torch.testing.assert_close(told["teacher_persons"], (by_teacher * keep).sum() / 3, rtol=1e-4, atol=1e-6)
    told["loss"].backward()
    assert all(value.grad is None for value in teacher.network.parameters())
    assert torch.equal(batches["target"].density, by_round), "the labels of a round stay as they are"


def rounds(config: RunConfig) -> list[Stage]:
    return [stage for stage in build_method(config).plan() if stage.needs_labels]


@pytest.mark.parametrize("method", ["self_supervision", "combined"])
def test_counters_have_a_teacher_where_it_has_a_share(tiny_config: RunConfig, method: str) -> None:
    """Detectors have none, and no erased patches."""
    config = replace(tiny_config, method=method)
    for stage in rounds(config):
        assert all(use.weak_scales is None and use.erased_share == 0 for use in stage.streams.values())
    for stage in rounds(with_teacher(config)):
        detecting = stage.name.endswith("/detector")
        assert stage.streams["target"].weak_scales == (None if detecting else (1.0, 1.4)), "the sizes of the labels"
        assert stage.streams["target"].erased_share == (0.0 if detecting else 0.5)
        assert stage.streams["source"].weak_scales is None and stage.streams["source"].erased_share == 0
    for settings, taught in ((config, False), (with_teacher(config), True)):
        whole = make(settings)
        for stage in whole.plan():
            whole.start(stage, LocalRuntime())
            train(whole, stage, range(1))
            assert ("teacher" in whole.state_dict()) == (
                taught and stage.needs_labels and not stage.name.endswith("/detector"))


def test_each_round_has_a_new_teacher(tiny_config: RunConfig) -> None:
    method, twin = (make(with_teacher(tiny_config)) for _ in range(2))
    first, second = rounds(with_teacher(tiny_config))
    assert isinstance(method, CountingMethod)
    method.start(first, LocalRuntime())
    train(method, first, range(3))
    assert method._teacher is not None and not equal(method._teacher.network.state_dict(), method.counter.state_dict())
    twin.start(first, LocalRuntime())
    twin.load_state_dict(method.state_dict(), optimizers=False)  # as a stage begins
    twin.start(second, LocalRuntime())
    assert equal(twin.state_dict()["teacher"], method.counter.state_dict())


def test_the_limit_of_a_run_is_the_teachers_too(tiny_config: RunConfig) -> None:
    config = with_teacher(replace(tiny_config, train=replace(tiny_config.train, density_limit=True)))
    method = make(config)
    assert isinstance(method, CountingMethod)
    method.start(rounds(config)[0], LocalRuntime())
    method.limit_density(0.25)
    assert method._teacher is not None and method._teacher.most_persons == 0.25


@pytest.mark.parametrize("average_decay", [0.0, 0.9])
def test_a_resumed_round_ends_with_the_same_bits(tiny_config: RunConfig, tmp_path: Path,
                                                 average_decay: float) -> None:
    """Stopped after two of its four steps; the teacher goes on from the checkpoint, beside a run's average."""
    config = with_teacher(replace(tiny_config, engine=replace(tiny_config.engine, average_decay=average_decay)))
    labels = {"density.npy": np.full((9, 12), 0.05, np.float32), "keep.png": np.full((9, 12), 255, np.uint8)}
    labels_url = write_set(tmp_path / "labels", dict.fromkeys(ShardReader(config.target).keys(), labels), kind="labels")

    class Stopping(LocalRuntime):
        def at(self, step: int, doing: str) -> None:
            self.step = step

        def stop_requested(self) -> bool:
            return self.step == 1

    def run(folder: str, runtime: LocalRuntime) -> dict[str, Any]:
        data = StageData(stage=rounds(config)[0], folder=(tmp_path / folder).as_uri(), labels_url=labels_url,
                         urls={"source": config.source, "target": config.target})
        fit(make(config), data, runtime, engine=config.engine, seed=0, record=to_json(config))
        content = checkpoint.load_latest((tmp_path / folder / "checkpoints").as_uri())
        assert content is not None
        return content

    unbroken = run("unbroken", LocalRuntime())
    assert run("stopped", Stopping())["step"] == 2
    resumed = run("stopped", LocalRuntime())
    assert resumed["step"] == unbroken["step"] == 4 and equal(resumed["method"], unbroken["method"])
    assert not equal(resumed["method"]["teacher"], resumed["method"]["networks"])
    points = [json.loads(line) for line in (tmp_path / "stopped" / "curve.jsonl").read_text().splitlines()]
    assert all(point["round_persons"] > 0 and point["teacher_persons"] > 0 for point in points)


@pytest.mark.parametrize(("name", "value"), [
    ("teacher_share", -0.1), ("teacher_share", 1.1), ("erased_share", 2.0), ("teacher_decay", 1.0),
    ("teacher_decay", -0.5), ("teacher_zoom", 0.5), ("teacher_zoom", 9.0), ("teacher_share", float("nan")),
])
def test_settings_out_of_range_are_one_line(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{name} lies in") as caught:
        SelfSupervisionConfig(**{name: value})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
