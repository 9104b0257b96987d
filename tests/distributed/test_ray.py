"""The real Ray: two workers equal one, lost workers and actors are replaced, and what is wrong comes out as it is."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.exceptions import ActorDiedError, ActorUnavailableError

from crowddist import storage
from crowddist.config import RunConfig, to_json
from crowddist.data.plan import work_units
from crowddist.data.shards import ShardReader
from crowddist.errors import InputError
from crowddist.inference.jobs import EvaluateJob, JobWorker, LabelJob, TranslateJob
from crowddist.inference.pseudo_labels import publish_labels
from crowddist.inference.translated_set import publish_translation
from crowddist.launch.local import LocalLauncher
from crowddist.methods.build import build_method
from crowddist.run import checkpoint
from crowddist.run.engine import StageData, read_done
from crowddist.run.record import run_folder

pytestmark = pytest.mark.ray
PROJECT = Path(__file__).resolve().parents[2]
NUM_STAGES: dict[Any, int] = {"self_supervision": 2, "bi_knowledge": 3}
"""Stages of a method that need no labels; the gradients of all methods are compared in
tests/methods/test_two_workers.py, without Ray."""
MOST_DIFFERENCE = 1e-2
"""Largest relative difference of statistics and of Adam's first moments, two workers against one: sums of float32 in
another order (1e-4 seen)."""
MOST_WEIGHT_DIFFERENCE = 5e-6
"""The same of weights (4e-7 seen), of which six steps move about a hundredth."""


def actors_alive(class_name: str) -> list[int]:
    """The processes of a class's actors in this test's own Ray."""
    import psutil

    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # gone meanwhile
            if f"ray::{class_name}" in " ".join(process.cmdline()):
                found.append(process.pid)
    return found


def stages(config: RunConfig, folder: Path) -> list[StageData]:
    urls = {"source": config.source, "target": config.target}
    return [StageData(stage=stage, folder=(folder / stage.name).as_uri(), urls=urls)
            for stage in build_method(config).plan()[: NUM_STAGES[config.method]]]


def chains(stages: Sequence[StageData]) -> list[list[StageData]]:
    """Stages that train one network, together."""
    return [[data for data in stages if data.stage.trains == trained]
            for trained in dict.fromkeys(data.stage.trains for data in stages)]


def train_by_ray(config: RunConfig, chains: Sequence[Sequence[StageData]]) -> None:
    """Trains with Ray; no worker is left that waits for more, which would hold the tests' CPUs."""
    from crowddist.distributed.ray_launcher import RayLauncher

    launcher = RayLauncher(config)
    try:
        launcher.train(chains)
    finally:
        launcher.free_places()


def difference(ours: Iterable[torch.Tensor], theirs: Iterable[torch.Tensor]) -> float:
    """Relative difference (L2) of tensors taken together."""
    mine, reference = (torch.cat([part.double().flatten() for part in parts]) for parts in (ours, theirs))
    return float((mine - reference).norm() / reference.norm())


def assert_equal_states(shared: dict[str, Any], alone: dict[str, Any], *, name: str) -> None:
    """Weights, statistics and first moments of a stage on two workers are those of one, but for rounding."""
    ours, theirs = shared["networks"], alone["networks"]
    for kind, limit in (("weights", MOST_WEIGHT_DIFFERENCE), ("statistics", MOST_DIFFERENCE)):
        names = [tensor for tensor in theirs if ("running" in tensor) == (kind == "statistics")]
        if not names:  # the transformer of densities has no statistics
            continue
        assert difference([ours[tensor] for tensor in names],
                          [theirs[tensor] for tensor in names]) < limit, f"{name}: {kind}"
    mine, reference = (
        [moments["exp_avg"] for optimizer in state["optimizers"].values() for moments in optimizer["state"].values()]
        for state in (shared, alone)
    )
    assert len(mine) == len(reference) > 1
    assert difference(mine, reference) < MOST_DIFFERENCE, f"{name}: moments"
    for index, (one, other) in enumerate(zip(mine, reference, strict=True)):
        assert difference([one], [other]) < 5 * MOST_DIFFERENCE, f"{name}: moments of parameter {index}"


