"""Chains of stages on a real Ray: at the same time where there is room."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from crowddist import checkpoint, storage
from crowddist.config import RunConfig
from crowddist.engine import StageData, read_done
from crowddist.launcher import LocalLauncher
from crowddist.methods.table import build_method
from crowddist.pipeline import run_folder

pytestmark = pytest.mark.ray


def chains(config: RunConfig, folder: Path) -> list[list[StageData]]:
    """The stages on the source, one network each."""
    urls = {"source": config.source, "target": config.target}
    stages = build_method(config).plan()[:3]
    return [[StageData(stage=stage, folder=(folder / stage.name).as_uri(), urls=urls)] for stage in stages]


def test_chains_run_at_the_same_time_where_there_is_room(private_ray: None, tiny_config: RunConfig, tmp_path: Path) -> None:
    """Two CPUs, one worker a chain: two of three networks are under way at once, and all end with the bits of one after the other."""
    from crowddist.distributed.launcher import RayLauncher

    config = replace(tiny_config, method="bi_knowledge", launcher="ray", storage=str(tmp_path / "runs"), threads=1)
    RayLauncher(config).train(chains(config, tmp_path / "ray"))
    LocalLauncher(config).train(chains(config, tmp_path / "local"))
    ended = {}
    for (data,) in chains(config, tmp_path / "ray"):
        ends = [read_done((tmp_path / side / data.stage.name).as_uri()) for side in ("ray", "local")]
        ours, theirs = (checkpoint.load(end["checkpoint"])["method"]["networks"] for end in ends if end)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        ended[data.stage.name.replace("/", "-")] = (tmp_path / "ray" / data.stage.name / "DONE.json").stat().st_mtime_ns
    starts = sorted(folder.name.rpartition("-") for folder in storage.local_folder(run_folder(config)).glob(".ray-train/*-*"))
    first, second, third = sorted((int(began), name) for name, _, began in starts)
    assert second[0] < ended[first[1]], "the second does not wait for the first"
    assert third[0] > min(ended[first[1]], ended[second[1]]), "the third waits for room"
