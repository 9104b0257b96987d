"""ShanghaiTech: layouts, splits, and the real training data."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from crowddist.data.convert.base import convert
from crowddist.data.convert.formats import FORMATS
from crowddist.data.convert.layout import in_split
from crowddist.data.shards import ShardReader, decode, verify
from crowddist.errors import InputError

FORM = FORMATS["shanghaitech"]


def keys(place, **options):
    return ShardReader(convert(FORM, *place, **options).url).keys()


@pytest.mark.parametrize("annotations", ["ground_truth", "ground-truth"])
@pytest.mark.parametrize(("part", "name"),
                         [("part_A_final", "shanghaitech-A"), ("part_B", "shanghaitech-B"), ("mine", "shanghaitech")])
def test_layouts_of_the_original_and_its_mirrors(tmp_path, shanghai, annotations, part, name):
    shanghai.root, shanghai.annotations = tmp_path / part, annotations
    shanghai.add(2, [[3.5, 4.25]])
    shanghai.add(10, [])
    shanghai.add(1, [[47, 31], [0, 0]])
    for number, source in enumerate((shanghai.root, shanghai.root / "train_data")):
        done = convert(FORM, source, tmp_path / str(number))
        assert (done.manifest.name, done.manifest.split, done.manifest.labelled) == (name, "all", True)
        assert done.manifest.statistics["persons"] == 3
    samples = [decode(*ShardReader(done.url).read(index)) for index in range(3)]
    assert [sample.key for sample in samples] == ["IMG_1", "IMG_2", "IMG_10"]
    np.testing.assert_array_equal(samples[0].points, [[47, 31], [0, 0]])
    np.testing.assert_array_equal(samples[1].points, [[3.5, 4.25]])
    assert samples[2].points.shape == (0, 2) and samples[2].scene["count"] == 0
    assert samples[1].scene == {"id": "IMG_2", "file": "IMG_2.jpg", "height": 32, "width": 48, "count": 1}


def test_validation_is_held_out_by_the_hash_of_the_name(tmp_path, shanghai):
    for number in range(1, 31):
        shanghai.add(number, [[3, 4]])
    expected = {
        f"IMG_{number}" for number in range(1, 31)
        if int(hashlib.sha256(f"IMG_{number}".encode()).hexdigest()[:16], 16) < 16**16 // 5
    }
    assert 0 < len(expected) < 15
    val, train, everything = (keys((shanghai.root, tmp_path / split), split=split) for split in ("val", "train", "all"))
    assert set(val) == expected and sorted(val + train) == sorted(everything) and len(everything) == 30
    lowest = [f"IMG_{n}"
              for n in range(1, 501) if hashlib.sha256(f"IMG_{n}".encode()).hexdigest() < hex(16**16 // 5)[2:]]
    assert [f"IMG_{n}" for n in range(1, 501) if in_split(f"IMG_{n}", "val")] == lowest and 80 < len(lowest) < 120
    shanghai.add(31, [[3, 4]])
    assert set(keys((shanghai.root, tmp_path / "again"), split="val")) - {"IMG_31"} == expected


def test_the_test_split(tmp_path, shanghai):
    shanghai.add(1, [[3, 4]])
    shanghai.add(7, [[3, 4], [5, 6]], split="test")
    part, test = shanghai.root, shanghai.root / "test_data"
    assert (
        keys((part, tmp_path / "a"), split="test")
        == keys((test, tmp_path / "b"), split="test")
        == keys((test, tmp_path / "c"))
        == ["IMG_7"]
    )
    assert verify(tmp_path / "c").split == "test"
    for source, split in ((test, "val"), (test, "train"), (part / "train_data", "test")):
        with pytest.raises(InputError, match="does not hold the split"):
            convert(FORM, source, tmp_path / "d", split=split)


def test_unlabelled_sets_do_not_open_annotations(tmp_path, shanghai):
    shanghai.add(1, [[3, 4]])
    (shanghai.root / "train_data" / "ground_truth" / "GT_IMG_1.mat").write_text("damaged")
    shanghai.add(2, None)
    done = convert(FORM, shanghai.root, tmp_path / "a", unlabelled=True)
    manifest = verify(done.url)
    assert (manifest.name == "shanghaitech-B-unlabelled" and not manifest.labelled
            and "persons" not in manifest.statistics)
    for index in range(2):
        key, members = ShardReader(done.url).read(index)
        assert (set(members) == {"jpg", "json"} and decode(key, members).points is None
                and "count" not in decode(key, members).scene)
    for path in (shanghai.root / "train_data" / "ground_truth").iterdir():
        path.unlink()
    (shanghai.root / "train_data" / "ground_truth").rmdir()
    assert convert(FORM, shanghai.root, tmp_path / "b", unlabelled=True).manifest == manifest
    with pytest.raises(InputError, match="ground_truth is missing; convert with --unlabelled"):
        convert(FORM, shanghai.root, tmp_path / "c")


def test_other_folders_are_explained(tmp_path, shanghai):
    shanghai.add(1, [[3, 4]])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="it holds part_B_final, give one of them"):
        convert(FORM, tmp_path, tmp_path / "a")
    with pytest.raises(InputError, match="train_data/images is missing"):
        convert(FORM, tmp_path / "empty", tmp_path / "a")
    with pytest.raises(InputError, match="test_data/images is missing"):
        convert(FORM, shanghai.root, tmp_path / "a", split="test")
    (shanghai.root / "train_data" / "images" / "IMG_1.jpg").unlink()
    with pytest.raises(InputError, match=r"GT_IMG_1.mat: an annotation without its image"):
        convert(FORM, shanghai.root, tmp_path / "a")


@pytest.mark.parametrize(
    ("part", "images", "persons", "lowest", "highest", "repeated"),
    [("A", 300, 162_413, 33, 3138, 63), ("B", 400, 49_151, 12, 576, 38)]
)
def test_the_real_training_data(tmp_path, real_data, part, images, persons, lowest, highest, repeated):
    done = convert(FORM, real_data / "shanghaitech" / f"part_{part}_final", tmp_path / "set", max_shard_bytes=8 * 2**20)
    manifest = verify(done.url)
    assert manifest.num_samples == images and manifest.statistics["persons"] == persons
    assert manifest.statistics["persons_per_sample"] == [lowest, highest]
    assert manifest.statistics["num_repeated_points"] == repeated and "num_clipped_points" not in manifest.statistics
    reader = ShardReader(done.url)
    keys_in_order = reader.keys()
    shares = [in_split(key, "val") for key in keys_in_order]
    assert 0.15 < np.mean(shares) < 0.25
    import scipy.io

    for index in range(0, images, 97):
        key, members = reader.read(index)
        place = real_data / "shanghaitech" / f"part_{part}_final" / "train_data"
        truth = scipy.io.loadmat(place / "ground_truth" / f"GT_{key}.mat")["image_info"][0, 0][0, 0][0]
        np.testing.assert_array_equal(decode(key, members).points, truth.astype(np.float32))
        assert members["jpg"] == (place / "images" / f"{key}.jpg").read_bytes()
