"""The job that counts a user's files: what it writes, what it prints, and how it exits."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from crowddist import storage
from crowddist.config import RunConfig, to_json
from crowddist.data.images import read_pixels
from crowddist.inference.predictor import Predictor
from crowddist.methods.build import build_method
from crowddist.run import checkpoint
from crowddist.storage.names import is_temporary

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "my photos"
    (folder / "evening").mkdir(parents=True)
    for index, name in enumerate(("a.jpg", "b.png", "evening/a.jpg")):
        pixels = np.random.default_rng(index).integers(0, 255, (60, 80 + 20 * index, 3), dtype=np.uint8)
        assert cv2.imwrite(str(folder / name), pixels)
    return folder


def test_help_comes_at_once(helped: Callable) -> None:
    text, heavy, seconds = helped("predict")
    assert seconds < 5 and heavy == []
    for word in ("--checkpoint", "--input", "--output", "--image-size", "--level", "--skip-bad"):
        assert word in text


def test_files_and_folders_become_a_table_and_overlays(start: Callable, photos: Path, tmp_path: Path,
                                                       tiny_checkpoint: str) -> None:
    out = tmp_path / "counted"
    (photos / "bad.jpg").write_bytes(b"no image")
    done = start("predict", "--checkpoint", storage.local_file(tiny_checkpoint), "--input", photos, photos / "b.png",
                 "--output", out, "--skip-bad")
    assert (done.returncode, done.stderr) == (0, "")
    with open(out / "counts.csv", newline="") as stream:
        rows = list(csv.reader(stream))
    paths = [photos / "a.jpg", photos / "b.png", photos / "evening" / "a.jpg", photos / "b.png"]
    assert (rows[0] == ["file", "count", "low", "high", "uncertainty", "points"]
            and [row[0] for row in rows[1:]] == [str(path) for path in paths])
    counter = Predictor.from_checkpoint(tiny_checkpoint)
    assert "\nno intervals: the run had no held-out images of the source (--calibration)\n" in done.stdout
    for path, (_, count, low, high, uncertainty, points) in zip(paths, rows[1:], strict=True):
        found = counter.predict(read_pixels(path))
        assert low == high == ""
        assert (float(count), float(uncertainty)) == pytest.approx((found.count, found.uncertainty), abs=0.006)
        assert int(points) == len(found.points)
    overlays = sorted(path.name for path in out.glob("*.png"))
    assert (overlays == ["a-2.png", "a.png", "b-2.png", "b.png"]
            and sorted(path.suffix for path in out.iterdir()) == [".csv", *[".png"] * 4])
    assert all(cv2.imread(str(out / name)) is not None for name in overlays)
    assert "left out: " in done.stdout and "bad.jpg: not an image" in done.stdout
    total = sum(float(row[1]) for row in rows[1:])
    assert done.stdout.splitlines()[-1] == f"4 images, {total:.0f} people: {out}/counts.csv"


def test_a_bad_file_is_one_line_and_nothing_is_written(start: Callable, photos: Path, tmp_path: Path,
                                                       tiny_checkpoint: str) -> None:
    (photos / "c.jpg").write_bytes((photos / "a.jpg").read_bytes()[:300])
    done = start("predict", "--checkpoint", tiny_checkpoint, "--input", photos, "--output", tmp_path / "counted")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.startswith(f"error: {photos}/c.jpg: ")
    assert not (tmp_path / "counted").exists()


def test_a_checkpoint_that_is_none_is_one_line(start: Callable, photos: Path, tmp_path: Path) -> None:
    done = start("predict", "--checkpoint", photos / "a.jpg", "--input", photos, "--output", tmp_path / "counted")
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: file://") and "a.jpg is not a checkpoint" in done.stderr


def test_a_wrong_flag_is_explained(start: Callable) -> None:
    done = start("predict", "--input", "a", "--speed", "9")
    assert done.returncode == 2 and "--speed" in done.stderr and "Traceback" not in done.stderr


def test_a_counter_of_two_networks_draws_boxes(start: Callable, photos: Path, tmp_path: Path,
                                               tiny_config: RunConfig) -> None:
    """A checkpoint of bi-knowledge transfer whose detector sees heads everywhere: they are counted, and their squares
    are drawn.
    """
    config = replace(tiny_config, method="bi_knowledge",
                     bi_knowledge=replace(tiny_config.bi_knowledge, confidence=0.005, nms_share=2.0))
    torch.manual_seed(0)
    place = checkpoint.save((tmp_path / "counter").as_uri(), 1,
                            {"method": build_method(config).state_dict(), "config": to_json(config)})
    done = start("predict", "--checkpoint", place, "--input", photos / "a.jpg", "--output", tmp_path / "counted")
    assert (done.returncode, done.stderr) == (0, "")
    with open(tmp_path / "counted" / "counts.csv", newline="") as stream:
        (row,) = csv.DictReader(stream)
    found = Predictor.from_checkpoint(place).predict(read_pixels(photos / "a.jpg"))
    assert found.sizes is not None and len(found.points) == int(row["points"]) > 3
    assert float(row["count"]) == pytest.approx(len(found.points), rel=0.01), "the count is that of the boxes"
    assert cv2.imread(str(tmp_path / "counted" / "a.png")) is not None


@pytest.mark.slow
@pytest.mark.parametrize("end", ["SIGTERM", "SIGKILL", "the reader leaves"])
def test_a_stopped_count_goes_on_to_the_very_same_table(start: Callable, photos: Path, tmp_path: Path,
                                                        tiny_checkpoint: str, end: str) -> None:
    """Stopped after its first rows, in a terminal that knows no plus-minus sign; a reader that leaves stops nothing."""
    for number in range(60):
        pixels = np.random.default_rng(number).integers(0, 255, (60, 80, 3), dtype=np.uint8)
        assert cv2.imwrite(str(photos / f"{number:03}.png"), pixels)
    unbroken, out = tmp_path / "unbroken", tmp_path / "counted"
    arguments = ["--checkpoint", storage.local_file(tiny_checkpoint), "--input", photos, "--output"]
    assert start("predict", *arguments, unbroken).returncode == 0
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "PYTHONIOENCODING": "ascii"}

    def num_lines() -> int:
        return (out / "counts.csv").read_bytes().count(b"\n") if (out / "counts.csv").exists() else 0

    job = subprocess.Popen([sys.executable, "jobs/predict.py", *arguments, out], cwd=ROOT, env=environment,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert job.stdout is not None and job.stderr is not None
    for words in ("in evening", "no intervals", r"\xb1"):
        assert words in job.stdout.readline(), job.stderr.read()
    job.stdout.close()
    while num_lines() < 4 and job.poll() is None:
        time.sleep(0.01)
    if end.startswith("SIG"):
        job.send_signal(signal.Signals[end])
    errors = job.stderr.read()
    assert job.wait() == {"SIGTERM": 143, "SIGKILL": -signal.SIGKILL}.get(end, 0) and errors == ""
    if end.startswith("SIG"):
        num_rows = num_lines() - 1
        assert 3 <= num_rows < 63
        done = start("predict", *arguments, out)
        going_on = re.search(r"going on: (\d+) of 63 images", done.stdout)
        # A row that was being written when the process was killed is in the journal first.
        assert done.returncode == 0 and going_on and num_rows <= int(going_on[1]) <= num_rows + 1
        assert done.stdout.splitlines()[-1].startswith("63 images, ")
    assert (out / "counts.csv").read_bytes() == (unbroken / "counts.csv").read_bytes()
    # A file that a killed process was writing stays, under a name that every reader passes over.
    assert {name for name in os.listdir(out) if not is_temporary(name)} == set(os.listdir(unbroken))
    for path in unbroken.glob("*.png"):
        assert (out / path.name).read_bytes() == path.read_bytes()
