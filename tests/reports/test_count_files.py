"""Counting a user's own files: the table, the overlays, and bad files."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from crowddist import storage
from crowddist.data.images import read_pixels
from crowddist.errors import InputError
from crowddist.inference.intervals import Calibration, write_calibration
from crowddist.inference.predictor import Predictor
from crowddist.reports.count_files import predict_files


@pytest.fixture(scope="module")
def counter(tiny_checkpoint: str) -> Predictor:
    return Predictor.from_checkpoint(tiny_checkpoint)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photographs, two of them called alike, in a folder with a folder in it."""
    for index, name in enumerate(("gate.png", "hall.jpg", "upstairs/gate.jpg")):
        write_photograph(tmp_path / "my photos" / name, (60 + 20 * index, 100), seed=index)
    return tmp_path / "my photos"


def write_photograph(path: Path, size: tuple[int, int], seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8))
    return path


def read_table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "counts.csv", newline="") as stream:
        reader = csv.DictReader(stream)
        rows = list(reader)
    assert reader.fieldnames == ["file", "count", "low", "high", "uncertainty", "points"]
    return rows


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_and_folders_are_counted(counter: Predictor, photos: Path, tmp_path: Path) -> None:
    single = write_photograph(tmp_path / "one.webp", (50, 70), seed=9)
    lines: list[str] = []
    rows = predict_files(counter, [str(single), str(photos)], str(tmp_path / "out"), say=lines.append)
    paths = [single, photos / "gate.png", photos / "hall.jpg", photos / "upstairs" / "gate.jpg"]
    assert [row["file"] for row in read_table(tmp_path / "out")] == [row["file"]
                                                                     for row in rows] == [str(path) for path in paths]
    assert listing(tmp_path / "out") == ["counts.csv", "gate-2.png", "gate.png", "hall.png", "one.png"]
    assert lines.pop(0) == "my photos: 3 images: 2 directly in it, 1 in upstairs"
    for row, path, line in zip(read_table(tmp_path / "out"), paths, lines, strict=True):
        found = counter.predict(read_pixels(path))
        assert float(row["count"]) == pytest.approx(found.count, abs=0.0051) and found.count > 1
        assert float(row["uncertainty"]) == pytest.approx(found.uncertainty, abs=0.0051)
        assert row["low"] == row["high"] == "", "the counter has no intervals"
        assert int(row["points"]) == len(found.points)
        assert str(path) in line and f"{found.count:.1f} ± {found.uncertainty:.1f}" in line
    for name, size in (("one", (50, 70)), ("gate", (60, 100)), ("hall", (80, 100)), ("gate-2", (100, 100))):
        overlay = cv2.imread(str(tmp_path / "out" / f"{name}.png"))
        # The image, brought to 960 px, between two strips of text.
        assert overlay is not None and overlay.shape[1] == round(size[1] * 960 / max(size))
        assert overlay.shape[0] > round(size[0] * 960 / max(size))


def test_intervals_stand_beside_the_counts(tiny_checkpoint: str, photos: Path, tmp_path: Path) -> None:
    counter = str(shutil.copy(storage.local_file(tiny_checkpoint), tmp_path / "counter.pt"))
    write_calibration(counter, Calibration(scores=(0.5,) * 9, image_size=96, zooms=(1.0,)))
    predictor, lines = Predictor.from_checkpoint(counter), []
    predict_files(predictor, [str(photos / "hall.jpg")], str(tmp_path / "out"), say=lines.append)
    found = predictor.predict(read_pixels(photos / "hall.jpg"))
    assert found.interval is not None and found.interval.high > found.count > found.interval.low
    (row,) = read_table(tmp_path / "out")
    assert [float(row[name]) for name in ("low", "high")] == pytest.approx(
        [found.interval.low, found.interval.high], abs=0.0051)
    assert lines[0].endswith(f"± {found.uncertainty:.1f}, {found.interval}")


def test_names_never_replace_one_another(counter: Predictor, tmp_path: Path) -> None:
    files = [write_photograph(tmp_path / folder / name, (40, 40))
             for folder, name in (("a", "x.png"), ("a", "x-2.jpg"), ("b", "x.jpg"), ("c", "x.png"))]
    predict_files(counter, [str(path) for path in files], str(tmp_path / "out"), say=lambda line: None)
    assert listing(tmp_path / "out") == ["counts.csv", "x-2.png", "x-3.png", "x-4.png", "x.png"]
    assert len(read_table(tmp_path / "out")) == 4


