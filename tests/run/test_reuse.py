"""Stages that several runs share are trained once, and every run ends with the bits that it would have alone."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

import crowddist
from crowddist import storage
from crowddist.config import RunConfig
from crowddist.data.scenes import SceneRule
from crowddist.inference.predictor import Predictor
from crowddist.launch.local import LocalLauncher
from crowddist.methods.build import build_method
from crowddist.models.config import CounterConfig, DetectorConfig
from crowddist.pipeline import adapt
from crowddist.run import checkpoint, reuse
from crowddist.run.engine import StageData, is_begun, read_done
from crowddist.run.record import run_folder
from crowddist.run.reuse import code_digest, take_over
from crowddist.storage.run_folder import CURVE, DONE, INPUTS
from crowddist.tracking.tracker import NullTracker

ONE_THREAD = "torch, cpu, 1 thread, 1 worker"
SAYS = "taken over from run {} (same settings, data and code)"


class Noting(LocalLauncher):
    """Remembers which stages it trained."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.trained: list[str] = []

    def train(self, chains: Sequence[Sequence[StageData]]) -> None:
        self.trained += [data.stage.name for chain in chains for data in chain if read_done(data.folder) is None]
        super().train(chains)


def run(config: RunConfig, *, reuse: bool = True,
        tracker: NullTracker | None = None) -> tuple[dict[str, Any], list[str], list[str]]:
    """The result, the stages that were trained, and what was said."""
    lines, launcher = list[str](), Noting(config)
    result = adapt(config, launcher, tracker or NullTracker(), say=lines.append, reuse=reuse)
    return result, launcher.trained, lines


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """All weights to the last bit, and all figures but the times."""
    ours, theirs = (checkpoint.load(result["checkpoint"])["method"]["networks"] for result in (one, other))
    assert ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())
    figures = [[{name: value for name, value in row.items() if name not in ("checkpoint", "train/seconds")}
                for row in result["rounds"]] for result in (one, other)]
    assert figures[0] == figures[1]


def alone(config: RunConfig) -> RunConfig:
    return replace(config, storage=f"{config.storage}-alone")


@pytest.fixture
def config(tiny_config: RunConfig) -> RunConfig:
    """A source stage of four steps, no rounds of labels."""
    return replace(tiny_config, train=replace(tiny_config.train, steps=4),
                   self_supervision=replace(tiny_config.self_supervision, rounds=0, orientation_steps=2))


@pytest.fixture
def source_only(config: RunConfig) -> RunConfig:
    """A run of the source stage alone, whose counter has no orientation head."""
    return replace(config, method="source_only", run_name="first", counter=CounterConfig(orientation=False))


def test_two_methods_train_their_source_once_and_end_as_alone(config: RunConfig, source_only: RunConfig) -> None:
    _, trained, lines = run(source_only)
    assert trained == ["source"] and not any("taken over" in line for line in lines)
    shared, trained, lines = run(replace(config, run_name="second"))
    assert trained == ["orientation"] and f"source: {SAYS.format('first')}" in lines
    by_itself, trained, lines = run(replace(alone(config), run_name="second"))
    assert trained == ["source", "orientation"] and not any("taken over" in line for line in lines)
    assert_same(shared, by_itself)
    # The run holds all of it: the other one may go.
    folder = storage.local_folder(config.storage)
    done = {name: json.loads((folder / name / "source" / DONE).read_text()) for name in ("first", "second")}
    assert done["second"]["taken_over"] == "first" and done["second"]["key"] == done["first"]["key"]
    assert done["second"]["seconds"] == done["first"]["seconds"] > 0
    assert (folder / "second" / "source" / "curve.jsonl").read_bytes() == (folder / "first" / "source"
                                                                           / "curve.jsonl").read_bytes()
    shutil.rmtree(folder / "first")
    predictor = Predictor.from_checkpoint(done["second"]["checkpoint"])
    assert predictor.method.config.run_name == "second" and predictor.method.config.counter.orientation
    again, trained, lines = run(replace(config, run_name="second"), reuse=False)
    assert again["rounds"] == shared["rounds"] and trained == [] and "orientation: done before" in lines
    third, trained, lines = run(replace(config, run_name="third"))
    assert trained == [] and f"orientation: {SAYS.format('second')}" in lines
    assert_same(third, by_itself)


