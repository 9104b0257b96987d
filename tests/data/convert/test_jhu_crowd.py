"""JHU-Crowd++: points, the facts of its index, images without anybody, and messages about damaged files."""

from __future__ import annotations

import numpy as np
import pytest

from crowddist.data.convert.base import convert
from crowddist.data.convert.formats import FORMATS
from crowddist.data.convert.gcc import keep_scene
from crowddist.data.shards import ShardReader, decode, verify
from crowddist.errors import InputError

FORM = FORMATS["jhu_crowd"]


@pytest.fixture
def crowds(jhu):
    """Three training images, the second without anybody, one image to validate and one to test."""
    jhu.add("0003", [[3, 4], [47, 31, 9, 9], [3, 4], [20, 10, 0, 0]], told=("street protest", 3, 0))
    jhu.add("0020", [], told=("penguins", 0, 1))
    jhu.add("0100", [[7, 8]], told=("stadium", 2, 0))
    jhu.add("0005", [[9, 9]], split="val")
    jhu.add("0006", [[5, 6], [6, 7]], split="test")
    return jhu


def samples(done):
    reader = ShardReader(done.url)
    return [decode(*reader.read(index)) for index in range(len(reader))]


def test_points_and_facts_come_back_as_annotated(tmp_path, crowds):
    done = convert(FORM, crowds.root, tmp_path / "set")
    manifest = verify(done.url)
    assert (manifest.name, manifest.split, manifest.labelled,
            manifest.statistics["persons"]) == ("jhu-crowd", "train", True, 5)
    assert ShardReader(done.url).keys() == ["0003", "0020", "0100"] and "split_rule" not in manifest.statistics
    first, empty, last = samples(done)
    np.testing.assert_array_equal(first.points, [[3, 4], [47, 31], [3, 4], [20, 10]])
    assert first.boxes is None and first.mask is None
    assert first.scene == {
        "id": "0003", "file": "0003.jpg", "height": 32, "width": 48, "count": 4, "num_repeated_points": 1,
        "scene_type": "street protest", "weather_degradation": 3, "distractor": 0}
    assert empty.points.shape == (0, 2) and (empty.scene["count"], empty.scene["distractor"]) == (0, 1)
    assert last.points.tolist() == [[7, 8]] and last.scene["weather_degradation"] == 2


def test_the_weather_is_not_taken_for_gccs(tmp_path, crowds):
    (first, *_) = samples(convert(FORM, crowds.root, tmp_path / "set"))
    with pytest.raises(InputError, match="scene regularisation needs the weather of every image"):
        keep_scene({**first.scene, "level": 0, "hour": 12}, "SHB")


@pytest.mark.parametrize("size", ["0 0", "0 7", "-3 4", "5000 5000", "nan nan", "1e-50 1"])
def test_no_head_is_lost_to_its_size(tmp_path, crowds, size):
    crowds.annotation("0003").write_text(f"3 4 {size} 1 0\n0 0 {size} 3 1\n47 31 {size} 2 0")
    (first, *_) = samples(convert(FORM, crowds.root, tmp_path / "set"))
    assert first.points.tolist() == [[3, 4], [0, 0], [47, 31]] and first.scene["count"] == 3


def test_the_official_splits(tmp_path, crowds):
    for split, points in (("val", [[9, 9]]), ("test", [[5, 6], [6, 7]])):
        done = convert(FORM, crowds.root, tmp_path / split, split=split)
        (sample,) = samples(done)
        assert (done.manifest.split == split and sample.points.tolist() == points
                and "scene_type" not in sample.scene), "no index there"
    with pytest.raises(InputError, match="no split 'all'; choose one of train, val, test"):
        convert(FORM, crowds.root, tmp_path / "all", split="all")


def test_an_index_as_other_systems_write_it_and_images_that_it_leaves_out(tmp_path, crowds):
    crowds.index().write_bytes(b"0003.jpg, 4, street, 0, 0\r\n0100,1,,1,0\r\n9999,8,gone,1,0\r\n\r\n")
    first, empty, last = samples(convert(FORM, crowds.root, tmp_path / "set"))
    assert first.scene["scene_type"] == "street" and first.scene["weather_degradation"] == 0
    assert "scene_type" not in empty.scene and last.scene["scene_type"] == "" and last.scene["weather_degradation"] == 1


