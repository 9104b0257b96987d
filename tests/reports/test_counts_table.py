"""A count that is stopped keeps what it counted, and goes on; a file that vanishes costs one row."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crowddist import storage
from crowddist.data.safe_decode import encode_png
from crowddist.data.user_files import UserFile
from crowddist.data.walk import OURS, find_images
from crowddist.errors import InputError
from crowddist.inference.intervals import Calibration, write_calibration
from crowddist.inference.predictor import Predictor
from crowddist.reports.count_files import predict_files
from crowddist.reports.counts_table import COLUMNS, JOURNAL, CountsTable

pytestmark = pytest.mark.usefixtures("little_overlays")


class Stop(BaseException):
    """As SIGTERM or Ctrl-C."""


@pytest.fixture(scope="module")
def counter(tiny_checkpoint: str) -> Predictor:
    return Predictor.from_checkpoint(tiny_checkpoint)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(5):
        write(folder / f"{number}.jpg", number)
    return folder


def write(path: Path, seed: int) -> None:
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(path)


def table(folder: Path) -> list[list[str]]:
    with open(folder / "counts.csv", newline="", encoding="utf-8") as stream:
        return list(csv.reader(stream))


def stop_after(number: int, lines: list[str]):  # type: ignore[no-untyped-def]
    def say(line: str) -> None:
        lines.append(line)
        if line.startswith(f"{number}/"):
            raise Stop

    return say


def test_a_stopped_count_goes_on_and_ends_as_an_unbroken_one(counter: Predictor, photos: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    unbroken, out = tmp_path / "unbroken", tmp_path / "out"
    predict_files(counter, [str(photos)], str(unbroken), say=lines.append)
    with pytest.raises(Stop):
        predict_files(counter, [str(photos)], str(out), job="a", say=stop_after(2, lines))
    assert table(out) == table(unbroken)[:3]
    os.truncate(out / JOURNAL, (out / JOURNAL).stat().st_size - 9)  # killed while it wrote
    lines.clear()
    rows = predict_files(counter, [str(photos)], str(out), job="a", say=lines.append)
    assert lines[0].startswith("going on: 1 of 5 images were counted before") and len(lines) == 5 and len(rows) == 5
    assert (out / "counts.csv").read_bytes() == (unbroken / "counts.csv").read_bytes()
    assert sorted(os.listdir(out)) == sorted(os.listdir(unbroken)) == [*(f"{n}.png" for n in range(5)), "counts.csv"]


def test_intervals_are_kept_over_a_stop(tiny_checkpoint: str, photos: Path, tmp_path: Path) -> None:
    place = str(shutil.copy(storage.local_file(tiny_checkpoint), tmp_path / "counter.pt"))
    write_calibration(place, Calibration(scores=(0.5,) * 9, image_size=96, zooms=(1.0,)))
    counter, lines = Predictor.from_checkpoint(place), []  # type: tuple[Predictor, list[str]]
    predict_files(counter, [str(photos)], str(tmp_path / "unbroken"), say=print)
    with pytest.raises(Stop):
        predict_files(counter, [str(photos)], str(tmp_path / "out"), say=stop_after(2, lines))
    rows = predict_files(counter, [str(photos)], str(tmp_path / "out"), say=lines.append)
    assert lines[2].startswith("going on: 2 of 5") and all(row["low"] < row["count"] < row["high"] for row in rows)
    assert table(tmp_path / "out") == table(tmp_path / "unbroken")


def test_what_changed_meanwhile_is_counted_anew(counter: Predictor, photos: Path, tmp_path: Path) -> None:
    out, lines = tmp_path / "out", []  # type: tuple[Path, list[str]]
    with pytest.raises(Stop):
        predict_files(counter, [str(photos)], str(out), job="a", say=stop_after(3, lines))
    write(photos / "1.jpg", 77)
    write(photos / "00.jpg", 78)
    (out / "2.png").unlink()
    for job, fresh, known in (("a", False, 1), ("b", False, 0), ("a", True, 0)):
        storage.write_bytes(out / "kept", (out / JOURNAL).read_bytes())
        lines.clear()
        rows = predict_files(counter, [str(photos)], str(out), job=job, fresh=fresh, say=lines.append)
        assert [Path(row["file"]).name for row in rows] == ["0.jpg", "00.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg"]
        assert sum("/6 " in line for line in lines) == 6 - known and (out / "2.png").exists()
        assert ("other settings" in lines[0]) == (job == "b")
        storage.write_bytes(out / JOURNAL, (out / "kept").read_bytes())


@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_file_that_vanishes_is_one_bad_file(counter: Predictor, photos: Path, tmp_path: Path, skip_bad: bool) -> None:
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        if line.startswith("1/"):
            (photos / "2.jpg").unlink()
            (photos / "3.jpg").write_bytes(b"changed")

    def count() -> list[dict[str, object]]:
        return predict_files(counter, [str(photos)], str(tmp_path / "out"), skip_bad=skip_bad, say=say)

    if skip_bad:
        assert len(count()) == 3
    else:
        with pytest.raises(InputError, match=r"2\.jpg: cannot be read: No such file.*1 more; the other 3 images are"):
            count()
    assert [Path(row[0]).name for row in table(tmp_path / "out")[1:]] == ["0.jpg", "1.jpg", "4.jpg"]
    assert sum(line.startswith("left out: ") for line in lines) == 2
    assert (tmp_path / "out" / JOURNAL).exists() != skip_bad, "who mends the files goes on"


def test_outputs_among_the_inputs_are_never_counted(counter: Predictor, photos: Path) -> None:
    counted = []
    for name in ("counted", "counted again", "counted"):
        lines: list[str] = []
        rows = predict_files(counter, [str(photos)], str(photos / name), say=lines.append)
        counted.append([row["file"] for row in rows])
    assert counted[0] == counted[1] == counted[2] and len(counted[0]) == 5
    assert lines[0] == "photos: left out, written by crowddist: counted, counted again"
    (photos / "counted" / "counts.csv").unlink()
    assert len(find_images(photos).left_out[OURS]) == 6, "each picture says whose it is"
    lines.clear()
    predict_files(counter, [str(photos / "counted" / "1.png")], str(photos / "third"), say=lines.append)
    assert lines[-1] == "1 pictures that crowddist itself drew"


def test_two_counts_never_write_one_table(counter: Predictor, photos: Path, tmp_path: Path) -> None:
    """The second is told while the first is at work, and changes nothing."""
    told: list[str] = []

    def say(line: str) -> None:
        if line.startswith("3/"):
            with pytest.raises(InputError, match=r"another process is at work in .*out; wait for it"):
                predict_files(counter, [str(photos)], str(tmp_path / "out"), points=[], say=told.append)

    predict_files(counter, [str(photos)], str(tmp_path / "out"), points=[], say=say)
    assert len(table(tmp_path / "out")) == 6 and told[-1].startswith("going on: 3 of 5 images")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *(f"{number}.png" for number in range(5)), "counts.csv", "points.csv", "points.json"]


@pytest.mark.parametrize(("name", "options"), [
    ("points.csv", {"points": []}), ("points.json", {"points": []}), ("points.coco.json", {"points": ["coco"]}),
    ("labelme", {"points": ["labelme"]})])
def test_labels_of_others_are_never_replaced(counter: Predictor, photos: Path, tmp_path: Path, name: str,
                                             options: dict[str, Any]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("file,x,y\n0.jpg,3,4\n")
    with pytest.raises(InputError, match=rf"out/{name} is there already, and no count wrote it; choose another output"):
        predict_files(counter, [str(photos)], str(tmp_path / "out"), say=lambda _: None, **options)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]


def test_a_folder_in_the_way_of_an_overlay_and_a_count_of_nothing(counter: Predictor, photos: Path,
                                                                  tmp_path: Path) -> None:
    (tmp_path / "out" / "0.png").mkdir(parents=True)
    predict_files(counter, [str(photos)], str(tmp_path / "out"), say=lambda _: None)
    assert (tmp_path / "out" / "0-2.png").is_file() and len(table(tmp_path / "out")) == 6
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match="none of the files could be read"):
        predict_files(counter, [str(tmp_path / "bad.jpg")], str(tmp_path / "none"), skip_bad=True, say=lambda _: None)
    assert not (tmp_path / "none").exists()


def test_a_thin_image_is_named_before_anything_is_written(counter: Predictor, photos: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((20, 1000, 3), np.uint8)).save(photos / "strip.png")  # 96 x 2 px once shrunk
    with pytest.raises(InputError, match=r"strip\.png: too small once shrunk: 1000 x 20 px become 96 x 2"):
        predict_files(counter, [str(photos)], str(tmp_path / "out"), say=print)
    assert not (tmp_path / "out").exists()
    assert len(predict_files(counter, [str(photos)], str(tmp_path / "out"), skip_bad=True, say=print)) == 5


def test_arrays_are_counted_as_their_image(counter: Predictor) -> None:
    image = np.random.default_rng(1).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    count = counter.predict(image).count
    assert counter.predict(image.astype(np.uint16) * 257).count == counter.predict(image / 255).count == count
    with pytest.raises(InputError, match="too small once shrunk"):
        counter.predict(np.zeros((9, 2000, 3), np.uint8))
    assert counter.predict(np.zeros((8, 8, 3), np.uint8)).size == (96, 96)


def test_no_way_leads_overlays_over_the_images(counter: Predictor, photos: Path, tmp_path: Path) -> None:
    os.rename(photos / "0.jpg", photos / "0.png")
    before = (photos / "0.png").read_bytes()
    link = tmp_path / "link"
    link.symlink_to(photos)
    for source, output in ((photos, link), (link, photos), (photos / "0.png", link)):
        with pytest.raises(InputError, match=r"0\.png lies in the output folder; choose another --output"):
            predict_files(counter, [str(source)], str(output), say=print)
    assert (photos / "0.png").read_bytes() == before and len(os.listdir(photos)) == 5


def test_an_empty_input_is_not_the_current_folder(counter: Predictor, photos: Path, tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    with pytest.raises(InputError, match="an input is empty; give image files or folders"):
        predict_files(counter, [""], str(tmp_path / "out"), say=print)
    assert not (tmp_path / "out").exists()


def test_images_of_one_name_in_many_folders_get_the_first_free_numbers(tmp_path: Path) -> None:
    files = []
    for number, name in enumerate(("x", "x", "x-3", "x", "x", "y", "x", "X", "\xe9", "e\u0301", "a:b", "a_b")):
        (tmp_path / str(number)).mkdir()
        place = tmp_path / str(number) / f"{name}.jpg"
        write(place, number)
        files.append(UserFile(name=str(place), root=str(tmp_path)))
    row = {**dict.fromkeys(COLUMNS), "file": "a"}

    def add(table: CountsTable, indexes: range) -> list[str]:
        entries = {}
        for index in indexes:
            entries[index] = table.new_entry(index)
            assert table.new_entry(index) == entries[index], "a name is taken by what is added alone"
            table.draw(entries[index], encode_png(np.zeros((8, 8, 3), np.uint8)))
            table.add(index, {**entries[index], "row": row, "notes": []})
        return [entry["overlay"] for entry in entries.values()]

    first = add(CountsTable(str(tmp_path / "out"), files, "a"), range(4))
    assert first == ["x.png", "x-2.png", "x-3.png", "x-4.png"]
    assert add(CountsTable(str(tmp_path / "out"), files, "a"), range(4, 12)) == [
        "x-5.png", "y.png", "x-6.png", "X-7.png", "\xe9.png", "e\u0301-2.png", "a:b.png", "a_b-2.png"], (
            "also where a file system takes capitals and accents for the same")


def test_a_file_system_that_refuses_a_name_gets_another(counter: Predictor, photos: Path, tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    """As exFAT, which takes no colon."""
    for name in ("12:30.5.jpg", "12?30.5.jpg"):
        shutil.copy(photos / "0.jpg", photos / name)
    (tmp_path / "out").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "out" / "12_30.5.png")  # a user's own
    replace = os.replace

    def refuse(source: Path, target: Path) -> None:
        if Path(target).parent == tmp_path / "out" and set(Path(target).name) & set(':?*<>|"\\'):
            raise OSError(errno.EINVAL, "Invalid argument", str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    lines: list[str] = []
    with pytest.raises(Stop):
        predict_files(counter, [str(photos)], str(tmp_path / "out"), points=[], say=stop_after(2, lines))
    rows = predict_files(counter, [str(photos)], str(tmp_path / "out"), points=[], say=lines.append)
    assert len(rows) == 7 and any(line.startswith("going on: 2 of 7") for line in lines)
    assert sorted(os.listdir(tmp_path / "out")) == [
        *(f"{n}.png" for n in range(2)), "12_30.5-2.png", "12_30.5-3.png", "12_30.5.png",
        *(f"{n}.png" for n in range(2, 5)), "counts.csv", "points.csv", "points.json"]


def test_an_odd_line_of_the_journal_is_one_row_to_count_again(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", 1)
    files = [UserFile(name=str(tmp_path / "a.jpg"), root=str(tmp_path))]
    place = (tmp_path / "out").as_uri()
    row = {**dict.fromkeys(COLUMNS), "file": "a.jpg"}
    with CountsTable(place, files, "job") as written:
        entry = written.new_entry(0) | {"row": row, "notes": []}
        written.draw(entry, b"")
        written.add(0, entry)
    assert CountsTable(place, files, "job").has(0)
    changes = [entry | change for change in (
        {"row": None}, {"row": []}, {"row": {}}, {"file": []}, {"overlay": 3}, {"repeat": {}}, {"notes": None},
        {"notes": ["of another version"]}, {"notes": [[]]}, {"stamp": None})]
    for line in (*changes, {"row": {}}, [1], [[1, 2]], None, "row"):
        storage.write_bytes(storage.join(place, JOURNAL), b"\n".join(
            (json.dumps({"job": "job"}).encode(), json.dumps(line).encode(), b"\0", b"\xff")))
        assert not CountsTable(place, files, "job").has(0), line
