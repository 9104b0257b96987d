"""WIDER FACE: boxes to shards and back, and every way its annotation file can be wrong."""

from __future__ import annotations

import numpy as np
import pytest

from crowddist.data.convert.base import convert
from crowddist.data.convert.formats import FORMATS
from crowddist.data.convert.wider_face import read_entries
from crowddist.data.shards import ShardReader, decode, verify
from crowddist.errors import InputError

FORM = FORMATS["wider_face"]
FIRST, SECOND, THIRD = ("0--Parade/0_Parade_marchingband_1_849.jpg", "0--Parade/0_Parade_Parade_0_452.jpg",
                        "1--Handshaking/1_Handshaking_1_1.jpg")


@pytest.fixture
def faces(wider):
    """Three training images, one of them without faces, and one for validation."""
    wider.add(FIRST, [[4, 5, 10, 12], [0, 0, 48, 32], [20, 3, 1, 2]])
    wider.add(SECOND, [])
    wider.add(THIRD, [[7, 8, 3, 5]])
    wider.add("2--Demonstration/2_D_1.jpg", [[1, 2, 3, 4]], split="val")
    return wider


def samples(done):
    reader = ShardReader(done.url)
    return {sample.scene["id"]: sample for sample in (decode(*reader.read(index)) for index in range(len(reader)))}


def edit(path, change):
    """Changes the annotation file, given as a list of its lines."""
    lines = path.read_text().splitlines()
    change(lines)
    path.write_text("".join(f"{line}\n" for line in lines))


def test_boxes_come_back_as_annotated(tmp_path, faces):
    done = convert(FORM, faces.root, tmp_path / "set")
    manifest = verify(done.url)
    assert (manifest.name, manifest.split, manifest.labelled, manifest.num_samples) == ("wider-face", "train", True, 3)
    assert (manifest.statistics["persons"] == 4
            and not {"num_cut_boxes", "num_left_out_boxes", "num_clipped_points"} & set(manifest.statistics))
    assert ShardReader(done.url).keys() == [
        "0--Parade_0_Parade_Parade_0_452", "0--Parade_0_Parade_marchingband_1_849", "1--Handshaking_1_Handshaking_1_1"
    ]
    found = samples(done)
    sample = found[FIRST[:-4]]
    np.testing.assert_array_equal(sample.boxes, [[4, 5, 10, 12], [0, 0, 48, 32], [20, 3, 1, 2]])
    assert sample.boxes.dtype == np.float32
    # A box of one pixel has that pixel for its point.
    np.testing.assert_array_equal(sample.points, [[8.5, 10.5], [23.5, 15.5], [20, 3.5]])
    assert sample.scene == {"id": FIRST[:-4], "file": "0_Parade_marchingband_1_849.jpg", "height": 32, "width": 48,
                            "count": 3}
    empty = found[SECOND[:-4]]
    assert empty.boxes.shape == (0, 4) and empty.points.shape == (0, 2) and empty.scene["count"] == 0


def test_the_validation_split(tmp_path, faces):
    done = convert(FORM, faces.root, tmp_path / "set", split="val")
    assert done.manifest.split == "val" and ShardReader(done.url).keys() == ["2--Demonstration_2_D_1"]
    with pytest.raises(InputError, match="no split 'test'; choose one of train, val"):
        convert(FORM, faces.root, tmp_path / "test", split="test")


def test_boxes_that_the_set_flags_invalid_and_those_without_an_area_are_left_out_and_counted(tmp_path, wider):
    wider.add(FIRST, [[900, 900, 5, 5, 1], [4, 5, 10, 12], [7, 7, 0, 3], [7, 7, 3, -1], [20, 3, 2, 2]])
    wider.add(SECOND, [[3, 3, 3, 3, 1]])
    done = convert(FORM, wider.root, tmp_path / "set")
    assert done.manifest.statistics["num_left_out_boxes"] == 4 and done.manifest.statistics["persons"] == 2
    np.testing.assert_array_equal(samples(done)[FIRST[:-4]].boxes, [[4, 5, 10, 12], [20, 3, 2, 2]])
    assert samples(done)[SECOND[:-4]].boxes.shape == (0, 4)


def test_boxes_that_leave_the_image_are_cut_with_their_points_in_the_middle(tmp_path, wider):
    wider.add(FIRST, [[-2, 5, 10, 12], [4, 5, 10, 12], [40, 20, 14, 20], [-0.5, 0, 1.5, 4]])
    done = convert(FORM, wider.root, tmp_path / "set")
    sample = samples(done)[FIRST[:-4]]
    np.testing.assert_array_equal(sample.boxes, [[0, 5, 8, 12], [4, 5, 10, 12], [40, 20, 8, 12], [0, 0, 1, 4]])
    np.testing.assert_array_equal(sample.points, sample.boxes[:, :2] + sample.boxes[:, 2:] / 2 - 0.5)
    assert done.manifest.statistics["num_cut_boxes"] == 3


