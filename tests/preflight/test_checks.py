"""The dry run: a good configuration passes and changes nothing; each planted mistake fails one line with its cause."""

from __future__ import annotations

import http.server
import os
import re
import shutil
import socketserver
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from crowddist import storage
from crowddist.config import RunConfig, to_json
from crowddist.data.config import parse_data
from crowddist.errors import InputError
from crowddist.models.config import CounterConfig
from crowddist.preflight import checks, machine
from crowddist.preflight.checks import check, look_at_node, look_here
from crowddist.preflight.machine import disk_row, gpu_detail, gpu_row, shared_memory_row, versions_row
from crowddist.preflight.table import Row, looked, table
from crowddist.run.record import run_folder
from crowddist.storage import s3_requests
from crowddist.storage.run_folder import CONFIG
from tests.jobs.conftest import ROOT, start  # noqa: F401
from tests.s3.conftest import BUCKET, environment, make_bucket, mock  # noqa: F401


def failures(config: RunConfig) -> list[str]:
    """The failed lines of the printed table; checks that the returned value agrees."""
    said: list[str] = []
    ok = check(config, None, say=said.append)
    lines = [" ".join(line.split()) for line in said[0].splitlines() if " FAILED " in line]
    assert ok is not bool(lines)
    return lines


def the_failure(config: RunConfig) -> str:
    (line,) = failures(config)
    return line


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"/" for path in folder.rglob("*")}


@pytest.fixture
def copied(tiny_source: str, tmp_path: Path) -> Path:
    """The source's shards, to be damaged."""
    return Path(shutil.copytree(storage.shown(tiny_source), tmp_path / "copied"))


def test_a_good_configuration_passes_and_nothing_is_changed(tiny_config: RunConfig, tmp_path: Path) -> None:
    before, asked = files(tmp_path), replace(tiny_config, tracking_uri="")
    assert failures(asked) == [] and files(tmp_path) == before, "no folder, no database, no small file"


def test_labels_of_the_target_are_never_opened(tiny_config: RunConfig, make_images: Callable, tmp_path: Path) -> None:
    """Only damaged labels of the source are found."""
    damaged = make_images(tmp_path / "damaged", count=2)
    for shard in Path(storage.shown(damaged)).glob("*.tar"):
        shard.write_bytes(shard.read_bytes().replace(b"\x93NUMPY", b"\x93NUMBY"))
    assert failures(replace(tiny_config, target=damaged, evaluation=damaged)) == []
    assert "points.npy" in the_failure(replace(tiny_config, source=damaged))


# The planted misconfigurations.


def test_1_no_source_folder(tiny_config: RunConfig, tmp_path: Path) -> None:
    line = the_failure(replace(tiny_config, source=f"shanghaitech:{tmp_path}/nowhere:train"))
    assert (line == f"data source here FAILED no folder at {tmp_path}/nowhere; give the folder that holds the "
                    "shanghaitech data")


@pytest.mark.parametrize(("damage", "cause"),
                         [("manifest", "not JSON"), ("shard", "it was cut or changed"), ("missing", "lacks ")])
def test_2_damaged_shards(tiny_config: RunConfig, copied: Path, damage: str, cause: str) -> None:
    shard = min(copied.glob("*.tar"))
    if damage == "manifest":
        (copied / "manifest.json").write_text('{"format": "crowd')
    elif damage == "shard":
        shard.write_bytes(shard.read_bytes()[:-512])
    else:
        max(copied.glob("*.tar")).unlink()
    line = the_failure(replace(tiny_config, source=str(copied)))
    assert (line.startswith("data source here FAILED ") and cause in line
            and ("copy it again" in line or "write it again" in line))


def test_2_too_few_frames_for_composites(make_images: Callable[..., str], tmp_path: Path) -> None:
    few = make_images(tmp_path / "few", count=7, labelled=False)
    rows = [checks.data_row("source", "source", parse_data(f"composite:{few}{counter}"), masks=False)[0]
            for counter in ("", "?counter=rendered")]
    assert [row.state for row in rows] == ["FAILED", "ok"]
    assert re.search(r"at least 8 different frames .*few has 7; .*\?counter=rendered", rows[0].detail)


