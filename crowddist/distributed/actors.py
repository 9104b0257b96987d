"""Resident Ray actors that do jobs: they stay from job to job, and every unit of work is done once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from crowddist.data.plan import work_units
from crowddist.data.shards import ShardReader
from crowddist.distributed.unit_queue import Probe, Unit, Work
from crowddist.inference.jobs import Job, JobWorker
from crowddist.launch.base import is_out_of_memory
from crowddist.process.progress_bar import Progress
from crowddist.process.stopwatch import added

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

    def run(self, job: Job, work: Unit | Probe) -> tuple[Any, dict[str, float]]:
        """Returns the result, and the seconds that reading and predicting took."""
        self._worker.watch.take()
        if isinstance(work, Probe):
            self._worker.probe(job, work.image)
            return None, {}
        self._worker.predictor.one_at_a_time = work.one_at_a_time
        result = self._worker.run(job, work.images, work.skip)
        seconds = self._worker.watch.take()
        return result, {phase: seconds[phase] for phase in ("read", "predict") if phase in seconds}


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
        self._places: dict[Any, int] = {}
        """The number of each actor; one that replaces another has its number."""
        self._asked: dict[Any, float] = {}
        """When each actor was asked to load."""
        self._seconds: dict[int, dict[str, float]] = {}
        """Number of an actor -> what it did since `take_times`."""
        self._machines: Sequence[str] = ()
        """See `run`."""
        self._guests: set[Any] = set()
        """Actors without a CPU of their own."""

    def __enter__(self) -> UnitActors:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self, *, guests: bool = True) -> None:
        """Ends all actors; the next job starts new ones. Without `guests` those stay that have no CPU of their own."""
        stay = set() if guests else self._guests
        for actor in {*self._new.values(), *self._reloading.values(), *self._idle} - stay:
            ray.kill(actor)
        self._new = {ready: actor for ready, actor in self._new.items() if actor in stay}
        self._reloading = {ready: actor for ready, actor in self._reloading.items() if actor in stay}
        self._idle = [actor for actor in self._idle if actor in stay]
        self._places = {actor: place for actor, place in self._places.items() if actor in stay}
        self._asked = {actor: since for actor, since in self._asked.items() if actor in stay}
        self._guests = stay

    def take_times(self) -> dict[str, dict[str, float]]:
        """See `Launcher.take_times`. An actor's start ends when it has loaded; the rest of a job it is idle."""
        taken, self._seconds = self._seconds, {}
        return {f"worker {place}": seconds for place, seconds in sorted(taken.items())}

    def _note(self, actor: Any, seconds: Mapping[str, float]) -> None:
        place = self._places[actor]
        self._seconds[place] = added(self._seconds.get(place, {}), seconds)

    def run(self, job: Job, machines: Sequence[str] = ()) -> list[Any]:
        """Does a job on every unit of its data set. Returns the results in order of units.

        Args:
            machines: Ray's ids of machines on which workers wait and leave their CPUs to actors, one each: so many new
                actors are guests there, and ask Ray for no CPU.

        Another actor takes over the unit of a dead one, and a new actor replaces it. Images that kill actors are
        skipped, see `Work`. After an error no actor is left. Raises RuntimeError if actors keep dying, over a unit or
        while loading; InputError if even one image needs too much memory; and the errors of the work and the loading.
        """
        self._machines = machines
        began, before = time.perf_counter(), {place: sum(each.values()) for place, each in self._seconds.items()}
        try:
            return self._run(job)
        except BaseException:
            self.close()
            raise
        finally:
            took = time.perf_counter() - began
            for place, seconds in self._seconds.items():
                idle = max(took - (sum(seconds.values()) - before.get(place, 0.0)), 0.0)
                self._seconds[place] = added(seconds, {"idle": idle})

    def _run(self, job: Job) -> list[Any]:
        data = ShardReader(job.images_url)
        work = Work(work_units(len(data)), data=data.url, key=lambda image: data.read(image, ())[0])
        self._load((job.checkpoint_url, job.images_url), min(self._num_actors, len(work.units)))
        results: dict[int, Any] = {}
        progress = Progress(len(data), "images", title=job.doing)
        under_way: dict[ray.ObjectRef, tuple[Unit | Probe, Any]] = {}
        try:
            while len(results) < len(work.units):
                progress.show(sum(len(work.units[number].images) for number in results))
                while work.waiting and self._idle:
                    taken, actor = work.waiting.popleft(), self._idle.pop()
                    under_way[actor.run.remote(job, taken)] = (taken, actor)
                (ready,), _ = ray.wait([*under_way, *self._reloading, *self._new], num_returns=1)
                if ready not in under_way:
                    self._finish_loading(ready)
                    continue
                taken, actor = under_way.pop(ready)
                try:
                    result, seconds = ray.get(ready)
                    self._note(actor, seconds)
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
            progress.close()
            for _, actor in under_way.values():  # after an error nobody needs their results
                ray.kill(actor)
        return [results[number] for number in range(len(work.units))]

    def _load(self, urls: tuple[str, str], num_actors: int) -> None:
        """Lets the actors there are load what a job needs, and starts those that lack. Those that the job before left
        without a place in the cluster are given up: they would load its data. Guests have a place, and stay.
        """
        for actor in {*self._new.values()} - self._guests:
            ray.kill(actor)
            del self._places[actor], self._asked[actor]
        self._new = {ready: actor for ready, actor in self._new.items() if actor in self._guests}
        self._num_lost_loading = 0
        if urls != self._loads:
            self._loads = urls
            self._new = {self._load_into(actor): actor for actor in self._new.values()}
            loaded, self._idle = [*self._idle, *self._reloading.values()], []
            self._reloading = {self._load_into(actor): actor for actor in loaded}
        taken = {self._places[actor] for actor in (*self._idle, *self._reloading.values(), *self._new.values())}
        free = (place for place in range(num_actors) if place not in taken)
        for place, _ in zip(free, range(num_actors - len(taken)), strict=False):
            self._start_actor(place)

    def _load_into(self, actor: Any) -> ray.ObjectRef:
        self._asked[actor] = time.perf_counter()
        return actor.load.remote(*self._loads, self._device, self._threads)

    def _start_actor(self, place: int) -> None:
        if place < len(self._machines):  # soft: if the machine has gone, on another
            there = NodeAffinitySchedulingStrategy(self._machines[place], soft=True)
            actor = self._class.options(num_cpus=0, scheduling_strategy=there).remote()
            self._guests.add(actor)
        else:
            actor = self._class.remote()
        self._places[actor] = place
        self._new[self._load_into(actor)] = actor

    def _finish_loading(self, ready: ray.ObjectRef) -> None:
        is_new = ready in self._new
        actor = (self._new if is_new else self._reloading).pop(ready)
        try:
            ray.get(ready)
            self._note(actor, {"start_up": time.perf_counter() - self._asked.pop(actor)})
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
        self._asked.pop(actor, None)
        self._start_actor(self._places.pop(actor))
