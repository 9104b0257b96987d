"""UCF-QNRF: layouts, splits, and messages about damaged files."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.io

from crowddist.data.convert.base import convert
from crowddist.data.convert.formats import FORMATS
from crowddist.data.convert.layout import in_split
from crowddist.data.shards import ShardReader, decode, verify
from crowddist.errors import InputError

FORM = FORMATS["ucf_qnrf"]


@pytest.fixture
def qnrf(pairs):
    """Two training images and one for testing."""
    pairs.add("img_0001", [[3.5, 4.25], [47, 31], [3.5, 4.25]], folder="Train")
    pairs.add("img_0002", [], folder="Train")
    pairs.add("img_0001", [[7, 8]], folder="Test", mode="L")
    return pairs.root


def keys(place, **options):
    return ShardReader(convert(FORM, *place, **options).url).keys()


def test_points_come_back_as_annotated(tmp_path, qnrf):
    done = convert(FORM, qnrf, tmp_path / "set")
    manifest = verify(done.url)
    assert (manifest.name, manifest.split, manifest.labelled) == ("ucf-qnrf", "all", True)
    assert (manifest.statistics["persons"] == 3 and manifest.statistics["num_repeated_points"] == 1
            and "split_rule" not in manifest.statistics)
    key, members = ShardReader(done.url).read(0)
    sample = decode(key, members)
    np.testing.assert_array_equal(sample.points, [[3.5, 4.25], [47, 31], [3.5, 4.25]])
    assert sample.boxes is None and members["jpg"] == (qnrf / "Train" / "img_0001.jpg").read_bytes()
    assert sample.scene == {"id": "img_0001", "file": "img_0001.jpg", "height": 32, "width": 48, "count": 3,
                            "num_repeated_points": 1}
    assert decode(*ShardReader(done.url).read(1)).points.shape == (0, 2)


def test_the_test_split(tmp_path, qnrf):
    for number, (source, split) in enumerate(((qnrf, "test"), (qnrf / "Test", "test"), (qnrf / "Test", ""))):
        done = convert(FORM, source, tmp_path / str(number), split=split)
        assert done.manifest.split == "test" and ShardReader(done.url).keys() == ["img_0001"]
        np.testing.assert_array_equal(decode(*ShardReader(done.url).read(0)).points, [[7, 8]])
    assert keys((qnrf / "Train", tmp_path / "train")) == ["img_0001", "img_0002"]


def test_validation_is_held_out_by_the_hash_of_the_name(tmp_path, pairs):
    names = [f"img_{number:04d}" for number in range(1, 31)]
    for name in names:
        pairs.add(name, [[3, 4]], folder="Train")
    expected = [name for name in names if in_split(name, "val")]
    assert 0 < len(expected) < 15
    assert keys((pairs.root, tmp_path / "val"), split="val") == expected
    assert keys((pairs.root, tmp_path / "train"), split="train") == [name for name in names if name not in expected]
    assert keys((pairs.root, tmp_path / "all")) == names
    assert verify(tmp_path / "val").statistics["split_rule"] == "val: SHA-256 of the image's name below 0.2"


def test_unlabelled_sets_do_not_open_annotations(tmp_path, qnrf):
    (qnrf / "Train" / "img_0001_ann.mat").write_text("damaged")
    (qnrf / "Train" / "img_0002_ann.mat").unlink()
    (qnrf / "Train" / "img_0009_ann.mat").write_text("without an image")
    done = convert(FORM, qnrf, tmp_path / "set", unlabelled=True)
    assert done.manifest.name == "ucf-qnrf-unlabelled" and not done.manifest.labelled
    for index in range(2):
        key, members = ShardReader(done.url).read(index)
        assert set(members) == {"jpg", "json"} and "count" not in decode(key, members).scene


def test_other_folders_are_explained(tmp_path, qnrf):
    for source, split in ((qnrf / "Test", "train"), (qnrf / "Test", "val"), (qnrf / "Train", "test")):
        with pytest.raises(InputError, match="does not hold the split"):
            convert(FORM, source, tmp_path / "set", split=split)
    (tmp_path / "other").mkdir()  # beside the set: alone, it would be found
    with pytest.raises(InputError, match=r"no UCF-QNRF data of the split 'all' in .*: it holds ucf, give one of them"):
        convert(FORM, tmp_path, tmp_path / "set")
    (tmp_path / "empty" / "Train").mkdir(parents=True)
    with pytest.raises(InputError, match="no images of the split 'all'"):
        convert(FORM, tmp_path / "empty", tmp_path / "set")
    with pytest.raises(InputError, match="the folder Test is missing"):
        convert(FORM, tmp_path / "empty", tmp_path / "set", split="test")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.unlink(), "the annotation is missing"),
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "not a MATLAB file that can be read"),
        (lambda path: scipy.io.savemat(path, {"image_info": np.zeros((2, 2))}),
         "wrong layout: annPoints must be N x 2 numbers, got nothing"),
        (lambda path: scipy.io.savemat(path, {"annPoints": np.zeros((2, 4))}),
         r"annPoints must be N x 2 numbers, got float64 of shape \(2, 4\); its rows seem to be the columns, transpose"),
        (lambda path: scipy.io.savemat(path, {"annPoints": [[3, np.nan]] * 4}),
         r"point 1 of 4, x, y = \(3, nan\) and others: not a pair of numbers"),
        (lambda path: scipy.io.savemat(path, {"annPoints": [[3, 4], *[[60, 4]] * 4]}),
         r"point 2 of 5, x, y = \(60, 4\) and others: outside the image of 48 x 32"),
    ],
)
def test_bad_annotations_stop_or_are_skipped(tmp_path, qnrf, damage, reason):
    damage(qnrf / "Train" / "img_0002_ann.mat")
    with pytest.raises(InputError, match=rf"Train/img_0002_ann\.mat: .*{reason}") as caught:
        convert(FORM, qnrf, tmp_path / "set")
    assert "\n" not in str(caught.value) and not (tmp_path / "set").exists()
    done = convert(FORM, qnrf, tmp_path / "set", skip_bad=True)
    assert (ShardReader(done.url).keys() == ["img_0001"]
            and [entry["file"] for entry in done.skipped] == ["Train/img_0002.jpg"])


def test_an_annotation_without_its_image(tmp_path, qnrf):
    (qnrf / "Train" / "img_0002.jpg").unlink()
    (qnrf / "Train" / "._img_0001_ann.mat").write_text("what macOS leaves in archives")
    with pytest.raises(InputError, match=r"img_0002_ann\.mat: an annotation without its image"):
        convert(FORM, qnrf, tmp_path / "set")
    assert [entry["file"]
            for entry in convert(FORM, qnrf, tmp_path / "set", skip_bad=True).skipped] == ["Train/img_0002_ann.mat"]