def test_a_largest_size_shrinks_boxes_with_the_pixels(tmp_path, wider):
    wider.add(FIRST, [[4, 6, 10, 12], [0, 0, 96, 64], [94, 62, 2, 2]], size=(64, 96))
    sample = samples(convert(FORM, wider.root, tmp_path / "set", max_size=48))[FIRST[:-4]]
    assert sample.image.shape == (32, 48, 3)
    np.testing.assert_array_equal(sample.boxes, [[2, 3, 5, 6], [0, 0, 48, 32], [47, 31, 1, 1]])
    np.testing.assert_array_equal(sample.points, [[4, 5.5], [23.5, 15.5], [47, 31]])
    # Width and height are rounded on their own: 24/62 and 37/96 are not equal.
    wider.add(SECOND, [[10, 20, 30, 40]], size=(62, 96))
    sample = samples(convert(FORM, wider.root, tmp_path / "other", max_size=37))[SECOND[:-4]]
    assert sample.image.shape == (24, 37, 3)
    np.testing.assert_allclose(sample.boxes, [[10 * 37 / 96, 20 * 24 / 62, 30 * 37 / 96, 40 * 24 / 62]], rtol=1e-6)
    np.testing.assert_allclose(sample.points, sample.boxes[:, :2] + sample.boxes[:, 2:] / 2 - 0.5, rtol=1e-6)


def test_unlabelled_sets_hold_no_boxes_and_do_not_open_the_annotations(tmp_path, faces):
    faces.annotations().write_text("damaged")
    done = convert(FORM, faces.root, tmp_path / "a", unlabelled=True)
    assert (done.manifest.name == "wider-face-unlabelled" and not done.manifest.labelled
            and "persons" not in done.manifest.statistics)
    for index in range(3):
        key, members = ShardReader(done.url).read(index)
        assert (set(members) == {"jpg", "json"} and decode(key, members).boxes is None
                and "count" not in decode(key, members).scene)
    faces.annotations().unlink()
    assert convert(FORM, faces.root, tmp_path / "b", unlabelled=True).manifest == done.manifest
    with pytest.raises(InputError,
                       match=r"wider_face_split/wider_face_train_bbx_gt\.txt is missing; convert with --unlabelled, or "
                             r"add it"):
        convert(FORM, faces.root, tmp_path / "c")


def test_other_folders_are_explained(tmp_path, faces):
    with pytest.raises(InputError,
                       match="WIDER_train/images is missing; give the folder that holds WIDER_train, WIDER_val and "
                             "wider_face_split"):
        convert(FORM, faces.root / "WIDER_train", tmp_path / "set")
    for path in faces.root.rglob("*.jpg"):
        path.unlink()
    with pytest.raises(InputError,
                       match=r"0_Parade_marchingband_1_849\.jpg: the image is missing, line 1 of .*train_bbx_gt\.txt "
                             r"names it"):
        convert(FORM, faces.root, tmp_path / "set")
    with pytest.raises(InputError, match="no images of the split 'train'"):
        convert(FORM, faces.root, tmp_path / "set", skip_bad=True)


# FIRST has the lines 1 to 5, SECOND 6 to 8, THIRD 9 to 11.
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda lines: lines.pop(), r"line 10 says 1 boxes, but 0 lines follow before the end of the file"),
        (lambda lines: lines.__delitem__(slice(9, None)), r"ends after line 9, the number of boxes is missing"),
        (lambda lines: lines.__setitem__(1, "2"), r"line 5 should name an image, got '20 3 1 2 0 0 0 0 1 0'"),
        (lambda lines: lines.__setitem__(1, "4"), r"line 2 says 4 boxes, but 3 lines follow before the next image"),
        (lambda lines: lines.__setitem__(1, "9" * 5000), r"line 2 should be the number of boxes, got '9{80}'; "),
        (lambda lines: lines.__setitem__(1, "three"), r"line 2 should be the number of boxes, got 'three'"),
        (lambda lines: lines.__setitem__(1, "-1"), r"line 2 should be the number of boxes, got '-1'"),
        (lambda lines: lines.__setitem__(1, "²"), r"line 2 should be the number of boxes"),
        (lambda lines: lines.__setitem__(5, ""), r"line 6 should name an image, got ''"),
        (lambda lines: lines.__setitem__(7, "1 0 0 0 0 0 0 0 0 0"), r"line 8 should name an image"),
        (lambda lines: lines.__setitem__(8, FIRST), rf"line 9 names '{FIRST}' again, after line 1; remove one"),
        (lambda lines: lines.__setitem__(0, "\udcff"), r"line 1 should name an image, got '\\udcff'"),
        (lambda lines: lines.clear(), "the file is empty"),
    ],
)
def test_a_file_whose_lines_do_not_follow_each_other_is_never_taken(tmp_path, faces, change, reason):
    lines = faces.annotations().read_text().splitlines()
    change(lines)
    faces.annotations().write_bytes("".join(f"{line}\n" for line in lines).encode(errors="surrogateescape"))
    for skip_bad in (False, True):
        with pytest.raises(InputError, match=rf"wider_face_train_bbx_gt\.txt: {reason}") as caught:
            convert(FORM, faces.root, tmp_path / "set", skip_bad=skip_bad)
        assert "\n" not in str(caught.value) and not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("4 5 ten 12 0 0 0 0 0 0", "line 3 should be the numbers x1 y1 w h .* pose, got '4 5 ten 12 0 0 0 0 0 0'"),
        ("4 5 10 12", "line 3 should be the numbers"),
        ("4 5 10 12 0 0 0 0 0 0 0", "line 3 should be the numbers"),
        ("4 5 10 12 0 0 0 2 0 0", "line 3: invalid should be 0 or 1, got '4 5 10 12 0 0 0 2 0 0'"),
        ("4 5 10 12 0 0 0 nan 0 0", "line 3: invalid should be 0 or 1"),
        ("", "line 3 should be the numbers"),
    ],
)
def test_an_image_without_a_box_that_can_be_read_stops_or_is_skipped(tmp_path, faces, line, reason):
    edit(faces.annotations(), lambda lines: lines.__setitem__(slice(2, 5), [line] * 3))
    with pytest.raises(InputError, match=rf"wider_face_train_bbx_gt\.txt: .*{reason}") as caught:
        convert(FORM, faces.root, tmp_path / "set")
    assert "\n" not in str(caught.value) and not (tmp_path / "set").exists()
    done = convert(FORM, faces.root, tmp_path / "set", skip_bad=True)
    assert (done.manifest.num_samples == 2
            and [entry["file"] for entry in done.skipped] == [f"WIDER_train/images/{FIRST}"])


