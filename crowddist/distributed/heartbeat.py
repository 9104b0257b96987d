"""Heartbeats of a training group: each worker tells the driver its step, and hears when to stop and what comes next."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

BEAT_S = 1.0
"""Time between two beats of a worker, and between two looks of the driver."""
SILENT_S = 10.0
"""A worker without a beat for so long counts as silent."""
STALL_S = 60.0
"""Warn if a group makes no step for so long, and for ten times the mean time of its steps so far."""

Order: TypeAlias = Literal["go on", "stop", "leave"]
"""Answer to a worker's beat: "stop" at a step, with a checkpoint; "leave" at once, in mid-step."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Beat:
    """A worker's report."""

    rank: int
    host: str
    node: str
    """Ray's id of its machine."""
    pid: int
    step: int
    doing: str
    since_s: float
    """Time since it began that."""
    ago_s: float = 0.0
    """Age of the report."""


class Watch:
    """Exchanges beats, orders and tasks between workers and driver; an actor without a CPU of its own."""

    def __init__(self) -> None:
        self._beats: dict[str, dict[int, tuple[float, dict[str, Any]]]] = {}
        self._stopping: set[str] = set()
        self._over = False
        self._tasks: dict[str, list[Any]] = {}
        self._dismissed: set[str] = set()
        self._asking: dict[str, dict[int, tuple[int, str]]] = {}
        """Group -> rank -> number of the task that it asks for, and its machine."""

    def beat(self, group: str, beat: dict[str, Any]) -> Order:
        """Keeps a worker's newest beat and returns its order."""
        self._beats.setdefault(group, {})[beat["rank"]] = (time.monotonic(), beat)
        return "leave" if self._over else "stop" if group in self._stopping else "go on"

    def stop(self, group: str) -> None:
        """Orders a group to stop at a step."""
        self._stopping.add(group)

    def leave(self) -> None:
        """Orders all workers to end at once: nobody needs their work any more."""
        self._over = True

    def give(self, group: str, task: Any) -> None:
        """Gives a group its next task, anything but None and what is empty."""
        self._tasks.setdefault(group, []).append(task)

    def dismiss(self, group: str) -> None:
        """Ends a group that waits for a task, or once it has done the one under way."""
        self._dismissed.add(group)

    def next_task(self, group: str, number: int, rank: int, node: str) -> Any:
        """A group's task of this number, counted from 0; None while there is none yet; () once it is dismissed. Whoever
        asks has done those before.
        """
        self._asking.setdefault(group, {})[rank] = (number, node)
        tasks = self._tasks.get(group, [])
        if number < len(tasks):
            return tasks[number]
        return () if self._over or group in self._dismissed else None

    def waiting(self, group: str) -> dict[int, str]:
        """Rank -> machine of the workers of a group that have done all their tasks."""
        number = len(self._tasks.get(group, []))
        return {rank: node for rank, (asked, node) in self._asking.get(group, {}).items() if asked == number}

    def beats(self, group: str) -> list[dict[str, Any]]:
        """The newest beat of each worker of a group, by rank."""
        now = time.monotonic()
        return [{**beat, "ago_s": now - came} for _, (came, beat) in sorted(self._beats.get(group, {}).items())]


