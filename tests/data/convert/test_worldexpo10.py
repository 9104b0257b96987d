"""WorldExpo'10: both layouts of frames, splits by scene, regions of interest, and messages about damaged files."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.io

from crowddist.data.convert.base import convert
from crowddist.data.convert.formats import FORMATS
from crowddist.data.convert.layout import in_split
from crowddist.data.convert.worldexpo10 import TEST_SCENES
from crowddist.data.shards import ShardReader, decode, verify
from crowddist.errors import InputError

FORM = FORMATS["worldexpo10"]
# Two scenes for training, as the set names their frames, and one for testing.
FIRST, SECOND, OTHER = "100140_A04-04-S20100717_clip1_2", "100140_A04-04-S20100717_clip1_10", "200247-D01-02_1"
TESTED = "104207_1-04-S20100821_01_clip1_3"


def build(expo):
    expo.add(OTHER, [[1, 2]], roi=[[5.5, 3], [40, 3], [40, 30.25], [5, 30]])
    expo.add(SECOND, [], roi=[[0, 0], [47, 0], [47, 31]])
    expo.add(FIRST, [[3.5, 4.25], [47, 31], [3.5, 4.25]], roi=[[0, 0], [47, 0], [47, 31]])
    expo.add(TESTED, [[7, 8]], side="test", roi=[[1, 1], [9, 1], [9, 9]])
    return expo


@pytest.fixture
def frames(worldexpo):
    return build(worldexpo)


def samples(done):
    reader = ShardReader(done.url)
    return [decode(*reader.read(index)) for index in range(len(reader))]


def test_points_regions_and_scenes_come_back_as_annotated(tmp_path, frames):
    done = convert(FORM, frames.root, tmp_path / "set")
    manifest = verify(done.url)
    assert (manifest.name, manifest.split, manifest.labelled) == ("worldexpo10", "all", True)
    assert manifest.statistics["persons"] == 4 and "split_rule" not in manifest.statistics
    assert ShardReader(done.url).keys() == [FIRST, SECOND, OTHER], "by scene, then by number"
    first, second, other = samples(done)
    np.testing.assert_array_equal(first.points, [[3.5, 4.25], [47, 31], [3.5, 4.25]])
    assert first.scene == {
        "id": FIRST, "file": f"{FIRST}.jpg", "height": 32, "width": 48, "count": 3, "num_repeated_points": 1,
        "scene": "100140", "roi": [[0, 0], [47, 0], [47, 31]]}
    assert second.points.shape == (0, 2) and second.scene["roi"] == first.scene["roi"]
    assert other.scene["scene"] == "200247" and other.scene["roi"] == [[5.5, 3], [40, 3], [40, 30.25], [5, 30]]
    assert other.points.tolist() == [[1, 2]], "outside the region, and kept"
    assert first.boxes is None and first.mask is None


def test_the_test_split(tmp_path, frames):
    done = convert(FORM, frames.root, tmp_path / "set", split="test")
    (sample,) = samples(done)
    assert done.manifest.split == "test" and sample.key == TESTED and sample.points.tolist() == [[7, 8]]
    assert sample.scene["scene"] == "104207" and sample.scene["roi"] == [[1, 1], [9, 1], [9, 9]]


def test_frames_in_a_folder_per_scene_make_the_same_sets(tmp_path, frames, worldexpo_by_scene):
    build(worldexpo_by_scene)
    assert (worldexpo_by_scene.root / "train_frame"
            / "200247").is_dir() and not (frames.root / "train_frame" / "200247").exists()
    for split in ("all", "test"):
        flat, nested = (convert(FORM, expo.root, tmp_path / f"{split}-{expo.nested}", split=split).manifest
                        for expo in (frames, worldexpo_by_scene))
        assert flat == nested


def test_validation_is_held_out_by_scene(tmp_path, worldexpo):
    scenes = [f"1002{number:02d}" for number in range(20)]
    names = [f"{scene}_{frame}" for scene, frame in itertools.product(scenes, range(3))]
    for name in names:
        worldexpo.add(name, [[3, 4]])
    expected = [name for name in names if in_split(name[:6], "val")]
    assert (0 < len(expected) < 30 and expected
            != [name for name in names if in_split(name, "val")]), "the hash of the frame's name is another split"
    sets = {split: ShardReader(convert(FORM, worldexpo.root, tmp_path / split, split=split).url).keys()
            for split in ("train", "val", "all")}
    assert (sets["val"] == expected and sets["all"] == names
            and sets["train"] == [name for name in names if name not in expected])
    assert not {name[:6] for name in sets["train"]} & {name[:6] for name in sets["val"]}
    for split in ("train", "val"):
        assert verify(tmp_path / split).statistics["split_rule"] == "val: SHA-256 of the scene's name below 0.2"
    with pytest.raises(InputError, match="no split 'dev'; choose one of all, train, val, test"):
        convert(FORM, worldexpo.root, tmp_path / "dev", split="dev")


def test_a_scene_on_the_wrong_side_is_refused(tmp_path, frames):
    frames.add(f"{TEST_SCENES[2]}_1", [[1, 1]])
    frames.add("100140_1", [[1, 1]], side="test")
    with pytest.raises(InputError,
                       match=r"train_frame/200702_1\.jpg: shows one of the scenes for testing; remove it from "
                             r"train_frame"):
        convert(FORM, frames.root, tmp_path / "set")
    with pytest.raises(InputError,
                       match=r"test_frame/100140_1\.jpg: shows none of the scenes for testing; remove it from "
                             r"test_frame"):
        convert(FORM, frames.root, tmp_path / "set", split="test")
    for split, keys in (("all", [FIRST, SECOND, OTHER]), ("test", [TESTED])):
        done = convert(FORM, frames.root, tmp_path / split, split=split, skip_bad=True)
        assert ShardReader(done.url).keys() == keys and len(done.skipped) == 1


def test_a_largest_size_moves_points_and_regions_with_the_pixels(tmp_path, worldexpo):
    worldexpo.add(FIRST, [[30, 12]], roi=[[0.5, 0.5], [46.5, 0.5], [30, 12]])
    (sample,) = samples(convert(FORM, worldexpo.root, tmp_path / "set", max_size=24))
    assert sample.image.shape == (16, 24, 3)
    # x' = (x + 0.5) / 2 - 0.5
    np.testing.assert_allclose(sample.points, [[14.75, 5.75]])
    np.testing.assert_allclose(sample.scene["roi"], [[0, 0], [23, 0], [14.75, 5.75]])


def test_arrays_as_matlab_may_store_them(tmp_path, frames):
    scipy.io.savemat(frames.label(FIRST), {"point_position": np.zeros((0, 0))})
    scipy.io.savemat(frames.label(SECOND), {"point_position": np.array([[3, 4]], np.uint16)})
    scipy.io.savemat(frames.roi("100140"), {"maskVerticesXCoordinates": np.array([[1, 9, 9]]),
                                            "maskVerticesYCoordinates": np.array([[2, 2, 8]])})
    first, second, _ = samples(convert(FORM, frames.root, tmp_path / "set"))
    assert first.points.shape == (0, 2) and second.points.tolist() == [[3, 4]]
    assert first.scene["roi"] == second.scene["roi"] == [[1, 2], [9, 2], [9, 8]]


def test_unlabelled_sets_do_not_open_annotations(tmp_path, frames):
    for path in frames.root.glob("*_label/*/*.mat"):
        path.write_text("damaged")
    (frames.root / "train_label" / "100140" / "999999_1.mat").write_text("without an image")
    done = convert(FORM, frames.root, tmp_path / "a", unlabelled=True)
    assert done.manifest.name == "worldexpo10-unlabelled" and not done.manifest.labelled
    for index, name in enumerate((FIRST, SECOND, OTHER)):
        key, members = ShardReader(done.url).read(index)
        assert key == name and set(members) == {"jpg", "json"}
        assert decode(key, members).scene == {"id": name, "file": f"{name}.jpg", "height": 32, "width": 48,
                                              "scene": name[:6]}
    (frames.root / "train_label").rename(tmp_path / "elsewhere")
    assert convert(FORM, frames.root, tmp_path / "b", unlabelled=True).manifest == done.manifest
    with pytest.raises(InputError, match="train_label is missing; convert with --unlabelled, or add it"):
        convert(FORM, frames.root, tmp_path / "c")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.unlink(), "the annotation is missing"),
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "not a MATLAB file that can be read"),
        (lambda path: scipy.io.savemat(path, {"annPoints": np.zeros((2, 2))}),
         "wrong layout: point_position must be N x 2 numbers, got nothing"),
        (lambda path: scipy.io.savemat(path, {"point_position": np.zeros((2, 4))}),
         r"point_position must be N x 2 .* of shape \(2, 4\)"),
        (lambda path: scipy.io.savemat(path, {"point_position": [[3, np.nan]] * 4}),
         r"point 1 of 4, x, y = \(3, nan\) and others: not a pair of numbers"),
        (lambda path: scipy.io.savemat(path, {"point_position": [[3, 4], *[[60, 4]] * 4]}),
         r"point 2 of 5, x, y = \(60, 4\) and others: outside the image"),
    ],
)
def test_bad_annotations_stop_or_are_skipped(tmp_path, frames, damage, reason):
    damage(frames.label(SECOND))
    with pytest.raises(InputError, match=rf"train_label/100140/{SECOND}\.mat: .*{reason}") as caught:
        convert(FORM, frames.root, tmp_path / "set")
    assert "\n" not in str(caught.value) and not (tmp_path / "set").exists()
    done = convert(FORM, frames.root, tmp_path / "set", skip_bad=True)
    assert (ShardReader(done.url).keys() == [FIRST, OTHER]
            and [entry["file"] for entry in done.skipped] == [f"train_frame/{SECOND}.jpg"])


def region(x, y):
    return lambda path: scipy.io.savemat(path, {"maskVerticesXCoordinates": np.array(x),
                                                "maskVerticesYCoordinates": np.array(y)})


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.unlink(), "the annotation is missing"),
        (lambda path: path.write_text("text"), "not a MATLAB file that can be read"),
        (lambda path: scipy.io.savemat(path, {"maskVerticesXCoordinates": np.array([1, 2, 3])}),
         "maskVerticesXCoordinates and maskVerticesYCoordinates"),
        (region([1, 2, 3], [1, 2]), "must be the x and y of three vertices or more"),
        (region([1, 2], [1, 2]), "must be the x and y of three vertices or more"),
        (region([], []), "must be the x and y of three vertices or more"),
        (region([1, 2, np.inf], [1, 2, 3]), "must be the x and y of three vertices or more"),
        (region([1, 2, 3], [1, np.nan, 3]), "must be the x and y of three vertices or more"),
        (region("abc", "abc"), "must be the x and y of three vertices or more"),
    ],
)
def test_a_bad_region_stops_or_its_scene_is_skipped(tmp_path, frames, damage, reason):
    damage(frames.roi("100140"))
    with pytest.raises(InputError, match=rf"train_label/100140/roi\.mat: .*{reason}") as caught:
        convert(FORM, frames.root, tmp_path / "set")
    assert "\n" not in str(caught.value) and not (tmp_path / "set").exists()
    done = convert(FORM, frames.root, tmp_path / "set", skip_bad=True)
    assert ShardReader(done.url).keys() == [OTHER] and len(done.skipped) == 2


def test_an_annotation_without_its_image(tmp_path, frames):
    (frames.root / "train_frame" / f"{SECOND}.jpg").unlink()
    (frames.root / "train_label" / "100140" / f"._{FIRST}.mat").write_text("what macOS leaves in archives")
    with pytest.raises(InputError, match=rf"{SECOND}\.mat: an annotation without its image"):
        convert(FORM, frames.root, tmp_path / "set")
    done = convert(FORM, frames.root, tmp_path / "set", skip_bad=True)
    assert [entry["file"] for entry in done.skipped] == [f"train_label/100140/{SECOND}.mat"]


def test_a_frame_in_both_layouts_is_refused(tmp_path, frames):
    (frames.root / "train_frame" / "100140").mkdir()
    (frames.root / "train_frame" / "100140"
     / f"{FIRST}.jpg").write_bytes((frames.root / "train_frame" / f"{FIRST}.jpg").read_bytes())
    with pytest.raises(InputError, match=rf"{FIRST}\.jpg: has the same name {FIRST} as .*; rename one of them"):
        convert(FORM, frames.root, tmp_path / "set")


def test_other_folders_are_explained(tmp_path, frames):
    with pytest.raises(InputError,
                       match="train_frame is missing; give the folder with train_frame, train_label, test_frame "
                             "and test_label"):
        convert(FORM, frames.root / "train_frame", tmp_path / "set")
    (tmp_path / "empty" / "train_frame").mkdir(parents=True)
    (tmp_path / "empty" / "train_label").mkdir()
    with pytest.raises(InputError, match="no images of the split 'all'"):
        convert(FORM, tmp_path / "empty", tmp_path / "set")