@pytest.mark.parametrize(
    ("line", "kind", "reason"),
    [
        ("nan 5 10 12 0 0 0 0 0 0", "num_invalid_boxes", "= (nan, 5, 10, 12): not four finite numbers with an area"),
        ("4 5 10 inf 0 0 0 0 0 0", "num_invalid_boxes", "= (4, 5, 10, inf): not four finite numbers with an area"),
        ("4 5 nan 12 0 0 0 0 0 0", "num_invalid_boxes", "= (4, 5, nan, 12): not four finite numbers with an area"),
        ("4 5 10 12", "num_invalid_boxes", "= (nan, nan, nan, nan): not four finite numbers with an area"),
        ("4 5 10 12 0 0 0 2 0 0", "num_invalid_boxes", "= (nan, nan, nan, nan): not four finite numbers with an area"),
        ("43 5 11 12 0 0 0 0 0 0", "num_outside_boxes", "= (43, 5, 11, 12): centred outside the image of 48 x 32 px"),
        ("4 -30 10 12 0 0 0 0 0 0", "num_outside_boxes", "= (4, -30, 10, 12): centred outside the image of 48 x 32 px"),
    ],
)
def test_one_bad_box_costs_no_image(tmp_path, faces, line, kind, reason):
    edit(faces.annotations(), lambda lines: lines.__setitem__(3, line))
    done = convert(FORM, faces.root, tmp_path / "set")
    assert done.manifest.num_samples == 3 and done.manifest.statistics[kind] == 1
    (entry,) = done.doubts
    assert (entry["file"], entry["kind"], entry["number"]) == (f"WIDER_train/images/{FIRST}", kind, 1)
    assert entry["reason"] == f"box 2 of 3, left, top, width, height {reason}"


def test_images_and_entries_without_each_other(tmp_path, faces):
    edit(faces.annotations(), lambda lines: lines.__delitem__(slice(8, None)))
    with pytest.raises(InputError,
                       match=r"1_Handshaking_1_1\.jpg: .*train_bbx_gt\.txt does not name it; add its boxes or remove "
                             r"the image"):
        convert(FORM, faces.root, tmp_path / "set")
    (faces.root / "WIDER_train" / "images" / FIRST).write_bytes(b"no image")
    (faces.root / "WIDER_train" / "images" / SECOND).rename(faces.root / "WIDER_train" / "images" / "else.jpg")
    with pytest.raises(InputError, match="none of the 3 images"):
        convert(FORM, faces.root, tmp_path / "set", skip_bad=True)
    edit(faces.annotations(), lambda lines: lines.extend(["else.jpg", "1", "7 8 3 5 0 0 0 0 0 0"]))
    done = convert(FORM, faces.root, tmp_path / "set", skip_bad=True)
    assert ShardReader(done.url).keys() == ["else"]
    assert [entry["file"] for entry in done.skipped] == [f"WIDER_train/images/{name}"
                                                         for name in (SECOND, FIRST, THIRD)]


def test_lines_as_other_systems_write_them(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"a/1.jpg\r\n0\r\n0 0 0 0 0 0 0 0 0 0 \r\nb/2.JPG\r\n1\r\n1 2 3 4 0 0 0 0 0 0 "
                     b"\r\nc/\xff.jpg\r\n0\r\nd/4.jpg\r\n0\r\n\r\n\r\n")
    entries = read_entries(path)
    assert {name: entry.line
            for name, entry in entries.items()} == {"a/1.jpg": 1, "b/2.JPG": 4, "c/\udcff.jpg": 7, "d/4.jpg": 9}
    assert [entry.boxes for entry in entries.values()] == [(), ("1 2 3 4 0 0 0 0 0 0",), (), ()]
