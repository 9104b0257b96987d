"""What large data, long studies and many actors cost: manifests, memory, MLflow, and the queue of work."""

from __future__ import annotations

import heapq
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from crowddist.data.plan import work_units
from crowddist.distributed.unit_queue import Unit, Work

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1800)]

# The goals.
MOST_OPEN_S, MOST_PLAN_S, MOST_BYTES = 2.0, 5.0, 2**30
LEAST_EFFICIENCY = 0.9
NUM_IMAGES = 10_000
MOST_GROWTH_BYTES = 64 * 2**20
"""From 1,000 to 10,000 images: the index of all shards, and what each image counted."""
MOST_SLOWER = 3.0
"""The last rounds of a study against its first."""

MANIFEST_CODE = """
import resource, sys, time
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
import crowddist.data.shards, crowddist.data.plan
from crowddist.data.plan import Plan
from crowddist.data.shards import ShardReader
started = time.process_time()
reader = ShardReader(sys.argv[1])
opened = time.process_time() - started
plan = Plan([shard.num_samples for shard in reader.manifest.shards], seed=0, name="source")
started = time.process_time()
plan.sample_at(0)
planned = time.process_time() - started
started = time.process_time()
plan.sample_at(plan.num_samples)
again = time.process_time() - started
peak = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024
print(opened, planned, again, peak, plan.num_samples)
"""
MEMORY_CODE = """
import os, sys
import torch
from pathlib import Path
from crowddist.config import from_json
from crowddist.inference.jobs import EvaluateJob, JobWorker, LabelJob
torch.set_num_threads(1)
checkpoint, images, labels = sys.argv[1:4]
resident = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
worker = JobWorker(checkpoint, images)
jobs = [LabelJob(checkpoint_url=checkpoint, images_url=images, labels_url=labels),
        EvaluateJob(checkpoint_url=checkpoint, images_url=images)]
records = []
for unit in worker.units():
    records += [worker.run(job, unit) for job in jobs]
    print(unit.stop, resident(), flush=True)
"""


@pytest.mark.parametrize("num_shards", [10_000, 100_000])
def test_ten_million_samples(tmp_path: Path, num_shards: int) -> None:
    """Shards of 1,000 and of 100 images. The peak is that of the process, with torch."""
    shards = [{"name": f"train-{number:06d}.tar", "num_samples": 10_000_000 // num_shards, "num_bytes": 100_000_000,
               "sha256": f"{number:064x}", "persons": 1e5} for number in range(num_shards)]
    (tmp_path / "manifest.json").write_text(json.dumps({
        "format": "crowddist data set", "name": "many", "split": "all", "kind": "images", "labelled": True,
        "statistics": {}, "converter": "test", "version": 1, "shards": shards}))
    told = subprocess.run([sys.executable, "-c", MANIFEST_CODE, tmp_path.as_uri()], check=True, capture_output=True,
                          text=True, timeout=600).stdout.split()
    opened, planned, again, peak, number = map(float, told)
    print(f"\n{number:,.0f} samples in {num_shards:,} shards: opened in {opened:.2f} s, an epoch planned in "
          f"{planned:.2f} s, the next in {again:.2f} s, peak {peak / 2**20:.0f} MiB")
    assert opened < MOST_OPEN_S and max(planned, again) < MOST_PLAN_S and peak < MOST_BYTES


def simulated_s(num_actors: int, units: list[range], seconds: np.ndarray) -> float:
    """Time until all units are done by so many actors that take them from the queue."""
    work = Work(units, data="simulated", key=str)
    busy: list[tuple[float, int]] = []
    now = 0.0
    for actor in range(num_actors):
        heapq.heappush(busy, (0.0, actor))
    while work.waiting:
        now, actor = heapq.heappop(busy)
        unit = work.waiting.popleft()
        assert isinstance(unit, Unit)
        heapq.heappush(busy, (now + float(seconds[unit.images.start : unit.images.stop].sum()), actor))
    return max(end for end, _ in busy)


