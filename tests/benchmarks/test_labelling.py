"""Labelling by resident actors: two of one thread each against one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from crowddist.data.plan import MOST_UNIT_SAMPLES
from crowddist.methods.settings.self_supervision import SelfSupervisionConfig

pytestmark = [pytest.mark.benchmark, pytest.mark.ray]

NUM_IMAGES, ROUNDS = 8 * MOST_UNIT_SAMPLES, 5
SIZE = (192, 256)
LEAST_EFFICIENCY = 0.9  # The goal: two actors do at least this share of twice the work of one.


@pytest.fixture
def roomy_ray() -> Iterator[None]:
    """A private Ray with room for three actors; only two work at a time."""
    from crowddist.distributed.runtime import connect, prepare_environment

    prepare_environment()
    connect(3)
    yield
    import ray

    ray.shutdown()


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two actors need two cores")
def test_two_actors_do_twice_the_work(
    roomy_ray: None, tmp_path: Path, make_checkpoint: Callable[..., str], make_images: Callable[..., str]
) -> None:
    from crowddist.distributed.actors import UnitActors
    from crowddist.inference.jobs import LabelJob

    counter = make_checkpoint(tmp_path / "counter", image_size=max(SIZE),
                              self_supervision=SelfSupervisionConfig(label_views=(1.0,)))
    images = make_images(tmp_path / "images", count=NUM_IMAGES, labelled=False, size=SIZE)

    def seconds(actors: UnitActors, name: str) -> float:
        began = time.perf_counter()
        records = actors.run(LabelJob(checkpoint_url=counter, images_url=images, labels_url=(tmp_path / name).as_uri()))
        took = time.perf_counter() - began
        assert sum(record["num_samples"] for record in records) == NUM_IMAGES
        return took

    times = np.empty((ROUNDS + 1, 2))
    with UnitActors(num_actors=1, threads=1) as one, UnitActors(num_actors=2, threads=1) as two:
        for number in range(ROUNDS + 1):
            for which in ((0, 1) if number % 2 == 0 else (1, 0)):
                times[number, which] = seconds((one, two)[which], f"labels-{number}-{which}")
    times = times[1:]  # in the first round the actors load
    efficiency = float(np.median(times[:, 0] / times[:, 1])) / 2
    one_s, two_s = np.median(times, axis=0)
    print(f"\n{NUM_IMAGES} images of {SIZE[1]} x {SIZE[0]}: one actor {one_s:.2f} s, two {two_s:.2f} s, efficiency "
          f"{efficiency:.2f}")
    assert efficiency >= LEAST_EFFICIENCY
