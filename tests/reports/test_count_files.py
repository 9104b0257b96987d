"""Counting a user's own files: the table, the overlays, and bad files."""

from __future__ import annotations

import csv
import functools
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

from crowddist import storage
from crowddist.data.images import read_pixels
from crowddist.data.zones.files import ZoneFile, read_zone_file
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
    assert lines[0].endswith(f": {found.count:.1f} people, {found.interval}")


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


def test_what_others_left_in_the_output_folder_stays(counter: Predictor, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "gate.png").write_bytes((photos / "gate.png").read_bytes())
    for _ in range(2):  # ours are replaced
        predict_files(counter, [str(photos / "gate.png")], str(tmp_path / "out"), say=lambda line: None)
        assert listing(tmp_path / "out") == ["counts.csv", "gate-2.png", "gate.png"]
    assert (tmp_path / "out" / "gate.png").read_bytes() == (photos / "gate.png").read_bytes()
    (tmp_path / "out" / "counts.csv").write_text("camera,count\n")
    with pytest.raises(InputError, match=r"counts\.csv is not a table of this command; choose another"):
        predict_files(counter, [str(photos)], str(tmp_path / "out"), say=lambda line: None)
    assert (tmp_path / "out" / "counts.csv").read_text() == "camera,count\n"


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


class Stop(BaseException):
    """As SIGTERM or Ctrl-C."""


def zone_table(folder: Path) -> list[list[str]]:
    with open(folder / "zones.csv", newline="", encoding="utf-8") as stream:
        return list(csv.reader(stream))


def halves(folder: Path) -> ZoneFile:
    (folder / "zones.json").write_text(
        '{"unit": "share", "zones": [{"name": "left", "polygon": [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]},'
        '{"name": "right", "polygon": [[0.5, 0], [1, 0], [1, 1], [0.5, 1]]}]}')
    return read_zone_file(folder / "zones.json")


def test_zones_are_counted_drawn_and_kept_over_a_stop(tiny_checkpoint: str, photos: Path, tmp_path: Path) -> None:
    place = str(shutil.copy(storage.local_file(tiny_checkpoint), tmp_path / "counter.pt"))
    write_calibration(place, Calibration(scores=(0.5,) * 9, image_size=96, zooms=(1.0,)))
    counter, zones, lines = Predictor.from_checkpoint(place), halves(tmp_path), []  # type: ignore[var-annotated]
    plain, whole, out = (tmp_path / name for name in ("plain", "whole", "out"))
    predict_files(counter, [str(photos)], str(plain), say=lines.append)
    lines.clear()
    rows = predict_files(counter, [str(photos)], str(whole), zones=zones, say=lines.append)
    assert lines[1] == "no intervals of zones: a counter's errors are measured on whole images"
    table = zone_table(whole)
    assert table[0] == ["file", "zone", "count", "low", "high"] and len(table) == 1 + 3 * 3
    for number, row in enumerate(rows):
        (_, *whole_row), left, right = table[1 + 3 * number : 4 + 3 * number]
        assert whole_row == ["all", *(str(row[name]) for name in ("count", "low", "high"))]
        assert (left[:2], right[:2]) == ([row["file"], "left"], [row["file"], "right"]) and left[3:] == ["", ""]
        assert float(left[2]) + float(right[2]) == pytest.approx(row["count"], abs=0.011) and float(left[2]) > 0
        assert lines[2 + number].endswith(f"; left {float(left[2]):.1f}, right {float(right[2]):.1f}")
    assert (plain / "counts.csv").read_bytes() == (whole / "counts.csv").read_bytes()
    assert (plain / "gate.png").read_bytes() != (whole / "gate.png").read_bytes(), "the zones are drawn"

    def stop(line: str) -> None:
        lines.append(line)
        if line.startswith("2/3 "):
            raise Stop

    with pytest.raises(Stop):
        predict_files(counter, [str(photos)], str(out), zones=zones, say=stop)
    assert zone_table(out) == table[:7], "written row by row"
    os.truncate(out / "zones.csv", (out / "zones.csv").stat().st_size - 9)  # killed while it wrote
    for given, known in ((None, 0), (zones, 2)):
        shutil.copytree(out, tmp_path / f"again-{known}")
        lines.clear()
        predict_files(counter, [str(photos)], str(tmp_path / f"again-{known}"), zones=given, say=lines.append)
        assert sum("/3 " in line for line in lines) == 3 - known, "a count with other zones is another one"
        assert any(line.endswith("stay as they are: zones.csv") for line in lines) == (given is None)
    for name in ("zones.csv", "counts.csv"):
        assert (tmp_path / "again-2" / name).read_bytes() == (whole / name).read_bytes()


