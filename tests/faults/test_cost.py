"""What one, two and three machines cost and give: the same batch, shared."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.faults.rig import LONGEST_S, Cluster, Job

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3 * LONGEST_S)]
STEPS = 200


def test_one_two_and_three_machines(three: Cluster, storage: str) -> None:
    """All machines share this one's cores, so more of them than cores give nothing: what is seen is what their talking
    costs.
    """
    print(f"\n{STEPS} steps of 6 crops of 128 x 128")
    for num_workers in (1, 2, 3):
        options = ("--method", "source_only", "--train.steps", str(STEPS), "--stream.crop-size", "128", "--num-workers",
                   str(num_workers))
        job = Job(three, storage, f"cost-{num_workers}", *options).start()
        assert job.wait() == 0, job.said()[-3000:]
        points = [json.loads(line) for line in (job.folder / "source" / "curve.jsonl").read_text().splitlines()]
        print(f"{num_workers} machines: {np.median([point['seconds_per_step'] for point in points[5:]]):.3f} s a step")
        assert points[-1]["step"] == STEPS
