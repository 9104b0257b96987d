"""A Ray that stands on a real Slurm: jobs from the login node, and nobody else's."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator

import pytest

from tests.faults.rig import PROJECT, wait_for
from tests.slurm.site import SUBNET, Batch, Site

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800)]
ON_HEAD = "cluster/slurm/on_head.sh"
SUBMIT = ["ray", "job", "submit", "--working-dir", ".", "--", "python", "jobs/adapt.py", "smoke",
          "--launcher", "ray", "--num-workers", "2", "--tracking-uri", "none"]


@pytest.fixture(scope="module")
def standing(slurm: Site) -> Iterator[Batch]:
    """A cluster on both nodes."""
    batch = slurm.submit("--nodes=2", "cluster/slurm/ray.sbatch")
    wait_for(lambda: "ready" in batch.said() or batch.is_over(), 300, "Ray is up", said=batch.said)
    yield batch
    slurm.run("scancel", batch.number)
    batch.wait()


def test_a_job_is_submitted_from_the_login_node(slurm: Site, standing: Batch) -> None:
    storage = slurm.folder / "submitted"
    said = slurm.run(ON_HEAD, standing.number, *SUBMIT, "--storage", str(storage), "--threads", "1")
    assert "succeeded" in said, said[-3000:]
    rounds = json.loads((storage / "smoke" / "result.json").read_text())["rounds"]
    assert rounds[0]["round"] == 0 and rounds[0]["target/mae"] > 0
    listed = slurm.run(ON_HEAD, standing.number, "ray", "job", "list")
    assert "SUCCEEDED" in listed


def test_both_nodes_would_do(slurm: Site, standing: Batch) -> None:
    said = slurm.run(ON_HEAD, standing.number, *SUBMIT, "--storage", str(slurm.folder / "checked"), "--check")
    assert "n1" in said and "n2" in said and "FAILED" not in said.replace("JOB_FAILED", ""), said[-3000:]


def test_nobody_else_reaches_it(slurm: Site, standing: Batch) -> None:
    """From another machine the dashboard's port is closed, and Ray's own refuses who has no token."""
    with pytest.raises(OSError), socket.create_connection((f"{SUBNET}.1", 8265), timeout=5):
        pass
    code = f"import ray; ray.init(address='{SUBNET}.1:6379')"
    for token in ("", "0" * 64):
        environment = slurm.environment | {"HOME": str(slurm.folder), "RAY_AUTH_MODE": "token" if token else "disabled",
                                           "RAY_AUTH_TOKEN": token}
        done = subprocess.run(["python", "-c", code], env=environment, cwd=PROJECT, capture_output=True, text=True,
                              timeout=120, check=False)
        assert done.returncode != 0 and "uthenti" in done.stderr, done.stderr[-2000:]
    assert os.stat(slurm.home / ".ray" / "auth_token").st_mode & 0o077 == 0


def test_a_job_that_does_not_run(slurm: Site) -> None:
    done = subprocess.run([ON_HEAD, "999999", "ray", "status"], env=slurm.environment, cwd=PROJECT, capture_output=True,
                          text=True,
                          timeout=60, check=False)
    assert (done.returncode, done.stderr) == (2, "error: no job 999999 is running (squeue --me)\n")
