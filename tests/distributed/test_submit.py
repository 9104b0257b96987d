"""`ray job submit` against a running head: the main job as users of a cluster start it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray
PROJECT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PORT, DASHBOARD_PORT = 26379, 28265


@pytest.fixture
def head(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A Ray head on loopback with a token; yields the environment of its users."""
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "a-token-of-this-test-only-0123456789",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    environment.pop("RAY_ADDRESS", None)
    command = ["ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={PORT}", "--num-cpus=2", "--dashboard-host=127.0.0.1"]
    command += [f"--dashboard-port={DASHBOARD_PORT}", f"--temp-dir={tmp_path}/ray", "--object-store-memory=150000000", "--include-dashboard=true"]
    log = (tmp_path / "head.log").open("wb")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    yield {**environment, "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{DASHBOARD_PORT}"}
    # --block ends its children with it; only this head's processes are touched.
    process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)


def test_the_main_job_can_be_submitted(head: dict[str, str], tmp_path: Path) -> None:
    """Two training workers and two labelling actors on a head that was there before; the job's own cluster is not started."""
    import time

    entrypoint = f"{sys.executable} jobs/adapt.py smoke --launcher ray --num-workers 2 --self-supervision.rounds 1"
    entrypoint += f" --storage {tmp_path}/runs --tracking-uri none"
    command = ["ray", "job", "submit", "--working-dir", ".", "--", *entrypoint.split()]
    deadline = time.monotonic() + 120
    while True:  # the dashboard needs a while before it takes jobs
        submitted = subprocess.run(command, env=head, cwd=PROJECT, capture_output=True, text=True, timeout=540)
        if submitted.returncode == 0 or time.monotonic() > deadline or "succeeded" in submitted.stdout or "Job submission server" in submitted.stdout:
            break
        time.sleep(3)
    assert submitted.returncode == 0, (submitted.stdout + submitted.stderr)[-3000:]
    result = json.loads((tmp_path / "runs" / "smoke" / "result.json").read_text())
    assert [row["stage"] for row in result["rounds"]] == ["source", "orientation", "labels-1"]
    assert "target MAE" in submitted.stdout
