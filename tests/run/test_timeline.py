"""The timeline of a run: what each worker did in each step, over all starts."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from crowddist import storage
from crowddist.config import RunConfig
from crowddist.launch.local import LocalLauncher
from crowddist.pipeline import adapt
from crowddist.process.stop_signals import Termination
from crowddist.reports.timeline_chart import timeline as chart
from crowddist.run.record import run_folder
from crowddist.run.timeline import Timeline
from crowddist.tracking.tracker import NullTracker


class Metrics(NullTracker):
    """Keeps the rounds' results."""

    def __init__(self) -> None:
        self.rounds: dict[int, dict[str, float]] = {}

    def round_result(self, round: int, values) -> None:  # type: ignore[no-untyped-def]
        self.rounds[round] = dict(values)


def test_a_run_that_was_stopped_adds_up_what_both_starts_did(tiny_config: RunConfig, tmp_path: Path) -> None:
    config = replace(tiny_config, self_supervision=replace(tiny_config.self_supervision, rounds=1))
    folder, tracker = run_folder(config), Metrics()

    class Impatient(Termination):
        """Is asked to stop after some steps."""

        asked = itertools.count()

        @property
        def requested(self) -> bool:
            return next(self.asked) > 5

    with pytest.raises(SystemExit):
        adapt(config, LocalLauncher(config, Impatient()), NullTracker(), say=lambda line: None)
    before = {row["step"]: row["seconds"] for row in storage.read_json(storage.join(folder, "timeline.json"))["rows"]}
    assert before["data"]["other"] > 0 and set(before) == {"launcher", "data"}
    result = adapt(config, LocalLauncher(config), tracker, say=lambda line: None)
    steps = {(row["step"], row["worker"]): row["seconds"] for row in result["timeline"]}
    assert steps["data", "driver"]["other"] >= before["data"]["other"]
    for name in ("source", "labels-1"):
        done = storage.read_json(storage.join(folder, name, "DONE.json"))
        times = steps[name, "worker 0"]
        assert times == {phase: round(seconds, 3) for phase, seconds in done["workers"][0].items()}
        assert {"start_up", "read", "compute", "checkpoint"} <= set(times) and times["compute"] > 0
        assert sum(times.values()) > done["seconds"] - 0.1, "nothing is missing"
    for name in ("labels-1/labels", "labels-1/evaluation"):
        assert steps[name, "worker 0"]["predict"] > 0 and steps[name, "worker 0"]["read"] > 0, name
    assert tracker.rounds[0]["time/compute_s"] > 0 and tracker.rounds[0]["time/predict_s"] > 0
    again = adapt(config, LocalLauncher(config), NullTracker(), say=lambda line: None)
    assert again["timeline"] == result["timeline"], "a run that has ended takes no more time"


def test_workers_of_all_starts_and_what_the_driver_does_beside_them(tmp_path: Path) -> None:
    folder = tmp_path.as_uri()
    with Timeline(folder, 2.0, dict).step("data"):
        pass
    assert not any(tmp_path.iterdir()), "a run that is refused leaves nothing"
    for _ in range(2):
        timeline = Timeline(folder, 2.0, lambda: {"worker 0": {"read": 1000.0, "predict": 3000.0},
                                                  "worker 1": {"predict": 2000.0}})
        timeline.claim()
        with pytest.raises(KeyError), timeline.step("labels-1/labels"):
            raise KeyError  # the time of what fails counts, too
    rows = {(row["step"], row["worker"]): row["seconds"] for row in timeline.rows()}
    assert rows == {("launcher", "driver"): {"start_up": 4.0},
                    ("labels-1/labels", "worker 0"): {"read": 2000.0, "predict": 6000.0},
                    ("labels-1/labels", "worker 1"): {"predict": 4000.0},
                    ("labels-1/labels", "driver"): {"other": 0.0}}
    assert timeline.metrics("labels-1") == {"time/read_s": 1000.0, "time/predict_s": 5000.0, "time/other_s": 0.0}
    assert timeline.metrics("labels-10") == {}


def test_the_chart_shows_each_worker_and_a_table() -> None:
    rows = [{"step": "data", "worker": "driver", "seconds": {"other": 10.0}},
            {"step": "a & b", "worker": "worker 0", "seconds": {"compute": 60.0, "exchange": 20.0}},
            {"step": "a & b", "worker": "worker 1", "seconds": {"compute": 40.0, "exchange": 40.0}},
            {"step": "a & b", "worker": "driver", "seconds": {"other": 3.0}},
            {"step": "a & b/pictures", "worker": "driver", "seconds": {"other": 2.0}}]
    page = chart(rows)
    assert page.count('height="15"') == 1 + 2 + 2 + 1 and page.count(">worker ") == 2
    assert "a &amp; b, worker 1: exchange 40 s" in page
    assert '<th class="name" scope="row">a &amp; b</th><td>2</td><td>80</td><td>50</td><td>30</td><td>0.0</td>' in page
    assert '<th class="name" scope="row">pictures and all else</th><td>1</td><td>5.0</td>' in page
    assert "Of 175 s of all workers together, 57% went into" in page
    assert chart([]) == "" == chart([{"step": "data", "worker": "driver", "seconds": {"other": 0.0}}])