@pytest.mark.parametrize("num_images", [300, 10_000])
def test_labelling_is_linear_from_one_to_four_actors_in_simulation(num_images: int) -> None:
    """Images that take 0.1 to 3 s each, dense ones beside each other, as a folder of one camera after another is."""
    draws = np.random.default_rng(0)
    cameras = np.repeat(np.exp(draws.normal(-0.5, 0.5, -(-num_images // 100))), 100)[:num_images]
    seconds, units = cameras * draws.uniform(0.7, 1.3, num_images), work_units(num_images)
    alone = simulated_s(1, units, seconds)
    assert alone == pytest.approx(seconds.sum())
    efficiencies = {actors: alone / actors / simulated_s(actors, units, seconds) for actors in (2, 3, 4, 16)}
    print(f"\n{num_images:,} images in {len(units)} units: " + ", ".join(
        f"{actors} actors {efficiency:.0%}" for actors, efficiency in efficiencies.items()))
    assert min(efficiencies[actors] for actors in (2, 3, 4)) >= LEAST_EFFICIENCY


def write_small_images(url: str) -> None:
    """Ten thousand labelled images of noise, in shards of 4 MiB."""
    import simplejpeg

    from crowddist.data.shards import ShardWriter

    draws = np.random.default_rng(0)
    with ShardWriter(url, name="small", split="all", labelled=True, converter="test",
                     max_shard_bytes=2**22) as writer:
        for index in range(NUM_IMAGES):
            pixels = draws.integers(0, 256, (48, 64, 3), dtype=np.uint8)
            writer.add(f"{index:05d}", {"jpg": simplejpeg.encode_jpeg(pixels), "json": {"height": 48, "width": 64},
                                        "points.npy": draws.uniform(0, 47, (20, 2)).astype(np.float32)})


def test_memory_over_10_000_images(tmp_path: Path, make_checkpoint) -> None:  # type: ignore[no-untyped-def]
    """They are labelled and counted by the process that holds a tiny network, and the records of all are kept."""
    from crowddist.methods.settings.self_supervision import SelfSupervisionConfig

    write_small_images((tmp_path / "images").as_uri())
    counter = make_checkpoint(tmp_path / "counter", image_size=64,
                              self_supervision=SelfSupervisionConfig(label_views=(1.0,)))
    told = subprocess.run([sys.executable, "-c", MEMORY_CODE, counter, (tmp_path / "images").as_uri(),
                           (tmp_path / "labels").as_uri()], check=True, capture_output=True, text=True, timeout=1700)
    seen = {int(stop): int(size) for stop, size in map(str.split, told.stdout.splitlines())}
    at = {number: seen[min(stop for stop in seen if stop >= number)] for number in (1_000, NUM_IMAGES // 2, NUM_IMAGES)}
    print("\nresident: " + ", ".join(f"{size / 2**20:.0f} MiB after {number:,}" for number, size in at.items()))
    assert at[NUM_IMAGES] - at[1_000] < MOST_GROWTH_BYTES


def test_mlflow_with_1000_rounds(tmp_path: Path) -> None:
    """Each with ten metrics, on a sqlite file; then all are read for a comparison, as `crowddist compare` would."""
    from mlflow import MlflowClient

    from crowddist.tracking.tracker import MlflowTracker, tracked_run

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracker = MlflowTracker(uri)
    took = []
    with tracked_run(tracker, experiment="long", run_name="long", config={"a": 1}, tags={},
                     state_url=(tmp_path / "state.json").as_uri()):
        for number in range(1000):
            began = time.perf_counter()
            tracker.metrics({"train/loss": 1 / (number + 1)}, step=number, round=number)
            tracker.round_result(number, {f"target/metric_{which}": float(which) for which in range(10)})
            took.append(time.perf_counter() - began)
    first, last = np.median(took[10:110]), np.median(took[-100:])
    began = time.perf_counter()
    client = MlflowClient(uri)
    found = client.search_runs([client.get_experiment_by_name("long").experiment_id], "tags.kind = 'round'",
                               max_results=1000)
    read_s = time.perf_counter() - began
    print(f"\nMLflow: a round takes {first:.3f} s at first, {last:.3f} s after 900; all 1,000 are found in "
          f"{read_s:.1f} s")
    assert len(found) == 1000 and last < MOST_SLOWER * first and read_s < 60
