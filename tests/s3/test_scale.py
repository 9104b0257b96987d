"""Ten thousand images in a real object store, labelled and counted by Ray's actors: nobody's memory grows with them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from crowddist import storage
from tests.benchmarks.test_scale import MOST_GROWTH_BYTES, NUM_IMAGES, write_small_images

LONGEST_S = 3000
pytestmark = [pytest.mark.benchmark, pytest.mark.s3, pytest.mark.ray, pytest.mark.timeout(LONGEST_S + 600)]

DRIVER_CODE = """
import json, sys, threading
import psutil
from crowddist import storage
from crowddist.distributed.runtime import connect, prepare_environment
prepare_environment()
connect(2)
from crowddist.data.plan import work_units
from crowddist.data.shards import ShardReader
from crowddist.distributed.actors import UnitActors
from crowddist.inference.jobs import EvaluateJob, LabelJob
checkpoint, images, labels = sys.argv[1:]
num_images = len(ShardReader(images))
unit, driver, ended = len(work_units(num_images)[0]), psutil.Process(), threading.Event()

def look(number):
    sizes = {"driver": driver.memory_info().rss, "actors": [], "head": 0}
    for process in driver.children(recursive=True):
        try:
            name, size = " ".join(process.cmdline()), process.memory_info().rss
        except psutil.Error:  # gone meanwhile
            continue
        if "ray::UnitActor" in name:
            sizes["actors"].append(size)
        elif "gcs_server" in name or "raylet/raylet" in name:
            sizes["head"] += size
    print(json.dumps([number, sizes["driver"], max(sizes["actors"], default=0), sizes["head"]]), flush=True)

def watch():
    while not ended.wait(1):
        try:
            look(unit * sum(name.endswith(".done.json") for name in storage.list_files(labels)))
        except FileNotFoundError:  # nothing is done yet
            continue

watcher = threading.Thread(target=watch)
with UnitActors(num_actors=2, threads=1) as actors:
    watcher.start()
    try:
        records = actors.run(LabelJob(checkpoint_url=checkpoint, images_url=images, labels_url=labels))
    finally:
        ended.set()
        watcher.join()
    look(num_images)
    counted = actors.run(EvaluateJob(checkpoint_url=checkpoint, images_url=images))
    look(2 * num_images)
assert sum(map(len, counted)) == sum(record["num_samples"] for record in records) == num_images
"""


def test_memory_over_10_000_images_in_object_storage(real: str, tmp_path: Path,
                                                     make_checkpoint: Callable[..., str]) -> None:
    """Resident memory of the driver, of the larger of two actors, and of Ray's head (its table of all and the raylet),
    looked at every second of the labelling and after the counting; images, labels and counts come from and go to the
    store.
    """
    from crowddist.methods.settings.self_supervision import SelfSupervisionConfig

    images, labels = storage.join(real, "images"), storage.join(real, "labels")
    write_small_images(images)
    counter = make_checkpoint(tmp_path / "counter", image_size=64,
                              self_supervision=SelfSupervisionConfig(label_views=(1.0,)))
    done = subprocess.run([sys.executable, "-c", DRIVER_CODE, counter, images, labels], capture_output=True, text=True,
                          timeout=LONGEST_S, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = [json.loads(line) for line in done.stdout.splitlines()]
    at = {least: next(sizes for number, *sizes in seen if number >= least)
          for least in (1_000, NUM_IMAGES // 2, NUM_IMAGES, 2 * NUM_IMAGES)}
    for which, name in enumerate(("driver", "larger actor", "head")):
        sizes = {number: sizes[which] for number, sizes in at.items()}
        print(f"\n{name}: " + ", ".join(f"{size / 2**20:.0f} MiB after {number:,}" for number, size in sizes.items()),
              end="")
        assert min(sizes.values()) > 0 and max(sizes.values()) - sizes[1_000] < MOST_GROWTH_BYTES, name
    print()
