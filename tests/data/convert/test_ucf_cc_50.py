"""UCF_CC_50: the folds, the folder, and messages about damaged files."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.io

from crowddist.data.convert.base import convert
from crowddist.data.convert.formats import FORMATS
from crowddist.data.shards import ShardReader, decode, verify
from crowddist.errors import InputError

FORM = FORMATS["ucf_cc_50"]


@pytest.fixture
def cc50(pairs):
    """All fifty images, grey, with as many heads as their number says, at most six."""
    for number in range(1, 51):
        pairs.add(number, [[number / 2, row + 0.25] for row in range(min(number, 6))], mode="L", size=(16, 32))
    return pairs.root


def names(first, last):
    return [str(number) for number in range(first, last + 1)]


def test_all_images_in_the_order_of_their_numbers(tmp_path, cc50):
    done = convert(FORM, cc50, tmp_path / "set")
    manifest = verify(done.url)
    assert (manifest.name, manifest.split, manifest.num_samples,
            "split_rule" in manifest.statistics) == ("ucf-cc-50", "all", 50, False)
    assert ShardReader(done.url).keys() == names(1, 50) and manifest.statistics["persons"] == 1 + 2 + 3 + 4 + 5 + 45 * 6
    key, members = ShardReader(done.url).read(1)
    sample = decode(key, members)
    np.testing.assert_array_equal(sample.points, [[1, 0.25], [1, 1.25]])
    assert sample.image.shape == (16, 32, 3) and (sample.image == sample.image[..., :1]).all()
    assert members["jpg"] == (cc50 / "2.jpg").read_bytes() and sample.scene["count"] == 2


def test_the_folds_are_runs_of_ten(tmp_path, cc50):
    tested = []
    for fold in range(1, 6):
        test, train = (convert(FORM, cc50, tmp_path / f"{fold}-{side}", split=f"fold-{fold}-{side}")
                       for side in ("test", "train"))
        assert ShardReader(test.url).keys() == names(10 * fold - 9, 10 * fold)
        assert sorted(ShardReader(train.url).keys() + ShardReader(test.url).keys()) == sorted(names(1, 50))
        assert test.manifest.split == f"fold-{fold}-test"
        tested += ShardReader(test.url).keys()
        rule = (f"fold {fold} of 5: test is images {10 * fold - 9}-{10 * fold} in the order of their numbers, train "
                "the others (ours)")
        assert test.manifest.statistics["split_rule"] == train.manifest.statistics["split_rule"] == rule
    assert tested == names(1, 50)
    with pytest.raises(InputError,
                       match="no split 'fold-6-test'; choose one of all, fold-1-train, fold-1-test, fold-2-train"):
        convert(FORM, cc50, tmp_path / "set", split="fold-6-test")


def test_the_folder_may_be_one_further_down(tmp_path, cc50):
    direct = convert(FORM, cc50, tmp_path / "a", split="fold-1-test").manifest
    (tmp_path / "down").mkdir()
    cc50.rename(tmp_path / "down" / "UCF_CC_50")
    (tmp_path / "down" / "notes").mkdir()
    assert convert(FORM, tmp_path / "down", tmp_path / "b", split="fold-1-test").manifest == direct
    for folder in ("x", "y"):
        (tmp_path / "two" / folder).mkdir(parents=True)
        (tmp_path / "two" / folder / "1.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"no UCF_CC_50 data in .*: it holds x, y, give one of them"):
        convert(FORM, tmp_path / "two", tmp_path / "c")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"1\.jpg and the others are missing"):
        convert(FORM, tmp_path / "empty", tmp_path / "c")


def test_numbers_may_have_zeros_before_them(tmp_path, cc50):
    direct = convert(FORM, cc50, tmp_path / "a").manifest
    for path in (*cc50.glob("?.jpg"), *cc50.glob("?_ann.mat")):
        path.rename(path.with_name(f"0{path.name}"))
    done = convert(FORM, cc50, tmp_path / "b")
    assert ShardReader(done.url).keys() == names(1, 50) and done.manifest.statistics == direct.statistics


@pytest.mark.parametrize("with_annotation", [False, True])
def test_a_missing_image_is_named_once_and_no_fold_is_smaller_unseen(tmp_path, cc50, with_annotation):
    (cc50 / "13.jpg").unlink()
    if not with_annotation:
        (cc50 / "13_ann.mat").unlink()
    message = (r"13_ann\.mat: an annotation without its image" if with_annotation
               else r"13\.jpg: the image is missing; fold-2-test needs all of its 10")
    with pytest.raises(InputError, match=message):
        convert(FORM, cc50, tmp_path / "set", split="fold-2-test")
    done = convert(FORM, cc50, tmp_path / "set", split="fold-2-test", skip_bad=True)
    assert len(done.skipped) == 1 and ShardReader(done.url).keys() == ["11", "12", *names(14, 20)]
    with pytest.raises(InputError, match=r"13\.jpg: the image is missing"):
        convert(FORM, cc50, tmp_path / "unlabelled", split="fold-2-test", unlabelled=True)


def test_an_image_that_is_none_of_the_fifty(tmp_path, cc50, pairs):
    pairs.add("51", [])
    pairs.add("02", [])
    with pytest.raises(InputError, match=r"\d+\.jpg: not one of the images 1 to 50; remove it"):
        convert(FORM, cc50, tmp_path / "set")
    done = convert(FORM, cc50, tmp_path / "set", split="fold-1-test", skip_bad=True)
    assert (ShardReader(done.url).keys() == names(1, 10)
            and sorted(entry["file"] for entry in done.skipped) == ["02.jpg", "51.jpg"])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.unlink(), "the annotation is missing"),
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_text("text"), "not a MATLAB file that can be read"),
        (lambda path: scipy.io.savemat(path, {"points": np.zeros((2, 2))}),
         "wrong layout: annPoints must be N x 2 numbers, got nothing"),
        (lambda path: scipy.io.savemat(path, {"annPoints": np.zeros(5)}),
         "wrong layout: annPoints must be N x 2 numbers"),
        (lambda path: scipy.io.savemat(path, {"annPoints": [[np.inf, 4]] * 4}), "not a pair of numbers"),
        (lambda path: scipy.io.savemat(path, {"annPoints": [[40, 4]] * 4}), "outside the image of 32 x 16 px"),
    ],
)
def test_bad_annotations_stop_or_are_skipped(tmp_path, cc50, damage, reason):
    damage(cc50 / "7_ann.mat")
    with pytest.raises(InputError, match=rf"7_ann\.mat: .*{reason}") as caught:
        convert(FORM, cc50, tmp_path / "set", split="fold-1-test")
    assert "\n" not in str(caught.value) and not (tmp_path / "set").exists()
    done = convert(FORM, cc50, tmp_path / "set", split="fold-1-test", skip_bad=True)
    assert (ShardReader(done.url).keys() == [*names(1, 6), *names(8, 10)]
            and [entry["file"] for entry in done.skipped] == ["7.jpg"])
    assert convert(FORM, cc50, tmp_path / "fold-2", split="fold-2-test").manifest.num_samples == 10


def test_unlabelled_sets_do_not_open_annotations(tmp_path, cc50):
    for path in cc50.glob("*.mat"):
        path.write_text("damaged")
    done = convert(FORM, cc50, tmp_path / "set", unlabelled=True)
    assert done.manifest.num_samples == 50 and not done.manifest.labelled
    assert all(set(ShardReader(done.url).read(index)[1]) == {"jpg", "json"} for index in range(50))
