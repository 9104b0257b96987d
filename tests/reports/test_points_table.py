"""The points of a count: they come with the rows, survive a stop, and come back in through the readers of labels."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crowddist import storage
from crowddist.data.convert.base import convert
from crowddist.data.convert.formats import FORMATS
from crowddist.data.shard_codec import decode
from crowddist.data.shards import ShardReader
from crowddist.errors import InputError
from crowddist.inference.predictor import Predictor
from crowddist.reports.count_files import predict_files
from crowddist.reports.counts_table import JOURNAL
from crowddist.reports.points_table import PARTS

pytestmark = pytest.mark.usefixtures("little_overlays")
SIZE = (40, 60)


class Stop(BaseException):
    """As SIGTERM or Ctrl-C."""


class Counter:
    """Finds heads that follow from an image's first pixel: as many, at places of many decimals, some at its borders."""

    def __init__(self, *, sized: bool = False) -> None:
        self.sized = sized

    def checked(self, image: np.ndarray) -> np.ndarray:
        return image

    def predict(self, image: np.ndarray) -> Any:
        points = heads(int(image[0, 0, 0]))
        return SimpleNamespace(count=float(len(points)), uncertainty=0.5, density=np.ones((5, 8), np.float32),
                               points=points, sizes=np.full(len(points), 7.25, np.float32) if self.sized else None,
                               interval=None)


def heads(number: int) -> np.ndarray:
    """`number` heads: x, y, score, float32; the first two in the corners' pixels."""
    rng = np.random.default_rng(number)
    drawn = rng.uniform(0, 1, (number, 3)) * [SIZE[1] - 1, SIZE[0] - 1, 1]
    drawn[:1, :2], drawn[1:2, :2] = 0, (SIZE[1] - 1, SIZE[0] - 1)
    return drawn.astype(np.float32)


