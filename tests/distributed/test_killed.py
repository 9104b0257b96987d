"""The main job as users run it, on Ray and MLflow, killed while its actors label: the same command ends it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crowddist.data.manifest import read_manifest
from crowddist.data.shards import verify

PROJECT = Path(__file__).parents[2]
LONGEST_S = 480
"""Ray's workers give way to whatever else runs on the machine."""
pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(4 * LONGEST_S)]


def test_killed_while_labelling_it_goes_on_and_tracks_one_run(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    command = [sys.executable, "jobs/adapt.py", "smoke", "--launcher", "ray", "--storage", str(tmp_path / "runs"),
               "--threads", "1"]
    command += ["--self-supervision.orientation-steps", "0", "--self-supervision.rounds", "1"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "HOME": str(tmp_path),
                   "RAY_AUTH_TOKEN": "a-token-of-this-test-only-0123456789"}
    environment.pop("RAY_ADDRESS", None)
    run = tmp_path / "runs" / "smoke"
    labels = run / "labels-1" / "labels"

    with (tmp_path / "log").open("wb") as log:
        driver = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=log, stderr=log)
        deadline = time.monotonic() + LONGEST_S
        while (not (labels / "labels-000001-000002.done.json").exists() and driver.poll() is None
               and time.monotonic() < deadline):
            time.sleep(0.002)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    assert labels.exists() and not (run / "result.json").exists(), (tmp_path / "log").read_text()[-2000:]
    kept = {path: path.stat().st_mtime_ns for path in (run / "source" / "DONE.json", *labels.glob("*.done.json"))}

    ended = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=2 * LONGEST_S,
                           check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "source: done before" in ended.stdout
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "what was done is not done again"
    result = json.loads((run / "result.json").read_text())
    assert [row["stage"] for row in result["rounds"]] == ["source", "labels-1"]
    verify(labels.as_uri())
    assert read_manifest(labels.as_uri()).num_samples == 6

    client = MlflowClient(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("smoke")
    runs = client.search_runs([experiment.experiment_id])
    assert [found.info.status for found in runs] == ["FINISHED"] * 3  # the adaptation and its two rounds
    assert sum("mlflow.parentRunId" not in found.data.tags for found in runs) == 1
