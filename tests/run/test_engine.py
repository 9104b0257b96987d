"""The engine: exact resume, equal halves, and a clear stop at a loss that is not finite."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from crowddist import storage
from crowddist.config import RunConfig, from_json, to_json
from crowddist.data.scenes import SceneRule
from crowddist.errors import InputError
from crowddist.methods.base import Method, Stage
from crowddist.methods.build import build_method
from crowddist.process.stop_signals import Termination
from crowddist.run import checkpoint
from crowddist.run.engine import LocalRuntime, StageData, _loader, fit, fit_stages, read_curve, read_done


def stage_data(config: RunConfig, folder: Path) -> tuple[Method, StageData]:
    torch.manual_seed(0)
    method = build_method(config)
    return method, StageData(stage=method.plan()[0], folder=folder.as_uri(),
                             urls={"source": config.source, "target": config.target})


def run(config: RunConfig, folder: Path) -> dict:
    method, data = stage_data(config, folder)
    fit(method, data, LocalRuntime(), engine=config.engine, seed=config.seed, record=to_json(config))
    loaded = checkpoint.load_latest(storage.join(data.folder, "checkpoints"))
    assert loaded is not None
    return loaded


class Killed(Exception):
    """Stands for the death of the process, at a moment the test chooses."""


@pytest.mark.parametrize("average_decay", [0.0, 0.9])
def test_a_resumed_stage_ends_with_the_same_bits(
    tiny_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, average_decay: float
) -> None:
    tiny_config = replace(tiny_config, engine=replace(tiny_config.engine, average_decay=average_decay))
    unbroken = run(tiny_config, tmp_path / "unbroken")
    real_save, saves = checkpoint.Saver.save, []

    def save_and_die(saver: checkpoint.Saver, *arguments: Any, **options: Any) -> None:
        real_save(saver, *arguments, **options)
        saves.append(arguments[0])
        if len(saves) == 2:
            raise Killed

    monkeypatch.setattr(checkpoint.Saver, "save", save_and_die)
    with pytest.raises(Killed):
        run(tiny_config, tmp_path / "broken")
    monkeypatch.undo()
    seconds_before = checkpoint.load(checkpoint.latest_url((tmp_path / "broken" / "checkpoints").as_uri()))["seconds"]
    resumed = run(tiny_config, tmp_path / "broken")
    assert resumed["seconds"] > seconds_before > 0  # of both starts
    assert resumed["step"] == 6 and resumed["samples_seen"] == {"source": 24}
    for name, value in unbroken["method"]["networks"].items():
        assert torch.equal(value, resumed["method"]["networks"][name]), name
    assert ("unaveraged" in unbroken["method"]) == bool(average_decay)
    for name, value in unbroken["method"].get("unaveraged", {}).items():
        assert torch.equal(value, resumed["method"]["unaveraged"][name]), name
    assert str(unbroken["method"]["optimizers"]) == str(resumed["method"]["optimizers"])
    curves = [[json.loads(line) for line in (tmp_path / name / "curve.jsonl").read_text().splitlines()]
              for name in ("unbroken", "broken")]
    assert [point["step"] for point in curves[1]] == [2, 4, 6]
    assert [point["loss"] for point in curves[0]] == [point["loss"] for point in curves[1]]


def test_the_average_of_the_weights_counts_and_the_next_stage_begins_with_it(tiny_config: RunConfig,
                                                                             tmp_path: Path) -> None:
    """The average follows its definition over all steps; training itself does not change."""
    plain, seen = run(tiny_config, tmp_path / "plain"), []
    config = replace(tiny_config, engine=replace(tiny_config.engine, average_decay=0.3))
    method, data = stage_data(config, tmp_path / "averaged")
    weight = next(method.networks().parameters())
    step_of = method.step

    def step(number, batches):
        losses = step_of(number, batches)
        seen.append(weight.detach().clone())
        return losses

    method.step = step  # type: ignore[method-assign]
    expected = weight.detach().clone()
    fit(method, data, LocalRuntime(), engine=config.engine, seed=config.seed, record=to_json(config))
    for step, value in enumerate(seen):
        kept = min(0.3, (1 + step) / (10 + step))
        expected = kept * expected + (1 - kept) * value
    state = checkpoint.load_latest((tmp_path / "averaged" / "checkpoints").as_uri())
    assert state is not None
    name = next(name for name, value in method.networks().named_parameters() if value is weight)
    torch.testing.assert_close(state["method"]["networks"][name], expected)
    assert torch.equal(state["method"]["unaveraged"][name], plain["method"]["networks"][name])
    assert all(torch.equal(value, state["method"]["networks"][name])
               for name, value in method.networks().state_dict().items())


@pytest.mark.parametrize(("of_engine", "of_stage"), [(0.0, 0.3), (0.9, 0.3), (0.3, 0.0)])
def test_a_stage_may_have_an_average_of_its_own(tiny_config: RunConfig, tmp_path: Path, of_engine: float,
                                                of_stage: float) -> None:
    """Also where the run has another one or none; a stage without one has the run's."""
    method, data = stage_data(tiny_config, tmp_path / "stage")
    data = replace(data, stage=replace(data.stage, average_decay=of_stage))
    engine = replace(tiny_config.engine, average_decay=of_engine)
    fit(method, data, LocalRuntime(), engine=engine, seed=tiny_config.seed, record=to_json(tiny_config))
    expected = run(replace(tiny_config, engine=replace(engine, average_decay=0.3)), tmp_path / "run")
    found = checkpoint.load_latest((tmp_path / "stage" / "checkpoints").as_uri())
    assert found is not None and "unaveraged" in found["method"]
    for name, value in expected["method"]["networks"].items():
        assert torch.equal(value, found["method"]["networks"][name]), name


