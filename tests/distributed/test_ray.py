"""The real Ray: two workers equal one, labelling survives the death of an actor, and jobs can be submitted."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from crowddist import checkpoint
from crowddist.config import RunConfig
from crowddist.data.plan import work_units
from crowddist.data.shards import ShardReader
from crowddist.engine import StageData, read_done
from crowddist.launcher import LocalLauncher, UnitWorker
from crowddist.methods.table import build_method

pytestmark = pytest.mark.ray
PROJECT = Path(__file__).resolve().parents[2]
GRADIENT_DIFFERENCE = 1e-5
"""Largest relative difference (L2) of a gradient, two workers against one: sums of float32 in another order."""
WEIGHT_DIFFERENCE = 1e-3
"""The same for weights some steps later: Adam divides by the gradient's size, so where that is near 0 rounding becomes a step."""


@pytest.fixture(scope="module")
def private_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Ray of two CPUs with a home and a token of its own."""
    home = os.environ.get("HOME")
    os.environ["HOME"] = str(tmp_path_factory.mktemp("home"))
    from crowddist.distributed.runtime import prepare_environment

    prepare_environment()
    import ray

    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=150 * 2**20, log_to_driver=False)
    yield
    ray.shutdown()
    if home is not None:
        os.environ["HOME"] = home


def stages(config: RunConfig, folder: Path) -> list[StageData]:
    urls = {"source": config.source, "target": config.target}
    return [StageData(stage=stage, folder=(folder / stage.name).as_uri(), urls=urls) for stage in build_method(config).plan()[:2]]


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm().clamp(min=1e-8))


def test_two_workers_equal_one(private_ray: None, tiny_config: RunConfig, tmp_path: Path) -> None:
    """Same global batch, same order, same draws: equal gradients after one step, equal counters after a second stage in the same start."""
    from crowddist.distributed.launcher import RayLauncher

    one = replace(tiny_config, train=replace(tiny_config.train, steps=1))
    LocalLauncher(one).train(stages(one, tmp_path / "one"))
    two = replace(one, launcher="ray", num_workers=2, storage=str(tmp_path / "runs"))
    RayLauncher(two).train(stages(two, tmp_path / "two"))

    def states(stage: str) -> list[dict]:
        done = [read_done((tmp_path / side / stage).as_uri()) for side in ("two", "one")]
        return [checkpoint.load(entry["checkpoint"])["method"] for entry in done if entry]

    shared, alone = states("source")
    moments = [state["optimizers"]["counter"]["state"] for state in (shared, alone)]
    assert moments[0].keys() == moments[1].keys() and len(moments[0]) > 20
    for index, ours in moments[0].items():
        assert difference(ours["exp_avg"], moments[1][index]["exp_avg"]) < GRADIENT_DIFFERENCE, index
    for name in (name for name in alone["networks"] if "running" in name):
        assert difference(shared["networks"][name], alone["networks"][name]) < GRADIENT_DIFFERENCE, name
    shared, alone = states("orientation")
    for name, value in alone["networks"].items():
        assert difference(shared["networks"][name], value) < WEIGHT_DIFFERENCE, name


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory, tiny_source: str) -> str:
    """A checkpoint of an untrained counter."""
    from crowddist.config import to_json
    from crowddist.data.config import StreamConfig

    config = RunConfig(recipe="tiny", source=tiny_source, target=tiny_source, stream=StreamConfig(image_size=96, crop_size=64))
    content = {"method": build_method(config).state_dict(), "config": to_json(config)}
    return checkpoint.save(tmp_path_factory.mktemp("counter").as_uri(), 1, content)


def test_labelling_survives_the_death_of_an_actor(
    private_ray: None, counter: str, tmp_path: Path, make_images: Callable[..., str]
) -> None:
    """An actor is killed in the middle of its work: every image is labelled exactly once, with what an undisturbed run says."""
    import psutil

    from crowddist.distributed.labeler import run_units
    from crowddist.labels import publish_labels

    images = make_images(tmp_path / "images", count=400, labelled=False)
    reader = ShardReader(images)
    assert len(work_units(len(reader))) == 7
    killed = []

    def kill_one() -> None:
        folder = tmp_path / "labels"
        while not killed:
            if list(folder.glob("*.done.json")):
                for process in psutil.Process().children(recursive=True):  # the workers of this test's own Ray
                    if not killed and "ray::UnitWorker" in " ".join(process.cmdline()):
                        process.send_signal(signal.SIGKILL)
                        killed.append(process.pid)
            time.sleep(0.01)

    watcher = threading.Thread(target=kill_one, daemon=True)
    watcher.start()
    labels = (tmp_path / "labels").as_uri()
    records = run_units("label", counter, images, (labels,), num_actors=2, threads=1)
    watcher.join(timeout=5)
    assert killed, "the test must have killed an actor"
    publish_labels(labels, reader, records, name="labels")
    assert ShardReader(labels).keys() == reader.keys()
    undisturbed = (tmp_path / "undisturbed").as_uri()
    worker = UnitWorker(counter, images, threads=1)
    again = [worker.label(unit, undisturbed) for unit in worker.units()]
    assert [record["sha256"] for record in records] == [record["sha256"] for record in again]