def start_watch() -> Any:
    """Starts the actor on the driver's machine, so that no other machine's loss ends it."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0)(Watch).options(scheduling_strategy=here).remote()


def answers(watch: Any) -> bool:
    """Whether the actor lives."""
    try:
        ray.get(watch.waiting.remote(""), timeout=10 * BEAT_S)
    except RayError:
        return False
    return True


class Pulse:
    """The worker's side: a thread that sends beats, notes an order to stop, and exits on an order to leave."""

    def __init__(self, watch: Any, group: str, rank: int) -> None:
        self.stopping = False
        self._watch, self._group = watch, group
        self._facts = {"rank": rank, "host": socket.gethostname(), "node": ray.get_runtime_context().get_node_id(),
                       "pid": os.getpid()}
        self._place: tuple[int, str, float] = (0, "starting", time.monotonic())
        self._ended = threading.Event()
        threading.Thread(target=self._run, name="pulse", daemon=True).start()

    def at(self, step: int, doing: str) -> None:
        """Notes the worker's step and work for the next beat."""
        self._place = (step, doing, time.monotonic())

    def end(self) -> None:
        """Sends no more beats."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.is_set():
            step, doing, since = self._place
            beat = {**self._facts, "step": step, "doing": doing, "since_s": time.monotonic() - since}
            try:
                order: Order = ray.get(self._watch.beat.remote(self._group, beat), timeout=30 * BEAT_S)
            except Exception:  # the driver is gone or busy: training goes on without it
                logger.debug("nobody hears the beat of rank %d", self._facts["rank"], exc_info=True)
            else:
                self.stopping |= order == "stop"
                if order == "leave":
                    os._exit(1)
            self._ended.wait(BEAT_S)


class Monitor:
    """The driver's side, as a context while a group trains: stops it for a reason, names workers that hold it up.

    `reason_to_stop` gets the workers' machines every `BEAT_S` and returns "" to go on. Once all `size` workers have
    sent a beat, their rank, host and process are written to `record`.
    """

    def __init__(self, watch: Any, group: str, name: str, reason_to_stop: Callable[[Collection[str]], str], *,
                 record: Path, size: int) -> None:
        self.reason = ""
        """Why the group was asked to stop; "" before."""
        self._watch, self._group, self._name, self._reason_to_stop = watch, group, name, reason_to_stop
        self._record, self._size = record, size
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)
        self._stall = Stall()

    def __enter__(self) -> Monitor:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join(30 * BEAT_S)

    def beats(self) -> list[Beat]:
        """The newest beat of each worker; [] if the watch does not answer."""
        try:
            return [Beat(**beat) for beat in ray.get(self._watch.beats.remote(self._group), timeout=10 * BEAT_S)]
        except Exception:
            return []

    def _run(self) -> None:
        while not self._ended.wait(BEAT_S):
            try:
                self._look()
            except Exception:  # training goes on without the monitor
                logger.debug("%s: the group could not be looked after", self._name, exc_info=True)

    def _look(self) -> None:
        beats = self.beats()
        if len(beats) == self._size and not self._record.exists():
            self._record.parent.mkdir(parents=True, exist_ok=True)
            facts = [{"rank": beat.rank, "host": beat.host, "pid": beat.pid} for beat in beats]
            self._record.write_text(json.dumps(facts))
        if self._stall.seen(beats, time.monotonic()):
            logger.warning("%s: no step for %.0f s; %s", self._name, self._stall.seconds, suspects(beats))
        if not self.reason:
            self.reason = self._reason_to_stop({beat.node for beat in beats})
        if self.reason:
            ray.get(self._watch.stop.remote(self._group), timeout=10 * BEAT_S)


class Stall:
    """Detects that a group makes no steps; reports each standstill once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        """Length of the standstill when it was reported."""
        self._step, self._num_changes, self._first, self._began, self._changed, self._told = -1, 0, 0, 0.0, 0.0, False

    def seen(self, beats: Sequence[Beat], now: float) -> bool:
        """True at the first report of a standstill; `now` in seconds of the monotonic clock."""
        step = min((beat.step for beat in beats), default=-1)
        if step != self._step:
            if self._num_changes <= 1:  # the first step may take any time
                self._first, self._began = step, now
            self._step, self._changed, self._told = step, now, False
            self._num_changes += 1
        num_steps = self._step - self._first
        if num_steps < 1 or self._told:
            return False
        self.seconds = now - self._changed
        self._told = self.seconds > max(STALL_S, 10 * (self._changed - self._began) / num_steps)
        return self._told


def suspects(beats: Sequence[Beat]) -> str:
    """Names the workers that hold up the others: the silent, else those behind, else those not computing, else all."""
    if not beats:
        return "no worker has been heard of"
    silent = [beat for beat in beats if beat.ago_s > SILENT_S]
    if silent:
        return "; ".join(f"{_who(beat)} has been silent for {beat.ago_s:.0f} s, when last heard of {beat.doing} at "
                         f"step {beat.step}" for beat in silent)
    behind = [beat for beat in beats if beat.step < max(other.step for other in beats)]
    idle = [beat for beat in beats if beat.doing != "computing"]
    waited_for = behind or (idle if len(idle) < len(beats) else []) or list(beats)
    return "; ".join(f"{_who(beat)} has been {beat.doing} at step {beat.step} for {beat.since_s:.0f} s"
                     for beat in waited_for)


def named(rank: int, beats: Sequence[Beat]) -> str:
    """A worker with its process and machine, if known."""
    return next((_who(beat) for beat in beats if beat.rank == rank), f"rank {rank}")


def _who(beat: Beat) -> str:
    return f"rank {beat.rank} (pid {beat.pid} on {beat.host})"


def usable_nodes() -> list[Mapping[str, Any]]:
    """Ray's facts about the machines that are alive and not being drained."""
    draining = draining_nodes()
    return [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in draining]


def draining_nodes() -> set[str]:
    """Ids of the machines that will soon be taken away."""
    # Ray Train's own watcher does the same; the only public call must be made by all workers at the same step.
    from ray._private.state import state

    return set(state.get_draining_nodes())