def test_a_bad_file_stops_before_anything_is_written(counter: Predictor, photos: Path, tmp_path: Path) -> None:
    bad = photos / "zoo.jpg"  # the last one
    bad.write_bytes((photos / "hall.jpg").read_bytes()[:-200])
    with pytest.raises(InputError, match=r"zoo\.jpg: "):
        predict_files(counter, [str(photos)], str(tmp_path / "out"), say=lambda line: None)
    assert not (tmp_path / "out").exists()
    lines: list[str] = []
    predict_files(counter, [str(photos)], str(tmp_path / "out"), skip_bad=True, say=lines.append)
    assert [Path(row["file"]).name for row in read_table(tmp_path / "out")] == ["gate.png", "hall.jpg", "gate.jpg"]
    assert any(line.startswith("left out: ") and "zoo.jpg" in line for line in lines)


def test_an_image_format_that_is_not_read_is_a_bad_file(counter: Predictor, photos: Path, tmp_path: Path) -> None:
    (photos / "phone.heic").write_bytes(b"....ftypheic")
    (photos / "notes.txt").write_text("no image, and none that anybody would expect to be counted")
    with pytest.raises(InputError, match=r"phone\.heic: HEIC images are not read; save it as JPEG"):
        predict_files(counter, [str(photos)], str(tmp_path / "out"), say=lambda line: None)
    lines: list[str] = []
    predict_files(counter, [str(photos)], str(tmp_path / "out"), skip_bad=True, say=lines.append)
    assert len(read_table(tmp_path / "out")) == 3 and "phone.heic" in lines[0]


def test_nothing_to_count_is_said(counter: Predictor, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.jpg").write_bytes(b"")
    out = str(tmp_path / "out")
    with pytest.raises(InputError, match=r"no images in .*empty"):
        predict_files(counter, [str(tmp_path / "empty")], out)
    with pytest.raises(FileNotFoundError, match=r"no file or folder at .*missing"):
        predict_files(counter, [str(tmp_path / "missing")], out)
    with pytest.raises(InputError, match="none of the files"):
        predict_files(counter, [str(tmp_path / "bad.jpg")], out, skip_bad=True, say=lambda line: None)
    assert not (tmp_path / "out").exists()


def test_images_are_never_replaced_by_their_overlays(counter: Predictor, photos: Path) -> None:
    content = (photos / "gate.png").read_bytes()
    for output in (str(photos), f"{photos}/upstairs/../", photos.as_uri()):
        with pytest.raises(InputError, match=r"gate\.png lies in the output folder; choose another --output"):
            predict_files(counter, [str(photos)], output, say=lambda line: None)
    assert (photos / "gate.png").read_bytes() == content and listing(photos) == ["gate.png", "hall.jpg", "upstairs"]


def test_a_photograph_on_its_side_is_counted_upright(counter: Predictor, tmp_path: Path) -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (48, 96, 3), dtype=np.uint8)
    tag = Image.Exif()
    tag[274] = 6  # turned a quarter
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=tag)
    Image.fromarray(np.rot90(pixels, -1)).save(tmp_path / "upright.png")
    rows = predict_files(counter, [str(tmp_path / "turned.png"), str(tmp_path / "upright.png")], str(tmp_path / "out"),
                         say=lambda line: None)
    assert {name: value for name, value in rows[0].items()
            if name != "file"} == {name: value for name, value in rows[1].items() if name != "file"}


def test_names_in_any_bytes_are_counted(counter: Predictor, photos: Path, tmp_path: Path) -> None:
    odd = os.fsencode(photos) + b"/caf\xe9.jpg"  # Latin-1, not UTF-8
    shutil.copy(os.fsencode(photos / "hall.jpg"), odd)
    lines: list[str] = []
    predict_files(counter, [os.fsdecode(odd)], str(tmp_path / "out"), say=lines.append)
    assert read_table(tmp_path / "out")[0]["file"].endswith(r"caf\udce9.jpg")
    assert os.path.exists(os.fsencode(tmp_path / "out") + b"/caf\xe9.png")
    assert all(line.encode() for line in lines)


def test_long_names_and_thin_images_are_counted(counter: Predictor, tmp_path: Path) -> None:
    """A name may fill what a file system takes; the overlay's name is longer."""
    long, umlauts = "n" * 251, "\u00fc" * 125
    for folder in ("a", "b"):
        for stem, size in ((long, (40, 60)), (umlauts, (24, 240)), ("high", (240, 24))):
            write_photograph(tmp_path / "in" / folder / "x.jpg", size).rename(tmp_path / "in" / folder / f"{stem}.jpg")
    rows = predict_files(counter, [str(tmp_path / "in")], str(tmp_path / "out"), points=["coco"], say=lambda line: None)
    assert len(rows) == 6 and all(row["count"] is not None for row in rows)
    overlays = {f"{stem}{again}.png" for stem in (long[:200], umlauts[:100], "high") for again in ("", "-2")}
    assert overlays <= set(listing(tmp_path / "out")) and ".points.parts.partial" not in listing(tmp_path / "out")
