"""Resident Ray actors that do jobs: they stay from job to job, and every unit of work is done once."""

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

    _worker: JobWorker

    def load(self, checkpoint_url: str, data_url: str, device: str, threads: int) -> None:
        import cv2

        cv2.setNumThreads(threads)
        if hasattr(self, "_worker"):
            del self._worker  # the networks of the job before, so that memory need not hold both
        self._worker = JobWorker(checkpoint_url, data_url, device=device, threads=threads)

    def run(self, job: Job, work: Unit | Probe) -> Any:
        if isinstance(work, Probe):
            return self._worker.probe(job, work.image)
        self._worker.predictor.one_at_a_time = work.one_at_a_time
        return self._worker.run(job, work.images, work.skip)


class UnitActors:
    """Actors that do one job after another; as a context they live until the block ends, however it ends. They load a
    checkpoint and a data set when a job needs others than the one before. An actor gets work once it has loaded, so
    actors for which the cluster has no room yet hold up nothing.
    """

    def __init__(self, *, num_actors: int, threads: int, use_gpu: bool = False) -> None:
        self._num_actors, self._threads, self._device = num_actors, threads, "cuda" if use_gpu else "cpu"
        self._class: Any = ray.remote(num_cpus=1, num_gpus=1 if use_gpu else 0, scheduling_strategy="SPREAD")(UnitActor)
        self._loads: tuple[str, str] = ("", "")
        """The checkpoint and the data set that the actors hold, or load."""
        self._new: dict[ray.ObjectRef, Any] = {}
        """Actors that load for the first time."""
        self._reloading: dict[ray.ObjectRef, Any] = {}
        self._idle: list[Any] = []
        self._num_lost_loading = 0

    def __enter__(self) -> UnitActors:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all actors; the next job starts new ones."""
        for actor in (*self._new.values(), *self._reloading.values(), *self._idle):
            ray.kill(actor)
        self._new, self._reloading, self._idle = {}, {}, []

    def run(self, job: Job) -> list[Any]:
        """Does a job on every unit of its data set. Returns the results in order of units.

        Another actor takes over the unit of a dead one, and a new actor replaces it. Images that kill actors are
        skipped, see `Work`. After an error no actor is left. Raises RuntimeError if actors keep dying, over a unit or
        while loading; InputError if even one image needs too much memory; and the errors of the work and the loading.
        """
        try:
            return self._run(job)
        except BaseException:
            self.close()
            raise

    def _run(self, job: Job) -> list[Any]:
        data = ShardReader(job.images_url)
        work = Work(work_units(len(data)), data=data.url, key=lambda image: data.read(image, ())[0])
        self._load((job.checkpoint_url, job.images_url), min(self._num_actors, len(work.units)))
        results: dict[int, Any] = {}
        under_way: dict[ray.ObjectRef, tuple[Unit | Probe, Any]] = {}
        try:
            while len(results) < len(work.units):
                while work.waiting and self._idle:
                    taken, actor = work.waiting.popleft(), self._idle.pop()
                    under_way[actor.run.remote(job, taken)] = (taken, actor)
                (ready,), _ = ray.wait([*under_way, *self._reloading, *self._new], num_returns=1)
                if ready not in under_way:
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

    def _load(self, urls: tuple[str, str], num_actors: int) -> None:
        """Lets the actors there are load what a job needs, and starts those that lack. Those that the job before left
        without a place in the cluster are given up: they would load its data.
        """
        for actor in self._new.values():
            ray.kill(actor)
        self._new, self._num_lost_loading = {}, 0
        if urls != self._loads:
            self._loads = urls
            loaded, self._idle = [*self._idle, *self._reloading.values()], []
            self._reloading = {self._load_into(actor): actor for actor in loaded}
        for _ in range(num_actors - len(self._idle) - len(self._reloading)):
            self._start_actor()

    def _load_into(self, actor: Any) -> ray.ObjectRef:
        return actor.load.remote(*self._loads, self._device, self._threads)

    def _start_actor(self) -> None:
        actor = self._class.remote()
        self._new[self._load_into(actor)] = actor

    def _finish_loading(self, ready: ray.ObjectRef) -> None:
        is_new = ready in self._new
        actor = (self._new if is_new else self._reloading).pop(ready)
        try:
            ray.get(ready)
            self._idle.append(actor)
            self._num_lost_loading = 0
        except RayTaskError as error:
            ray.kill(actor)
            raise error.cause from error
        except RayError as error:
            # One that died since the job before, with its machine perhaps, says nothing about the loading.
            self._num_lost_loading += is_new
            if self._num_lost_loading >= MAX_LOST_LOADING:
                raise RuntimeError(
                    f"{self._num_lost_loading} actors died while loading {self._loads[0]}: {error}") from error
            self._replace(actor)

    def _replace(self, actor: Any) -> None:
        ray.kill(actor)  # it may be unreachable rather than dead
        self._start_actor()
