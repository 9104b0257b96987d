"""From a count to labels corrected by hand, and on to a counter that has learnt from them."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crowddist import storage

NUM_IMAGES = 4


def counts(table: Path) -> dict[str, float]:
    with open(table, newline="") as stream:
        return {Path(row["file"]).stem: float(row["count"]) for row in csv.DictReader(stream)}


@pytest.mark.slow
def test_counted_corrected_evaluated_and_taught(start: Callable, tmp_path: Path, tiny_checkpoint: str) -> None:
    def run(*words: object) -> str:
        done = start(*words)
        assert (done.returncode, done.stderr) == (0, ""), words
        return done.stdout

    photos, counted, counter = tmp_path / "photos", tmp_path / "counted", storage.local_file(tiny_checkpoint)
    photos.mkdir()
    for number in range(NUM_IMAGES):
        pixels = np.random.default_rng(number).integers(0, 255, (72, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{number}.png")
    run("predict", "--checkpoint", counter, "--input", photos, "--output", counted, "--points", "labelme")
    shutil.copytree(counted / "labelme", photos, dirs_exist_ok=True)
    true = {}
    for path in photos.glob("*.json"):  # by hand: the first head is none, and six were missed
        labels = json.loads(path.read_text())
        heads = [{"label": "head", "shape_type": "point", "points": [[10 + 12 * place, 40]]} for place in range(6)]
        labels["shapes"] = [*labels["shapes"][1:], *heads]
        path.write_text(json.dumps(labels))
        true[path.stem] = len(labels["shapes"])
    assert len(true) == NUM_IMAGES
    run("convert", "labelme", photos, tmp_path / "shards")
    run("evaluate", "--checkpoint", counter, "--data", tmp_path / "shards", "--output", tmp_path / "errors.json")
    before = counts(counted / "counts.csv")
    error = np.mean([abs(before[name] - number) for name, number in true.items()])
    assert json.loads((tmp_path / "errors.json").read_text())["target/mae"] == pytest.approx(error, abs=0.01)
    run("adapt", "smoke", "--method", "supervised", "--counter.weights", counter, "--target", tmp_path / "shards",
        "--launcher", "local", "--num-workers", 1, "--threads", 1, "--tracking-uri", "none", "--calibration", "",
        "--stream.image-size", 96, "--stream.crop-size", 64, "--train.steps", 30, "--counter.no-orientation",
        "--storage", tmp_path / "runs", "--run-name", "taught")
    run("predict", "--checkpoint", tmp_path / "runs" / "taught", "--input", photos, "--output", tmp_path / "again")
    after = counts(tmp_path / "again" / "counts.csv")
    assert np.mean([abs(after[name] - number) for name, number in true.items()]) < error