def photo(place: Path, number: int) -> Path:
    """An image in which the counter finds `number` heads."""
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE[::-1], (number, 9, 9)).save(place, "PNG")
    return place


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Images in two folders, one of an empty place, and one whose name markup has to escape."""
    for number, name in ((5, "a.png"), (0, "empty.png"), (3, 'in/b & <"c">.png'), (12, "in/d é.png")):
        photo(tmp_path / "photos" / name, number)
    return tmp_path / "photos"


def count(photos: Path, out: Path, **options: Any) -> list[dict[str, Any]]:
    return predict_files(Counter(), [str(photos)], str(out), **{"points": [], "say": lambda _: None} | options)


def table(folder: Path) -> list[list[str]]:
    with open(folder / "points.csv", newline="", encoding="utf-8") as stream:
        return list(csv.reader(stream))


def test_a_row_for_each_head_and_one_for_an_empty_place(photos: Path, tmp_path: Path) -> None:
    rows = count(photos, tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == sorted(
        ["a.png", 'b & <"c">.png', "d é.png", "empty.png", "counts.csv", "points.csv", "points.json"])
    head, *lines = table(tmp_path / "out")
    assert head == ["file", "x", "y", "score"] and lines[5] == [str(photos / "empty.png"), "", "", ""]
    for row in rows:
        found = np.array([line[1:] for line in lines if line[0] == row["file"] and line[1]], float).reshape(-1, 3)
        assert np.abs(found - heads(row["points"])).max(initial=0) <= 0.0005 + 1e-5
    told = json.loads((tmp_path / "out" / "points.json").read_text())
    assert told["columns"] == ["x", "y", "score"]
    assert [image["file"] for image in told["images"]] == [row["file"] for row in rows]
    first = told["images"][0]
    assert (first["height"], first["width"], first["count"], first["low"]) == (*SIZE, 5.0, None)
    assert np.abs(np.array(first["points"]) - heads(5)).max() <= 0.0005 + 1e-5


def test_none_are_written_where_none_are_wanted(photos: Path, tmp_path: Path) -> None:
    count(photos, tmp_path / "out", points=None)
    assert not [name for name in os.listdir(tmp_path / "out") if "points" in name]


def test_tables_of_an_earlier_count_that_stay_are_told(photos: Path, tmp_path: Path) -> None:
    for points, told in ((["coco", "labelme"], ""), (["labelme"], "points.coco.json"),
                         (None, "labelme, points.coco.json, points.csv, points.json")):
        lines: list[str] = []
        count(photos, tmp_path / "out", points=points, say=lines.append)
        assert [line for line in lines if "earlier count" in line] == [
            f"{tmp_path / 'out'}: tables of an earlier count there stay as they are: {told}"][: bool(told)]


FORMS = {"csv": ("points.csv", "csv"), "cvat": ("points.cvat.xml", "cvat"), "coco": ("points.coco.json", "coco"),
         "labelme": ("labelme", "labelme"),
         "labelstudio": ("points.labelstudio.json", "label_studio")}
"""What `points` is given -> what is written, and the format that reads it."""


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sized", [False, True])
def test_points_come_back_in_as_labels(photos: Path, tmp_path: Path, form: str, sized: bool) -> None:
    """Counted, written, put beside the images, and converted: the same points, and the same nobody."""
    written, reader = FORMS[form]
    predict_files(Counter(sized=sized), [str(photos)], str(tmp_path / "out"),  # type: ignore[arg-type]
                  points=[] if form == "csv" else [form], say=lambda _: None)  # type: ignore[list-item]
    if (tmp_path / "out" / written).is_dir():
        shutil.copytree(tmp_path / "out" / written, photos, dirs_exist_ok=True)
    else:
        shutil.copy(tmp_path / "out" / written, photos / f"labels{Path(written).suffix}")
    done = convert(FORMATS[reader], photos, tmp_path / "set")
    shards = ShardReader(done.url)
    samples = [decode(*shards.read(number)) for number in range(len(shards))]
    found = {sample.scene["id"]: sample.points for sample in samples}
    wanted = {"a": 5, "empty": 0, 'in/b & <"c">': 3, "in/d é": 12}
    assert found.keys() == wanted.keys() and not done.skipped and not done.doubts
    for name, number in wanted.items():
        assert len(found[name]) == number
        assert np.abs(found[name] - heads(number)[:, :2]).max(initial=0) <= 0.01


def test_a_stopped_count_goes_on_with_all_points(photos: Path, tmp_path: Path) -> None:
    out, unbroken, lines = tmp_path / "out", tmp_path / "unbroken", []  # type: tuple[Path, Path, list[str]]
    count(photos, unbroken, points=["cvat"])

    def stop(line: str) -> None:
        if line.startswith("3/"):
            raise Stop

    with pytest.raises(Stop):
        count(photos, out, say=stop)
    assert table(out) == table(unbroken)[:10], "the rows of three images are there"
    # Killed between the points of an image and its row, while it wrote.
    (out / "points.csv").write_bytes((out / "points.csv").read_bytes() + b"half a ro")
    journal = (out / JOURNAL).read_bytes().splitlines(keepends=True)
    (out / JOURNAL).write_bytes(b"".join(journal[:-1]) + b'{"fil')
    count(photos, out, points=["cvat"], say=lines.append)
    assert lines[1].startswith("going on: 2 of 4 images")
    assert lines[-1] == "points: points.csv, points.json, points.cvat.xml"
    for name in ("counts.csv", "points.csv", "points.json", "points.cvat.xml"):
        assert (out / name).read_bytes() == (unbroken / name).read_bytes()
    assert sorted(os.listdir(out)) == sorted(os.listdir(unbroken)), "nothing hidden is left"


@pytest.mark.parametrize("damage", ["removed", "cut", "another"])
def test_points_that_are_lost_are_counted_again(photos: Path, tmp_path: Path, damage: str) -> None:
    out, unbroken, lines = tmp_path / "out", tmp_path / "unbroken", []  # type: tuple[Path, Path, list[str]]
    count(photos, unbroken)

    def stop(line: str) -> None:
        if line.startswith("3/"):
            raise Stop

    with pytest.raises(Stop):
        count(photos, out, say=stop)
    part = out / PARTS / "a.png.json"
    if damage == "removed":
        part.unlink()
    else:
        part.write_bytes(part.read_bytes()[:20] if damage == "cut" else (out / PARTS / "empty.png.json").read_bytes())
    count(photos, out, say=lines.append)
    assert [line[:4] for line in lines if line[1:3] == "/4"] == ["1/4 ", "4/4 "]
    for name in ("counts.csv", "points.csv", "points.json"):
        assert (out / name).read_bytes() == (unbroken / name).read_bytes()
    assert sorted(os.listdir(out)) == sorted(os.listdir(unbroken))


def test_what_a_count_without_points_left_is_not_taken_up(photos: Path, tmp_path: Path) -> None:
    lines: list[str] = []

    def stop(line: str) -> None:
        if line.startswith("2/"):
            raise Stop

    with pytest.raises(Stop):
        count(photos, tmp_path / "out", points=None, say=stop)
    count(photos, tmp_path / "out", say=lines.append)
    assert "other settings: all is counted anew" in lines[1] and len(table(tmp_path / "out")) == 1 + 5 + 1 + 3 + 12


def test_a_kill_behind_the_last_table_costs_nothing(photos: Path, tmp_path: Path) -> None:
    """Between the end of the counts and the removal of what a stopped count would need."""
    out = tmp_path / "out"
    count(photos, out)
    before = (out / "points.csv").read_bytes()
    (out / PARTS).mkdir()
    (out / PARTS / "a.png.json").write_text("{}")
    count(photos, out)
    assert (out / "points.csv").read_bytes() == before and not (out / PARTS).exists()


def test_an_image_that_is_named_twice_has_its_points_once(photos: Path, tmp_path: Path) -> None:
    rows = predict_files(Counter(), [str(photos / "a.png")] * 2, str(tmp_path / "out"),  # type: ignore[arg-type]
                         points=["coco"], say=lambda _: None)
    assert len(rows) == 2 and len(table(tmp_path / "out")) == 1 + 5
    assert len(json.loads((tmp_path / "out" / "points.coco.json").read_text())["images"]) == 1


def test_points_of_another_are_never_written(photos: Path, tmp_path: Path) -> None:
    """As where a file system takes two names for one."""
    def say(line: str) -> None:
        if line.startswith("4/"):
            parts = tmp_path / "out" / PARTS
            shutil.copy(parts / "empty.png.json", parts / "a.png.json")

    with pytest.raises(InputError, match=r"a\.png: its points were lost while others were counted; start the same"):
        count(photos, tmp_path / "out", say=say)
    count(photos, tmp_path / "out")
    assert len(table(tmp_path / "out")) == 1 + 5 + 1 + 3 + 12


def test_a_bad_file_keeps_what_a_second_start_needs(photos: Path, tmp_path: Path) -> None:
    def say(line: str) -> None:
        if line.startswith("1/"):
            (photos / "empty.png").write_bytes(b"changed")

    with pytest.raises(InputError, match="the other 3 images are counted"):
        count(photos, tmp_path / "out", say=say)
    assert len(table(tmp_path / "out")) == 1 + 5 + 3 + 12
    photo(photos / "empty.png", 2)
    count(photos, tmp_path / "out")
    assert len(table(tmp_path / "out")) == 1 + 5 + 2 + 3 + 12


def test_labelme_cannot_hold_two_images_of_one_name(photos: Path, tmp_path: Path) -> None:
    Image.new("RGB", SIZE[::-1]).save(photos / "a.jpg")
    with pytest.raises(InputError, match="several are called 'a'; rename them, or give another format to --points"):
        count(photos, tmp_path / "out", points=["labelme"])
    assert not (tmp_path / "out").exists()
    count(photos, tmp_path / "out", points=["cvat"])


def test_boxes_of_coco_lie_round_their_heads(photos: Path, tmp_path: Path) -> None:
    """A head at x 0, the centre of the first pixel, whose square has 7.25 px: its edges are 0.5 -+ 3.625."""
    predict_files(Counter(sized=True), [str(photos / "a.png")], str(tmp_path / "out"),  # type: ignore[arg-type]
                  points=["coco"], say=lambda _: None)
    marks = json.loads((tmp_path / "out" / "points.coco.json").read_text())["annotations"]
    assert marks[0]["keypoints"] == [0.0, 0.0, 2] and marks[0]["bbox"] == [-3.125, -3.125, 7.25, 7.25]
    assert marks[1]["bbox"] == [SIZE[1] - 1 - 3.125, SIZE[0] - 1 - 3.125, 7.25, 7.25]


def test_a_real_counter_s_points_are_written(tmp_path: Path, tiny_checkpoint: str, photos: Path) -> None:
    predictor = Predictor.from_checkpoint(tiny_checkpoint)
    rows = predict_files(predictor, [str(photos)], str(tmp_path / "out"), points=[], say=lambda _: None)
    told = json.loads((tmp_path / "out" / "points.json").read_text())["images"]
    assert [len(image["points"]) for image in told] == [row["points"] for row in rows]
    assert storage.read_bytes(tmp_path / "out" / "points.csv").count(b"\n") == 1 + sum(max(row["points"], 1)
                                                                                      for row in rows)
