"""Actors that stay from job to job."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from crowddist.config import RunConfig
from crowddist.data.plan import work_units
from crowddist.inference.jobs import EvaluateJob, LabelJob
from crowddist.launch.local import LocalLauncher
from tests.distributed.test_ray import actors_alive

pytestmark = pytest.mark.ray


def test_actors_stay_for_the_next_job_and_one_that_died_meanwhile_is_replaced(
    private_ray: None, tiny_config: RunConfig, tiny_checkpoint: str, tmp_path: Path,
    make_checkpoint: Callable[..., str], make_images: Callable[..., str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str]
) -> None:
    """Three jobs with other data, then another counter; their records are those of one process. Both tell how far they
    are.
    """
    from crowddist.distributed.ray_launcher import RayLauncher

    images = make_images(tmp_path / "images", count=40, labelled=True)
    other = make_checkpoint(tmp_path / "other")

    def jobs(name: str) -> list[EvaluateJob | LabelJob]:
        labels = LabelJob(checkpoint_url=tiny_checkpoint, images_url=tiny_config.target,
                          labels_url=(tmp_path / name).as_uri())
        return [EvaluateJob(checkpoint_url=tiny_checkpoint, images_url=images), labels,
                EvaluateJob(checkpoint_url=other, images_url=images)]

    launcher = RayLauncher(replace(tiny_config, launcher="ray", num_labellers=2))
    evaluated, labelled, evaluated_other = jobs("actors")
    monkeypatch.setattr("crowddist.process.progress_bar.LINE_EVERY_S", -1.0)
    records = [launcher.run(evaluated)]
    assert "counting: " in (told := capsys.readouterr().out) and " of 40 images, " in told
    first = actors_alive("UnitActor")
    assert len(first) == 2
    records.append(launcher.run(labelled))
    killed, *others = stayed = actors_alive("UnitActor")  # on a busy machine without one that had not loaded yet
    assert set(stayed) <= set(first), "a small job starts no actor"
    os.kill(killed, signal.SIGKILL)
    records.append(launcher.run(evaluated_other))
    assert set(others) <= set(actors_alive("UnitActor")) and killed not in actors_alive("UnitActor")
    alone = LocalLauncher(tiny_config)
    for mine, job in zip(records, jobs("alone"), strict=True):
        assert repr(mine) == repr(alone.run(job))
    told = capsys.readouterr().out
    assert all(f"counting: {number} of 40 images, " in told for number in [unit.start for unit in work_units(40)][1:])

    launcher.free_places()
    deadline = time.monotonic() + 30
    while left := actors_alive("UnitActor"):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)
    assert launcher.run(jobs("again")[1]) == records[1]
