"""The search of the kept share with Ray Tune, through the job."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from crowddist import storage
from crowddist.tuning import best_trial, try_share

pytestmark = pytest.mark.ray
JOB = Path(__file__).resolve().parents[2] / "jobs" / "tune.py"


def test_the_job_searches_on_cached_predictions(
    private_ray: None, tiny_checkpoint: str, tiny_target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trials in Ray say what the same trials say here, the best one is told, and a second search predicts nothing again."""
    job = runpy.run_path(str(JOB))
    arguments = job["Arguments"](checkpoint=tiny_checkpoint, target=tiny_target, output=str(tmp_path / "tune.json"), trials=4, work=str(tmp_path))
    job["main"](arguments)
    first, found = capsys.readouterr().out, storage.read_json(tmp_path / "tune.json")
    assert found["objective"] == "agreement" and found["data"]["num_images"] == 10
    assert found["trials"] == [pytest.approx(try_share(found["predictions"], share)) for share in (0.25, 0.5, 0.75, 1.0)]
    assert found["best"] == best_trial(found["trials"]) and first.count("<- best") == 1
    job["main"](arguments)
    again = capsys.readouterr().out
    assert "predicting 10 images" in first and "cached" not in first
    assert "cached at" in again and "predicting" not in again
    assert storage.read_json(tmp_path / "tune.json") == found