@pytest.fixture
def bucket(mock: str, environment: pytest.MonkeyPatch) -> str:  # noqa: F811
    make_bucket(mock)
    environment.setenv("AWS_ENDPOINT_URL", mock)
    return f"s3://{BUCKET}/preflight"


def test_object_storage_that_is_good(tiny_config: RunConfig, bucket: str) -> None:
    assert failures(replace(tiny_config, storage=bucket)) == [] and not storage.exists(bucket)


def test_3_no_such_bucket(tiny_config: RunConfig, bucket: str) -> None:
    line = the_failure(replace(tiny_config, storage="s3://nosuchbucket/runs"))
    assert (line.startswith("storage here FAILED no bucket nosuchbucket at http://127.0.0.1")
            and line.endswith("make it, or correct the address"))


class _Refusing(http.server.BaseHTTPRequestHandler):
    """An S3 server that rejects every secret key like a real one; the mock accepts all."""

    protocol_version = "HTTP/1.1"  # which says at once that a client that asks may go on

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b"<Error><Code>SignatureDoesNotMatch</Code><Message>no</Message></Error>"
        self.send_response(403)
        self.send_header("Connection", "close")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_HEAD = do_DELETE = do_PUT

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def refusing(environment: pytest.MonkeyPatch) -> Iterator[str]:  # noqa: F811
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Refusing) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
        yield f"s3://{BUCKET}/runs"
        server.shutdown()


def test_4_wrong_key(tiny_config: RunConfig, refusing: str) -> None:
    line = the_failure(replace(tiny_config, storage=refusing))
    assert (line.startswith("storage here FAILED wrong key for s3://crowd/runs/")
            and "correct AWS_SECRET_ACCESS_KEY" in line and "SECRETTEST" not in line)


def test_5_storage_that_cannot_be_written(tiny_config: RunConfig, tmp_path: Path) -> None:
    """Works for root too, who may write in any folder: with a file in the way, and on the kernel's file system."""
    (tmp_path / "file").write_text("in the way")
    line = the_failure(replace(tiny_config, storage=str(tmp_path / "file" / "runs")))
    assert (line.startswith("storage here FAILED no folder can be made at ")
            and line.endswith("a file is in the way; remove it, or choose another place"))
    if Path("/sys/kernel").is_dir():
        line = the_failure(replace(tiny_config, storage="/sys/kernel/runs"))
        assert (line.startswith("storage here FAILED ")
                and line.endswith("a place where this user may write and remove files, or give another --storage"))


def test_6_no_weights_file(tiny_config: RunConfig, tmp_path: Path) -> None:
    counter = CounterConfig(backbone="vgg16", weights=str(tmp_path / "vgg16.pth"))
    line = the_failure(replace(tiny_config, counter=counter))
    assert (line == f"weights counter here FAILED no weights at {tmp_path}/vgg16.pth: put the file there, or correct "
                    "the option weights")
    (tmp_path / "vgg16.pth").write_bytes(b"not weights")
    assert the_failure(replace(tiny_config, counter=counter)).startswith("networks here FAILED weights ")


def test_6_no_second_counter(tiny_config: RunConfig, tmp_path: Path) -> None:
    config = replace(tiny_config, self_supervision=replace(tiny_config.self_supervision,
                                                           second_counter=str(tmp_path / "nowhere.pt")))
    line = the_failure(config)
    assert line.startswith("networks here FAILED self_supervision.second_counter: ") and "nowhere.pt" in line
    assert failures(replace(config, method="source_only")) == []


def test_7_mlflow_is_away(tiny_config: RunConfig) -> None:
    line = the_failure(replace(tiny_config, tracking_uri="http://127.0.0.1:9"))
    assert (line.startswith("MLflow here FAILED no MLflow server answers at http://127.0.0.1:9")
            and "correct the tracking address" in line)


