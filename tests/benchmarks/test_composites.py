"""Composites: 1,000 of 960 x 540 px on two cores; and the roughness of images, by hand."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from crowddist.data.composite.backgrounds import Background
from crowddist.data.composite.dataset import write_composites
from crowddist.data.config import DataSpec
from crowddist.data.sample import Sample
from crowddist.data.shards import ShardReader, decode
from tests.benchmarks.harness import single_thread
from tests.benchmarks.high_frequency import person_free_spreads
from tests.benchmarks.test_loader import picture

SIZE = (540, 960)
NUM_IMAGES, GOAL_IMAGES, CORES, GOAL_S = 120, 1000, 2, 240
"""Images to measure with, and the goal: as many images, by as many processes of one core each, in so many seconds."""


@pytest.mark.benchmark
def test_a_thousand_composites(tmp_path: Path) -> None:
    """One process makes some images; its own time, which does not count what others do on the machine, tells how long
    one of the goal's processes would take. The first images are slow: the puppets are made with them.
    """
    draws = np.random.default_rng(0)
    cells = (SIZE[0] // 8, SIZE[1] // 8)
    ground = np.arange(cells[0])[:, None] >= np.full(cells[1], cells[0] // 4)  # all of it, as seen by a fixed camera
    places = [Background(key=f"place-{number}", empty=np.ones(cells, bool), crowded=np.zeros(cells, bool),
                         walked=ground,
                         pixels=cv2.resize(picture(draws), SIZE[::-1], interpolation=cv2.INTER_AREA))
              for number in range(6)]
    times: list[float] = []

    def watch(numbers: Iterable[int]) -> Iterator[int]:
        for number in numbers:
            times.append(time.process_time())
            yield number
        times.append(time.process_time())

    spec = DataSpec(format="composite", num_images=NUM_IMAGES, seed=0)
    with single_thread():
        write_composites(str(tmp_path / "set"), places, spec, name="composite-places", watch=watch)
    reader = ShardReader(tmp_path / "set")
    people = [len(decode(*reader.read(index)).heads) for index in range(len(reader))]
    assert len(people) == NUM_IMAGES
    took = np.diff(times)
    each_s = float(took[NUM_IMAGES // 2:].mean())
    all_s = float(took.sum()) + (GOAL_IMAGES / CORES - NUM_IMAGES) * each_s
    print(f"\ncomposites of {SIZE[1]} x {SIZE[0]} px with {min(people)} to {max(people)} people, {np.mean(people):.0f} "
          f"on average: {each_s:.2f} s of a core each, after {took.sum() - NUM_IMAGES * each_s:.0f} s for puppets; "
          f"{GOAL_IMAGES:,} on {CORES} cores: {all_s:.0f} s")
    assert all_s <= GOAL_S


def test_roughness_by_hand() -> None:
    """White noise of 5 grey levels, less its blur; patches with a person, or beyond the region, are left out."""
    noise = np.random.default_rng(0).normal(128, 5, (128, 512)).round().astype(np.uint8)
    kernel = cv2.getGaussianKernel(9, 1.0) @ cv2.getGaussianKernel(9, 1.0).T
    left = -kernel
    left[4, 4] += 1
    region = np.ones((128, 512), bool)
    region[:, 256:] = False
    sample = Sample(key="a", image=np.repeat(noise[..., None], 3, 2), region=region, sizes=np.full(1, 8, np.float32),
                    points=np.array([[16, 46]], np.float32))
    spreads = person_free_spreads(sample)
    assert len(spreads) == 4 * 8 - 3, "the person's body goes through three patches"
    np.testing.assert_allclose(np.median(spreads), 5 * np.sqrt((left**2).sum()), rtol=0.03)