def test_fresh_trains_all_and_others_may_take_that_over(config: RunConfig, source_only: RunConfig) -> None:
    run(source_only)
    result, trained, lines = run(replace(source_only, run_name="second"), reuse=False)
    assert trained == ["source"] and not any("taken over" in line for line in lines)
    shutil.rmtree(storage.local_folder(config.storage) / "first")
    third, trained, lines = run(replace(source_only, run_name="third"))
    assert trained == [] and f"source: {SAYS.format('second')}" in lines
    assert_same(third, result)


@pytest.mark.slow
def test_averaged_weights_are_taken_over_with_those_that_are_not(config: RunConfig, source_only: RunConfig) -> None:
    averaged = {"engine": replace(config.engine, average_decay=0.9)}
    run(replace(source_only, **averaged))
    shared, trained, _ = run(replace(config, run_name="second", **averaged))
    assert trained == ["orientation"]
    assert_same(shared, run(replace(alone(config), run_name="second", **averaged))[0])


@pytest.mark.slow
def test_the_first_stages_of_each_chain_are_taken_over(tiny_config: RunConfig) -> None:
    """Another detector, and another localiser's rate: the regressor is known; the detector has other weights to begin
    with, and so has the localiser, whose random numbers come after.
    """
    source = replace(tiny_config, method="bi_knowledge", run_name="first",
                     bi_knowledge=replace(tiny_config.bi_knowledge, cycles=0))
    run(source)
    _, trained, _ = run(replace(source, run_name="rate",
                                bi_knowledge=replace(source.bi_knowledge, localiser_rate=1e-3, merge_px=5)))
    assert trained == ["source/localiser"]
    other = replace(source, run_name="other", detector=DetectorConfig(backbone="efficientnet_lite0"))
    shared, trained, _ = run(other)
    assert trained == ["source/detector", "source/localiser"]
    assert_same(shared, run(alone(other), reuse=False)[0])


@pytest.mark.parametrize("teacher_share", [pytest.param(0.0, marks=pytest.mark.slow), 0.5])
def test_a_stage_on_equal_labels_is_taken_over_and_the_next_goes_on(tiny_config: RunConfig,
                                                                    teacher_share: float) -> None:
    short = replace(tiny_config.self_supervision, orientation_steps=2, round_steps=2, teacher_share=teacher_share)
    one, two = ({"run_name": str(rounds), "train": replace(tiny_config.train, steps=2),
                 "self_supervision": replace(short, rounds=rounds)} for rounds in (1, 2))
    run(replace(tiny_config, **one))
    shared, trained, _ = run(replace(tiny_config, **two))
    assert trained == ["labels-2"]
    assert_same(shared, run(replace(alone(tiny_config), **two))[0])


def damage(folder: Path) -> None:
    (newest,) = folder.glob("source/checkpoints/step-000004.pt")
    newest.write_bytes(newest.read_bytes()[:-1] + b"?")


def shorten(folder: Path) -> None:
    (folder / "source" / "inputs.json").write_text("{}")


def empty(folder: Path) -> None:
    for path in folder.glob("source/checkpoints/*"):
        path.unlink()


def test_what_cannot_be_read_is_trained(source_only: RunConfig, tmp_path: Path) -> None:
    source_only = replace(source_only, evaluation="")
    first, _, _ = run(source_only)
    ours, folder = checkpoint.load(first["checkpoint"])["method"]["networks"], storage.local_folder(source_only.storage)
    shutil.copytree(folder, tmp_path / "kept")
    for harm, told in ((damage, ["source: not taken over from run first: its last checkpoint is missing or damaged"]),
                       (empty, ["source: not taken over from run first: its last checkpoint is missing or damaged"]),
                       (shorten, ["source: not taken over from run first: its files are damaged"]),
                       (shutil.rmtree, [])):
        harm(folder / "first")
        result, trained, lines = run(replace(source_only, run_name="second"))
        assert trained == ["source"] and [line for line in lines if "taken over" in line] == told, harm
        theirs = checkpoint.load(result["checkpoint"])["method"]["networks"]
        assert all(torch.equal(value, ours[name]) for name, value in theirs.items()), harm
        _, trained, lines = run(replace(source_only, run_name="third"))
        assert trained == [] and f"source: {SAYS.format('second')}" in lines, harm
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "kept", folder)


class Killed(BaseException):
    """Stands for the death of the process, at a moment the test chooses."""


KILLED_AT = ((INPUTS, 1), (CURVE, 1), (INPUTS, 2), ("checkpoints/step-000004.pt", 1), ("checkpoints/latest.json", 1),
             (DONE, 1))


