"""CrowdHuman: boxes of heads, masks of rectangles, both places of images, and every way an annotation can be wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowddist.data.convert.base import convert
from crowddist.data.convert.crowd_human import _cover
from crowddist.data.convert.formats import FORMATS
from crowddist.data.shards import ShardReader, decode, verify
from crowddist.errors import InputError

FORM = FORMATS["crowd_human"]
FIRST, SECOND, THIRD, VALIDATED = ("273271,c9db000d5146c15", "282555,7b1c000f5aa95b7", "273271,1a0d6000b9e1f5b7",
                                   "273271,e9db000d5146c15")


def build(crowd_human, folders=("CrowdHuman_train01", "CrowdHuman_train02", "CrowdHuman_train03", "CrowdHuman_val")):
    """Three training images, annotated in another order than their names, the last one empty; one to validate."""
    region = crowd_human.region
    crowd_human.add(THIRD, [], folder=folders[2])
    crowd_human.add(SECOND, [region([20, 3, 2, 2], [18, 2, 10, 20])], folder=folders[1])
    crowd_human.add(FIRST, [
        region([4, 5, 10, 12], [2, 4, 14, 20]),
        region([30, 5, 4, 4], [28, 4, 8, 10], head_attr={"ignore": 1, "occ": 0, "unsure": 0}),
        region([31, 25, 4, 4], [30, 24, 6, 8], extra={"ignore": 1, "box_id": 2}),
        region([0, 0, 5, 5], [40, 0, 8, 3], tag="mask", extra={}, head_attr={}),
        region([7, 7, 0, 3], [20, 28, 1, 2]),
        region([44, -5, 8, 30], [12, 0, 3, 2]),
        region([45, 20, 4, 4], [44, 20, 30, 300], extra={}, head_attr={}),
    ], folder=folders[0])
    crowd_human.add(VALIDATED, [region([1, 2, 3, 4], [1, 2, 3, 9])], split="val", folder=folders[3])
    return crowd_human


@pytest.fixture
def people(crowd_human):
    return build(crowd_human)


def samples(done):
    reader = ShardReader(done.url)
    return [decode(*reader.read(index)) for index in range(len(reader))]


def edit(path, line, change):
    """Replaces one line of an annotation file; a function changes its object."""
    lines = path.read_text().splitlines()
    if callable(change):
        record = json.loads(lines[line - 1])
        change(record)
        change = json.dumps(record)
    lines[line - 1] = change
    path.write_text("".join(f"{line}\n" for line in lines))


def test_boxes_and_masks_come_back_as_annotated(tmp_path, people):
    done = convert(FORM, people.root, tmp_path / "set")
    manifest = verify(done.url)
    assert (manifest.name, manifest.split, manifest.labelled, manifest.num_samples) == ("crowd-human", "train", True, 3)
    assert ShardReader(done.url).keys() == [FIRST, SECOND, THIRD], "in the order of their names, shorter ones first"
    # Left out: two to ignore, one region that is none, one without an area, one beyond the border; the last box is cut.
    assert (manifest.statistics["persons"], manifest.statistics["num_left_out_boxes"],
            manifest.statistics["num_cut_boxes"]) == (3, 5, 1)
    first, second, third = samples(done)
    np.testing.assert_array_equal(first.boxes, [[4, 5, 10, 12], [45, 20, 3, 4]])
    np.testing.assert_array_equal(first.points, [[8.5, 10.5], [46, 21.5]])
    assert first.scene == {"id": FIRST, "file": f"{FIRST}.jpg", "height": 32, "width": 48, "count": 2}
    expected = np.zeros((32, 48))
    for top, bottom, left, right in ((4, 24, 2, 16), (4, 14, 28, 36), (24, 32, 30, 36), (0, 3, 40, 48),
                                     (28, 30, 20, 21), (0, 2, 12, 15), (20, 32, 44, 48)):
        expected[top:bottom, left:right] = 1
    np.testing.assert_array_equal(first.mask, expected)
    assert second.boxes.tolist() == [[20, 3, 2, 2]] and second.mask.sum() == 200
    assert (third.boxes.shape == (0, 4) and third.points.shape == (0, 2) and third.mask.shape == (32, 48)
            and not third.mask.any())


@given(st.lists(st.tuples(*[st.integers(-40, 80)] * 2, *[st.integers(0, 60)] * 2), max_size=5))
def test_a_mask_is_every_pixel_that_a_box_covers_in_part(quarters):
    boxes = np.array(quarters, np.float64).reshape(-1, 4) / 4
    boxes[:, 2:] += 0.25
    mask = _cover(boxes, (9, 13))
    for row in range(9):
        for column in range(13):
            covered = any(left < column + 1 and left + width > column and top < row + 1 and top + height > row
                          for left, top, width, height in boxes)
            assert mask[row, column] == covered


def test_the_validation_split(tmp_path, people):
    done = convert(FORM, people.root, tmp_path / "set", split="val")
    (sample,) = samples(done)
    assert done.manifest.split == "val" and sample.key == VALIDATED and sample.boxes.tolist() == [[1, 2, 3, 4]]
    with pytest.raises(InputError, match="no split 'test'; choose one of train, val"):
        convert(FORM, people.root, tmp_path / "test", split="test")


def test_all_images_in_one_folder_make_the_same_sets(tmp_path, people, crowd_human):
    apart = {split: convert(FORM, people.root, tmp_path / split, split=split).manifest for split in ("train", "val")}
    people.root.rename(tmp_path / "elsewhere")
    build(crowd_human, ("", "", "", ""))
    assert sorted(path.name
                  for path in crowd_human.root.iterdir()) == ["Images", "annotation_train.odgt", "annotation_val.odgt"]
    assert {split: convert(FORM, crowd_human.root, tmp_path / f"{split}-2", split=split).manifest
            for split in ("train", "val")} == apart
    with pytest.raises(InputError,
                       match=r"Images: only the annotations tell which of these images are val, and --unlabelled opens "
                             r"none; move"):
        convert(FORM, crowd_human.root, tmp_path / "set", split="val", unlabelled=True)


def test_a_largest_size_shrinks_boxes_and_masks_with_the_pixels(tmp_path, crowd_human):
    crowd_human.add(FIRST, [crowd_human.region([4, 6, 10, 12], [4, 6, 20, 40])], size=(64, 96))
    (sample,) = samples(convert(FORM, crowd_human.root, tmp_path / "set", max_size=48))
    assert (sample.image.shape == (32, 48, 3) and sample.boxes.tolist() == [[2, 3, 5, 6]]
            and sample.points.tolist() == [[4, 5.5]])
    expected = np.zeros((32, 48))
    expected[3:23, 2:12] = 1
    np.testing.assert_array_equal(sample.mask, expected)


def test_unlabelled_sets_hold_no_boxes_and_do_not_open_the_annotations(tmp_path, people):
    for split in ("train", "val"):
        people.annotations(split).write_text("damaged")
    done = convert(FORM, people.root, tmp_path / "a", unlabelled=True)
    assert (done.manifest.name == "crowd-human-unlabelled" and not done.manifest.labelled
            and done.manifest.num_samples == 3)
    for index, name in enumerate((FIRST, SECOND, THIRD)):
        key, members = ShardReader(done.url).read(index)
        assert (set(members) == {"jpg", "json"}
                and decode(key, members).scene == {"id": name, "file": f"{name}.jpg", "height": 32, "width": 48})
    people.annotations().unlink()
    assert convert(FORM, people.root, tmp_path / "b", unlabelled=True).manifest == done.manifest
    with pytest.raises(InputError, match=r"annotation_train\.odgt is missing; convert with --unlabelled, or add it"):
        convert(FORM, people.root, tmp_path / "c")


# THIRD has line 1, SECOND line 2, FIRST line 3.
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda record: record.pop("gtboxes"),
         "wrong layout: gtboxes must be a list of boxes with the tag person or mask"),
        (lambda record: record.update(gtboxes={}), "wrong layout: gtboxes must be a list"),
        (lambda record: record["gtboxes"].append(7), "wrong layout: gtboxes must be a list"),
        (lambda record: record["gtboxes"][0].update(tag="dog"), "wrong layout: gtboxes must be a list"),
        (lambda record: record["gtboxes"][0].update(tag=["person"]), "wrong layout: gtboxes must be a list"),
        (lambda record: record["gtboxes"][0].update(extra="ignore"), "wrong layout: gtboxes must be a list"),
        (lambda record: record["gtboxes"][0].pop("hbox"), "wrong layout: hbox must be N x 4 numbers"),
        (lambda record: record["gtboxes"][0].update(hbox=[1, 2, 3]), "wrong layout: hbox must be N x 4 numbers"),
        (lambda record: record["gtboxes"][0].update(hbox=["1", "2", "3", "b"]),
         "wrong layout: hbox must be N x 4 numbers"),
        (lambda record: record["gtboxes"][0].update(hbox=[1, 2, 10**400, 4]),
         "wrong layout: hbox must be N x 4 numbers"),
        (lambda record: record["gtboxes"][0].pop("vbox"), "wrong layout: vbox must be N x 4 numbers"),
        (lambda record: record["gtboxes"][0].update(vbox=[1, 2, 3, float("inf")]),
         "vbox holds a number that is not finite"),
    ],
)
def test_a_bad_box_stops_or_its_image_is_skipped(tmp_path, people, change, reason):
    edit(people.annotations(), 2, change)
    with pytest.raises(InputError, match=rf"annotation_train\.odgt: line 2: .*{reason}") as caught:
        convert(FORM, people.root, tmp_path / "set")
    assert "\n" not in str(caught.value) and not (tmp_path / "set").exists()
    done = convert(FORM, people.root, tmp_path / "set", skip_bad=True)
    assert ShardReader(done.url).keys() == [FIRST, THIRD]
    assert [entry["file"] for entry in done.skipped] == [f"CrowdHuman_train02/Images/{SECOND}.jpg"]


def test_blank_lines_say_nothing(tmp_path, people):
    direct = convert(FORM, people.root, tmp_path / "a").manifest
    path = people.annotations()
    path.write_text("\n" + path.read_text().replace("\n", "\n \n"))
    assert convert(FORM, people.root, tmp_path / "b").manifest == direct


@pytest.mark.parametrize("head", [[1, float("nan"), 3, 4], [float("inf"), 2, 3, 4]])
def test_one_head_that_is_no_number_costs_no_image(tmp_path, people, head):
    edit(people.annotations(), 2, lambda record: record["gtboxes"][0].update(hbox=head))
    done = convert(FORM, people.root, tmp_path / "set")
    assert done.manifest.statistics["num_invalid_boxes"] == 1 and len(samples(done)) == 3
    assert [(entry["file"], entry["kind"]) for entry in done.doubts] == [
        (f"CrowdHuman_train02/Images/{SECOND}.jpg", "num_invalid_boxes")]


def test_what_is_left_out_may_have_no_head(tmp_path, people):
    edit(people.annotations(), 3, lambda record: [record["gtboxes"][index].pop("hbox") for index in (1, 2, 3)])
    done = convert(FORM, people.root, tmp_path / "set")
    assert (samples(done)[0].boxes.tolist() == [[4, 5, 10, 12], [45, 20, 3, 4]]
            and done.manifest.statistics["num_left_out_boxes"] == 5)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "line 2: not JSON: "),
        ("[]", "line 2: wrong layout: holds list, not an object"),
        ('{"gtboxes": []}', "line 2: wrong layout: ID must be the name of an image, got None"),
        ('{"ID": 7, "gtboxes": []}', "line 2: wrong layout: ID must be the name of an image, got 7"),
        (f'{{"ID": "{THIRD}", "gtboxes": []}}', f"line 2 names '{THIRD}' again, after line 1; remove one of the two"),
    ],
)
@pytest.mark.parametrize("shared", [False, True])
def test_a_line_that_cannot_be_taken_stops_or_is_skipped_with_its_image(tmp_path, crowd_human, line, reason, shared):
    build(crowd_human, *[("", "", "", "")] * shared)
    edit(crowd_human.annotations(), 2, line)
    with pytest.raises(InputError, match=rf"annotation_train\.odgt: {reason}") as caught:
        convert(FORM, crowd_human.root, tmp_path / "set")
    assert "\n" not in str(caught.value) and not (tmp_path / "set").exists()
    done = convert(FORM, crowd_human.root, tmp_path / "set", skip_bad=True)
    assert ShardReader(done.url).keys() == [FIRST, THIRD]
    image = [] if shared else [f"CrowdHuman_train02/Images/{SECOND}.jpg"]
    assert [entry["file"] for entry in done.skipped] == ["annotation_train.odgt", *image]


def test_images_and_entries_without_each_other(tmp_path, people):
    (people.root / "CrowdHuman_train02" / "Images"
     / f"{SECOND}.jpg").rename(people.root / "CrowdHuman_train01" / "Images" / "else.jpg")
    with pytest.raises(InputError, match=rf"annotation_train\.odgt: line 2 names '{SECOND}', whose image is missing"):
        convert(FORM, people.root, tmp_path / "set")
    done = convert(FORM, people.root, tmp_path / "set", skip_bad=True)
    assert ShardReader(done.url).keys() == [FIRST, THIRD]
    assert [entry["file"] for entry in done.skipped] == ["annotation_train.odgt", "CrowdHuman_train01/Images/else.jpg"]
    assert "does not name it; add its boxes or remove the image" in done.skipped[1]["reason"]


def test_other_folders_are_explained(tmp_path, people):
    (tmp_path / "other").mkdir()  # beside the set: alone, it would be found
    with pytest.raises(InputError,
                       match=r"no folder Images is there; give the folder that holds annotation_train\.odgt, and "
                             r"CrowdHuman_train\*/Images or"):
        convert(FORM, tmp_path, tmp_path / "set")
    people.annotations().write_text("")
    with pytest.raises(InputError, match=r"annotation_train\.odgt: the file is empty"):
        convert(FORM, people.root, tmp_path / "set")
