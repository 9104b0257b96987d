"""A round that has made the counter worse is dropped, without labels, the same in a resumed run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from crowddist import storage
from crowddist.config import RunConfig
from crowddist.inference import zoom_check
from crowddist.launch.local import LocalLauncher
from crowddist.pipeline import adapt
from crowddist.run.record import run_folder
from crowddist.tracking.tracker import NullTracker


@pytest.fixture
def spoilt(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes the counters from the n-th on disagree with themselves twice as much as they do."""
    def from_counter(first: int) -> None:
        real, asked = zoom_check.ZoomCheck.is_worse, []

        def is_worse(check: zoom_check.ZoomCheck, now: float) -> bool:
            asked.append(now)
            return real(check, asked[0] * (2 if len(asked) > first else 1))

        monkeypatch.setattr(zoom_check.ZoomCheck, "is_worse", is_worse)

    return from_counter


def run(config: RunConfig, **changes: Any) -> tuple[dict[str, Any], list[str]]:
    lines: list[str] = []
    settings = replace(config.self_supervision, drop_rise=0.03, orientation_steps=0, **changes)
    config = replace(config, self_supervision=settings)
    return adapt(config, LocalLauncher(config), NullTracker(), say=lines.append), lines


@pytest.mark.parametrize("rounds", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_spoilt_round_is_dropped_and_ends_the_rounds(short_config: RunConfig, spoilt: Callable[[int], None],
                                                       rounds: int) -> None:
    """The second round of labels is spoilt: the last one, which makes no labels that would tell, or one before it."""
    spoilt(2)
    result, lines = run(short_config, rounds=rounds)
    stages = [row["stage"] for row in result["rounds"]]
    assert stages == ["source", "labels-1", "labels-2"] and result["final"] == result["rounds"][1]
    assert result["checkpoint"] == result["final"]["checkpoint"] and "labels-1/" in result["checkpoint"]
    assert result["stopped"].startswith("labels, round 2: dropped, labels, round 1 is kept: counts of one image at")
    assert result["stopped"] in lines
    folder = storage.local_folder(run_folder(short_config))
    assert (folder / "labels-2" / "zooms" / "DONE.json").exists() == (rounds == 2)
    assert json.loads((folder / "result.json").read_text())["final"] == result["final"]


@pytest.mark.slow
def test_a_resumed_run_drops_the_same_round(short_config: RunConfig, spoilt: Callable[[int], None],
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    spoilt(2)
    result, _ = run(short_config)
    monkeypatch.undo()
    spoilt(2)
    again, lines = run(short_config)
    assert (again["final"], again["checkpoint"], again["stopped"]) == (
        result["final"], result["checkpoint"], result["stopped"])
    assert any("done before" in line for line in lines)


def test_rounds_that_agree_with_themselves_are_kept(short_config: RunConfig, spoilt: Callable[[int], None]) -> None:
    spoilt(3)
    result, _ = run(short_config)
    assert result["final"] == result["rounds"][-1] and result["stopped"] == ""
    folder = storage.local_folder(run_folder(short_config))
    found = json.loads((folder / "labels-2" / "zooms" / "DONE.json").read_text())["metrics"]["disagreement"]
    assert 0 < found < 1 and result["rounds"][1]["labels/zoom_disagreement"] > 0


def test_a_counter_at_one_zoom_is_not_checked(short_config: RunConfig) -> None:
    result, _ = run(short_config, label_views=(1.0,))
    assert len(result["rounds"]) == 3 and "labels/zoom_disagreement" not in result["final"]
    assert not (storage.local_folder(run_folder(short_config)) / "labels-2" / "zooms").exists()
