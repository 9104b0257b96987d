"""Chains of stages on a real Ray: at the same time where there is room, and ended together."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from crowddist import storage
from crowddist.config import RunConfig, to_json
from crowddist.launch.local import LocalLauncher
from crowddist.methods.build import build_method
from crowddist.run import checkpoint
from crowddist.run.engine import StageData, read_done

PROJECT = Path(__file__).parents[2]
LONGEST_S = 480
"""A trainer's start takes half a minute on two free cores; Ray's workers give way to whatever else runs on them."""
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(4 * LONGEST_S)]
JOB = """
import sys
from pathlib import Path
from crowddist.process.cli import one_line_errors
from crowddist.distributed.runtime import prepare_environment
prepare_environment()
import ray
ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=150 * 2**20, log_to_driver=False,
         logging_level="WARNING")
from crowddist.config import from_json
from crowddist.distributed.ray_launcher import RayLauncher
from tests.distributed.test_chains import chains
config = from_json(Path(sys.argv[1]).read_text())
with one_line_errors():
    RayLauncher(config).train(chains(config, Path(sys.argv[2])))
"""


def chains(config: RunConfig, folder: Path) -> list[list[StageData]]:
    """The stages on the source, one network each."""
    urls = {"source": config.source, "target": config.target}
    stages = build_method(config).plan()[:3]
    return [[StageData(stage=stage, folder=(folder / stage.name).as_uri(), urls=urls)] for stage in stages]


def test_chains_run_at_once_and_one_that_fails_ends_the_others(tiny_config: RunConfig, tmp_path: Path) -> None:
    """Room for two workers, three networks: two are under way at the same time, the third waits. Then a shard is cut.

    Whichever reads it first fails: the job ends with one line and code 2, the other network's training is ended in
    mid-step, and no worker is left behind. With the shard as it was, the same command goes on, and ends with the bits
    of one training after the other, undisturbed.
    """
    import psutil

    source = tmp_path / "source"
    shutil.copytree(storage.local_folder(tiny_config.source), source)
    config = replace(
        tiny_config,
        method="bi_knowledge",
        launcher="ray",
        source=source.as_uri(),
        storage=str(tmp_path / "runs"),
        stream=replace(tiny_config.stream, cache_bytes=0),
        bi_knowledge=replace(tiny_config.bi_knowledge, regressor_steps=300, detector_steps=300),
        engine=replace(tiny_config.engine, checkpoint_every=15, log_every=15),
    )
    (tmp_path / "config.json").write_text(to_json(config))
    command = [sys.executable, "-c", JOB, str(tmp_path / "config.json"), str(tmp_path / "ray")]
    private = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")}
    private |= {"PYTHONPATH": str(PROJECT), "HOME": str(tmp_path)}
    begun = [tmp_path / "ray" / "source" / network / "checkpoints" / "latest.json"
             for network in ("regressor", "detector")]
    shard = sorted(source.glob("*.tar"))[0]
    whole = shard.read_bytes()
    with (tmp_path / "log").open("wb") as log:
        job = subprocess.Popen(command, env=private, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + LONGEST_S
            while not all(path.exists() for path in begun) and job.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            log = (tmp_path / "log").read_text()[-2000:]
            assert all(path.exists() for path in begun), f"two networks are under way at once: {log}"
            workers = [child for child in psutil.Process(job.pid).children(recursive=True)
                       if "RayTrainWorker" in " ".join(child.cmdline())]
            os.truncate(shard, len(whole) // 2)
            job.wait(LONGEST_S)
        finally:
            job.kill()
    said = (tmp_path / "log").read_text()
    assert job.returncode == 2, f"{job.returncode}: {said[-2000:]}"
    errors = [line for line in said.splitlines() if line.startswith("error: ")]  # Ray may add what it has noticed
    assert len(errors) == 1 and shard.name in errors[0], said[-2000:]
    assert "Started a local Ray instance" not in said, "nobody who still asks Ray for something starts another one"
    assert len(workers) == 2 and not (tmp_path / "ray" / "source" / "localiser").exists()
    assert not psutil.wait_procs(workers, timeout=30)[1]

    shard.write_bytes(whole)
    done = subprocess.run(command, env=private, capture_output=True, text=True, timeout=LONGEST_S, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    LocalLauncher(config).train(chains(config, tmp_path / "local"))
    for (data,) in chains(config, tmp_path / "ray"):
        ends = [read_done((tmp_path / side / data.stage.name).as_uri()) for side in ("ray", "local")]
        ours, theirs = (checkpoint.load(end["checkpoint"])["method"]["networks"] for end in ends if end)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
