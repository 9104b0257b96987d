"""The job that counts a user's files: what it writes, what it prints, and how it exits."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from crowddist import storage
from crowddist.data.images import read_pixels
from crowddist.predictor import Predictor


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
    for word in ("--checkpoint", "--input", "--output", "--image-size", "--skip-bad"):
        assert word in text


def test_files_and_folders_become_a_table_and_overlays(start: Callable, photos: Path, tmp_path: Path, tiny_checkpoint: str) -> None:
    out = tmp_path / "counted"
    (photos / "bad.jpg").write_bytes(b"no image")
    done = start("predict", "--checkpoint", storage.local_file(tiny_checkpoint), "--input", photos, photos / "b.png", "--output", out, "--skip-bad")
    assert (done.returncode, done.stderr) == (0, "")
    with open(out / "counts.csv", newline="") as stream:
        rows = list(csv.reader(stream))
    paths = [photos / "a.jpg", photos / "b.png", photos / "evening" / "a.jpg", photos / "b.png"]
    assert rows[0] == ["file", "count", "uncertainty", "points"] and [row[0] for row in rows[1:]] == [str(path) for path in paths]
    counter = Predictor.from_checkpoint(tiny_checkpoint)
    for path, (_, count, uncertainty, points) in zip(paths, rows[1:], strict=True):
        found = counter.predict(read_pixels(path))
        assert (float(count), float(uncertainty)) == pytest.approx((found.count, found.uncertainty), abs=0.006)
        assert int(points) == len(found.points)
    overlays = sorted(path.name for path in out.glob("*.png"))
    assert overlays == ["a-2.png", "a.png", "b-2.png", "b.png"] and sorted(path.suffix for path in out.iterdir()) == [".csv", *[".png"] * 4]
    assert all(cv2.imread(str(out / name)) is not None for name in overlays)
    assert "left out: " in done.stdout and "bad.jpg: not an image" in done.stdout
    total = sum(float(row[1]) for row in rows[1:])
    assert done.stdout.splitlines()[-1] == f"4 images, {total:.0f} people: {out}/counts.csv"


def test_a_bad_file_is_one_line_and_nothing_is_written(start: Callable, photos: Path, tmp_path: Path, tiny_checkpoint: str) -> None:
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
