"""Progress: new points of the curves are shown and tracked; an error stops neither the training nor other stages."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from crowddist import storage
from crowddist.methods.base import Stage, Stream
from crowddist.process import progress_bar
from crowddist.run.engine import StageData, read_curve
from crowddist.tracking import curve_follower
from crowddist.tracking.curve_follower import following
from crowddist.tracking.tracker import NullTracker


class Noted(NullTracker):
    """A null tracker that remembers its metrics."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int | None, dict[str, float]]] = []

    def metrics(self, values: Mapping[str, float], *, step: int, round: int | None = None) -> None:
        super().metrics(values, step=step, round=round)
        self.told.append((step, round, dict(values)))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve_follower, "POLL_S", 0.01)
    monkeypatch.setattr(progress_bar, "LINE_EVERY_S", -1.0)


def stage(folder: Path, name: str = "source", num_round: int = 0, steps: int = 40) -> StageData:
    streams = {"source": Stream(data="source", batch_size=8)}
    return StageData(
        stage=Stage(name=name, steps=steps, streams=streams, title=name, num_round=num_round),
        folder=(folder / name).as_uri(), urls={}
    )


def write(data: StageData, step: int, loss: float) -> None:
    storage.append_line(storage.join(data.folder, "curve.jsonl"),
                        json.dumps({"step": step, "loss": loss, "seconds_per_step": 0.5}))


def until(condition) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.005)


def test_points_are_told_once_and_in_order_while_they_come(tmp_path: Path) -> None:
    first, second = stage(tmp_path), stage(tmp_path, "orientation", 1, steps=20)
    tracker, lines = Noted(), []
    with following([first, second], tracker, lines.append):
        write(first, 20, 0.5)
        until(lambda: len(tracker.told) == 1)
        write(first, 40, 0.25)
        until(lambda: len(tracker.told) == 2)  # a look between both would else see the second first
        write(second, 20, 0.125)
        until(lambda: len(tracker.told) == 3)
    assert tracker.told == [
        (20, 0, {"train/loss": 0.5, "train/seconds_per_step": 0.5}),
        (40, 0, {"train/loss": 0.25, "train/seconds_per_step": 0.5}),
        (20, 1, {"train/loss": 0.125, "train/seconds_per_step": 0.5}),
    ]
    assert lines == [
        "source: 20 of 40 steps, loss 0.5, 0.50 s a step, 10 s left",
        "source: 40 of 40 steps, loss 0.25, 0.50 s a step, 0 s left",
        "orientation: 20 of 20 steps, loss 0.125, 0.50 s a step, 0 s left",
    ]


def test_the_last_points_are_not_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve_follower, "POLL_S", 1000.0)  # only the look at the end
    data, tracker = stage(tmp_path), Noted()
    with following([data], tracker, lambda line: None):
        write(data, 40, 0.5)
    assert [step for step, _, _ in tracker.told] == [40]


def test_a_failure_is_told_once_and_the_rest_goes_on(tmp_path: Path) -> None:
    """After a point that the tracker rejects, its stage is still shown and the next stage tracked."""
    first, second = stage(tmp_path), stage(tmp_path, "orientation", 1)
    tracker, lines = Noted(), []
    with following([first, second], tracker, lines.append):
        write(first, 10, float("nan"))
        until(lambda: any("cannot be followed" in line for line in lines))
        write(first, 20, 0.5)
        write(second, 10, 0.25)
        until(lambda: tracker.told and any("20 of 40 steps" in line for line in lines))
    complaints = [line for line in lines if "cannot be followed" in line]
    assert len(complaints) == 1 and "train/loss is nan" in complaints[0] and "\n" not in complaints[0]
    assert [(step, number) for step, number, _ in tracker.told] == [(10, 1)]


def test_a_failure_of_the_training_is_not_hidden(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), following([stage(tmp_path)], NullTracker(), print):
        raise ZeroDivisionError


def test_unfinished_lines_of_a_curve_are_passed_over(tmp_path: Path) -> None:
    data = stage(tmp_path)
    url = storage.join(data.folder, "curve.jsonl")
    assert read_curve(url) == []
    write(data, 10, 0.5)
    file = storage.local_file(url)
    file.write_bytes(file.read_bytes() + b'{"loss": 0.5}\n{"step": 20, "loss": 0.')
    assert [point["step"] for point in read_curve(url)] == [10]
    write(data, 30, 0.25)
    assert read_curve(url) == [{"step": step, "loss": loss, "seconds_per_step": 0.5}
                               for step, loss in ((10, 0.5), (30, 0.25))]


def test_stages_of_one_round_have_names_of_their_own(tmp_path: Path) -> None:
    tracker = Noted()
    pair = [stage(tmp_path, name) for name in ("source/regressor", "source/detector")]
    pair = [replace(data, stage=replace(data.stage, trains=data.stage.name.rpartition("/")[2])) for data in pair]
    for index, data in enumerate(pair):
        storage.append_line(storage.join(data.folder, "curve.jsonl"),
                            json.dumps({"step": 20, "loss": float(index), "seconds_per_step": 0.1}))
    with following(pair, tracker, lambda line: None):
        time.sleep(0.1)
    told = {name: value for _, _, values in tracker.told for name, value in values.items()}
    assert told["train/regressor/loss"] == 0 and told["train/detector/loss"] == 1 and "train/loss" not in told