@pytest.mark.parametrize("method", ["self_supervision", pytest.param("bi_knowledge", marks=pytest.mark.slow)])
def test_two_workers_equal_one(private_ray: None, tiny_config: RunConfig, tmp_path: Path, method: Any) -> None:
    """Same global batch, same order, same draws: equal counters and equal gradients so far, after each of two stages of
    one start.

    The source stage normalises by batches, the others by the running statistics. Each stage of the one worker begins
    where the two began it, and the rate is low: Adam divides by the gradient's size, so a difference in the seventh
    digit is a large one some steps later. No crop reaches beyond its image, and gradients are compared loosely: where
    the inputs of a pooling are equal but for rounding, as all are over the flat grey beside an image, which of them is
    the largest moves a whole slope. In one process, float32 against float64, gradients differ by up to 3 % with such
    crops, and by 3e-6, at times 2e-3, without.
    """
    train, stream = replace(tiny_config.train, learning_rate=1e-4), replace(tiny_config.stream, scale_jitter=(0.9, 1.6))
    slow = replace(tiny_config.bi_knowledge, regressor_rate=1e-4, detector_rate=1e-4, localiser_rate=1e-4)
    tiny_config = replace(tiny_config, method=method, train=train, stream=stream, bi_knowledge=slow)
    two = replace(tiny_config, launcher="ray", num_workers=2, storage=str(tmp_path / "runs"))
    train_by_ray(two, chains(stages(two, tmp_path / "two")))
    initial = ""
    for data in stages(tiny_config, tmp_path / "one"):
        LocalLauncher(tiny_config).train([[replace(data, initial=initial)]])
        ends = [read_done((tmp_path / side / data.stage.name).as_uri()) for side in ("two", "one")]
        assert_equal_states(*(checkpoint.load(end["checkpoint"])["method"] for end in ends if end),
                            name=data.stage.name)
        times = ends[0]["workers"] if ends[0] else []
        assert len(times) == 2 and all(each["compute"] > 0 and each["exchange"] > 0 for each in times)
        # the stages of one network follow each other
        initial = ends[0]["checkpoint"] if ends[0] and not data.stage.trains else ""


def test_two_workers_equal_one_on_patches_of_the_target(private_ray: None, tiny_config: RunConfig,
                                                        tmp_path: Path) -> None:
    """A cycle of bi-knowledge transfer, from the same labels: two layers of the regressor, and all of the detector."""
    slow = replace(tiny_config.bi_knowledge, regressor_cycle_rate=1e-5, detector_cycle_rate=1e-5)
    config = replace(tiny_config, method="bi_knowledge", bi_knowledge=slow,
                     stream=replace(tiny_config.stream, scale_jitter=(0.9, 1.6)))
    source = stages(config, tmp_path / "one")
    local = LocalLauncher(config)
    local.train(chains(source))
    trained = [end["checkpoint"] for data in source if (end := read_done(data.folder))]
    whole, labels = checkpoint.join((tmp_path / "whole").as_uri(), trained,
                                    stage="source"), (tmp_path / "labels").as_uri()
    publish_labels(labels, ShardReader(config.target),
                   local.run(LabelJob(checkpoint_url=whole, images_url=config.target, labels_url=labels)),
                   name="labels")

    def cycle(side: str) -> list[StageData]:
        plan = [stage for stage in build_method(config).plan() if stage.round_name == "cycle-1"]
        return [
            replace(source[0], stage=stage, folder=(tmp_path / side / stage.name).as_uri(), labels_url=labels,
                    initial=whole) for stage in plan
        ]

    local.train(chains(cycle("one")))
    two = replace(config, launcher="ray", num_workers=2, storage=str(tmp_path / "runs"))
    train_by_ray(two, chains(cycle("two")))
    for shared, alone in zip(cycle("two"), cycle("one"), strict=True):
        ends = [read_done(data.folder) for data in (shared, alone)]
        assert_equal_states(*(checkpoint.load(end["checkpoint"])["method"] for end in ends if end),
                            name=alone.stage.name)