def test_the_next_stage_begins_with_the_average_also_after_a_kill_at_the_last_step(tiny_config: RunConfig,
                                                                                    tmp_path: Path) -> None:
    """Killed between a stage's last checkpoint and its DONE.json."""
    config = replace(tiny_config, engine=replace(tiny_config.engine, average_decay=0.9))
    plan = build_method(config).plan()[:2]

    def train(folder: str, stages: Sequence[Stage]) -> dict[str, torch.Tensor]:
        data = [StageData(stage=stage, folder=(tmp_path / folder / stage.name).as_uri(),
                          urls={"source": config.source, "target": config.target}) for stage in stages]
        fit_stages(lambda: build_method(config), data, LocalRuntime(), engine=config.engine, seed=0,
                   record=to_json(config))
        done = read_done(data[-1].folder)
        assert done is not None
        return checkpoint.load(done["checkpoint"])["method"]["networks"]

    unbroken = train("unbroken", plan)
    train("killed", plan[:1])
    (tmp_path / "killed" / plan[0].name / "DONE.json").unlink()
    resumed = train("killed", plan)
    assert all(torch.equal(value, resumed[name]) for name, value in unbroken.items())


def test_asked_to_stop_it_leaves_a_checkpoint_after_its_step(tiny_config: RunConfig, tmp_path: Path) -> None:
    """In the midst of an interval, and at a stage's last step; what goes on ends with the bits of an unbroken
    training.
    """
    config = replace(tiny_config, engine=replace(tiny_config.engine, checkpoint_every=100))
    unbroken = run(config, tmp_path / "unbroken")

    class Stopped(LocalRuntime):
        def __init__(self, after: int) -> None:
            super().__init__()
            self.after, self.places = after, []

        def at(self, step: int, doing: str) -> None:
            self.places.append((step, doing))

        def stop_requested(self) -> bool:
            return self.places[-1][0] + 1 >= self.after

    for after in (3, 4):
        method, data = stage_data(config, tmp_path / "broken")
        runtime = Stopped(after)
        assert not fit(method, data, runtime, engine=config.engine, seed=config.seed, record=to_json(config))
        assert runtime.places[-1] == (after - 1, "writing a checkpoint")
        newest = checkpoint.load_latest((tmp_path / "broken" / "checkpoints").as_uri())
        assert newest is not None and newest["step"] == after and read_done(data.folder) is None
    method, data = stage_data(config, tmp_path / "broken")
    assert not fit(method, data, Stopped(6), engine=config.engine, seed=config.seed, record=to_json(config))
    done = read_done(data.folder)
    assert done is not None
    for name, value in checkpoint.load(done["checkpoint"])["method"]["networks"].items():
        assert torch.equal(value, unbroken["method"]["networks"][name]), name


