"""The search of thresholds with Ray Tune, through the job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from crowddist import storage
from crowddist.cli.tune import Arguments, tune
from crowddist.config import SearchConfig
from crowddist.search.threshold_search import best_trial, recorded_config
from crowddist.search.trial_values import make_plan, trial_values
from crowddist.search.trials import Search, Trials

pytestmark = pytest.mark.ray
JOB = Path(__file__).resolve().parents[2] / "jobs" / "tune.py"


def test_the_job_searches_on_cached_predictions(
    private_ray: None, tiny_checkpoint: str, tiny_target: str, tiny_evaluation: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str]
) -> None:
    """Trials in Ray say what the same trials say here; a second search predicts and tries nothing again; with labels,
    errors are told.
    """
    given = {"checkpoint": tiny_checkpoint, "target": tiny_target, "output": str(tmp_path / "tune.json"), "trials": 4,
             "work": str(tmp_path)}
    tune(Arguments(**given))
    first, found = capsys.readouterr().out, storage.read_json(tmp_path / "tune.json")
    values = trial_values(recorded_config(tiny_checkpoint), 4)
    search = Search(checkpoint_url=tiny_checkpoint, predictions_url=found["predictions"],
                    folder=(tmp_path / "here").as_uri())
    here = Trials(search)
    assert found["objective"] == "agreement" and found["data"]["target"]["num_images"] == 10
    assert found["trials"] == [pytest.approx(here.run(point)) for point in values]
    assert (found["best"] == best_trial(found["trials"]) and found["own"] == found["trials"][0]
            and first.count("<- best") == 1)
    tune(Arguments(**given | {"trials": 5}))
    again = capsys.readouterr().out
    assert "predicting 10 images" in first and "cached" not in first
    assert "cached at" in again and "predicting" not in again and "5 trials, 3 of them done before" in again, again
    tune(Arguments(**given | {"trials": 12, "algorithm": "optuna"}))
    config = replace(recorded_config(tiny_checkpoint), search=SearchConfig(trials=12, algorithm="optuna"))
    plan, suggested = make_plan(config), storage.read_json(tmp_path / "tune.json")["trials"]
    assert suggested == [pytest.approx(here.run(point)) for batch in plan.batches(search.row) for point in batch]
    tune(Arguments(**given | {"objective": "labelled", "labelled": tiny_evaluation}))
    labelled = storage.read_json(tmp_path / "tune.json")
    assert labelled["data"]["labelled"]["num_images"] == 5 and all(trial["mae"] > 0 for trial in labelled["trials"])


def rows(work: Path) -> dict[Path, float]:
    """When each trial's row was written."""
    return {path: path.stat().st_mtime for path in (work / "data" / "searches").glob("*/*.json")}


@pytest.mark.faults
def test_a_search_that_is_killed_repeats_no_trial(tiny_checkpoint: str, tiny_target: str, tmp_path: Path) -> None:
    """SIGKILL in the midst of it; the same command goes on behind the trials that are done, and ends like one that was
    never disturbed.
    """
    environment = {name: value for name, value in os.environ.items()
                   if name not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")} | {"HOME": str(tmp_path)}

    def command(work: str, output: str) -> list[str]:
        return [sys.executable, str(JOB), "--checkpoint", tiny_checkpoint, "--target", tiny_target, "--output",
                str(tmp_path / output), "--work",
                str(tmp_path / work), "--trials", "60"]

    with (tmp_path / "log").open("wb") as log:
        job = subprocess.Popen(command("killed", "killed.json"), env=environment, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 300
            while len(rows(tmp_path / "killed")) < 5 and job.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
        finally:
            job.send_signal(signal.SIGKILL)
            job.wait()
    before = rows(tmp_path / "killed")
    assert 5 <= len(before) < 60 and not (tmp_path / "killed.json").exists(), (tmp_path / "log").read_text()
    for work, output in (("killed", "killed.json"), ("unbroken", "unbroken.json")):
        done = subprocess.run(command(work, output), env=environment, capture_output=True, text=True, timeout=300,
                              check=False)
        assert done.returncode == 0, done.stderr
    after = rows(tmp_path / "killed")
    assert len(after) == 60 and all(after[path] == written for path, written in before.items())
    found, wanted = (storage.read_json(tmp_path / name) for name in ("killed.json", "unbroken.json"))
    assert found["trials"] == wanted["trials"] and found["best"] == wanted["best"]
