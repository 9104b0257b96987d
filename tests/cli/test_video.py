"""`crowddist video` as a process of its own."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from crowddist import storage
from tests.cli.conftest import Command
from tests.video.conftest import SIZE, films  # noqa: F401


def test_a_film_is_counted_with_its_zones(crowddist: Command, films: Callable[..., Path], tmp_path: Path,  # noqa: F811
                                          tiny_checkpoint: str) -> None:
    rng = np.random.default_rng(0)
    film = films("crowd.avi", 20, draw=lambda _: rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8))
    (tmp_path / "zones.json").write_text('{"zones": [{"name": "gate", "polygon": [[0, 0], [40, 0], [40, 60]]}]}')
    done = crowddist("video", film, "--model", storage.local_file(tiny_checkpoint), "--output", "counted", "--every",
                     "5", "--zones", "zones.json", "--save-video", "--stop-after", 1.2, "--device", "cpu")
    assert (done.returncode, done.stderr) == (0, "")
    out = tmp_path / "counted"
    assert {path.name for path in out.iterdir()} == {"counts.csv", "counts.png", "overlay.mp4", "summary.json"}
    with open(out / "counts.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["frame"], row["zone"]) for row in rows] == [
        (frame, zone) for frame in ("0", "5", "10") for zone in ("all", "gate")]
    assert json.loads((out / "summary.json").read_text())["frames"] == 3
    again = crowddist("video", film, "--model", storage.local_file(tiny_checkpoint), "--output", "counted")
    assert again.returncode == 2 and "holds an earlier count; choose another output, or --fresh" in again.stderr


@pytest.mark.parametrize(("words", "message"), [
    (("nothing.mp4", "--output", "out"), "nothing.mp4: there is no such file"),
    (("0", "--output", "out", "--every", "often"), "every must be a number of frames, e.g. 10, or of seconds"),
    (("0",), "missing: --output"),
])
def test_what_it_cannot_do_is_one_line(crowddist: Command, tmp_path: Path, words: tuple[str, ...],
                                       message: str) -> None:
    done = crowddist("video", *words)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert message in done.stderr and not (tmp_path / "out").exists()