def test_what_a_stage_tells_of_itself(tiny_config: RunConfig, tmp_path: Path) -> None:
    """Stopped after two of its six steps: losses are means over what went before, seconds add up over both starts and
    by worker. All of its computing is said to have been waiting.
    """
    engine = replace(tiny_config.engine, checkpoint_every=3, log_every=2)
    losses: dict[int, float] = {}

    class Beside(LocalRuntime):
        """The first of two workers."""

        def __init__(self, stop_after: int) -> None:
            super().__init__()
            self.stop_after, self.doing, self.reported = stop_after, [], []

        def at(self, step: int, doing: str) -> None:
            self.doing.append((step, doing))

        def report(self, step: int, scalars: Mapping[str, float]) -> None:
            self.reported.append((step, dict(scalars)))

        def stop_requested(self) -> bool:
            return self.doing[-1][0] + 1 == self.stop_after

        def waited_s(self) -> float:
            return 1e9

        def gather(self, seconds: Mapping[str, float]) -> list[dict[str, float]]:
            return [dict(seconds), {"read": 3.0}]

    folder, states, elapsed = (tmp_path / "stage" / "checkpoints").as_uri(), [], 0.0
    for stop_after, steps, written in ((2, (0, 1), (2,)), (9, (2, 3, 4, 5), (3, 6))):
        method, data = stage_data(tiny_config, tmp_path / "stage")
        step_of, runtime = method.step, Beside(stop_after)

        def step_and_note(step: int, batches: Any, step_of: Any = step_of) -> Any:
            scalars = step_of(step, batches)
            losses[step] = float(scalars["loss"])
            return scalars

        method.step = step_and_note  # type: ignore[method-assign]
        began = time.time()
        assert fit(method, data, runtime, engine=engine, seed=0, record="{}") == (stop_after == 9)
        elapsed += time.time() - began
        assert runtime.doing == [(step, doing) for step in steps for doing in (
            "reading samples", "computing", *(["writing a checkpoint"] if step + 1 in written else []))]
        assert [step for step, _ in runtime.reported] == list(written)
        states.append(checkpoint.load_latest(folder))
    curve = read_curve((tmp_path / "stage" / "curve.jsonl").as_uri())
    assert [(point["step"], point["loss"]) for point in curve] == [
        (step, pytest.approx((losses[step - 2] + losses[step - 1]) / 2)) for step in (2, 4, 6)]
    assert all(0 < point["seconds_per_step"] < elapsed / 2 for point in curve)
    assert runtime.reported[-1][1] == {name: value for name, value in curve[-1].items() if name != "step"}
    history = json.loads((tmp_path / "stage" / "checkpoints" / "latest.json").read_text())["checkpoints"]
    means = {2: (losses[0] + losses[1]) / 2, 3: losses[2], 6: (losses[3] + losses[4] + losses[5]) / 3}
    assert {3, 6} <= {entry["step"] for entry in history}
    assert all(entry["loss"] == pytest.approx(means[entry["step"]]) for entry in history)
    done = read_done((tmp_path / "stage").as_uri())
    assert done is not None and 0 < states[0]["seconds"] < states[1]["seconds"] < elapsed
    assert round(states[1]["seconds"], 1) <= done["seconds"] == round(done["seconds"], 1) <= elapsed + 0.05
    own, other = done["workers"]
    assert other == {"read": 6.0} and own["compute"] == 0 < own["exchange"]
    assert elapsed / 2 < sum(own.values()) < elapsed
    assert sum(states[0]["workers"][0].values()) < sum(states[1]["workers"][0].values()) <= sum(own.values())


