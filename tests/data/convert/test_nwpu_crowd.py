"""NWPU-Crowd: lists of the splits, points, a test split without labels, and messages about damaged files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from crowddist.data.convert.base import convert
from crowddist.data.convert.formats import FORMATS
from crowddist.data.shards import ShardReader, decode, verify
from crowddist.errors import InputError

FORM = FORMATS["nwpu_crowd"]


def build(nwpu, folders=("images", "images", "images", "images")):
    """Two training images, whose list is not in the order of their numbers, one image to validate and one to test."""
    nwpu.add("0110", [], codes="2 0", folder=folders[1])
    nwpu.add("0007", [[3, 4], [47, 31], [3, 4]], codes="1 3", folder=folders[0])
    nwpu.add("0008", [[9, 9.5]], split="val", folder=folders[2])
    nwpu.add("3610", None, split="test", codes="0 4", folder=folders[3])
    return nwpu


@pytest.fixture
def crowds(nwpu):
    return build(nwpu)


def samples(done):
    reader = ShardReader(done.url)
    return [decode(*reader.read(index)) for index in range(len(reader))]


def test_points_and_facts_come_back_as_annotated(tmp_path, crowds):
    done = convert(FORM, crowds.root, tmp_path / "set")
    manifest = verify(done.url)
    assert (manifest.name, manifest.split, manifest.labelled,
            manifest.statistics["persons"]) == ("nwpu-crowd", "train", True, 3)
    assert ShardReader(done.url).keys() == ["0007", "0110"]
    first, empty = samples(done)
    np.testing.assert_array_equal(first.points, [[3, 4], [47, 31], [3, 4]])
    assert first.boxes is None and first.mask is None
    assert first.scene == {
        "id": "0007", "file": "0007.jpg", "height": 32, "width": 48, "count": 3, "num_repeated_points": 1,
        "luminance": 1, "scene_level": 3}
    assert (empty.points.shape == (0, 2)
            and (empty.scene["count"], empty.scene["luminance"], empty.scene["scene_level"]) == (0, 2, 0))
    done = convert(FORM, crowds.root, tmp_path / "val", split="val")
    assert [sample.points.tolist() for sample in samples(done)] == [[[9, 9.5]]] and done.manifest.split == "val"


@pytest.mark.parametrize("boxes", [[], [[0, 0, 0, 0]], [[5, 5, 1, 1]], [[900, 900, 990, 990]], "none", [[1, 2], [3]]])
def test_no_point_is_lost_to_its_box(tmp_path, nwpu, boxes):
    nwpu.add("0001", [[3, 4], [20, 10]], boxes=boxes)
    (sample,) = samples(convert(FORM, nwpu.root, tmp_path / "set"))
    assert sample.points.tolist() == [[3, 4], [20, 10]] and sample.boxes is None


def test_images_in_parts_make_the_same_set(tmp_path, crowds, nwpu):
    together = convert(FORM, crowds.root, tmp_path / "a").manifest
    crowds.root.rename(tmp_path / "elsewhere")
    build(nwpu, ("images_part2", "images_part1", "images_part3", "images_part5"))
    assert not (nwpu.root / "images").exists() and convert(FORM, nwpu.root, tmp_path / "b").manifest == together
    assert convert(FORM, nwpu.root, tmp_path / "c", split="test", unlabelled=True).manifest.num_samples == 1
    (nwpu.root / "images_part5" / "0007.jpg").write_bytes((nwpu.root / "images_part2" / "0007.jpg").read_bytes())
    with pytest.raises(InputError, match=r"images_part5/0007\.jpg: has the same name 0007 as .*images_part2/0007\.jpg"):
        convert(FORM, nwpu.root, tmp_path / "d")


def test_the_test_split_has_no_labels(tmp_path, crowds):
    crowds.annotation("3610").write_text(crowds.annotation("0008").read_text())
    never = "the labels of NWPU-Crowd's test split were never released; convert with --unlabelled"
    with pytest.raises(InputError, match=never) as caught:
        convert(FORM, crowds.root, tmp_path / "set", split="test", skip_bad=True)
    assert "\n" not in str(caught.value) and not (tmp_path / "set").exists()
    done = convert(FORM, crowds.root, tmp_path / "set", split="test", unlabelled=True)
    assert ShardReader(done.url).keys() == ["3610"] and done.manifest.split == "test" and not done.manifest.labelled


def test_unlabelled_sets_do_not_open_annotations_and_tell_nothing_of_the_count(tmp_path, crowds):
    for path in (crowds.root / "jsons").iterdir():
        path.write_text("damaged")
    done = convert(FORM, crowds.root, tmp_path / "a", unlabelled=True)
    assert done.manifest.name == "nwpu-crowd-unlabelled" and "persons" not in done.manifest.statistics
    for index, (name, luminance) in enumerate((("0007", 1), ("0110", 2))):
        key, members = ShardReader(done.url).read(index)
        assert set(members) == {"jpg", "json"}
        assert decode(key, members).scene == {"id": name, "file": f"{name}.jpg", "height": 32, "width": 48,
                                              "luminance": luminance}
    (crowds.root / "jsons").rename(tmp_path / "elsewhere")
    assert convert(FORM, crowds.root, tmp_path / "b", unlabelled=True).manifest == done.manifest
    with pytest.raises(InputError, match="jsons is missing; convert with --unlabelled, or add it"):
        convert(FORM, crowds.root, tmp_path / "c")


@pytest.mark.parametrize(
    ("codes", "facts"),
    [
        ("", {}), ("2", {}), ("null null", {}), ("0 null", {}), ("-1 3", {}), ("0.5 3", {}), ("٢ 3", {}),
        ("9" * 5000 + " 3", {}), ("0 3", {"luminance": 0, "scene_level": 3}),
        ("2\t4 57.0 more", {"luminance": 2, "scene_level": 4})],
)
def test_codes_are_taken_where_they_are_codes(tmp_path, nwpu, codes, facts):
    nwpu.add("0001", [[3, 4]], codes=codes)
    (sample,) = samples(convert(FORM, nwpu.root, tmp_path / "set"))
    assert {noun: sample.scene[noun] for noun in ("luminance", "scene_level") if noun in sample.scene} == facts


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.unlink(), "the annotation is missing"),
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_text(path.read_text()[:-9]), "not JSON"),
        (lambda path: path.write_text("[[3, 4]]"), "wrong layout: holds list, not an object"),
        (lambda path: path.write_text("{}"), "wrong layout: points must be N x 2 numbers, got nothing"),
        (lambda path: path.write_text('{"points": [[1, 2, 3, 4]]}'),
         r"points must be N x 2 numbers, got int64 of shape \(1, 4\)"),
        (lambda path: path.write_text('{"points": [[1, 2], [3]]}'),
         "points must be N x 2 numbers, got lists of unequal length"),
        (lambda path: path.write_text('{"points": [["1", "b"]]}'), "points must be N x 2 numbers"),
        (lambda path: path.write_text('{"points": [[1, NaN], [1, NaN], [NaN, 1], [1, Infinity]]}'),
         r"point 1 of 4, x, y = \(1, nan\) and others: not a pair of numbers"),
        (lambda path: path.write_text(json.dumps({"points": [[3, 4], *[[60, 4]] * 4]})),
         r"point 2 of 5, x, y = \(60, 4\) and others: outside the image of 48 x 32"),
    ],
)
def test_bad_annotations_stop_or_are_skipped(tmp_path, crowds, damage, reason):
    damage(crowds.annotation("0007"))
    with pytest.raises(InputError, match=rf"jsons/0007\.json: .*{reason}") as caught:
        convert(FORM, crowds.root, tmp_path / "set")
    assert "\n" not in str(caught.value) and not (tmp_path / "set").exists()
    done = convert(FORM, crowds.root, tmp_path / "set", skip_bad=True)
    assert ShardReader(done.url).keys() == ["0110"] and [entry["file"] for entry in done.skipped] == ["images/0007.jpg"]


@pytest.mark.parametrize(
    ("lines", "reason", "file"),
    [
        ("0110 2 0\n0007 1 3\n0009 1 1\n", r"images/0009\.jpg: the image is missing, line 3 of .*train\.txt names it",
         "images/0009.jpg"),
        ("0110 2 0\n/ 0 0\n0007 1 3\n", r"train\.txt: line 2 names no image: '/'", "train.txt"),
        ("0110 2 0\n0007 1 3\n0110 1 1\n",
         r"train\.txt: line 3 names '0110' again, after line 1; remove one of the two", "train.txt"),
    ],
)
def test_a_line_that_cannot_be_taken_stops_or_is_skipped(tmp_path, crowds, lines, reason, file):
    crowds.list().write_text(lines)
    with pytest.raises(InputError, match=reason) as caught:
        convert(FORM, crowds.root, tmp_path / "set")
    assert "\n" not in str(caught.value) and not (tmp_path / "set").exists()
    done = convert(FORM, crowds.root, tmp_path / "set", skip_bad=True)
    assert ShardReader(done.url).keys() == ["0007", "0110"] and [entry["file"] for entry in done.skipped] == [file]
    assert samples(done)[1].scene["scene_level"] == 0, "the first line is taken"


def test_other_folders_are_explained(tmp_path, crowds):
    with pytest.raises(InputError,
                       match=r"images is missing; give the folder that holds images, jsons, train\.txt, val\.txt and "
                             r"test\.txt"):
        convert(FORM, crowds.root / "jsons", tmp_path / "set")
    crowds.list("val").write_text("")
    with pytest.raises(InputError, match=r"val\.txt: the file is empty"):
        convert(FORM, crowds.root, tmp_path / "set", split="val")
    crowds.list("val").unlink()
    with pytest.raises(InputError, match=r"val\.txt is missing; give the folder"):
        convert(FORM, crowds.root, tmp_path / "set", split="val")
    crowds.list().write_text("5000\n")
    with pytest.raises(InputError, match="no images of the split 'train'"):
        convert(FORM, crowds.root, tmp_path / "set", skip_bad=True)
