"""Skipped images: an adaptation does without them and names them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from crowddist import storage
from crowddist.config import RunConfig
from crowddist.data.shards import ShardReader
from crowddist.inference.jobs import Job, JobWorker
from crowddist.launch.local import LocalLauncher
from crowddist.pipeline import adapt
from crowddist.run.record import run_folder
from crowddist.tracking.tracker import NullTracker


class CarefulLauncher(LocalLauncher):
    """Skips one image of every data set, as if workers died over it."""

    SKIPPED = 3

    def run(self, job: Job) -> list[Any]:
        worker = JobWorker(job.checkpoint_url, job.images_url)
        return [worker.run(job, unit, [index for index in unit if index == self.SKIPPED]) for unit in worker.units()]


@pytest.mark.parametrize(("method", "data"), [("self_supervision", "target"),
                                              pytest.param("translation", "source", marks=pytest.mark.slow)])
def test_skipped_images_are_left_out_and_named(tiny_config: RunConfig, all_pictures: None, method: Any,
                                               data: str) -> None:
    config = replace(tiny_config, method=method)
    lines: list[str] = []
    result = adapt(config, CarefulLauncher(config), NullTracker(), say=lines.append)
    skipped = {name: [ShardReader(url).keys()[3]]
             for name, url in ((data, getattr(config, data)), ("evaluation", config.evaluation))}
    assert result["skipped"] == skipped
    folder = storage.local_folder(run_folder(config))
    for row in result["rounds"]:
        assert row["target/num_images"] == 4 and row["skipped"] == skipped["evaluation"]
        assert len(list((folder / "pictures").glob(f"*/round-{row['round']}.png"))) == 4
    assert f"{data}: {skipped[data][0]} skipped: workers died over it" in lines
    made = folder / ("translation/translated" if method == "translation" else "labels-2/labels")
    assert set(ShardReader(getattr(config, data)).keys()) - set(ShardReader(made).keys()) == set(skipped[data])
    again = adapt(config, CarefulLauncher(config), NullTracker(), say=lines.append)
    assert again["skipped"] == skipped and again["rounds"] == result["rounds"]
