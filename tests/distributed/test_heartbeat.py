"""Whom a group waits for, how many workers it has, and when it should stop; without a Ray."""

from __future__ import annotations

from typing import Any

import pytest

from crowddist.distributed import elastic
from crowddist.distributed.elastic import StopReasons, group_size
from crowddist.distributed.heartbeat import SILENT_S, STALL_S, Beat, Stall, Watch, suspects
from crowddist.process.stop_signals import Termination


def beat(rank: int, step: int = 7, doing: str = "computing", since_s: float = 3, ago_s: float = 0) -> Beat:
    return Beat(rank=rank, host=f"n{rank}", node=f"id{rank}", pid=100 + rank, step=step, doing=doing, since_s=since_s,
                ago_s=ago_s)


@pytest.mark.parametrize(("beats", "said"), [
    ([], "no worker has been heard of"),
    ([beat(0), beat(1, ago_s=SILENT_S + 31)],
     "rank 1 (pid 101 on n1) has been silent for 41 s, when last heard of computing at step 7"),
    ([beat(0), beat(1, step=6)], "rank 1 (pid 101 on n1) has been computing at step 6 for 3 s"),
    ([beat(0), beat(1, doing="reading samples", since_s=70)],
     "rank 1 (pid 101 on n1) has been reading samples at step 7 for 70 s"),
    ([beat(0), beat(1)],
     "rank 0 (pid 100 on n0) has been computing at step 7 for 3 s; rank 1 (pid 101 on n1) has been computing at step 7 "
     "for 3 s"),
])
def test_whom_the_others_wait_for(beats: list[Beat], said: str) -> None:
    assert suspects(beats) == said


def test_a_standstill_is_told_once_and_slow_steps_are_none() -> None:
    stall = Stall()
    # the first step may wait for anything
    assert not any(stall.seen([beat(0, step=0)], now) for now in range(0, 500, 10))
    assert not any(stall.seen([beat(0, step=step), beat(1, step=step)], 500 + step) for step in range(1, 10))
    told = [now for now in range(510, 800, 10) if stall.seen([beat(0, step=10), beat(1, step=9)], now)]
    assert told == [570] and stall.seconds == pytest.approx(61)  # the slower one stands at step 9 since 509
    slow = Stall()
    for step in range(4):
        assert not slow.seen([beat(0, step=step)], 30 * step)
    assert not slow.seen([beat(0, step=3)], 90 + 3 * STALL_S)
    assert slow.seen([beat(0, step=3)], 90 + 301)


def test_workers_and_driver_meet() -> None:
    watch = Watch()
    facts: dict[str, Any] = {"rank": 1, "host": "n1", "node": "id", "pid": 5, "step": 3, "doing": "computing",
                             "since_s": 0.5}
    assert watch.beat("a", facts) == watch.beat("b", {**facts, "rank": 0}) == "go on"
    watch.stop("a")
    assert watch.beat("a", {**facts, "step": 4}) == "stop" and watch.beat("b", {**facts, "rank": 0}) == "go on"
    (newest,) = watch.beats("a")
    assert Beat(**newest).step == 4 and 0 <= newest["ago_s"] < 5 and watch.beats("c") == []
    watch.leave()
    assert {watch.beat(group, facts) for group in ("a", "b", "begun later")} == {"leave"}


def test_a_group_is_given_tasks_until_it_is_dismissed() -> None:
    watch = Watch()
    assert watch.next_task("a", 0, 0, "id0") is None and watch.waiting("a") == {0: "id0"}
    watch.give("a", ["first"])
    assert watch.waiting("a") == {} and watch.next_task("a", 0, 0, "id0") == ["first"]
    assert watch.next_task("a", 0, 1, "id1") == ["first"] and watch.next_task("a", 1, 1, "id1") is None
    assert watch.waiting("a") == {1: "id1"}, "rank 0 is at work"
    watch.next_task("a", 1, 0, "id0")
    assert watch.waiting("a") == {0: "id0", 1: "id1"}
    watch.give("a", ["second"])
    watch.dismiss("a")
    assert watch.next_task("a", 1, 1, "id1") == ["second"] and watch.next_task("a", 2, 1, "id1") == ()
    assert watch.next_task("b", 0, 0, "id0") is None
    watch.leave()
    assert watch.next_task("b", 0, 0, "id0") == ()


@pytest.mark.parametrize(("places", "size"), [(0, 2), (1, 2), (2, 2), (3, 2), (4, 4), (7, 4), (8, 8), (100, 8)])
def test_as_many_workers_as_there_is_room_for(places: int, size: int) -> None:
    assert group_size([2, 4, 8], places) == size


class Cluster:
    """What Ray would say."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.places, self.draining, self.now = 2, set[str](), 0.0
        monkeypatch.setattr(elastic, "num_places", lambda use_gpu: self.places)
        monkeypatch.setattr(elastic, "draining_nodes", lambda: self.draining)
        monkeypatch.setattr(elastic.ray, "nodes",
                            lambda: [{"NodeID": f"id{rank}", "NodeManagerHostname": f"n{rank}"} for rank in range(3)])
        monkeypatch.setattr(elastic.time, "monotonic", lambda: self.now)


def test_why_a_group_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, termination = Cluster(monkeypatch), Termination()
    reasons = StopReasons(termination, size=2, sizes=[1, 2, 4], num_groups=1, use_gpu=False)
    assert reasons({"id0", "id1"}) == ""
    cluster.draining = {"id2"}
    assert reasons({"id0", "id1"}) == ""
    cluster.draining = {"id1", "id2"}
    assert reasons({"id0", "id1"}) == "n1 is being drained"
    cluster.draining = set()
    for now, places, reason in ((0, 3, ""), (10, 4, ""), (25, 4, ""), (28, 3, ""), (30, 4, ""), (49, 5, ""),
                                (51, 4, "there is room for 4 workers now")):
        cluster.now, cluster.places = now, places
        assert reasons({"id0", "id1"}) == reason, now
    termination.signal = "SIGUSR1"
    assert reasons({"id0"}) == "SIGUSR1"


def test_a_group_of_all_workers_or_beside_another_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch)
    cluster.places = 8
    for size, sizes, num_groups in ((4, [1, 2, 4], 1), (2, [2], 1), (4, [2, 4, 8], 2)):
        reasons = StopReasons(Termination(), size=size, sizes=sizes, num_groups=num_groups, use_gpu=False)
        for cluster.now in (0.0, 100.0, 200.0):
            assert reasons({"id0"}) == ""
