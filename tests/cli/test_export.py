"""`crowddist export`, and counting with its file where there is no PyTorch."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import ROOT, Command

WITHOUT_TORCH = """
import sys
class Nobody:
    def find_spec(self, name, *others):
        if name.partition(".")[0] in ("torch", "onnx", "onnxscript"):
            raise ImportError(f"{name} is not here")
sys.meta_path.insert(0, Nobody())
from crowddist.cli.main import main
main(sys.argv[1:])
"""
"""Runs the command in a process in which any import of torch, and of what writes ONNX, fails."""


def test_without_pytorch_the_file_counts_the_same(crowddist: Command, tiny_checkpoint: str, tiny_onnx: Path,
                                                  tmp_path: Path) -> None:
    for number, size in enumerate(((60, 80), (200, 90))):
        pixels = np.random.default_rng(number).integers(0, 255, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    words = ["count", "0.png", "1.png", "--zooms", "0.7", "1", "--device", "cpu", "--model"]
    done = subprocess.run([sys.executable, "-P", "-c", WITHOUT_TORCH, *words, str(tiny_onnx), "--output", "onnx"],
                          cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
                          timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert crowddist(*words, tiny_checkpoint, "--output", "torch").returncode == 0
    tables = []
    for name in ("onnx", "torch"):
        with open(tmp_path / name / "counts.csv", newline="") as stream:
            tables.append(list(csv.DictReader(stream)))
        assert (tmp_path / name / "0.png").is_file() and (tmp_path / name / "points.csv").is_file()
    for one, other in zip(*tables, strict=True):
        assert one["file"] == other["file"] and one["points"] == other["points"]
        assert float(one["count"]) == pytest.approx(float(other["count"]), rel=1e-4, abs=0.011)
        assert float(one["uncertainty"]) == pytest.approx(float(other["uncertainty"]), rel=1e-3, abs=0.011)


@pytest.mark.parametrize(("words", "message"), [
    (("export", "--model", "nowhere", "--output", "a.onnx"), "no file at "),
    (("export", "--model", "COUNTER", "--output", "a.bin"), "must end on .onnx or .pt, got a.bin"),
    (("export", "--model", "ONNX", "--output", "b.onnx"), "counter.onnx is a file of ONNX already"),
    (("evaluate", "--checkpoint", "ONNX", "--data", "renderer:target:4", "--output", "e.json"),
     "counter.onnx does not tell how its densities were drawn"),
])
def test_what_it_cannot_do_is_one_line(crowddist: Command, tmp_path: Path, tiny_checkpoint: str, tiny_onnx: Path,
                                       words: tuple[str, ...], message: str) -> None:
    places = {"COUNTER": tiny_checkpoint, "ONNX": str(tiny_onnx)}
    done = crowddist(*(places.get(word, word) for word in words))
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    # A home gets the caches of libraries.
    assert message in done.stderr and not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