def test_only_the_first_worker_writes(tiny_config: RunConfig, tmp_path: Path,
                                      caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crowddist.run.engine._has_bfloat16", lambda device: False)
    runtime = LocalRuntime()
    runtime.rank, runtime.world_size = 1, 2
    method, data = stage_data(tiny_config, tmp_path / "stage")
    engine = replace(tiny_config.engine, precision="bfloat16")
    assert fit(method, data, runtime, engine=engine, seed=0, record="{}")
    assert not (tmp_path / "stage").exists() and not caplog.messages
    runtime.rank, runtime.world_size = 0, 3
    with pytest.raises(InputError, match="batch size 4 of stream source cannot be shared equally by 3 workers"):
        fit(method, data, runtime, engine=engine, seed=0, record="{}")


def test_no_stage_is_begun_after_a_request_to_stop(tiny_config: RunConfig, tmp_path: Path) -> None:
    termination = Termination()
    termination.signal = "SIGTERM"
    stages = [
        StageData(stage=stage, folder=(tmp_path / stage.name).as_uri(),
                  urls={"source": tiny_config.source, "target": tiny_config.target})
        for stage in build_method(tiny_config).plan()[:2]
    ]
    fit_stages(
        lambda: build_method(tiny_config), stages, LocalRuntime(termination=termination), engine=tiny_config.engine,
        seed=0, record=to_json(tiny_config),
    )
    assert torch.are_deterministic_algorithms_enabled()
    assert checkpoint.load_latest((tmp_path / "source" / "checkpoints").as_uri())["step"] == 1  # type: ignore[index]
    assert not (tmp_path / stages[1].stage.name).exists()


def test_a_half_written_curve_does_not_stop_a_stage(tiny_config: RunConfig, tmp_path: Path) -> None:
    """A full disk cuts the newest line short."""
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "curve.jsonl").write_text('{"step": 2, "lo')
    run(tiny_config, tmp_path / "stage")
    assert [json.loads(line)["step"]
            for line in (tmp_path / "stage" / "curve.jsonl").read_text().splitlines()] == [2, 4, 6]


@pytest.mark.parametrize(("own", "as_run"), [
    ({"scale_jitter": (0.5, 0.5)}, {"scale_jitter": (0.5, 0.5)}),
    ({"crop_size": 32}, {"crop_size": 32, "crop_width": 0}),
    ({"plain": True}, {"colour_jitter": 0.0, "grey_share": 0.0, "soft_share": 0.0, "noisy_share": 0.0,
                      "denser_share": 0.0}),
], ids=["scale", "size", "plain"])
def test_a_stream_is_cut_its_own_way(tiny_config: RunConfig, tmp_path: Path, own: dict[str, Any],
                                     as_run: dict[str, Any]) -> None:
    """A stream's own settings train as the run's same settings do."""
    stream = replace(tiny_config.stream, noisy_share=0.5, denser_share=0.5, crop_width=96)
    tiny_config = replace(tiny_config, stream=stream)
    method, data = stage_data(tiny_config, tmp_path / "stream")
    source = replace(data.stage.streams["source"], **own)
    data = replace(data, stage=replace(data.stage, streams={"source": source}))
    fit(method, data, LocalRuntime(), engine=tiny_config.engine, seed=0, record="{}")
    everywhere = run(replace(tiny_config, stream=replace(tiny_config.stream, **as_run)), tmp_path / "run")
    nowhere = run(tiny_config, tmp_path / "neither")
    weights = [parts["method"]["networks"] for parts in (everywhere, nowhere)]
    mine = method.networks().state_dict()
    assert all(torch.equal(mine[name], weights[0][name]) for name in mine)
    assert not all(torch.equal(mine[name], weights[1][name]) for name in mine)


def test_scenes_are_chosen_in_the_source_alone(tiny_config: RunConfig, tmp_path: Path,
                                               make_images: Callable[..., str]) -> None:
    source = make_images(tmp_path / "source", count=8, facts=[{"hour": hour} for hour in range(8)])
    stage = build_method(tiny_config).plan()[1]  # orientation, which reads both
    data = StageData(stage=stage, folder="", urls={"source": source, "target": tiny_config.target},
                     scenes=SceneRule(name="early", hours=(2, 4)))
    read = {
        name: {key for batch in _loader(name, data, LocalRuntime(), stream=tiny_config.stream, seed=0, first_step=0)
               for key in batch.keys}
        for name in stage.streams
    }
    # the target tells no hour
    assert read["source"] == {"image-002", "image-003", "image-004"} and len(read["whole_target"]) > 5


