"""GCC: its own layout, the renderer's, and scene regularisation on the real index."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.io

from crowddist.data.convert.base import convert
from crowddist.data.convert.formats import FORMATS
from crowddist.data.scenes import LEVEL_MAXIMA, SCENE_RULES, keep_scene
from crowddist.data.shards import ShardReader, decode
from crowddist.errors import InputError

FORM = FORMATS["gcc"]
ROWS_COLUMNS = [[31, 47], [2.5, 10]]


def samples(url):
    reader = ShardReader(url)
    return {sample.key: sample for sample in (decode(*reader.read(index)) for index in range(len(reader)))}


@pytest.mark.parametrize("kind", ["jpg", "png"])
@pytest.mark.parametrize("size", [(32, 48), (40, 21)])
def test_rows_and_columns_become_x_and_y(tmp_path, gcc_folder, kind, size):
    mask = np.arange(size[0] * size[1]).reshape(size) % 7 == 0
    points = [[size[0] - 1, size[1] - 1], [2.5, 10]]
    path = gcc_folder.add("scene_07_2", "1536371984", points, kind=kind, size=size, mask=mask,
                          roi=[[0, 0], [20, 0], [20, 31.5]])
    done = convert(FORM, gcc_folder.root, tmp_path / "set")
    (sample,) = samples(done.url).values()
    assert sample.key == "scene_07_2_1536371984" and done.manifest.name == "gcc"
    np.testing.assert_array_equal(sample.points, [[size[1] - 1, size[0] - 1], [10, 2.5]])
    np.testing.assert_array_equal(sample.mask, mask)
    assert sample.scene == {
        "id": "scene_07_2/1536371984", "file": path.name, "height": size[0], "width": size[1], "count": 2, "weather": 1,
        "hour": 14, "minute": 30, "location": 7, "camera": 2, "roi": [[0, 0], [20, 0], [20, 31.5]]}
    assert ShardReader(done.url).read(0)[1][kind] == path.read_bytes()


def test_json_or_mat_alone_are_enough_and_nobody_is_fine(tmp_path, gcc_folder):
    gcc_folder.add("scene_00_0", "1", ROWS_COLUMNS, with_mat=False)
    gcc_folder.add("scene_00_0", "2", ROWS_COLUMNS, with_json=False)
    gcc_folder.add("scene_00_0", "3", [])
    found = samples(convert(FORM, gcc_folder.root, tmp_path / "set").url)
    for key in ("scene_00_0_1", "scene_00_0_2"):
        np.testing.assert_array_equal(found[key].points, [[47, 31], [10, 2.5]])
        assert found[key].mask is None
    assert found["scene_00_0_3"].points.shape == (0, 2) and "weather" not in found["scene_00_0_2"].scene


def test_the_original_png_goes_before_its_jpg(tmp_path, gcc_folder):
    gcc_folder.add("scene_00_0", "1", [], kind="jpg")
    gcc_folder.add("scene_00_0", "1", [], kind="png")
    done = convert(FORM, gcc_folder.root, tmp_path / "set")
    assert done.manifest.num_samples == 1 and "png" in ShardReader(done.url).read(0)[1]


def test_one_scene_alone_is_a_source(tmp_path, gcc_folder, monkeypatch):
    gcc_folder.add("scene_00_0", "1", ROWS_COLUMNS)
    assert convert(FORM, gcc_folder.root / "scene_00_0", tmp_path / "a").manifest.num_samples == 1
    monkeypatch.chdir(gcc_folder.root / "scene_00_0")
    assert convert(FORM, ".", tmp_path / "b").manifest.num_samples == 1


def test_the_index_tells_the_level_and_json_goes_before_it(tmp_path, gcc_folder):
    gcc_folder.add("scene_00_0", "1", ROWS_COLUMNS)
    gcc_folder.add("scene_00_0", "2", ROWS_COLUMNS, with_json=False)
    gcc_folder.add("scene_00_0", "3", ROWS_COLUMNS, level=4, weather="EXTRASUNNY")
    (gcc_folder.root / "all.txt").write_text("0 9 6 scene_00_0 1 2\n8 23 0 scene_00_0 2 2\n\n1 1 1 scene_00_0 3 2\n")
    found = samples(convert(FORM, gcc_folder.root, tmp_path / "set").url)
    facts = {key: [sample.scene[noun] for noun in ("level", "hour", "weather")] for key, sample in found.items()}
    assert facts == {"scene_00_0_1": [0, 14, 1], "scene_00_0_2": [8, 23, 0], "scene_00_0_3": [4, 14, 6]}


def test_an_unlabelled_set_tells_no_level(tmp_path, gcc_folder):
    gcc_folder.add("scene_00_0", "1", ROWS_COLUMNS, mask=np.ones((32, 48)))
    (gcc_folder.root / "all.txt").write_text("3 9 6 scene_00_0 1 2\n")
    done = convert(FORM, gcc_folder.root, tmp_path / "set", unlabelled=True)
    key, members = ShardReader(done.url).read(0)
    assert set(members) == {"jpg", "json"}
    assert decode(key, members).scene == {
        "id": "scene_00_0/1", "file": "1.jpg", "height": 32, "width": 48, "location": 0, "camera": 0, "hour": 9,
        "weather": 6}


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"image_info": [[1, 2], [3]]}, "image_info must be N x 2"),
        ({"image_info": "none"}, "image_info must be N x 2"),
        ({"image_info": [[1, 2]]}, "annotations disagree: 1 in .*json but 2 in .*mat"),
        ({"weather": 7}, "weather must be"),
        ({"weather": "hail"}, "weather must be"),
        ({"timeInfo": [24, 0]}, "timeInfo must be"),
        ({"timeInfo": 3}, "timeInfo must be"),
        ({"level": 9}, "level must be"),
        ({"roi": [1]}, "roi must be"),
        ({"roi": [[float("nan"), 1]]}, "roi holds a number that is not finite"),
    ],
)
def test_wrong_json_is_named(tmp_path, gcc_folder, entries, reason):
    path = gcc_folder.add("scene_00_0", "1", [[1, 2], [3, 4]])
    gcc_folder.add("scene_00_0", "1", [[1, 2], [3, 4]], with_mat=False, **entries)
    with pytest.raises(InputError, match=reason) as caught:
        convert(FORM, gcc_folder.root, tmp_path / "set")
    assert path.stem in str(caught.value) and not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("rows_columns", "reason"),
    [([[1, 2], *[[float("nan"), 2]] * 4], "not a pair of numbers"),
     ([[2, 10], *[[47, 31]] * 4], "with x and y swapped they fit: swap the two columns of the labels")],
)
def test_many_wrong_points_are_named(tmp_path, gcc_folder, rows_columns, reason):
    gcc_folder.add("scene_00_0", "1", rows_columns, with_mat=False)
    with pytest.raises(InputError, match=rf"jsons/1\.json: 4 of 5 cannot be taken, .*{reason}"):
        convert(FORM, gcc_folder.root, tmp_path / "set")


def test_the_count_and_a_third_column_of_mats_are_told(tmp_path, gcc_folder):
    gcc_folder.add("scene_00_0", "1", [[1, 2], [3, 4]])
    place = gcc_folder.root / "scene_00_0" / "mats" / "1.mat"
    scipy.io.savemat(place, {"image_info": {"location": [[1.0, 2, 9], [3, 4, 9]], "number": 3}})
    (entry,) = convert(FORM, gcc_folder.root, tmp_path / "both").doubts
    assert entry["kind"] == "num_wrong_counts" and entry["reason"] == f"{place} says 3, but 2 points are there"
    (gcc_folder.root / "scene_00_0" / "jsons" / "1.json").unlink()
    done = convert(FORM, gcc_folder.root, tmp_path / "mat")
    assert [entry["kind"] for entry in done.doubts] == ["num_wrong_counts", "num_extra_columns"]
    assert decode(*ShardReader(done.url).read(0)).points.tolist() == [[2, 1], [4, 3]]


def test_missing_and_mismatching_files_are_named(tmp_path, gcc_folder):
    gcc_folder.add("scene_00_0", "1", ROWS_COLUMNS, with_mat=False, with_json=False)
    with pytest.raises(InputError, match=r"1\.jpg: its annotation 1.json or 1.mat is missing"):
        convert(FORM, gcc_folder.root, tmp_path / "set")
    gcc_folder.add("scene_00_0", "1", ROWS_COLUMNS, mask=np.ones((32, 47)))
    with pytest.raises(InputError, match=r"1\.raw: 1504 bytes, a mask of 48 x 32 px has 1536"):
        convert(FORM, gcc_folder.root, tmp_path / "set")
    (gcc_folder.root / "scene_00_0" / "segs" / "1.raw").unlink()
    (gcc_folder.root / "scene_00_0" / "jsons" / "9.json").write_text("{}")
    with pytest.raises(InputError, match=r"9\.json: an annotation without its image"):
        convert(FORM, gcc_folder.root, tmp_path / "set")
    (gcc_folder.root / "scene_00_0" / "jsons" / "9.json").unlink()
    for name, text in (("1.json", '{"weather": 1}'),):
        (gcc_folder.root / "scene_00_0" / "jsons" / name).write_text(text)
        (gcc_folder.root / "scene_00_0" / "mats" / "1.mat").unlink()
        with pytest.raises(InputError, match="image_info must be N x 2 numbers, got nothing"):
            convert(FORM, gcc_folder.root, tmp_path / "set")
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match="no folder scene_XX_Y"):
        convert(FORM, tmp_path / "other", tmp_path / "set")
    (gcc_folder.root / "all.txt").write_text("8 14 3 scene_00_0 1\n")
    with pytest.raises(InputError, match=r"all.txt: line 1 is not level"):
        convert(FORM, gcc_folder.root, tmp_path / "set")


def test_splits(tmp_path, gcc_folder):
    names = [(f"scene_{location:02d}_{camera}", str(time)) for location in range(8) for camera in range(4)
             for time in range(2)]
    for scene, time in names:
        gcc_folder.add(scene, time, [], with_mat=False)

    def ids(split):
        return {sample.scene["id"]
                for sample in samples(convert(FORM, gcc_folder.root, tmp_path / split, split=split).url).values()}

    everything = {f"{scene}/{time}" for scene, time in names}
    sides = {split: ids(split) for split in FORM.splits[1:]}
    for prefix in ("", "camera-", "location-"):
        train, test = sides[f"{prefix}train"], sides[f"{prefix}test"]
        assert train | test == everything and not train & test and test and train
    assert len({name.split("/")[0]
                for name in sides["camera-test"]}) == len({name.split("_")[1] for name in sides["camera-test"]}) == 8
    assert not {name.split("_")[1] for name in sides["location-train"]} & {name.split("_")[1]
                                                                           for name in sides["location-test"]}
    (gcc_folder.root / "test_list.txt").write_text("8 14 3 scene_03_1 1 0\n1 14 3 scene_99_1 1 0\n")
    listed = convert(FORM, gcc_folder.root, tmp_path / "listed", split="test")
    assert (ShardReader(listed.url).keys() == ["scene_03_1_1"]
            and listed.manifest.statistics["split_rule"] == "test_list.txt")


def test_what_the_renderer_writes_is_read(tmp_path):
    from crowddist.data.simulator import write_dataset
    from crowddist.data.simulator.config import RendererConfig
    from crowddist.data.simulator.render import render_image

    config = RendererConfig(num_images=1, seed=3, size=(96, 160))
    write_dataset(tmp_path / "raw", config)
    (sample,) = samples(convert(FORM, tmp_path / "raw", tmp_path / "set").url).values()
    rendered = render_image(config, 0)
    np.testing.assert_allclose(sample.points, rendered.points, atol=0.006)
    np.testing.assert_array_equal(sample.mask, rendered.mask)
    assert {noun: sample.scene[noun] for noun in ("level", "hour", "weather")} == {
        noun: rendered.scene[noun] for noun in ("level", "hour", "weather")
    }


ROW = {"level": 4, "hour": 12, "weather": 0, "count": 300}


@pytest.mark.parametrize(
    ("target", "change", "kept"),
    [
        ("SHA", {}, True), ("sha", {}, True), ("SHA", {"hour": 6}, True), ("SHA", {"hour": 19}, True),
        ("SHA", {"hour": 5}, False), ("SHA", {"hour": 20}, False), ("SHA", {"level": 3, "count": 100}, False),
        ("SHA", {"weather": 3}, True), ("SHA", {"weather": 2}, False), ("SHA", {"weather": 4}, False),
        ("SHA", {"count": 150}, True), ("SHA", {"count": 149}, False), ("SHA", {"level": 8, "count": 4000}, True),
        ("SHA", {"level": 8, "count": 4001}, False), ("SHB", {}, True), ("SHB", {"weather": 3}, False),
        ("SHB", {"level": 1, "count": 10}, True), ("SHB", {"level": 0, "count": 10}, False),
        ("SHB", {"level": 5, "count": 600}, True), ("SHB", {"level": 6, "count": 600}, False),
        ("SHB", {"count": 90}, True), ("SHB", {"count": 89}, False), ("UCF_CC_50", {"level": 5, "count": 400}, True),
        ("UCF_CC_50", {"level": 5, "count": 399}, False), ("UCF_CC_50", {"level": 5, "count": 400, "hour": 7}, False),
        ("UCF_CC_50", {"level": 5, "count": 400, "hour": 17}, True),
        ("UCF-QNRF", {"level": 5, "count": 400, "hour": 20}, True),
        ("UCF-QNRF", {"level": 5, "count": 400, "hour": 21}, False),
        ("ucf_qnrf", {"level": 5, "count": 400, "hour": 5}, True), ("WorldExpo'10", {"level": 2, "count": 0}, True),
        ("worldexpo10", {"level": 7, "count": 900}, False), ("WorldExpo'10", {"hour": 18}, True),
        ("WorldExpo'10", {"hour": 19}, False)],
)
def test_scene_regularisation_hand_worked(target, change, kept):
    row = {**ROW, **change}
    assert keep_scene(row, target) is kept
    assert keep_scene(SimpleNamespace(**row), target) is kept
    assert keep_scene({noun: np.int64(value) for noun, value in row.items()}, target) is kept


def test_scene_regularisation_refuses_what_it_cannot_judge():
    with pytest.raises(InputError, match="no scene regularisation for 'X'; known: SHA"):
        keep_scene(ROW, "X")
    with pytest.raises(InputError, match="needs the level"):
        keep_scene({"hour": 1, "weather": 0, "count": 3}, "SHA")
    with pytest.raises(InputError, match="a level lies in 0 to 8, got 9"):
        keep_scene({**ROW, "level": 9}, "SHA")


def test_scene_regularisation_of_the_real_index(real_data):
    rows = []
    for line in (real_data / "gcc_index" / "all.txt").read_text().splitlines():
        level, hour, weather, _, _, count = line.split()
        rows.append({"level": int(level), "hour": int(hour), "weather": int(weather), "count": int(count)})
    assert len(rows) == 15_212 and sum(row["count"] for row in rows) == 7_625_843
    assert all(row["count"] <= LEVEL_MAXIMA[row["level"]] for row in rows)
    kept = {target: sum(keep_scene(row, target) for row in rows) for target in SCENE_RULES}
    assert kept["SHA"] == 2_641 and kept["SHB"] == 3_322


def test_the_real_lists_are_read_as_an_index(tmp_path, real_data, gcc_folder):
    for name in ("all.txt", "train_list.txt", "test_list.txt"):
        (gcc_folder.root / "scene_00_0").mkdir(parents=True, exist_ok=True)
        (gcc_folder.root / name).write_bytes((real_data / "gcc_index" / name).read_bytes())
    level, hour, weather, scene, time, _count = (real_data / "gcc_index" / "test_list.txt").read_text().split()[:6]
    gcc_folder.add(scene, time, ROWS_COLUMNS, with_json=False)
    assert convert(FORM, gcc_folder.root, tmp_path / "test", split="test").manifest.num_samples == 1
    with pytest.raises(InputError, match="no images of the split 'train'"):
        convert(FORM, gcc_folder.root, tmp_path / "train", split="train")
    (sample,) = samples(tmp_path / "test").values()
    assert [sample.scene[noun] for noun in ("level", "hour", "weather")] == [int(level), int(hour), int(weather)]
