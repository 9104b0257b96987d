"""`ray job submit` against a running head: the main job as users of a cluster start it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.ray
PROJECT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PORT, DASHBOARD_PORT, AGENT_PORT = 26379, 28265, 28266
START_S = 120


@pytest.fixture
def head(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A Ray head on loopback with a token; yields the environment of its users."""
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()  # the one of other tests, whose memory and cores this one needs
    short = tempfile.mkdtemp(prefix="crowddist-")  # the names of Ray's sockets must be short
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "a-token-of-this-test-only-0123456789",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    environment.pop("RAY_ADDRESS", None)
    command = ["ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={PORT}", "--num-cpus=2",
               "--dashboard-host=127.0.0.1"]
    # A port of its own for the agent that takes jobs, which gives up where a Ray that is just ending has the usual one.
    command += [f"--dashboard-port={DASHBOARD_PORT}", f"--dashboard-agent-listen-port={AGENT_PORT}",
                f"--temp-dir={short}", "--object-store-memory=150000000", "--include-dashboard=true"]
    log = tmp_path / "head.log"
    process = subprocess.Popen(command, env=environment, stdout=log.open("wb"), stderr=subprocess.STDOUT,
                               start_new_session=True)
    wait_for_dashboard(process, log)
    yield {**environment, "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{DASHBOARD_PORT}"}
    # Asked to end, it waits half a minute for its children. Only this head's processes are touched.
    for each in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()
    shutil.rmtree(short, ignore_errors=True)


def wait_for_dashboard(process: subprocess.Popen[bytes], log: Path) -> None:
    """Returns when jobs can be submitted."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-3000:]
        with socket.socket() as connection:
            if connection.connect_ex(("127.0.0.1", DASHBOARD_PORT)) == 0:
                return
        time.sleep(0.5)
    pytest.fail(f"no dashboard within {START_S} s: {log.read_text()[-3000:]}")


def test_the_main_job_can_be_submitted(head: dict[str, str], tmp_path: Path) -> None:
    """Two training workers, then two labelling actors, then the workers on their labels, all on a head that was there
    before.
    """
    entrypoint = (f"{sys.executable} jobs/adapt.py smoke --launcher ray --num-workers 2 "
                  "--self-supervision.orientation-steps 0 --self-supervision.rounds 1")
    entrypoint += f" --storage {tmp_path}/runs --tracking-uri none"
    command = ["ray", "job", "submit", "--working-dir", ".", "--", *entrypoint.split()]
    deadline = time.monotonic() + START_S
    while True:
        submitted = subprocess.run(command, env=head, cwd=PROJECT, capture_output=True, text=True, timeout=540)
        if "No available agent" not in submitted.stderr or time.monotonic() > deadline:
            break
        time.sleep(2)  # the head takes jobs a little after its dashboard answers
    assert submitted.returncode == 0, (submitted.stdout + submitted.stderr)[-3000:]
    result = json.loads((tmp_path / "runs" / "smoke" / "result.json").read_text())
    assert [row["stage"] for row in result["rounds"]] == ["source", "labels-1"]
    assert result["final"]["labels/kept_mass"] > 0
    assert "target MAE" in submitted.stdout