def test_more_sources_are_mixed_into_the_source_alone(tiny_config: RunConfig, make_images: Callable[..., str],
                                                      tmp_path: Path) -> None:
    other = make_images(tmp_path / "other", count=2, prefix="other")
    stage = build_method(tiny_config).plan()[1]  # orientation, which reads both
    urls = {"source": tiny_config.source, "source_2": other, "target": tiny_config.target}
    data = StageData(stage=stage, folder="", urls=urls, shares={"source_2": Fraction(1, 2)})
    read = {
        name: [key for batch in _loader(name, data, LocalRuntime(), stream=tiny_config.stream, seed=0, first_step=0)
               for key in batch.keys]
        for name in stage.streams
    }
    assert [key.startswith("other") for key in read["source"]] == [False, True] * (len(read["source"]) // 2)
    others = {"other-000", "other-001"}
    assert others < set(read["source"]) and not others & set(read["whole_target"])


def test_mixed_precision_trains_nearly_the_same(tiny_config: RunConfig, tmp_path: Path) -> None:
    """By itself a CPU computes in float32."""
    curves = []
    for precision in ("float32", "bfloat16", "auto"):
        run(replace(tiny_config, engine=replace(tiny_config.engine, precision=precision)), tmp_path / precision)
        curves.append([json.loads(line)["loss"]
                       for line in (tmp_path / precision / "curve.jsonl").read_text().splitlines()])
    assert curves[0] != curves[1]
    assert curves[1] == pytest.approx(curves[0], rel=0.05)
    assert curves[2] == curves[0] and tiny_config.engine.precision == "auto"


@pytest.mark.parametrize("machine, capability, told", [("x86_64", "AVX2", True), ("AMD64", "DEFAULT", True),
                                                       ("x86_64", "AVX512", False), ("aarch64", "DEFAULT", False)])
def test_a_cpu_that_is_slow_at_mixed_precision_is_told(
    tiny_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    machine: str, capability: str, told: bool
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    short = replace(tiny_config, train=replace(tiny_config.train, steps=1))
    run(short, tmp_path / "float32")
    assert not caplog.messages
    run(replace(short, engine=replace(short.engine, precision="bfloat16")), tmp_path / "bfloat16")
    assert [message for message in caplog.messages if "several times slower than float32" in message] == caplog.messages
    assert bool(caplog.messages) == told


def test_a_finished_stage_says_so(tiny_config: RunConfig, tmp_path: Path) -> None:
    run(tiny_config, tmp_path / "stage")
    done = read_done((tmp_path / "stage").as_uri())
    assert done is not None and done["steps"] == 6 and done["checkpoint"].endswith("checkpoints/step-000006.pt")
    assert from_json(checkpoint.load(done["checkpoint"])["config"]) == tiny_config


def test_a_loss_that_is_not_finite_stops_with_its_whereabouts(tiny_config: RunConfig, tmp_path: Path) -> None:
    wild = replace(tiny_config, train=replace(tiny_config.train, learning_rate=1e18))
    with pytest.raises(FloatingPointError, match=r"loss of stage source is .* at step \d; samples: image-"):
        run(wild, tmp_path / "stage")
    assert read_done((tmp_path / "stage").as_uri()) is None


def test_a_batch_that_cannot_be_shared_is_refused(tiny_config: RunConfig) -> None:
    with pytest.raises(InputError, match="cannot be shared equally by 3 workers"):
        replace(tiny_config, launcher="ray", num_workers=3)


def test_the_config_survives_its_json(tiny_config: RunConfig) -> None:
    assert from_json(to_json(tiny_config)) == tiny_config
    with pytest.raises(InputError, match="not a run's configuration"):
        from_json('{"unknown": 1}')