def test_labelling_survives_the_death_of_an_actor(
    private_ray: None, tiny_checkpoint: str, tmp_path: Path, make_images: Callable[..., str]
) -> None:
    """An actor is killed in the middle of its work: every image is labelled exactly once, with what an undisturbed run
    says.
    """
    from crowddist.distributed.actors import UnitActors

    images = make_images(tmp_path / "images", count=400, labelled=False)
    reader = ShardReader(images)
    assert len(work_units(len(reader))) > 6
    killed = []

    def kill_one() -> None:
        folder = tmp_path / "labels"
        while not killed:
            if list(folder.glob("*.done.json")):
                pids = actors_alive("UnitActor")
                if pids and pids[0]:
                    os.kill(pids[0], signal.SIGKILL)
                    killed.append(pids[0])
            time.sleep(0.01)

    watcher = threading.Thread(target=kill_one, daemon=True)
    watcher.start()
    labels = (tmp_path / "labels").as_uri()
    # Three actors on two CPUs: the third finds room when one has died.
    with UnitActors(num_actors=3, threads=1) as actors:
        records = actors.run(LabelJob(checkpoint_url=tiny_checkpoint, images_url=images, labels_url=labels))
        times = actors.take_times()
    assert set(times) <= {"worker 0", "worker 1", "worker 2"} and len(times) >= 2 and actors.take_times() == {}
    assert all(each["start_up"] > 0 for each in times.values()), "one that came last may have found nothing to do"
    assert max(each.get("predict", 0.0) for each in times.values()) > 0
    watcher.join(timeout=5)
    assert killed, "the test must have killed an actor"
    publish_labels(labels, reader, records, name="labels")
    assert ShardReader(labels).keys() == reader.keys()
    undisturbed = LabelJob(checkpoint_url=tiny_checkpoint, images_url=images,
                           labels_url=(tmp_path / "undisturbed").as_uri())
    worker = JobWorker(tiny_checkpoint, images, threads=1)
    again = [worker.run(undisturbed, unit) for unit in worker.units()]
    assert [record["sha256"] for record in records] == [record["sha256"] for record in again]


def test_actors_translate_as_one_process_does(private_ray: None, tiny_config: RunConfig, tmp_path: Path) -> None:
    from crowddist.distributed.ray_launcher import RayLauncher

    config = replace(tiny_config, method="translation", launcher="ray", num_labellers=2)
    torch.manual_seed(0)
    trained = checkpoint.save((tmp_path / "trained").as_uri(), 1,
                              {"method": build_method(config).state_dict(), "config": to_json(config)})
    jobs = [TranslateJob(checkpoint_url=trained, images_url=config.source, translated_url=(tmp_path / name).as_uri())
            for name in ("actors", "alone")]
    records = RayLauncher(config).run(jobs[0])
    assert records == LocalLauncher(config).run(jobs[1])
    publish_translation(jobs[0].translated_url, ShardReader(config.source), records)
    assert ShardReader(jobs[0].translated_url).keys() == ShardReader(config.source).keys()


@pytest.mark.parametrize(("call", "counter", "error", "message"), [
    ("evaluate", "tiny_checkpoint", InputError, "has no points; an evaluation needs"),
    ("label", "tiny_target", InputError, "is not a checkpoint"),
    ("label", "", FileNotFoundError, "no file at"),
], ids=["work", "loading", "missing"])
def test_what_a_unit_or_the_loading_raises_comes_out_and_no_actor_stays(
    private_ray: None, request: pytest.FixtureRequest, tiny_target: str, tmp_path: Path, call: str, counter: str,
    error: type[Exception], message: str
) -> None:
    from crowddist.distributed.actors import UnitActors

    place = request.getfixturevalue(counter) if counter else (tmp_path / "nothing.pt").as_uri()
    place = f"{place}/manifest.json" if counter == "tiny_target" else place
    asked = {"checkpoint_url": place, "images_url": tiny_target}
    job = LabelJob(**asked, labels_url=(tmp_path / "labels").as_uri()) if call == "label" else EvaluateJob(**asked)
    with pytest.raises(error, match=message) as raised:
        UnitActors(num_actors=2, threads=1).run(job)
    assert type(raised.value) is error
    deadline = time.monotonic() + 30
    while left := actors_alive("UnitActor"):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def starts(config: RunConfig) -> list[Path]:
    """What Ray Train left of each start of a group."""
    return [path for path in (storage.local_folder(run_folder(config)) / ".ray-train").iterdir() if path.is_dir()]


