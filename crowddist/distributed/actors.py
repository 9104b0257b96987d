"""Resident Ray actors that do jobs: each loads the model once, and every unit of work is done once."""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

from crowddist.data.plan import work_units
from crowddist.data.shards import ShardReader
from crowddist.distributed.unit_queue import Probe, Unit, Work
from crowddist.inference.jobs import Job, JobWorker
from crowddist.launch.base import is_out_of_memory

MAX_LOST_LOADING = 3
"""Actors in a row that may die while loading."""


class UnitActor:
    """A `JobWorker` in an actor. Loading is a call of its own, so that the driver gets its errors, not a dead actor."""

    def load(self, checkpoint_url: str, data_url: str, device: str, threads: int) -> None:
        import cv2

        cv2.setNumThreads(threads)
        self._worker = JobWorker(checkpoint_url, data_url, device=device, threads=threads)

    def run(self, job: Job, work: Unit | Probe) -> Any:
        if isinstance(work, Probe):
            return self._worker.probe(job, work.image)
        self._worker.predictor.one_at_a_time = work.one_at_a_time
        return self._worker.run(job, work.images, work.skip)


class UnitActors:
    """Actors for one checkpoint and one data set, as a context: they live until the block ends, however it ends. An
    actor gets work once it has loaded, so actors for which the cluster has no room yet hold up nothing.
    """

    def __init__(self, checkpoint_url: str, data_url: str, *, num_actors: int, threads: int,
                 use_gpu: bool = False) -> None:
        self._data = ShardReader(data_url)
        self._arguments = (checkpoint_url, data_url, "cuda" if use_gpu else "cpu", threads)
        self._class: Any = ray.remote(num_cpus=1, num_gpus=1 if use_gpu else 0, scheduling_strategy="SPREAD")(UnitActor)
        self._num_actors = min(num_actors, len(work_units(len(self._data))))
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
        """Returns when all actors have loaded. Raises as `run`."""
        while self._loading:
            (ready,), _ = ray.wait(list(self._loading), num_returns=1)
            self._finish_loading(ready)

    def run(self, job: Job) -> list[Any]:
        """Does a job, for these actors' checkpoint and data set, on every unit. Returns the results in order of units.

        Another actor takes over the unit of a dead one, and a new actor replaces it. Images that kill actors are
        skipped, see `Work`. Raises RuntimeError if actors keep dying, over a unit or while loading; InputError if even
        one image needs too much memory; and the errors of the work and the loading.
        """
        work = Work(work_units(len(self._data)), data=self._data.url, key=lambda image: self._data.read(image, ())[0])
        results: dict[int, Any] = {}
        under_way: dict[ray.ObjectRef, tuple[Unit | Probe, Any]] = {}
        try:
            while len(results) < len(work.units):
                while work.waiting and self._idle:
                    taken, actor = work.waiting.popleft(), self._idle.pop()
                    under_way[actor.run.remote(job, taken)] = (taken, actor)
                (ready,), _ = ray.wait([*under_way, *self._loading], num_returns=1)
                if ready in self._loading:
                    self._finish_loading(ready)
                    continue
                taken, actor = under_way.pop(ready)
                try:
                    result = ray.get(ready)
                    self._idle.append(actor)
                    if isinstance(taken, Unit):
                        results[taken.number] = result
                    else:
                        work.probed(taken)
                except RayTaskError as error:
                    self._idle.append(actor)
                    if not is_out_of_memory(error.cause):
                        raise error.cause from error
                    work.out_of_memory(taken, error.cause)
                except RayError as error:
                    self._replace(actor)
                    if isinstance(error, OutOfMemoryError):
                        work.out_of_memory(taken, error)
                    else:
                        work.lost(taken, error)
        finally:
            for _, actor in under_way.values():  # after an error nobody needs their results
                ray.kill(actor)
        return [results[number] for number in range(len(work.units))]

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
            if self._num_lost_loading >= MAX_LOST_LOADING:
                raise RuntimeError(
                    f"{self._num_lost_loading} actors died while loading {self._arguments[0]}: {error}") from error
            self._replace(actor)

    def _replace(self, actor: Any) -> None:
        ray.kill(actor)  # it may be unreachable rather than dead
        self._start_actor()


def run_job(job: Job, *, num_actors: int, threads: int, use_gpu: bool = False) -> list[Any]:
    """`UnitActors.run` with new actors."""
    with UnitActors(job.checkpoint_url, job.images_url, num_actors=num_actors, threads=threads,
                    use_gpu=use_gpu) as actors:
        return actors.run(job)
