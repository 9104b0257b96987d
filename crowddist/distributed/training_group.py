"""A training group that stays: one start of Ray Train's workers trains one chain of stages after another."""

from __future__ import annotations

import contextlib
import gc
import itertools
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
import ray.train
import torch
from ray.exceptions import RayError

from crowddist.distributed.runtime import RayRuntime
from crowddist.launch.base import train_stages
from crowddist.process.host import give_back_memory

if TYPE_CHECKING:
    from crowddist.config import RunConfig
    from crowddist.run.engine import StageData

LOOK_S = 0.25
"""Time between two looks: of a worker for the next chain, of the driver for the end of one."""
LONGEST_FAREWELL_S = 30.0
"""Longest wait for workers that were ordered to leave."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A chain of stages that a group trains."""

    name: str
    """Under which the workers beat, and are ordered to stop."""
    stages: Sequence[StageData]
    threads: int
    """CPU threads of each worker."""
    asked: float
    """When the driver asked for it, in seconds since 1970."""


class TrainingGroup:
    """Workers that wait for the next chain once they have trained one. They are Ray Train's: `fit` runs in a thread as
    long as they live, and its error is the chain's that was under way, or says that they died while they waited.

    Args:
        fit: starts the workers, each of which calls `train_tasks` with `watch` and `name`; returns when all have ended.
        watch: the actor by which driver and workers meet, see `heartbeat.start_watch`.
        name: of this start of the group.
        size: number of workers.
    """

    def __init__(self, fit: Callable[[], object], *, watch: Any, name: str, size: int) -> None:
        self.watch, self.size, self._name = watch, size, name
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(fit,), name=f"group {name}", daemon=True)
        self._thread.start()

    def _run(self, fit: Callable[[], object]) -> None:
        try:
            fit()
        except BaseException as error:
            self._error = error

    @property
    def alive(self) -> bool:
        """Whether it takes another chain."""
        return self._thread.is_alive()

    def train(self, task: Task) -> None:
        """Trains a chain, to its end or to the step at which it is stopped. Raises what `fit` raises."""
        # As bytes: the watch hands them on and need not import what they are made of. Few, so they go from process to
        # process, where a reference would need room in the object store's shared memory.
        ray.get(self.watch.give.remote(self._name, pickle.dumps(task)))
        while self.alive:
            if len(self._waiting()) == self.size:
                return
            self._thread.join(LOOK_S)
        if self._error is not None:
            raise self._error

    def machines(self) -> list[str]:
        """Ray's ids of the machines of the workers, one each, while all wait for the next chain; [] else."""
        waiting = self._waiting()
        return [waiting[rank] for rank in sorted(waiting)] if self.alive and len(waiting) == self.size else []

    def _waiting(self) -> dict[int, str]:
        """Rank -> machine of the workers that wait for the next chain; {} where the watch does not answer."""
        try:
            waiting: dict[int, str] = ray.get(self.watch.waiting.remote(self._name), timeout=LONGEST_FAREWELL_S)
        except RayError:
            return {}
        return waiting

    def end(self, longest_s: float = LONGEST_FAREWELL_S) -> bool:
        """Sends the workers home once the chain under way has ended. Returns: whether they left in that time."""
        if self.alive:
            with contextlib.suppress(RayError):
                ray.get(self.watch.dismiss.remote(self._name), timeout=longest_s)
            self._thread.join(longest_s)
        return not self.alive


def train_tasks(config: RunConfig, watch: Any, name: str) -> None:
    """A worker's life: trains the chains that its group is given, until it is dismissed."""
    for task in _tasks(watch, name):
        start_up_s = max(time.time() - task.asked, 0.0)  # by two machines' clocks, perhaps
        torch.set_num_threads(task.threads)
        runtime = RayRuntime(watch, task.name)
        try:
            train_stages(config, task.stages, runtime, start_up_s=start_up_s)
        finally:
            runtime.close()
        gc.collect()
        give_back_memory()  # others need it while this worker waits


def _tasks(watch: Any, name: str) -> Iterator[Task]:
    rank, node = ray.train.get_context().get_world_rank(), ray.get_runtime_context().get_node_id()
    for number in itertools.count():
        while (found := ray.get(watch.next_task.remote(name, number, rank, node))) is None:
            time.sleep(LOOK_S)
        if not found:  # dismissed
            return
        yield pickle.loads(found)
