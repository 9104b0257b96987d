"""Training workers and actors that stay on the same CPUs from one stage of a run to the next."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from crowddist.config import RunConfig
from crowddist.inference.jobs import EvaluateJob
from crowddist.launch.local import LocalLauncher
from crowddist.run import checkpoint
from crowddist.run.engine import read_done
from tests.distributed.test_ray import actors_alive, stages

LONGEST_S = 60
pytestmark = pytest.mark.ray


def test_workers_and_actors_stay_and_those_that_died_are_replaced(
    private_ray: None, tiny_config: RunConfig, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Two CPUs, a training worker and two actors: one of these is a guest on the worker's CPU while it waits, the other
    leaves before the next training. All stages, also that after the death of a worker that waited, end with the bits
    of a training in one process.
    """
    from crowddist.distributed.ray_launcher import RayLauncher

    config = replace(tiny_config, launcher="ray", num_workers=1, num_labellers=2)
    launcher, local = RayLauncher(config), LocalLauncher(config)
    request.addfinalizer(launcher.free_places)
    first, second = stages(config, tmp_path / "ray")
    again = replace(second, folder=(tmp_path / "again").as_uri())

    def processes(name: str, number: int, stay: set[int]) -> set[int]:
        """The processes of a class's actors, once there are so many, these among them; new ones take a while."""
        deadline = time.monotonic() + LONGEST_S
        while len(found := set(actors_alive(name))) != number or not stay <= found:
            assert time.monotonic() < deadline, f"{name}: {found}, not {number} with {stay}"
            time.sleep(0.2)
        return found

    def count() -> None:
        """A job on the first counter."""
        done = read_done(first.folder)
        job = EvaluateJob(checkpoint_url=done["checkpoint"] if done else "", images_url=config.source)
        assert repr(launcher.run(job)) == repr(local.run(job))

    launcher.train([[first]])
    workers = processes("RayTrainWorker", 1, set())
    count()
    actors = processes("UnitActor", 2, set())
    done = read_done(first.folder)
    second, again = (replace(data, initial=done["checkpoint"] if done else "") for data in (second, again))
    launcher.train([[second]])
    processes("RayTrainWorker", 1, workers)
    guest = processes("UnitActor", 1, set())
    assert guest < actors
    count()

    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    processes("RayTrainWorker", 0, set())
    count()
    launcher.train([[again]])
    assert processes("RayTrainWorker", 1, set()).isdisjoint(workers)
    processes("UnitActor", 1, guest)
    launcher.free_places()
    processes("RayTrainWorker", 0, set())
    processes("UnitActor", 0, set())

    local.train([[replace(first, folder=(tmp_path / "local" / "first").as_uri())]])
    begun = read_done((tmp_path / "local" / "first").as_uri())
    local.train([[replace(second, folder=(tmp_path / "local" / "second").as_uri(),
                          initial=begun["checkpoint"] if begun else "")]])
    for name, data in (("first", first), ("second", second), ("second", again)):
        ends = [read_done(folder) for folder in (data.folder, (tmp_path / "local" / name).as_uri())]
        ours, theirs = (checkpoint.load(end["checkpoint"])["method"]["networks"] for end in ends if end)
        assert all(torch.equal(ours[tensor], theirs[tensor]) for tensor in theirs), data.folder


def test_a_watch_that_died_is_replaced(private_ray: None, tiny_config: RunConfig) -> None:
    """Else no group could train any more: driver and workers meet there."""
    import ray

    from crowddist.distributed.heartbeat import answers
    from crowddist.distributed.ray_launcher import RayLauncher

    launcher = RayLauncher(replace(tiny_config, launcher="ray"))
    watch = launcher._living_watch()
    assert launcher._living_watch() is watch
    ray.kill(watch)
    assert not answers(watch) and answers(launcher._living_watch())