def test_each_image_has_its_own_zones(counter: Predictor, photos: Path, tmp_path: Path) -> None:
    """CVAT's zones of two of three images; one is called as another in another folder."""
    boxes = {"upstairs/gate.jpg": ("stairs", 100), "hall.jpg": ("door", 80)}
    (tmp_path / "z.xml").write_text("<annotations>" + "".join(
        f'<image name="{name}" width="100" height="{height}"><box label="{zone}" xtl="0" ytl="0" xbr="100" '
        f'ybr="{height}"/></image>' for name, (zone, height) in boxes.items()) + "</annotations>")
    lines: list[str] = []
    zones = read_zone_file(tmp_path / "z.xml")
    rows = predict_files(counter, [str(photos)], str(tmp_path / "out"), zones=zones, say=lines.append)
    table = zone_table(tmp_path / "out")[1:]
    assert [(Path(row[0]).name, row[1]) for row in table] == [
        ("gate.png", "all"), ("hall.jpg", "all"), ("hall.jpg", "door"), ("gate.jpg", "all"), ("gate.jpg", "stairs")]
    assert [float(row[2]) for row in table] == pytest.approx([rows[place]["count"] for place in (0, 1, 1, 2, 2)],
                                                             abs=0.011)
    assert lines[1] == f"{tmp_path / 'z.xml'}: 1 of 3 images have no zones there: they are counted whole"
    with pytest.raises(InputError, match=r"of 2 images, e\.g\. upstairs/gate\.jpg, but none of those to be count"):
        predict_files(counter, [str(photos / "gate.png")], str(tmp_path / "other"), zones=zones, say=lines.append)
    assert not (tmp_path / "other").exists()


def test_zones_that_do_not_fit_stop_before_anything_is_written(counter: Predictor, photos: Path,
                                                               tmp_path: Path) -> None:
    (tmp_path / "z.json").write_text('{"zones": [{"name": "low", "polygon": [[0, 70], [90, 70], [90, 90]]}]}')
    zones, lines = read_zone_file(tmp_path / "z.json"), []  # type: ignore[var-annotated]
    with pytest.raises(InputError, match=r"gate\.png: .*z\.json: the zone 'low' lies outside the image of 100 x 60 px; "
                                         "draw it on an image of this camera"):
        predict_files(counter, [str(photos)], str(tmp_path / "out"), zones=zones, say=lines.append)
    assert not (tmp_path / "out").exists()
    rows = predict_files(counter, [str(photos)], str(tmp_path / "out"), zones=zones, skip_bad=True, say=lines.append)
    assert len(rows) == 2 and sum(line.startswith("left out: ") for line in lines) == 1
    assert sum("reaches 10 px beyond the image of 100 x 80 px" in line for line in lines) == 1


@pytest.fixture
def site(photos: Path) -> Iterator[tuple[str, list[str]]]:
    """A web server over the photographs' folder, and what was asked of it."""
    asked: list[str] = []

    class Quiet(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(photos)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_the_web_is_fetched_in_turn_and_a_bad_address_costs_itself_alone(
        counter: Predictor, photos: Path, site: tuple[str, list[str]], tmp_path: Path) -> None:
    (place, asked), lines = site, []  # type: ignore[var-annotated]
    names = ["hall.jpg?1", "gate.png", "missing.jpg", "hall.jpg?2", "hall.jpg?3", "hall.jpg?4"]
    inputs = [str(photos / "gate.png"), *(f"{place}/{name}" for name in names)]

    def stop(line: str) -> None:
        lines.append(line)
        if line.startswith("2/7 "):
            raise Stop

    with pytest.raises(Stop):
        predict_files(counter, inputs, str(tmp_path / "out"), say=stop)
    assert len(asked) <= 3 and len(read_table(tmp_path / "out")) == 2, "two ahead"
    asked.clear()
    with pytest.raises(InputError, match=r"missing\.jpg: cannot be fetched: .* 404 .*; the other 6 images are counted"):
        predict_files(counter, inputs, str(tmp_path / "out"), say=lines.append)
    assert "/hall.jpg?1" not in asked and sorted(asked) == sorted(f"/{name}" for name in names[1:]), "each once"
    rows = predict_files(counter, inputs, str(tmp_path / "new"), skip_bad=True, say=lines.append)
    assert [row["file"] for row in rows] == [name for name in inputs if "missing" not in name]
    assert (tmp_path / "new" / "counts.csv").read_bytes() == (tmp_path / "out" / "counts.csv").read_bytes()
    assert len({row["count"] for row in rows}) == 2
    for skip_bad in (False, True):
        with pytest.raises(InputError, match=r"none of the files could be read as an image: http://.*missing.*404"):
            predict_files(counter, [f"{place}/missing.jpg"], str(tmp_path / "none"), skip_bad=skip_bad, say=print)
    assert not (tmp_path / "none").exists()


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
