"""`crowddist count`: every way to name images, what it writes, and one line for what it cannot do."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crowddist import storage
from tests.cli.conftest import Command
from tests.jobs.conftest import start  # noqa: F401


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, name in enumerate(("a.jpg", "in/b.jpg", "more/c.jpg", "more/d.jpg")):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


def files(folder: Path) -> list[str]:
    with open(folder / "counts.csv", newline="") as stream:
        return [Path(row["file"]).name for row in csv.DictReader(stream)]


def test_images_folders_and_patterns_become_tables_and_overlays(crowddist: Command, photos: Path, tmp_path: Path,
                                                                tiny_checkpoint: str) -> None:
    """In the user's home, by ~, by a pattern that no shell has expanded, and behind the flag."""
    done = crowddist("count", "~/photos/a.jpg", "photos/in", "photos/more/*.jpg", "--input", photos / "a.jpg",
                     "--model", storage.local_file(tiny_checkpoint), "--output", "counted", "--device", "cpu",
                     "--points", "cvat", "labelme")
    assert (done.returncode, done.stderr) == (0, "")
    out = tmp_path / "counted"
    assert files(out) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "a.jpg"]
    assert {path.name for path in out.iterdir()} == {
        "counts.csv", "points.csv", "points.json", "points.cvat.xml", "labelme", "a.png", "a-2.png", "b.png", "c.png",
        "d.png"}
    lines = done.stdout.splitlines()
    assert lines[-2] == "points: points.csv, points.json, points.cvat.xml, labelme/"
    assert lines[-1].startswith("5 images, ") and lines[-1].endswith(" people: counted/counts.csv")


def test_points_are_on_for_the_command_and_off_for_the_job(crowddist: Command, start, photos: Path,  # noqa: F811
                                                           tmp_path: Path, tiny_checkpoint: str) -> None:
    common = ["--checkpoint", tiny_checkpoint, "--zooms", 1, "--output"]
    for number, (run, words, points) in enumerate((
        (crowddist, ["count", photos / "a.jpg"], True),
        (crowddist, ["count", "--points", "none", "--input", photos / "a.jpg"], False),
        (start, ["predict", "--input", photos / "a.jpg"], False),
        (start, ["predict", "--points", "table", "--input", photos / "a.jpg"], True),
    )):
        out = tmp_path / f"out-{number}"
        done = run(*words, *common, out)
        assert (done.returncode, done.stderr) == (0, "") and ("points: " in done.stdout) == points
        assert (out / "points.csv").exists() == points


@pytest.mark.parametrize(("words", "message"), [
    (("--model", "m", "--output", "out"), "no image is given; name images or folders"),
    (("a.jpg", "--model", "m"), "missing: --output; for example: crowddist count photo.jpg --output counted/"),
    (("a.jpg", "--output", "out", "--model", "COUNTER", "--device", "gpu"), "no device is called 'gpu'; choose auto"),
    (("a.jpg", "--output", "out", "--model", "nowhere"), "no file at "),
    (("no*.jpg", "--output", "out", "--model", "COUNTER"), "no file or folder matches no*.jpg"),
    (("http://127.0.0.1:1/a.jpg", "--output", "out", "--model", "COUNTER"), "http://127.0.0.1:1/a.jpg: cannot be "),
    (("a.jpg", "--output", "out", "--model", "m", "--points", "none", "cvat"), "the points cannot be none and cvat"),
    (("a.jpg", "--output", "out", "--model", "m", "--points", "kml"), "--points"),
    (("a.jpg", "--output", "out", "--model", "m", "--zones", "z.json"), "z.json: there is no such file of zones"),
])
def test_what_it_cannot_do_is_one_line(crowddist: Command, tmp_path: Path, tiny_checkpoint: str,
                                       words: tuple[str, ...], message: str) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg")
    done = crowddist("count", *(tiny_checkpoint if word == "COUNTER" else word for word in words))
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert message in done.stderr and not (tmp_path / "out").exists()


def test_zones_come_with_the_counts(crowddist: Command, photos: Path, tmp_path: Path, tiny_checkpoint: str) -> None:
    polygon = "[[0, 0], [80, 0], [80, 60], [0, 60]]"
    (tmp_path / "zones.json").write_text(f'{{"zones": [{{"name": "whole", "polygon": {polygon}}}]}}')
    done = crowddist("count", "photos/more", "--model", storage.local_file(tiny_checkpoint), "--output", "counted",
                     "--zones", "zones.json", "--points", "none")
    assert (done.returncode, done.stderr) == (0, "")
    with open(tmp_path / "counted" / "zones.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(Path(row["file"]).name, row["zone"]) for row in rows] == [
        (name, zone) for name in ("c.jpg", "d.jpg") for zone in ("all", "whole")]
    assert float(rows[0]["count"]) == pytest.approx(float(rows[1]["count"]), abs=0.011)


def test_the_entry_point_is_a_function_that_reads_the_process_s_words(tmp_path: Path) -> None:
    code = "import sys; sys.argv[1:] = ['--version']; from crowddist.cli.main import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False,
                          cwd=Path(__file__).parents[2])
    assert done.returncode == 0 and done.stdout.startswith("crowddist ")