def test_a_lost_worker_is_replaced_and_nothing_is_lost(private_ray: None, tiny_config: RunConfig,
                                                       tmp_path: Path) -> None:
    """SIGKILL of a training worker: all start again from the last checkpoint and end with the bits of an unbroken
    training.
    """
    config = replace(tiny_config, launcher="ray", train=replace(tiny_config.train, steps=60))
    LocalLauncher(config).train([stages(config, tmp_path / "unbroken")[:1]])
    killed = []

    def kill_one() -> None:
        while not killed and not (tmp_path / "broken" / "source" / "DONE.json").exists():
            if list((tmp_path / "broken").glob("source/checkpoints/*.pt")):
                killed.extend(actors_alive("RayTrainWorker"))
                for pid in killed[:1]:
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)

    watcher = threading.Thread(target=kill_one, daemon=True)
    watcher.start()
    train_by_ray(config, [stages(config, tmp_path / "broken")[:1]])
    watcher.join(timeout=5)
    assert killed and len(starts(config)) == 2
    ends = [checkpoint.load_latest((tmp_path / name / "source" / "checkpoints").as_uri())
            for name in ("unbroken", "broken")]
    for name, value in ends[0]["method"]["networks"].items():
        assert torch.equal(value, ends[1]["method"]["networks"][name]), name


def test_a_wrong_input_comes_out_of_a_worker_as_it_is_and_is_not_repeated(
    private_ray: None, tiny_config: RunConfig, tmp_path: Path
) -> None:
    """A shard that was cut: one line, whichever rank finds it, while the other waits for it in the middle of a step."""
    damaged = tmp_path / "damaged"
    shutil.copytree(storage.local_folder(tiny_config.source), damaged)
    shard = sorted(damaged.glob("*.tar"))[-1]
    shard.write_bytes(shard.read_bytes()[:-1024])
    config = replace(tiny_config, launcher="ray", num_workers=2, source=damaged.as_uri())
    with pytest.raises(InputError, match=f"^shard .*{shard.name}: .* it was cut or changed") as raised:
        train_by_ray(config, [stages(config, tmp_path / "stages")[:1]])
    assert raised.value.__suppress_context__ and "\n" not in str(raised.value)
    assert len(starts(config)) == 1


def test_an_interrupt_ends_a_training_and_is_heard_afterwards(
    private_ray: None, tiny_config: RunConfig, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    config = replace(tiny_config, launcher="ray", train=replace(tiny_config.train, steps=100_000))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background ignores it
    request.addfinalizer(partial(signal.signal, signal.SIGINT, before))

    def interrupt() -> None:
        while not list(tmp_path.glob("source/checkpoints/*.pt")):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=interrupt, daemon=True)
    watcher.start()
    with pytest.raises(KeyboardInterrupt):
        train_by_ray(config, [stages(config, tmp_path)[:1]])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert read_done((tmp_path / "source").as_uri()) is None


@pytest.mark.parametrize(("failures", "mistake"), [
    ({0: RuntimeError("Connection closed by peer"), 1: InputError("a")}, InputError),
    ({1: FloatingPointError("loss"), 0: FileNotFoundError("b")}, FileNotFoundError),
    ({0: OSError(28, "No space left on device")}, OSError),
    ({0: RuntimeError("Connection closed by peer"), 1: ConnectionResetError()}, None),
    ({0: SystemExit(15)}, None),
])
def test_mistakes_are_told_from_lost_workers(failures: dict[int, Exception], mistake: type[Exception] | None) -> None:
    from crowddist.distributed.ray_launcher import mistake_among

    found = mistake_among(failures)
    assert found is None if mistake is None else type(found) is mistake


@pytest.mark.parametrize(("failures", "told"), [
    ({0: RuntimeError("Connection reset by peer\nand more"), 1: ActorDiedError()}, "rank 1 (pid 12 on n1) died"),
    ({1: ActorDiedError(), 2: ActorUnavailableError("away", None)}, "rank 1 (pid 12 on n1) and rank 2 died"),
    ({0: RuntimeError("Timed out\nand more")},
     "rank 1 (pid 12 on n1) has been reading samples at step 6 for 40 s (Timed out)"),
])
def test_a_loss_is_explained(failures: dict[int, Exception], told: str) -> None:
    from ray.train import WorkerGroupError

    from crowddist.distributed.heartbeat import Beat
    from crowddist.distributed.ray_launcher import explain

    beats = [
        Beat(rank=0, host="n0", node="", pid=11, step=7, doing="computing", since_s=39),
        Beat(rank=1, host="n1", node="", pid=12, step=6, doing="reading samples", since_s=40),
    ]
    assert explain(WorkerGroupError("", failures), beats) == told


def test_a_cluster_too_small_is_told_of(private_ray: None, caplog: pytest.LogCaptureFixture) -> None:
    from crowddist.distributed.runtime import connect, has_gpus

    connect(2)
    assert has_gpus(1) is (torch.cuda.is_available()) and not caplog.records
    connect(5)
    assert "2 CPUs for 5 workers" in caplog.text
