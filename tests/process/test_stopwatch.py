"""The stopwatch: phases add up to the time that passed, also in blocks within blocks."""

from __future__ import annotations

import time

import pytest

from crowddist.process import stopwatch
from crowddist.process.stopwatch import Stopwatch, added, reading


def test_phases_add_up_to_the_time_that_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: now[0])
    watch = Stopwatch("start_up", {"start_up": 2.0})
    with reading():  # belongs to no watch
        now[0] += 1
    with pytest.raises(ValueError), watch.during("predict"):
        now[0] += 4
        with reading():
            now[0] += 8
        now[0] += 16
        raise ValueError
    now[0] += 32
    assert watch.seconds() == {"start_up": 2 + 1 + 32, "predict": 4 + 16, "read": 8}
    watch.move(5, "predict", "exchange")
    watch.move(100, "read", "exchange")  # no more than there is
    assert watch.take() == {"start_up": 35, "predict": 15, "read": 0, "exchange": 13}
    assert watch.take() == {"start_up": 0}
    assert added({"read": 1, "compute": 2}, {}, {"compute": 3}) == {"read": 1, "compute": 5}


def test_a_change_of_phase_costs_nothing() -> None:
    """A step has six of them; the shortest takes milliseconds."""
    watch, began = Stopwatch("read"), time.process_time()
    for _ in range(10_000):
        watch.at("compute")
    assert time.process_time() - began < 0.2, "20 microseconds each, on the slowest machine"
