"""Annotations and layouts as people really have them: taken, with a note of what was doubtful, or one helpful line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.io
from PIL import Image

from crowddist import storage
from crowddist.data.convert.base import convert
from crowddist.data.convert.doubts import DOUBTS
from crowddist.data.convert.formats import FORMATS
from crowddist.data.shards import ShardReader, decode
from crowddist.errors import InputError
from tests.data.convert.conftest import pixels


def points_of(done, index=0):
    return decode(*ShardReader(done.url).read(index)).points.tolist()


def told(done):
    return [(entry["file"], entry["kind"], entry["number"]) for entry in done.doubts]


def inside(number, size=(32, 48)):
    return np.random.default_rng(number).uniform(2, np.array(size[::-1]) - 2, (number, 2)).tolist()


def tagged(path, rotation):
    """The same image on its side: stored turned, with the rotation tag that sets it upright."""
    exif = Image.Exif()
    exif[0x0112] = rotation
    upright = np.asarray(Image.open(path))
    Image.fromarray(np.ascontiguousarray(np.rot90(upright))).save(path, exif=exif, quality=95)


@pytest.fixture
def cc50(pairs):
    """Fifty images as mirrors have them: two points beyond an image, and pictures of annotations beside them."""
    for number in range(1, 51):
        slip = {6: [[-56.5, 7]], 20: [[47, 33.5]]}.get(number, [])
        pairs.add(number, [*inside(3), *slip], mode="L")
    Image.fromarray(pixels((20, 20))).save(pairs.root / "2_ann.png")
    for name in ("2_ann.txt", "2_ann.plt", "README.md"):
        (pairs.root / name).write_text("of a mirror")
    return pairs.root


def test_ucf_cc_50_is_taken_with_its_slips_and_stray_files(tmp_path, cc50):
    done = convert(FORMATS["ucf_cc_50"], cc50, tmp_path / "set")
    facts = done.manifest.statistics
    assert (done.manifest.num_samples, facts["persons"], facts["num_skipped"]) == (50, 150, 0)
    assert facts["num_outside_points"] == 2 and facts["doubtful_images"] == {"num_outside_points": 2}
    assert facts["num_other_files"] == 4
    assert told(done) == [("6.jpg", "num_outside_points", 1), ("20.jpg", "num_outside_points", 1)]
    assert storage.read_json(storage.join(done.url, DOUBTS)) == list(done.doubts)
    assert ("50 images, 150 persons, 1 shards, 4 other files, 2 points beyond the image dropped (in 2 images), listed "
            "in doubts.json") in done.summary()
    fold = convert(FORMATS["ucf_cc_50"], cc50, tmp_path / "fold", split="fold-1-train")
    assert fold.manifest.num_samples == 40 and told(fold) == [("20.jpg", "num_outside_points", 1)]
    assert convert(FORMATS["ucf_cc_50"], cc50, tmp_path / "set", overwrite=True).manifest == done.manifest


def test_a_set_without_doubts_has_no_list_of_them(tmp_path, shanghai):
    shanghai.add(1, [[3, 4]])
    done = convert(FORMATS["shanghaitech"], shanghai.root, tmp_path / "set")
    assert done.doubts == () and not (tmp_path / "set" / DOUBTS).exists()
    assert set(done.manifest.statistics) == {"num_samples", "height_px", "width_px", "persons", "persons_per_sample",
                                             "num_skipped"}


def test_one_slip_costs_one_point_and_many_cost_the_image(tmp_path, shanghai):
    shanghai.add(1, inside(5))
    shanghai.add(4, [*inside(120), [108, 16]])
    done = convert(FORMATS["shanghaitech"], shanghai.root, tmp_path / "set")
    assert done.manifest.statistics["persons"] == 125
    assert told(done) == [("train_data/images/IMG_4.jpg", "num_outside_points", 1)]
    shanghai.add(4, [*inside(120), [108, 16], [109, 16]])
    with pytest.raises(InputError, match=r"GT_IMG_4\.mat: 2 of 122 cannot be taken, .* seem to be made on an image of "
                                         "another size"):
        convert(FORMATS["shanghaitech"], shanghai.root, tmp_path / "more")
    assert convert(FORMATS["shanghaitech"], shanghai.root, tmp_path / "more", skip_bad=True).manifest.num_samples == 1


def test_many_slips_of_a_set_are_no_slips_though_each_image_has_few(tmp_path, shanghai):
    for number in range(1, 41):
        shanghai.add(number, [[3, 4], [9, 8], [4, 40]] if number % 2 else [[5, 6], [7, 9], [8, 3]])
    form = FORMATS["shanghaitech"]
    with pytest.raises(InputError, match=r"20 of 120 heads cannot be taken, too many for slips; at train_data/images/"
                                         r"IMG_1\.jpg: point 3 of 3, x, y = \(4, 40\): outside .* x and y swapped they "
                                         r"fit: .*; with --skip-bad the others are taken"):
        convert(form, shanghai.root, tmp_path / "set")
    assert not (tmp_path / "set").exists()
    assert convert(form, shanghai.root, tmp_path / "set", skip_bad=True).manifest.statistics["persons"] == 100
    for number in range(1, 17, 2):
        shanghai.add(number, [[5, 6], [7, 9], [8, 3]])
    few = convert(form, shanghai.root, tmp_path / "few").manifest.statistics
    assert (few["num_outside_points"], few["persons"]) == (12, 108), "a tenth is not more than a tenth"


def test_a_stopped_conversion_keeps_its_list_of_doubts(tmp_path, shanghai):
    for number in range(1, 10):
        shanghai.add(number, [[3, 4], [3, 4], [60, 5]])
    form, options = FORMATS["shanghaitech"], {"max_shard_bytes": 1}
    whole = convert(form, shanghai.root, tmp_path / "whole", **options)

    def stop(items):
        yield from items[:7]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(form, shanghai.root, tmp_path / "set", watch=stop, **options)
    done = convert(form, shanghai.root, tmp_path / "set", **options)
    assert done.num_resumed > 0 and (done.manifest, done.doubts) == (whole.manifest, whole.doubts)
    assert len(done.doubts) == 18


@pytest.mark.parametrize(("name", "number", "expected"), [("told", 3, 3), ("true", 2, None), ("text", "two", None)])
def test_a_count_that_differs_from_the_points_is_told(tmp_path, shanghai, name, number, expected):
    from tests.data.convert.conftest import cell

    shanghai.add(1, [[3, 4], [5, 6]])
    place = shanghai.root / "train_data" / "ground_truth" / "GT_IMG_1.mat"
    info = cell([[3, 4], [5, 6]])
    info[0, 0][0, 0]["number"] = np.array(number)
    scipy.io.savemat(place, {"image_info": info})
    done = convert(FORMATS["shanghaitech"], shanghai.root, tmp_path / "set")
    assert done.manifest.statistics["persons"] == 2
    assert told(done) == ([] if expected is None else [("train_data/images/IMG_1.jpg", "num_wrong_counts", 1)])
    if expected:
        assert done.doubts[0]["reason"] == f"{place} says 3, but 2 points are there"
        assert "1 counts differ from the points, listed in doubts.json" in done.summary()


def test_counts_of_other_formats_are_checked_too(tmp_path, nwpu, jhu, worldexpo, gcc_folder):
    nwpu.add("0001", [[3, 4]])
    nwpu.annotation("0001").write_text(json.dumps({"human_num": 7, "points": [[3, 4]]}))
    jhu.add("0001", [[3, 4]])
    jhu.index().write_text("0001,5,street,0,0\n")
    worldexpo.add("100140_1", [[3, 4]])
    scipy.io.savemat(worldexpo.label("100140_1"), {"point_num": 2, "point_position": [[3.0, 4.0]]})
    gcc_folder.add("scene_00_0", "1", [[3, 4]])
    (gcc_folder.root / "all.txt").write_text("0 9 6 scene_00_0 1 9\n")
    for name, built, says in (("nwpu_crowd", nwpu, "says 7"), ("jhu_crowd", jhu, "the index says 5"),
                              ("worldexpo10", worldexpo, "says 2"), ("gcc", gcc_folder, "the index says 9")):
        done = convert(FORMATS[name], built.root, tmp_path / f"set-{name}")
        (entry,) = done.doubts
        assert entry["kind"] == "num_wrong_counts" and f"{says}, but 1 points are there" in entry["reason"]
        bare = convert(FORMATS[name], built.root, tmp_path / f"bare-{name}", unlabelled=True)
        assert bare.doubts == () and "doubtful_images" not in bare.manifest.statistics


def test_labels_of_an_upright_image_that_is_stored_on_its_side(tmp_path, jhu):
    path = jhu.add("0001", [[20, 45], [9, 3], [25, 40], [16, 33], [11, 39], [22, 46]], size=(48, 32))
    tagged(path, 6)
    with pytest.raises(InputError, match=r"gt/0001\.txt: .*; they fit the image turned upright, as its rotation tag 6 "
                                         r"says: turn the image files upright"):
        convert(FORMATS["jhu_crowd"], jhu.root, tmp_path / "set")


@pytest.mark.parametrize("rotation", [3, 6, 8])
def test_a_rotation_tag_that_labels_may_mean_is_told(tmp_path, jhu, rotation):
    tagged(jhu.add("0001", [[9, 3], [25, 30]], size=(48, 32)), rotation)
    jhu.add("0002", [[9, 3]])
    done = convert(FORMATS["jhu_crowd"], jhu.root, tmp_path / "set")
    assert told(done) == [("train/images/0001.jpg", "num_rotation_tags", 1)]
    assert f"has the rotation tag {rotation}; its labels were taken as those of the pixels" in done.doubts[0]["reason"]
    bare = convert(FORMATS["jhu_crowd"], jhu.root, tmp_path / "bare", unlabelled=True)
    assert [each.manifest.statistics["num_rotation_tags"] for each in (done, bare)] == [1, 1]
    assert "1 images with a rotation tag left as they are stored" in done.summary()


def test_the_folder_of_annotations_is_the_one_that_holds_them(tmp_path, shanghai):
    shanghai.annotations = "ground-truth"
    shanghai.add(1, [[3, 4]])
    shanghai.add(2, [[5, 6]])
    (shanghai.root / "train_data" / "ground_truth").mkdir()
    (shanghai.root / "train_data" / "ground_truth" / "IMG_1.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    assert points_of(convert(FORMATS["shanghaitech"], shanghai.root, tmp_path / "set"), 1) == [[5, 6]]
    for path in (shanghai.root / "train_data" / "ground-truth").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"no annotations GT_NAME\.mat in .*ground_truth: it holds 1 \.h5; add them"):
        convert(FORMATS["shanghaitech"], shanghai.root, tmp_path / "none")


@pytest.mark.parametrize(("images", "annotations"), [("images", "ground_truth"), ("img", ""), ("", "labels")])
def test_ucf_sets_with_a_folder_for_each_kind(tmp_path, pairs, images, annotations):
    names = {"Train": ["img_0001", "img_0002"], "cc": [str(number) for number in range(1, 51)]}
    for place, stems in names.items():
        for folder in (images, annotations):
            (pairs.root / place / folder).mkdir(parents=True, exist_ok=True)
        for stem in stems:
            path = pairs.add(stem, [[3, 4]], folder=place)
            path.rename(path.parent / images / path.name)
            path.with_name(f"{stem}_ann.mat").rename(path.parent / annotations / f"{stem}_ann.mat")
    for name, source, number in (("ucf_qnrf", pairs.root, 2), ("ucf_cc_50", pairs.root / "cc", 50)):
        done = convert(FORMATS[name], source, tmp_path / name)
        assert done.manifest.num_samples == number and points_of(done) == [[3, 4]]


@pytest.mark.parametrize(("name", "stems"), [("ucf_qnrf", ["img_0001", "img_0002"]),
                                             ("ucf_cc_50", [str(number) for number in range(1, 51)])])
def test_pictures_of_density_maps_are_not_taken_for_the_images(tmp_path, pairs, name, stems):
    place = pairs.root / "Train" if name == "ucf_qnrf" else pairs.root
    for folder in ("images", "density", "ground_truth"):
        (place / folder).mkdir(parents=True)
    for stem in stems:
        path = pairs.add(stem, [[3, 4]], folder=place.relative_to(pairs.root))
        path.rename(place / "images" / path.name)
        path.with_name(f"{stem}_ann.mat").rename(place / "ground_truth" / f"{stem}_ann.mat")
        Image.fromarray(pixels((32, 48))).save(place / "density" / f"{stem}.png")
    Image.fromarray(pixels((32, 48))).save(place / "density" / "999.png")
    done = convert(FORMATS[name], pairs.root, tmp_path / "set")
    files = {decode(*ShardReader(done.url).read(index)).scene["file"] for index in range(done.manifest.num_samples)}
    assert files == {f"{stem}.jpg" for stem in stems}


@pytest.mark.parametrize("name", ["Train_Data", "train-data", "train"])
def test_folders_written_otherwise(tmp_path, shanghai, name):
    shanghai.add(1, [[3, 4]])
    (shanghai.root / "train_data").rename(shanghai.root / name)
    (shanghai.root / name / "images").rename(shanghai.root / name / "Images")
    assert points_of(convert(FORMATS["shanghaitech"], shanghai.root, tmp_path / "set")) == [[3, 4]]


def test_points_with_a_third_column_and_points_as_npy(tmp_path, pairs):
    pairs.add("img_0001", [], folder="Train")
    place = pairs.root / "Train" / "img_0001_ann.mat"
    scipy.io.savemat(place, {"annPoints": [[10.5, 12, 31], [30, 20, 28]]})
    done = convert(FORMATS["ucf_qnrf"], pairs.root, tmp_path / "set")
    assert points_of(done) == [[10.5, 12], [30, 20]]
    assert told(done) == [("Train/img_0001.jpg", "num_extra_columns", 1)]
    assert "1 images whose third column after x and y was not read" in done.summary()
    place.unlink()
    np.save(place.with_name("img_0001.npy"), np.ones((3, 2)))
    with pytest.raises(InputError, match=r"no annotations NAME_ann\.mat in .*Train: it holds 1 \.jpg, 1 \.npy; .*csv"):
        convert(FORMATS["ucf_qnrf"], pairs.root, tmp_path / "none")


def test_labels_in_a_folder_of_their_own_are_told_of_too(tmp_path):
    root = tmp_path / "camera"
    (root / "labels").mkdir(parents=True)
    Image.fromarray(pixels((32, 48))).save(root / "a.jpg")
    np.save(root / "labels" / "a.npy", np.ones((3, 2)))
    done = convert(FORMATS["folder"], root, tmp_path / "set")
    assert "1 files not read that may be labels" in done.summary()


def test_jsons_of_nwpu_in_a_folder_of_another_name(tmp_path, nwpu):
    nwpu.add("0001", [[3, 4]])
    (nwpu.root / "jsons").rename(nwpu.root / "annotations")
    assert points_of(convert(FORMATS["nwpu_crowd"], nwpu.root, tmp_path / "set")) == [[3, 4]]


@pytest.mark.parametrize("line", ["0007.jpg", "images/0007.jpg jsons/0007.json", "\ufeff0007\t0\t0\r", "  0007 ",
                                  "C:\\set\\images\\0007.JPEG 1 2"])
def test_names_in_lists_as_other_programs_write_them(tmp_path, nwpu, line):
    nwpu.add("0007", [[3, 4]])
    nwpu.list().write_bytes(f"{line}\n\n".encode())
    done = convert(FORMATS["nwpu_crowd"], nwpu.root, tmp_path / "set")
    assert ShardReader(done.url).keys() == ["0007"] and points_of(done) == [[3, 4]]


def test_nobody_may_be_null_where_the_count_says_so(tmp_path, nwpu):
    nwpu.add("0007", [])
    nwpu.annotation("0007").write_text('{"human_num": 0, "points": null}')
    assert points_of(convert(FORMATS["nwpu_crowd"], nwpu.root, tmp_path / "set")) == []
    nwpu.annotation("0007").write_text('{"human_num": 3, "points": null}')
    with pytest.raises(InputError, match="points must be N x 2 numbers, got nothing"):
        convert(FORMATS["nwpu_crowd"], nwpu.root, tmp_path / "none")


@pytest.mark.parametrize("text", ["3,4,5,6,1,0\n7,8,5,6,1,0", "3 4 5 6 1 0\n\n7 8 5 6 1 0\n",
                                  "3;4;5;6;1;0\r\n7\t8 5 6 1 0", "3 , 4, 5 6 1 0\n  \n7 8 5 6 1 0"])
def test_numbers_between_commas_and_blank_lines(tmp_path, jhu, text):
    jhu.add("0001", [])
    jhu.annotation("0001").write_text(text)
    assert points_of(convert(FORMATS["jhu_crowd"], jhu.root, tmp_path / "set")) == [[3, 4], [7, 8]]


def test_shards_of_another_tool_are_explained(tmp_path):
    from crowddist.data.manifest import read_manifest

    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "part-000000.tar").write_bytes(bytes(1024))
    with pytest.raises(InputError, match=r"1 other files: 1 TAR; .*these are shards without the manifest .* unpack"):
        convert(FORMATS["folder"], tmp_path / "set", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"it holds 1 tar files, e\.g\. part-000000\.tar, .* unpack them"):
        read_manifest(tmp_path / "set")
    with pytest.raises(FileNotFoundError, match=r"shards are named by their folder, which also holds manifest\.json"):
        convert(FORMATS["folder"], tmp_path / "set" / "part-{000000..000009}.tar", tmp_path / "out")


@pytest.mark.parametrize("where", ["find", "annotate"])
def test_any_exception_while_something_is_read_names_it(tmp_path, shanghai, where):
    from dataclasses import replace

    shanghai.add(1, [[3, 4]])
    shanghai.add(2, [[3, 4]])
    form = FORMATS["shanghaitech"]

    def fail(*given):
        if where == "annotate" and given[0].name == "IMG_1":
            return form.annotate(*given)
        raise KeyError("what\nelse")

    broken = replace(form, **{where: fail})
    named, advice = ((r"IMG_2\.jpg: its annotation .*GT_IMG_2\.mat cannot be read", "mend it, or leave it out")
                     if where == "annotate" else ("part_B_final", "see that the folder holds part_A_final"))
    with pytest.raises(InputError, match=rf"{named}.*KeyError: 'what\\nelse'; {advice}") as error:
        convert(broken, shanghai.root, tmp_path / "set")
    assert "\n" not in str(error.value)
    if where == "annotate":
        assert len(convert(broken, shanghai.root, tmp_path / "set", skip_bad=True).skipped) == 1