def test_an_experiment_that_was_deleted(tiny_config: RunConfig, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("CREATE TABLE experiments (name TEXT, lifecycle_stage TEXT)")
        database.execute("INSERT INTO experiments VALUES ('tiny', 'deleted')")
    database.close()
    config = replace(tiny_config, tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    assert "experiment tiny was deleted" in the_failure(config)
    assert failures(replace(config, experiment="another")) == []


def test_8_a_name_that_is_taken(tiny_config: RunConfig) -> None:
    storage.write_bytes(storage.join(run_folder(tiny_config), CONFIG), to_json(tiny_config).encode())
    assert failures(tiny_config) == [], "the same configuration goes on"
    line = the_failure(replace(tiny_config, seed=1))
    assert (line.startswith("run name tiny here FAILED run tiny exists with another configuration (it differs in "
                            "seed): choose another --run-name"))


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_8_a_name_that_another_process_holds(tiny_config: RunConfig, bucket: str, kind: str) -> None:
    config = tiny_config if kind == "file" else replace(tiny_config, storage=bucket)
    with storage.exclusive(run_folder(config)):
        line = the_failure(config)
        assert (line.startswith("run name tiny here FAILED another process ")
                and "wait for it, or choose another --run-name" in line)
    assert failures(config) == []


def test_9_nodes_with_other_versions() -> None:
    mine = {"python": "3.11.7", "torch": "2.14.1", "crowddist": "0.1.0 (code 12345678)"}
    assert versions_row(mine, dict(mine), "node").state == "ok"
    row = versions_row(mine, mine | {"torch": "2.13.0"}, "node")
    assert (row.state, row.detail) == ("FAILED", "torch 2.13.0, the driver has 2.14.1: install the same on every node")
    assert "torch cannot be found" in versions_row(mine, mine | {"torch": ""}, "node").detail


@pytest.mark.slow  # asks torch in two processes of its own
def test_10_a_gpu_that_is_asked_for_and_not_there(tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    line = the_failure(tiny_config)
    assert (line.startswith("GPU here FAILED CUDA_VISIBLE_DEVICES=0 names 1 GPUs, torch sees 0 (it was built ")
            and "look at nvidia-smi" in line)
    assert gpu_row(2, "node").detail.startswith("the cluster promises 2 GPUs, torch sees 0")


def test_gpus_that_are_there() -> None:
    facts = {"num_gpus": 2, "cuda": "13.0", "nccl": True, "names": ["A", "B"]}
    assert gpu_detail(2, "it has", facts) == "A, B; CUDA 13.0, NCCL"
    with pytest.raises(InputError, match="no NCCL"):
        gpu_detail(2, "it has", facts | {"nccl": False})


def test_11_too_little_room(tiny_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert disk_row({"runs": tmp_path / "not" / "yet"}, "node", least=1).state == "ok"
    assert shared_memory_row("node", folder=str(tmp_path), least=1).state == "ok"
    line = shared_memory_row("node", folder=str(tmp_path), least=2**60)
    assert line.state == "FAILED" and "start the container with --shm-size=2g" in line.detail
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**30, 2**29, 2**29))
    line = the_failure(tiny_config)
    assert line.startswith("disk here FAILED 0.5 GiB are free at ") and "2.0 are needed: make room" in line


def test_12_a_node_that_does_not_share_the_storage(tiny_config: RunConfig, tmp_path: Path) -> None:
    """The driver's file is missing, or the data differs."""
    (tmp_path / "shared").mkdir()
    _, expected = look_here(tiny_config)
    probe = (tmp_path / "shared" / ".probe.partial").as_uri()
    expected = replace(expected, probe_url=probe, probe=b"probe")
    failed = [row for row in look_at_node(expected, "node", 0) if row.state != "ok"]
    assert [row.what for row in failed] == ["storage"] and "mount the same folder on every node" in failed[0].detail
    storage.write_bytes(probe, b"probe")
    assert {row.state for row in look_at_node(expected, "node", 0)} == {"ok"}
    other = replace(expected, shards={"source": (expected.shards["source"][0], "0" * 64)})
    failed = [row for row in look_at_node(other, "node", 0) if row.state != "ok"]
    assert [row.what for row in failed] == ["data sets"] and "is another than the driver's" in failed[0].detail


def test_a_check_that_breaks_does_not_hide_the_others() -> None:
    row = looked("this", "here", lambda: str([][0]))
    assert row.state == "FAILED" and row.detail.startswith("the check itself broke: IndexError")
    lines = table([row, Row("that", "elsewhere", "ok", "fine")]).splitlines()
    assert len(lines) == 3 and lines[0].index("detail") == lines[2].index("fine")


def test_haste_ends_with_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROWDDIST_S3_ATTEMPTS", "7")
    with checks.hasty():
        assert s3_requests.S3Config.from_environment().attempts == 7 and os.environ["CROWDDIST_S3_PATIENCE_S"] == "0"
    assert "CROWDDIST_S3_PATIENCE_S" not in os.environ


def test_the_job_says_so_with_its_exit_code(
    start: Callable, tiny_config: RunConfig, tmp_path: Path  # noqa: F811
) -> None:
    data = ["--source", tiny_config.source, "--target", tiny_config.target, "--evaluation", tiny_config.evaluation]
    command = ["smoke", *data, "--check", "--launcher", "local", "--storage", tmp_path / "runs"]
    done = start("adapt", *command)
    assert (done.returncode,
            done.stderr) == (0, "") and done.stdout.endswith(" checks are ok\n") and not (tmp_path / "runs").exists()
    done = start("adapt", *command, "--tracking-uri", "http://127.0.0.1:9")
    assert (done.returncode == 2 and done.stdout.count("FAILED ") == 1 + done.stdout.count("marked FAILED ")
            and not (tmp_path / "runs").exists())


@pytest.mark.ray
def test_every_node_has_its_rows(private_ray: None, tiny_config: RunConfig) -> None:
    """A node that does not answer in time has one failed row."""
    import ray

    from crowddist.distributed.node_checks import enough, name_of, node_rows

    _, expected = look_here(replace(tiny_config, launcher="ray"))
    storage.write_bytes(storage.join(tiny_config.storage, "probe"), b"probe")
    expected = replace(expected, probe_url=storage.join(tiny_config.storage, "probe"), probe=b"probe")
    rows = node_rows(expected)
    names = [name_of(node) for node in ray.nodes() if node["Alive"]]
    assert names and {row.where for row in rows} == set(names) and {row.state for row in rows} == {"ok"}, table(rows)
    assert [row.what for row in rows if row.where == names[0]] == ["storage", "data sets", "versions", "GPU", "disk",
                                                                   "shared memory"]
    other = node_rows(replace(expected, versions=expected.versions | {"torch": "1.0"}))
    assert [row.what for row in other if row.state == "FAILED"] == ["versions"] * len(names)
    silent = node_rows(expected, timeout_s=0.0)
    assert len(silent) == len(names) and all("no answer within" in row.detail for row in silent)
    with pytest.raises(InputError, match="would wait"):
        enough({"CPU": 2}, 4, 4)
    with pytest.raises(InputError, match="all would run on CPUs"):
        enough({"CPU": 16, "GPU": 2}, 4, 4)


@pytest.mark.ray
def test_a_cluster_of_two_nodes(tiny_config: RunConfig, tmp_path: Path) -> None:
    """The whole job: each node has its rows; the only failure is of the node that promises a GPU and has none."""
    import torch

    data = ["--source", tiny_config.source, "--target", tiny_config.target, "--evaluation", tiny_config.evaluation]
    command = [sys.executable, "tests/distributed/two_nodes.py", "smoke", "--launcher", "ray", *data, "--check",
               "--storage", str(tmp_path / "runs")]
    begun = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
                          capture_output=True, text=True, check=False)
    assert time.monotonic() - begun < 120, "under a minute, and the cluster's own start and end"
    rows = [" ".join(line.split()) for line in done.stdout.splitlines()]
    for what in ("storage", "data sets", "versions", "GPU", "disk", "shared memory"):
        names = {re.sub(f"^{what} (.*?) (ok|FAILED) .*", r"\1", row)
                 for row in rows if re.match(f"{what} .* (ok|FAILED) ", row)}
        assert len(names - {"here"}) == 2, done.stdout + done.stderr
    failed = [row for row in rows if " FAILED " in row and "checks failed" not in row]
    if not torch.cuda.is_available():
        assert (done.returncode == 2 and len(failed) == 1
                and "FAILED the cluster promises 1 GPUs, torch sees 0" in failed[0])
    assert not (tmp_path / "runs").exists()


def test_no_ray_where_its_address_leads(tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    from crowddist.distributed.node_checks import look_at_nodes

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    (row,) = look_at_nodes(checks.Expected(config=replace(tiny_config, launcher="ray")))
    assert (row.what, row.state) == ("Ray", "FAILED") and "no Ray answers at RAY_ADDRESS 127.0.0.1:9" in row.detail
