"""Resident Ray actors that label, translate and evaluate: each loads the model once, and every unit of work is done once."""

from __future__ import annotations

from collections import deque
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from crowddist.data.plan import work_units
from crowddist.data.shards import ShardReader
from crowddist.launcher import UnitWorker

MAX_TRIES = 3
"""Actors that may die over one unit of work, or while loading, before it counts as poisonous."""


class UnitActor:
    """A `UnitWorker` in an actor of its own; loading is a call, so that what it raises is more to the driver than a dead actor."""

    def load(self, checkpoint_url: str, data_url: str, device: str, threads: int) -> None:
        """Loads the model and opens the data."""
        import cv2

        cv2.setNumThreads(threads)
        self._worker = UnitWorker(checkpoint_url, data_url, device=device, threads=threads)

    def run(self, call: str, unit: range, arguments: tuple[Any, ...]) -> Any:
        """`UnitWorker.<call>(unit, *arguments)`."""
        return getattr(self._worker, call)(unit, *arguments)


class UnitActors:
    """Actors with one checkpoint and one data set, as a context: they come up when it begins and are gone when it ends, however it ends.

    An actor gets work when it has loaded, so those for whom the cluster has no room yet hold nothing up.
    """

    def __init__(self, checkpoint_url: str, data_url: str, *, num_actors: int, threads: int, use_gpu: bool = False) -> None:
        self._units = work_units(len(ShardReader(data_url)))
        self._arguments = (checkpoint_url, data_url, "cuda" if use_gpu else "cpu", threads)
        self._class: Any = ray.remote(num_cpus=1, num_gpus=1 if use_gpu else 0)(UnitActor)
        self._num_actors = min(num_actors, len(self._units))
        self._loading: dict[ray.ObjectRef, Any] = {}
        self._idle: list[Any] = []
        self._num_lost_loading = 0

    def __enter__(self) -> UnitActors:
        for _ in range(self._num_actors):
            self._start_actor()
        return self

    def __exit__(self, *error: object) -> None:
        for actor in (*self._loading.values(), *self._idle):
            ray.kill(actor)

    def wait(self) -> None:
        """Returns when all actors have loaded. Raises: as `run`."""
        while self._loading:
            (ready,), _ = ray.wait(list(self._loading), num_returns=1)
            self._finish_loading(ready)

    def run(self, call: str, *arguments: Any) -> list[Any]:
        """Calls `UnitWorker.<call>(unit, *arguments)` for every unit of the data set.

        A unit whose actor dies is given to another one, and a new actor takes the dead one's place.

        Returns:
            The results in the order of the units, whatever order they were done in.

        Raises:
            RuntimeError: a unit that `MAX_TRIES` actors died over, naming its images; or as many died while loading.
            InputError, FileNotFoundError: what the work or the loading itself raised.
        """
        waiting = deque(range(len(self._units)))
        num_lost = [0] * len(self._units)
        results: dict[int, Any] = {}
        under_way: dict[ray.ObjectRef, tuple[int, Any]] = {}
        try:
            while len(results) < len(self._units):
                while waiting and self._idle:
                    index, actor = waiting.popleft(), self._idle.pop()
                    under_way[actor.run.remote(call, self._units[index], arguments)] = (index, actor)
                (ready,), _ = ray.wait([*under_way, *self._loading], num_returns=1)
                if ready in self._loading:
                    self._finish_loading(ready)
                    continue
                index, actor = under_way.pop(ready)
                try:
                    results[index] = ray.get(ready)
                    self._idle.append(actor)
                except RayTaskError as error:
                    self._idle.append(actor)
                    raise error.cause from error
                except RayError as error:
                    num_lost[index] += 1
                    self._replace(actor, num_lost[index], f"images {self._units[index].start} to {self._units[index].stop - 1}", error)
                    waiting.appendleft(index)
        finally:
            for _, actor in under_way.values():  # only after an error: what they still do is of no use
                ray.kill(actor)
        return [results[index] for index in range(len(self._units))]

    def _start_actor(self) -> None:
        actor = self._class.remote()
        self._loading[actor.load.remote(*self._arguments)] = actor

    def _finish_loading(self, ready: ray.ObjectRef) -> None:
        actor = self._loading.pop(ready)
        try:
            ray.get(ready)
            self._idle.append(actor)
            self._num_lost_loading = 0
        except RayTaskError as error:
            ray.kill(actor)
            raise error.cause from error
        except RayError as error:
            self._num_lost_loading += 1
            self._replace(actor, self._num_lost_loading, f"the loading of {self._arguments[0]}", error)

    def _replace(self, actor: Any, num_lost: int, work: str, error: RayError) -> None:
        """A new actor for a lost one, which may be unreachable rather than dead."""
        ray.kill(actor)
        if num_lost >= MAX_TRIES:
            raise RuntimeError(f"{num_lost} actors died over {work} of {self._arguments[1]}: {error}") from error
        self._start_actor()


def run_units(
    call: str, checkpoint_url: str, data_url: str, arguments: tuple[Any, ...], *, num_actors: int, threads: int, use_gpu: bool = False
) -> list[Any]:
    """`UnitActors.run` on actors that are made for it."""
    with UnitActors(checkpoint_url, data_url, num_actors=num_actors, threads=threads, use_gpu=use_gpu) as actors:
        return actors.run(call, *arguments)
