"""The pipeline in a process of its own: killed in every stage and resumed, and kept out where another is at work."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any

import pytest

from crowddist import storage
from crowddist.config import RunConfig, to_json
from crowddist.run.record import run_folder
from tests.methods.test_contract import on_pretrained
from tests.test_pipeline import differing, run
from tests.warm_start import ROOT, Started

DRIVER = """
import sys
from pathlib import Path
from crowddist.config import from_json
from crowddist.launch.local import LocalLauncher
from crowddist.pipeline import adapt
from crowddist.tracking.tracker import NullTracker
config = from_json(Path(sys.argv[1]).read_text())
adapt(config, LocalLauncher(config), NullTracker(), say=lambda line: print(line, flush=True))
"""


def start(config: RunConfig) -> Started:
    file = storage.local_folder(config.storage) / f"{config.run_name or config.recipe}.json"
    file.write_text(to_json(config))
    return Started("-c", DRIVER, file, cwd=ROOT, env=os.environ)


def test_a_second_driver_is_kept_out(tiny_config: RunConfig) -> None:
    with storage.exclusive(run_folder(tiny_config)):
        other = start(tiny_config)
        _, errors = other.communicate(timeout=120)
    assert other.returncode == 1 and "another process is at work" in errors


KILLED_AT: dict[str, tuple[str, ...]] = {
    "self_supervision": (
        "source/checkpoints/step-000002.pt",
        "source/DONE.json",
        "orientation/checkpoints/step-000002.pt",
        "orientation/DONE.json",
        "source/images.json",
        "labels-1/labels/labels-000004-000005.tar",
        "labels-1/checkpoints/step-000002.pt",
        "labels-2/labels/manifest.json",
    ),
    "self_supervision pretrained": (  # first layers frozen, an average of the weights
        "source/checkpoints/step-000004.pt",
        "labels-1/labels/labels-000004-000005.tar",
        "labels-1/checkpoints/step-000002.pt",
    ),
    "bi_knowledge": (
        "source/regressor/checkpoints/step-000004.pt",
        "source/detector/checkpoints/step-000002.pt",
        "source/localiser/DONE.json",
        "source/checkpoints/step-000004.pt",
        "cycle-1/labels/labels-000004-000005.tar",
        "cycle-1/regressor/checkpoints/step-000002.pt",
        "cycle-1/detector/checkpoints/step-000002.pt",
        "cycle-2/labels/manifest.json",
    ),
    "combined": (  # its orientation is of a new counter alone, its alignment of two opponents
        "orientation/counter/checkpoints/step-000002.pt",
        "alignment/checkpoints/step-000002.pt",
        "labels-1/labels/labels-000004-000005.tar",
        "labels-1/detector/checkpoints/step-000002.pt",
    ),
    "translation": (
        "translation/translator/checkpoints/step-000002.pt",
        "translation/translated/translated-000004-000005.tar",
        "translation/counter/checkpoints/step-000002.pt",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("run_of", KILLED_AT)
def test_killed_in_every_stage_it_ends_with_the_same_bits(tiny_config: RunConfig, run_of: Any) -> None:
    """SIGKILL in training, labelling and evaluation; each start goes on, repeats no finished stage, and the bits are
    those of one go.
    """
    method, _, pretrained = run_of.partition(" ")
    tiny_config = replace(tiny_config, method=method)
    if pretrained:
        tiny_config = replace(on_pretrained(tiny_config), engine=replace(tiny_config.engine, average_decay=0.9))
    unbroken, _ = run(replace(tiny_config, run_name="unbroken"))
    config = replace(tiny_config, run_name="killed")
    folder = storage.local_folder(run_folder(config))
    for moment in KILLED_AT[run_of]:
        finished = {path: path.stat().st_mtime_ns for path in folder.rglob("DONE.json")}
        driver = start(config)
        deadline = time.monotonic() + 120
        while not (folder / moment).exists() and driver.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        if not (folder / moment).exists():
            driver.kill()
            pytest.fail(f"{moment} never came: {driver.communicate()[1][-2000:]}")
        driver.kill()
        driver.wait()
        assert all(path.stat().st_mtime_ns == stamp
                   for path, stamp in finished.items()), "a finished stage was repeated"
    result, _ = run(config)
    assert differing(unbroken, result) == []
    for mine, other in zip(result["rounds"], unbroken["rounds"], strict=True):
        assert {k: v for k, v in mine.items() if k not in ("train/seconds", "checkpoint")} == {
            k: v for k, v in other.items() if k not in ("train/seconds", "checkpoint")
        }
