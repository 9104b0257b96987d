"""The driver and the workers of a training group: each worker tells where it is, and is told when to stop."""

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

BEAT_S = 1.0
"""How often a worker tells, and the driver looks."""
SILENT_S = 10.0
"""A worker not heard of for so long counts as silent."""
STALL_S = 60.0
"""A group whose steps stand still for so long, and ten times as long as a step took so far, is told of."""

Order: TypeAlias = Literal["go on", "stop", "leave"]
"""To a worker: stop at a step, with a checkpoint, or leave in mid-step."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Beat:
    """What a worker said of itself."""

    rank: int
    host: str
    node: str
    """Ray's id of its machine."""
    pid: int
    step: int
    doing: str
    since_s: float
    """How long it had been doing that."""
    ago_s: float = 0.0
    """How long ago it said so."""


class Watch:
    """The place where workers and driver meet, an actor without a CPU of its own."""

    def __init__(self) -> None:
        self._beats: dict[str, dict[int, tuple[float, dict[str, Any]]]] = {}
        self._stopping: set[str] = set()
        self._over = False

    def beat(self, group: str, beat: dict[str, Any]) -> Order:
        """Keeps a worker's newest beat. Returns: what the worker is to do."""
        self._beats.setdefault(group, {})[beat["rank"]] = (time.monotonic(), beat)
        return "leave" if self._over else "stop" if group in self._stopping else "go on"

    def stop(self, group: str) -> None:
        """Has the group stop at a step."""
        self._stopping.add(group)

    def leave(self) -> None:
        """Has all workers end at once, in mid-step: what they do is of no use any more."""
        self._over = True

    def beats(self, group: str) -> list[dict[str, Any]]:
        """The newest beat of each worker of a group, by rank, with its age."""
        now = time.monotonic()
        return [{**beat, "ago_s": now - came} for _, (came, beat) in sorted(self._beats.get(group, {}).items())]


def start_watch() -> Any:
    """The actor, on the driver's machine, so that it lives as long as the driver."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return ray.remote(num_cpus=0)(Watch).options(scheduling_strategy=here).remote()


class Pulse:
    """A worker's side: a thread that tells where the worker is, hears whether to stop, and ends the process when told
    to leave.
    """

    def __init__(self, watch: Any, group: str, rank: int) -> None:
        self.stopping = False
        self._watch, self._group = watch, group
        self._facts = {"rank": rank, "host": socket.gethostname(), "node": ray.get_runtime_context().get_node_id(),
                       "pid": os.getpid()}
        self._place: tuple[int, str, float] = (0, "starting", time.monotonic())
        threading.Thread(target=self._run, name="pulse", daemon=True).start()

    def at(self, step: int, doing: str) -> None:
        """Notes where the worker is."""
        self._place = (step, doing, time.monotonic())

    def _run(self) -> None:
        while True:
            step, doing, since = self._place
            beat = {**self._facts, "step": step, "doing": doing, "since_s": time.monotonic() - since}
            try:
                order: Order = ray.get(self._watch.beat.remote(self._group, beat), timeout=30 * BEAT_S)
            except Exception:  # the driver is gone or busy: training needs neither
                logger.debug("nobody hears the beat of rank %d", self._facts["rank"], exc_info=True)
            else:
                self.stopping |= order == "stop"
                if order == "leave":
                    os._exit(1)
            time.sleep(BEAT_S)


class Monitor:
    """The driver's side while a group trains, as a context: asks it to stop where there is a reason to, and names who
    holds it up.

    Args:
        reason_to_stop: is asked about once a second with the machines of the workers; "" for none.
        name: of what is trained, for people.
        record: a file that says where the workers run, once all of them have been heard of.
        size: how many there are.
    """

    def __init__(self, watch: Any, group: str, name: str, reason_to_stop: Callable[[Collection[str]], str], *,
                 record: Path, size: int) -> None:
        self.reason = ""
        """Why the group was asked to stop; "" while it was not."""
        self._record, self._size = record, size
        self._watch, self._group, self._name, self._reason_to_stop = watch, group, name, reason_to_stop
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
        """The newest beat of each worker; none where they cannot be had."""
        try:
            return [Beat(**beat) for beat in ray.get(self._watch.beats.remote(self._group), timeout=10 * BEAT_S)]
        except Exception:
            return []

    def _run(self) -> None:
        while not self._ended.wait(BEAT_S):
            try:
                self._look()
            except Exception:  # training goes on without us
                logger.debug("%s: the group could not be looked after", self._name, exc_info=True)

    def _look(self) -> None:
        beats = self.beats()
        if len(beats) == self._size and not self._record.exists():
            self._record.parent.mkdir(parents=True, exist_ok=True)
            self._record.write_text(json.dumps([{"rank": beat.rank, "host": beat.host, "pid": beat.pid}
                                                for beat in beats]))
        if self._stall.seen(beats, time.monotonic()):
            logger.warning("%s: no step for %.0f s; %s", self._name, self._stall.seconds, suspects(beats))
        if not self.reason:
            self.reason = self._reason_to_stop({beat.node for beat in beats})
        if self.reason:
            ray.get(self._watch.stop.remote(self._group), timeout=10 * BEAT_S)


class Stall:
    """Tells once that a group's steps stand still."""

    def __init__(self) -> None:
        self.seconds = 0.0
        """How long they have stood still when it was told."""
        self._step, self._num_changes, self._first, self._began, self._changed, self._told = -1, 0, 0, 0.0, 0.0, False

    def seen(self, beats: Sequence[Beat], now: float) -> bool:
        """Whether the steps have just been found to stand still; `now` in seconds of the monotonic clock."""
        step = min((beat.step for beat in beats), default=-1)
        if step != self._step:
            if self._num_changes <= 1:  # before its first step a group may wait for anything
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
    """In words, whom the others wait for: those that are silent, else those behind, else those that do something else
    than most, else all.
    """
    if not beats:
        return "no worker has been heard of"
    silent = [beat for beat in beats if beat.ago_s > SILENT_S]
    if silent:
        return ("; ".join(f"{_who(beat)} has been silent for {beat.ago_s:.0f} s, when last heard of {beat.doing} at "
                          f"step {beat.step}" for beat in silent))
    behind = [beat for beat in beats if beat.step < max(other.step for other in beats)]
    idle = [beat for beat in beats if beat.doing != "computing"]
    waited_for = behind or (idle if len(idle) < len(beats) else []) or list(beats)
    return "; ".join(f"{_who(beat)} has been {beat.doing} at step {beat.step} for {beat.since_s:.0f} s"
                     for beat in waited_for)


def named(rank: int, beats: Sequence[Beat]) -> str:
    """A worker with its process and machine, where they are known."""
    return next((_who(beat) for beat in beats if beat.rank == rank), f"rank {rank}")


def _who(beat: Beat) -> str:
    return f"rank {beat.rank} (pid {beat.pid} on {beat.host})"


def usable_nodes() -> list[Mapping[str, Any]]:
    """Ray's facts of the machines that are alive and not being drained."""
    draining = draining_nodes()
    return [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in draining]


def draining_nodes() -> set[str]:
    """Ids of the machines that are about to be taken away."""
    # As Ray Train's own watcher asks: there is no public call but one that all workers must make at the same step.
    from ray._private.state import state

    return set(state.get_draining_nodes())