def test_unlabelled_sets_open_neither_annotations_nor_the_index(tmp_path, crowds):
    for path in (*crowds.root.glob("*/gt/*.txt"), crowds.index()):
        path.write_text("damaged")
    crowds.annotation("9999").write_text("without an image")
    done = convert(FORM, crowds.root, tmp_path / "a", unlabelled=True)
    assert done.manifest.name == "jhu-crowd-unlabelled" and not done.manifest.labelled
    for index, name in enumerate(("0003", "0020", "0100")):
        key, members = ShardReader(done.url).read(index)
        assert (set(members) == {"jpg", "json"}
                and decode(key, members).scene == {"id": name, "file": f"{name}.jpg", "height": 32, "width": 48})
    (crowds.root / "train" / "gt").rename(tmp_path / "elsewhere")
    crowds.index().unlink()
    assert convert(FORM, crowds.root, tmp_path / "b", unlabelled=True).manifest == done.manifest
    with pytest.raises(InputError, match="train/gt is missing; convert with --unlabelled, or add it"):
        convert(FORM, crowds.root, tmp_path / "c")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.unlink(), "the annotation is missing"),
        (lambda path: path.write_text("\n3 4 5 six 1 0\n3 4\n"),
         "line 2 should be the numbers x y w h o b, got '3 4 5 six 1 0'"),
        (lambda path: path.write_text("3 4 5 6 1\n"), "line 1 should be the numbers"),
        (lambda path: path.write_text("3 4 5 6 1 0 9\n"), "line 1 should be the numbers"),
        (lambda path: path.write_bytes(b"\x80\x81\n"),
         r"line 1 should be the numbers x y w h o b, got '\\udc80\\udc81'"),
        (lambda path: path.write_text("3 4 5 6 1 0\n" + "nan 4 5 6 1 0\n" * 4),
         r"4 of 5 cannot be taken, .*point 2 of 5, x, y = \(nan, 4\) and others: not a pair of numbers"),
        (lambda path: path.write_text("3 4 5 6 1 0\n" + "3 60 5 6 1 0\n" * 4),
         r"point 2 of 5, x, y = \(3, 60\) and others: outside the image of 48 x 32 px"),
    ],
)
def test_bad_annotations_stop_or_are_skipped(tmp_path, crowds, damage, reason):
    damage(crowds.annotation("0100"))
    with pytest.raises(InputError, match=rf"train/gt/0100\.txt: .*{reason}") as caught:
        convert(FORM, crowds.root, tmp_path / "set")
    assert "\n" not in str(caught.value) and not (tmp_path / "set").exists()
    done = convert(FORM, crowds.root, tmp_path / "set", skip_bad=True)
    assert (ShardReader(done.url).keys() == ["0003", "0020"]
            and [entry["file"] for entry in done.skipped] == ["train/images/0100.jpg"])


def test_a_bad_line_costs_one_head_and_not_the_image(tmp_path, crowds):
    crowds.annotation("0100").write_text("3 4 5 6 1 0\n40 20 5 6\n7 8 5 6 1 0\n")
    done = convert(FORM, crowds.root, tmp_path / "set")
    assert samples(done)[2].points.tolist() == [[3, 4], [7, 8]]
    assert [(entry["file"], entry["reason"]) for entry in done.doubts if entry["kind"] == "num_invalid_points"] == [
        ("train/images/0100.jpg", "point 2 of 3, x, y = (nan, nan): not a pair of numbers")]


@pytest.mark.parametrize(
    "line",
    [
        "0100,1,stadium,2", "0100,1,stadium,2,0,0", "0100 1 stadium 2 0", "0100,1,stadium,4,0", "0100,1,stadium,-1,0",
        "0100,1,stadium,rain,0", "0100,1,stadium,2,2", "0100,1,stadium,2,", f"0100,1,stadium,{'9' * 5000},0",
        "0100,1,\udcff,2,0", ""],
)
def test_a_damaged_index_is_never_taken(tmp_path, crowds, line):
    lines = ["0003,4,street,0,0", line, "0020,0,penguins,0,1"]
    crowds.index().write_bytes("".join(f"{line}\n" for line in lines).encode(errors="surrogateescape"))
    for skip_bad in (False, True):
        with pytest.raises(InputError,
                           match=r"train/image_labels\.txt: line 2 should be name, count, scene type, weather 0 to 3, "
                                 r".* or remove it") as caught:
            convert(FORM, crowds.root, tmp_path / "set", skip_bad=skip_bad)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500 and not (tmp_path / "set").exists()
    crowds.index().unlink()
    assert convert(FORM, crowds.root, tmp_path / "set").manifest.num_samples == 3


def test_an_annotation_without_its_image(tmp_path, crowds):
    (crowds.root / "train" / "images" / "0100.jpg").unlink()
    crowds.annotation("._0003").write_text("what macOS leaves in archives")
    with pytest.raises(InputError, match=r"train/gt/0100\.txt: an annotation without its image"):
        convert(FORM, crowds.root, tmp_path / "set")
    assert [entry["file"]
            for entry in convert(FORM, crowds.root, tmp_path / "set", skip_bad=True).skipped] == ["train/gt/0100.txt"]


def test_other_folders_are_explained(tmp_path, crowds):
    with pytest.raises(InputError, match="train/images is missing; give the folder that holds train, val and test"):
        convert(FORM, crowds.root / "train", tmp_path / "set")
    for path in (*crowds.root.glob("val/images/*"), *crowds.root.glob("val/gt/*")):
        path.unlink()
    with pytest.raises(InputError, match="no images of the split 'val'"):
        convert(FORM, crowds.root, tmp_path / "set", split="val")
