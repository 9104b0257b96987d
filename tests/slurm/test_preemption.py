"""Jobs on a real Slurm of two nodes that are preempted, cancelled, or lose their Ray, and end as undisturbed ones
do.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults.rig import curve, equal, left, steps, wait_for
from tests.slurm.site import LONGEST_S, Batch, Site

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(3600)]
SHORT = ("--train.steps", "300", "--train.batch-size", "4", "--method", "source_only", "--engine.checkpoint-every",
         "25")
"""Options that make `smoke` a training of a minute and nothing else."""


class Run:
    """`adapt.py RECIPE` as a batch job."""

    def __init__(self, slurm: Site, name: str, recipe: str, *options: str) -> None:
        self.slurm, self.folder = slurm, slurm.folder / "runs" / name
        self.batch = slurm.submit("--nodes=2", "cluster/slurm/ray.sbatch", "python", "jobs/adapt.py", recipe,
                                  "--fresh", "--storage", str(self.folder.parent),
                                  "--run-name", name, "--launcher", "ray", "--threads", "1", "--num-workers", "2",
                                  "--tracking-uri", "none", *options)

    def until(self, enough: int) -> Run:
        """Waits until training has come to so many steps."""
        wait_for(lambda: curve(self.folder) >= enough or self.batch.is_over(), LONGEST_S, f"{enough} steps",
                 said=self.batch.said)
        assert not self.batch.is_over(), self.batch.said()[-3000:]
        return self


@pytest.fixture(scope="module")
def unbroken(slurm: Site) -> dict[str, Any]:
    """What the short run leaves that nobody disturbs."""
    run = Run(slurm, "unbroken", "smoke", *SHORT)
    assert run.batch.wait() == ("COMPLETED", "0:0"), run.batch.said()[-3000:]
    assert run.batch.restarts() == 0
    return left(run.folder)


def preempt(slurm: Site) -> Batch:
    """A job of the higher partition takes both nodes for some seconds."""
    return slurm.submit("--partition=high", "--nodes=2", "--exclusive", "--wrap=srun sleep 5")


def assert_same(folder: Path, expected: dict[str, Any]) -> None:
    """The same bits, see `left`."""
    seen = left(folder)
    assert seen.keys() == expected.keys()
    for name, value in expected.items():
        assert equal(seen[name], value), name


def test_quickstart_is_preempted_and_ends_with_the_same_result(slurm: Site) -> None:
    """The acceptance: one adaptation on two nodes, taken away in the midst of training and given back."""
    undisturbed = Run(slurm, "quickstart", "quickstart")
    assert undisturbed.batch.wait() == ("COMPLETED", "0:0"), undisturbed.batch.said()[-3000:]
    run = Run(slurm, "quickstart-preempted", "quickstart", "--engine.checkpoint-every", "1000000").until(40)
    higher = preempt(slurm)
    assert higher.wait()[0] == "COMPLETED"
    at = steps(run.folder)
    assert at >= 40, "the checkpoint is one that SIGUSR1 asked for"
    assert run.batch.wait() == ("COMPLETED", "0:0"), run.batch.said()[-3000:]
    assert run.batch.restarts() == 1
    groups = [json.loads(path.read_text()) for path in (run.folder / ".ray-train").glob("*/workers.json")]
    assert [sorted(worker["host"] for worker in group)
            for group in groups] == [["n1", "n2"]] * len(groups), "both have room for two workers"
    said = run.batch.said()
    assert said.count("stopped by SIGUSR1; the same command takes the run up again") == 1 and "queued again" in said
    assert_same(run.folder, left(undisturbed.folder))


def test_without_the_user_signal(slurm: Site, unbroken: dict[str, Any]) -> None:
    """Where preemption does not send the batch script's signal, Slurm sends SIGTERM to whatever runs."""
    with slurm.configured(""):
        run = Run(slurm, "sigterm", "smoke", *SHORT).until(30)
        assert preempt(slurm).wait()[0] == "COMPLETED"
        assert run.batch.wait() == ("COMPLETED", "0:0"), run.batch.said()[-3000:]
    assert run.batch.restarts() == 1
    assert_same(run.folder, unbroken)


def test_the_time_is_nearly_over(slurm: Site, unbroken: dict[str, Any]) -> None:
    run = Run(slurm, "time", "smoke", *SHORT).until(30)
    slurm.run("scancel", "--batch", "--signal=USR1", run.batch.number)  # as Slurm does before a job's end, by --signal
    wait_for(lambda: run.batch.restarts() == 1, 120, "it is queued again", said=run.batch.said)
    assert run.batch.wait() == ("COMPLETED", "0:0"), run.batch.said()[-3000:]
    assert_same(run.folder, unbroken)


def test_ray_is_lost(slurm: Site, unbroken: dict[str, Any]) -> None:
    run = Run(slurm, "lost", "smoke", *SHORT).until(30)
    place = f"/tmp/ray-{run.batch.number}-head0/"
    next(process for process in psutil.process_iter() if process.name() == "gcs_server"
         and place in " ".join(process.cmdline())).kill()
    assert run.batch.wait() == ("COMPLETED", "0:0"), run.batch.said()[-3000:]
    assert run.batch.restarts() == 1 and "Ray was lost; queued again" in run.batch.said()
    assert_same(run.folder, unbroken)


def test_cancelled_is_not_queued_again(slurm: Site, unbroken: dict[str, Any]) -> None:
    """And its last checkpoint is there for whoever gives the command again: Slurm ends Ray, too, at once."""
    run = Run(slurm, "cancelled", "smoke", *SHORT).until(50)
    slurm.run("scancel", run.batch.number)
    assert run.batch.wait()[0] == "CANCELLED"
    time.sleep(10)
    assert run.batch.restarts() == 0 and run.batch.is_over()
    assert steps(run.folder) >= 25
    again = Run(slurm, "cancelled", "smoke", *SHORT)
    assert again.batch.wait() == ("COMPLETED", "0:0"), again.batch.said()[-3000:]
    assert_same(run.folder, unbroken)


def test_bad_input_is_not_tried_again(slurm: Site) -> None:
    run = Run(slurm, "bad", "smoke", "--source", "shanghaitech:/nowhere:train")
    assert run.batch.wait() == ("FAILED", "2:0"), run.batch.said()[-3000:]
    errors = [line for line in run.batch.said().splitlines() if line.startswith("error: ")]
    assert run.batch.restarts() == 0 and len(errors) == 1 and "/nowhere" in errors[0], run.batch.said()