@pytest.mark.slow
def test_killed_while_it_takes_over_a_run_goes_on(config: RunConfig, source_only: RunConfig, tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it writes each of the stage's files; the other run is gone when it goes on, whether it may take stages
    over then or not.
    """
    run(source_only)
    folder, second = storage.local_folder(config.storage), replace(config, run_name="second")
    shutil.copytree(folder, tmp_path / "kept")
    unbroken, _, _ = run(alone(second))
    write = storage.write_bytes
    for (file, number), fresh in itertools.product(KILLED_AT, (False, True)):
        writes = 0

        def write_or_die(url: str, data: bytes, file: str = file, number: int = number) -> None:
            nonlocal writes
            writes += url.endswith(f"/second/source/{file}")
            if writes == number:
                raise Killed
            write(url, data)

        with monkeypatch.context() as patched, pytest.raises(Killed):
            patched.setattr(storage, "write_bytes", write_or_die)
            run(second)
        assert read_done((folder / "second" / "source").as_uri()) is None
        assert is_begun((folder / "second" / "source").as_uri()) == (file == DONE)
        shutil.rmtree(folder / "first")
        result, trained, _ = run(second, reuse=not fresh)
        assert trained == (["orientation"] if file == DONE else ["source", "orientation"]), (file, number, fresh)
        assert_same(result, unbroken)
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "kept", folder)


class Points(NullTracker):
    """Remembers the steps of the curves."""

    def __init__(self) -> None:
        self.steps: list[tuple[int | None, int]] = []

    def metrics(self, values: Any, *, step: int, round: int | None = None) -> None:
        super().metrics(values, step=step, round=round)
        self.steps.append((round, step))


def test_the_curve_that_is_taken_over_is_tracked_and_no_progress_is_shown(source_only: RunConfig) -> None:
    _, _, lines = run(source_only)
    assert any(line.startswith("source: 4 of 4 steps, loss ") for line in lines)
    tracker = Points()
    _, _, lines = run(replace(source_only, run_name="second"), tracker=tracker)
    assert tracker.steps == [(0, 2), (0, 4)] and not any(" steps, loss " in line for line in lines)


# The key


def chain_of(config: RunConfig, **facts: Any) -> list[StageData]:
    """The run's first stages, until one needs labels."""
    plan = [stage for stage in build_method(config).plan() if not stage.needs_labels and not stage.needs_translation]
    urls = {name: getattr(config, name) for name in ("source", "target", "evaluation", "boxes")}
    urls["labelled_target"] = config.evaluation
    return [StageData(stage=stage, folder=storage.join(run_folder(config), stage.name), urls=urls, **facts)
            for stage in plan if not stage.trains]


def keys(config: RunConfig, *, arithmetic: str = ONE_THREAD, **facts: Any) -> list[str]:
    told = list[str]()
    keyed = take_over(chain_of(config, **facts), config, arithmetic=arithmetic, fresh=True, say=told.append)
    assert told == []
    return [data.key for data in keyed]


def settings(group: str, **changed: Any) -> Callable[[RunConfig], RunConfig]:
    return lambda config: replace(config, **{group: replace(getattr(config, group), **changed)})


CHANGES: dict[str, Callable[[RunConfig], RunConfig]] = {
    "seed": lambda config: replace(config, seed=1),
    "steps": settings("train", steps=5),
    "batch": settings("train", batch_size=8),
    "rate": settings("train", learning_rate=1e-3),
    "weight decay": settings("train", weight_decay=0.0),
    "frozen": settings("train", frozen_px=0),
    "cell error": settings("train", cell_error="squared"),
    "block weight": settings("train", block_weight=0.2),
    "density limit": settings("train", density_limit=True),
    "crop": settings("stream", crop_size=72),
    "image": settings("stream", image_size=104),
    "colour": settings("stream", colour_jitter=0.1),
    "sigma": settings("stream", sigma_px=4.0),
    "precision": settings("engine", precision="bfloat16"),
    "compiling": settings("engine", compile=True),
    "average": settings("engine", average_decay=0.5),
    "ensemble": settings("counter", ensemble="none"),
    "dropout": settings("counter", ensemble="dropout"),
    "masks": settings("counter", num_masks=4),
    "backbone": settings("counter", backbone="efficientnet_lite0"),
    "source": lambda config: replace(config, source=config.evaluation),
}
SAME: dict[str, Callable[[RunConfig], RunConfig]] = {
    "method": lambda config: replace(config, method="source_only"),
    "translation": lambda config: replace(config, method="translation"),
    "orientation": lambda config: settings("counter", orientation=False)(replace(config, method="source_only")),
    "recipe": lambda config: replace(config, recipe="other", run_name="", experiment="x", tracking_uri="sqlite:///x"),
    "place": lambda config: replace(config, storage=f"{config.storage}-other"),
    "evaluation": lambda config: replace(config, evaluation=""),
    "target": lambda config: replace(config, target=config.source),
    "search": settings("search", objective="agreement", trials=4),
    "other methods": lambda config: settings("bi_knowledge", crop_size=96)(settings("translation", steps=9)(config)),
    "rounds": settings("self_supervision", rounds=3, learning_rate=1.0),
    "checkpoints": settings("engine", checkpoint_every=7, log_every=3),
    "patience": lambda config: replace(config, patience_s=9, grace_s=1.0, num_labellers=3),
    "readers": settings("stream", cache_bytes=0, num_readers=2),
    "detector": lambda config: replace(config, detector=DetectorConfig(backbone="efficientnet_lite0")),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_decides_the_bits_changes_the_key(config: RunConfig, name: str) -> None:
    assert keys(replace(CHANGES[name](config), run_name="other"))[0] not in ("", keys(config)[0])


@pytest.mark.parametrize("name", SAME)
def test_what_decides_no_bit_does_not(config: RunConfig, name: str) -> None:
    assert keys(replace(SAME[name](config), run_name="other"))[0] == keys(config)[0] != ""


@pytest.mark.parametrize("name", ["arithmetic", "scenes", "share", "limit", "code", "torch", "cpu"])
def test_what_is_no_setting_changes_the_key_too(config: RunConfig, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys(config)[0]
    facts: dict[str, Any] = {
        "arithmetic": {"arithmetic": "torch, cpu, 1 thread, 2 workers"}, "scenes": {"scenes": SceneRule(name="all")},
        "share": {"shares": {"evaluation": Fraction(1, 5)}}, "limit": {"density_limit": 0.5},
    }.get(name, {})
    if name == "code":
        monkeypatch.setattr(reuse, "code_digest", lambda: "other")
    if name == "torch":
        monkeypatch.setattr(torch, "__version__", "0.0")
    if name == "cpu":
        monkeypatch.setattr(reuse, "_cpu", lambda: "another")
    assert keys(replace(config, run_name="other"), **facts)[0] not in ("", before)


def test_the_first_weights_change_the_key(config: RunConfig, tmp_path: Path) -> None:
    """Those of a file that was written anew, and the head that the second stage trains."""
    place = tmp_path / "weights.pt"
    started = replace(config, counter=replace(config.counter, weights=str(place)))
    found = []
    for number in range(2):
        torch.manual_seed(number)
        first = build_method(config).networks().encoder.levels[0]  # type: ignore[union-attr,index]
        torch.save(first.state_dict(), place)  # type: ignore[union-attr]
        found.append(keys(replace(started, run_name=f"file {number}")))
    assert found[0][0] != found[1][0] and found[0][1] != found[1][1], "a stage follows from the one before"


def test_a_change_of_the_code_that_trains_is_seen_and_of_a_report_not(tmp_path: Path) -> None:
    package = tmp_path / "crowddist"
    shutil.copytree(Path(crowddist.__file__).parent, package)
    before = code_digest(package)
    assert before == code_digest()
    for place, same in (("reports/charts.py", True), ("tracking/tracker.py", True), ("ops/density.py", False)):
        path = package / place
        path.write_text(path.read_text() + "\n")
        code_digest.cache_clear()
        assert (code_digest(package) == before) == same, place


def test_a_stage_that_went_on_under_other_conditions_has_no_key(config: RunConfig) -> None:
    """Nor has one that begins with its weights; back under the first conditions, it is still mixed."""
    one, two = keys(config)
    chain = chain_of(config)
    checkpoint.save(storage.join(chain[0].folder, "checkpoints"), 2, {"method": {}})
    assert keys(config) == [one, two], "the same conditions"
    assert keys(config, arithmetic="2 threads") == ["", ""]
    assert keys(config) == ["", ""]


def test_groups_that_may_shrink_have_no_keys(config: RunConfig) -> None:
    """Nor has a stage that such a group had a part of."""
    shrinking = replace(config, launcher="ray", num_workers=2, min_workers=1)
    assert keys(shrinking) == ["", ""]
    assert "" not in keys(config)
    checkpoint.save(storage.join(chain_of(config)[0].folder, "checkpoints"), 2, {"method": {}})
    assert "" not in keys(config) and keys(shrinking) == ["", ""] and keys(config) == ["", ""]
