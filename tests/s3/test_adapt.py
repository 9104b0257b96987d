"""A whole adaptation from and to object storage ends with the bits that it ends with on a disk, also where the network
fails; and tells no secret.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crowddist import storage
from tests.s3.conftest import BUCKET, make_bucket
from tests.s3.contents import assert_equal, content
from tests.s3.proxy import Proxy

COMMAND = ("adapt", "smoke", "--launcher", "local", "--threads", 1)
SECRET = "SECRETTEST"
pytestmark = pytest.mark.s3


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same run on a disk."""
    import subprocess
    import sys

    from tests.s3.conftest import PROJECT

    runs = tmp_path_factory.mktemp("runs")
    command = [sys.executable, "jobs/adapt.py", *map(str, COMMAND[1:]), "--storage", str(runs), "--tracking-uri",
               "none"]
    subprocess.run(command, cwd=PROJECT, env={**os.environ, "PYTHONPATH": str(PROJECT)}, check=True,
                   capture_output=True, timeout=500)
    return content(runs, "smoke")


def test_a_whole_adaptation_in_object_storage(real: str, start: Callable, tmp_path: Path,
                                              on_disk: dict[str, Any]) -> None:
    database = tmp_path / "mlflow.db"
    command = (*COMMAND, "--storage", real, "--tracking-uri", f"sqlite:///{database}")
    done = start(*command)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"result    {real}/smoke/result.json" in done.stdout
    assert_equal(content(real, "smoke"), on_disk)
    assert storage.list_files(real) == [name for name in storage.list_files(real) if not name.endswith(".lock")]
    again = start(*command)
    assert (again.returncode, again.stderr) == (0, "") and "orientation: done before" in again.stdout

    texts = [done.stdout, again.stdout,
             *(storage.read_bytes(storage.join(real, name)).decode("latin-1") for name in storage.list_files(real))]
    texts += [path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file()]
    with sqlite3.connect(database) as connection:
        texts += connection.iterdump()
    assert len(texts) > 100 and not [text[:200] for text in texts if SECRET in text]
    assert json.loads(storage.read_bytes(storage.join(real, "smoke", "config.json")))["storage"] == real


@pytest.mark.parametrize("fault", ["reset", "truncate", "busy", "slow"])
def test_a_whole_adaptation_through_faults(real: str, start: Callable, on_disk: dict[str, Any], fault: Any) -> None:
    proxy = Proxy(("127.0.0.1", int(os.environ["AWS_ENDPOINT_URL"].rpartition(":")[2])))
    proxy.fault = fault
    done = start(*COMMAND, "--storage", real, "--tracking-uri", "none", AWS_ENDPOINT_URL=proxy.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert proxy.num_faults > 20 or (fault == "slow" and proxy.num_requests > 100)
    proxy.close()
    assert_equal(content(real, "smoke"), on_disk)


def test_a_whole_adaptation_on_rclones_server(rclone: str, environment: pytest.MonkeyPatch, start: Callable,
                                              on_disk: dict[str, Any]) -> None:
    make_bucket(rclone)
    environment.setenv("AWS_ENDPOINT_URL", rclone)
    done = start(*COMMAND, "--storage", f"s3://{BUCKET}/runs", "--tracking-uri", "none")
    assert done.returncode == 0, done.stderr
    assert_equal(content(f"s3://{BUCKET}/runs", "smoke"), on_disk)


@pytest.mark.ray
def test_two_workers_of_ray_in_object_storage(real: str, start: Callable) -> None:
    command = ("adapt", "smoke", "--launcher", "ray", "--num-workers", 2, "--threads", 1, "--method", "source_only",
               "--tracking-uri", "none")
    done = start(*command, "--storage", real)
    assert done.returncode == 0, done.stderr
    assert storage.read_json(storage.join(real, "smoke", "result.json"))["final"]["target/num_images"] == 4
    assert not [name for name in storage.list_files(real)
                if ".ray-train" in name], "what Ray keeps for itself stays with the driver"


def test_mlflow_without_an_address_keeps_its_database_here(real: str, start: Callable, tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    from crowddist.config import RunConfig
    from crowddist.tracking.choose import make_tracker

    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    tracker = make_tracker(RunConfig(recipe="smoke", source="a", target="b", storage=real), said.append)
    assert tracker.uri == f"sqlite:///{tmp_path}/mlflow.db"  # type: ignore[attr-defined]
    (line,) = said
    assert line.startswith(f"MLflow's database is {tmp_path}/mlflow.db on this machine")
