"""Shared by all converters: keys, skipping, sizes, and that a data set appears whole or not at all."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from crowddist import storage
from crowddist.data.convert.base import ITEMS_AHEAD, SKIPPED, convert, in_order, make_key
from crowddist.data.convert.formats import FORMATS
from crowddist.data.convert.layout import hash_share
from crowddist.data.shards import MAX_KEY_BYTES, ShardReader, decode, is_key, verify
from crowddist.errors import InputError
from tests.warm_start import ROOT, Started

SHANGHAI, FOLDER, GCC = FORMATS["shanghaitech"], FORMATS["folder"], FORMATS["gcc"]


@given(st.text(min_size=1, max_size=200))
def test_any_name_makes_a_key(name):
    try:
        name.encode()
    except UnicodeEncodeError:
        with pytest.raises(InputError, match="not UTF-8"):
            make_key(name)
        return
    assert is_key(make_key(name))


def test_keys_hand_worked():
    assert make_key("scene_01_0/12.5") == "scene_01_0_12_5" and make_key("ü 中") == "ü 中" and make_key("a\nb") == "a_b"
    long = make_key("é" * 60)
    assert len(long.encode()) <= MAX_KEY_BYTES and long.startswith("é" * 30) and long != make_key("é" * 61)


def test_hash_share_is_fixed_and_even():
    # From `printf IMG_1 | sha256sum`: it must never change, or the images held out become others.
    assert hash_share("IMG_1") == int("7e8101a6b9541117", 16) / 16**16
    shares = np.array([hash_share(f"IMG_{number}") for number in range(2000)])
    assert (shares >= 0).all() and (shares < 1).all()
    assert np.abs(np.histogram(shares, 5, (0, 1))[0] / 2000 - 0.2).max() < 0.03


def bad_cases(shanghai):
    """Every kind of damage to one of three images; the rest is sound."""
    import scipy.io

    images, truths = shanghai.root / "train_data" / "images", shanghai.root / "train_data" / "ground_truth"
    whole = (images / "IMG_2.jpg").read_bytes()
    truth = truths / "GT_IMG_2.mat"

    def locations(value):
        return lambda: scipy.io.savemat(truth, {"image_info": {"location": np.array(value, np.float64)}})

    return {
        "truncated": (lambda: (images / "IMG_2.jpg").write_bytes(whole[:-40]), "IMG_2.jpg"),
        "non-image": (lambda: (images / "IMG_2.jpg").write_text("text"), "IMG_2.jpg"),
        "zero bytes": (lambda: (images / "IMG_2.jpg").write_bytes(b""), "IMG_2.jpg"),
        "1x1": (lambda: Image.new("RGB", (1, 1)).save(images / "IMG_2.jpg"), "IMG_2.jpg"),
        "30,000 px": (lambda: Image.new("RGB", (30_000, 8)).save(images / "IMG_2.jpg"), "IMG_2.jpg"),
        "link loop": (lambda: [(images / "IMG_2.jpg").unlink(),
                               (images / "IMG_2.jpg").symlink_to(images / "IMG_2.jpg")], "IMG_2.jpg"),
        "duplicate names": (lambda: (images / "IMG_2.png").write_bytes(whole), "IMG_2.png"),
        "missing annotation": (truth.unlink, "GT_IMG_2.mat"),
        "annotation without image": (lambda: (truths / "GT_IMG_9.mat").write_bytes(truth.read_bytes()), "GT_IMG_9.mat"),
        "empty annotation": (lambda: truth.write_bytes(b""), "GT_IMG_2.mat"),
        "damaged annotation": (lambda: truth.write_bytes(truth.read_bytes()[:-9]), "GT_IMG_2.mat"),
        "wrong layout": (lambda: scipy.io.savemat(truth, {"annPoints": np.zeros((2, 2))}), "GT_IMG_2.mat"),
        "NaN": (locations([[1, np.nan]] * 4), "GT_IMG_2.mat"),
        "outside": (locations([[3, 3], *[[60, 3]] * 4]), "GT_IMG_2.mat"),
    }


CASES = [
    "truncated", "non-image", "zero bytes", "1x1", "30,000 px", "link loop", "duplicate names", "missing annotation",
    "annotation without image", "empty annotation", "damaged annotation", "wrong layout", "NaN", "outside"]


@pytest.mark.parametrize("case", CASES)
def test_bad_input_stops_or_is_skipped(tmp_path, shanghai, case):
    for number in (1, 2, 3):
        shanghai.add(number, [[number, 5], [7, 8]])
    cases = bad_cases(shanghai)
    assert list(cases) == CASES
    damage, name = cases[case]
    damage()
    with pytest.raises(InputError, match=name.replace(".", r"\.")) as caught:
        convert(SHANGHAI, shanghai.root, tmp_path / "set")
    assert "\n" not in str(caught.value) and os.listdir(tmp_path) == ["part_B_final"]

    done = convert(SHANGHAI, shanghai.root, tmp_path / "set", skip_bad=True)
    keys = ShardReader(done.url).keys()
    assert keys == (["IMG_1", "IMG_2", "IMG_3"] if case in ("duplicate names", "annotation without image")
                    else ["IMG_1", "IMG_3"])
    listed = storage.read_json(storage.join(done.url, SKIPPED))
    assert (listed == list(done.skipped) and len(listed) == 1 and name in listed[0]["reason"]
            and listed[0]["file"].startswith("train_data/"))
    assert done.manifest.statistics["num_skipped"] == 1
    assert verify(done.url) == done.manifest


def test_a_name_that_is_not_unicode_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "in" / "ok.png")
    (tmp_path / "in" / os.fsdecode(b"caf\xe9.png")).write_bytes((tmp_path / "in" / "ok.png").read_bytes())
    with pytest.raises(InputError, match="not UTF-8"):
        convert(FOLDER, tmp_path / "in", tmp_path / "set")
    done = convert(FOLDER, tmp_path / "in", tmp_path / "set", skip_bad=True)
    assert (ShardReader(done.url).keys() == ["ok"]
            and "not UTF-8" in storage.read_json(storage.join(done.url, SKIPPED))[0]["reason"])


def test_nothing_usable_is_an_error_also_when_skipping(tmp_path, shanghai):
    shanghai.add(1, [[500, 500]] * 4)
    with pytest.raises(InputError, match="none of the 1 images"):
        convert(SHANGHAI, shanghai.root, tmp_path / "set", skip_bad=True)
    assert not (tmp_path / "set").exists()


def test_points_less_than_a_pixel_outside_and_repeats_are_reported(tmp_path, shanghai):
    shanghai.add(1, [[-0.5, 3], [48.2, 31], [7, 7], [7, 7], [7, 7]])
    done = convert(SHANGHAI, shanghai.root, tmp_path / "set")
    assert done.manifest.statistics["num_clipped_points"] == 2 and done.manifest.statistics["num_repeated_points"] == 2
    sample = decode(*ShardReader(done.url).read(0))
    np.testing.assert_array_equal(sample.points, [[0, 3], [47, 31], [7, 7], [7, 7], [7, 7]])
    assert sample.scene["num_repeated_points"] == 2 and sample.scene["count"] == 5


@pytest.mark.parametrize("mode", ["CMYK", "L"])
def test_unusual_but_whole_images_are_taken(tmp_path, shanghai, mode):
    shanghai.add(1, [[3, 4]], image=Image.new("RGB", (48, 32), (200, 30, 60)).convert(mode))
    sample = decode(*ShardReader(convert(SHANGHAI, shanghai.root, tmp_path / "set").url).read(0))
    expected = np.asarray(Image.new("RGB", (48, 32), (200, 30, 60)).convert(mode).convert("RGB")).astype(int)
    assert np.abs(sample.image - expected).max() <= 4


def test_rotation_tags_mean_nothing_where_points_refer_to_stored_pixels(tmp_path, shanghai):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = shanghai.add(1, [[47, 3]])
    Image.open(path).save(path, exif=exif)
    key, members = ShardReader(convert(SHANGHAI, shanghai.root, tmp_path / "set").url).read(0)
    sample = decode(key, members)
    assert members["jpg"] == path.read_bytes() and sample.image.shape == (32, 48, 3)
    np.testing.assert_array_equal(sample.points, [[47, 3]])


def test_a_largest_size_moves_points_masks_and_regions_with_the_pixels(tmp_path, gcc_folder):
    mask = np.zeros((32, 48))
    mask[8:16, 24:36] = 1
    gcc_folder.add("scene_00_0", "1", [[31, 47], [0, 0], [12, 30]], mask=mask)
    sample = decode(*ShardReader(convert(GCC, gcc_folder.root, tmp_path / "set", max_size=24).url).read(0))
    assert sample.image.shape == (16, 24, 3) and (sample.scene["height"], sample.scene["width"]) == (16, 24)
    # x' = (x + 0.5) / 2 - 0.5, and what leaves the frame through it is moved to the border.
    np.testing.assert_allclose(sample.points, [[23, 15], [0, 0], [14.75, 5.75]])
    np.testing.assert_allclose(sample.scene["roi"], [[0, 0], [23, 0], [23, 15]])
    expected = np.zeros((16, 24))
    expected[4:8, 12:18] = 1
    np.testing.assert_array_equal(sample.mask, expected)


def test_equal_sources_give_equal_data_sets_wherever_they_lie(tmp_path, shanghai):
    shanghai.add(1, [[3, 4]])
    shanghai.add(2, [])
    elsewhere = tmp_path / "other" / "part_B"
    elsewhere.parent.mkdir()
    first = convert(SHANGHAI, shanghai.root, tmp_path / "a").manifest
    shanghai.root.rename(elsewhere)
    second = convert(SHANGHAI, storage.normalise(elsewhere), tmp_path / "ü b").manifest
    assert first == second and first.digest == second.digest


def test_small_shards(tmp_path, shanghai):
    for number in range(1, 7):
        shanghai.add(number, [[number, 1]])
    manifest = convert(SHANGHAI, shanghai.root, tmp_path / "set", max_shard_bytes=1).manifest
    assert [shard.num_samples for shard in manifest.shards] == [1] * 6
    assert manifest.name == "shanghaitech-B" and manifest.shards[0].name == "shanghaitech-B-all-000000.tar"


def test_the_name_may_be_chosen(tmp_path, shanghai):
    shanghai.add(1, [[3, 4]])
    assert convert(SHANGHAI, shanghai.root, tmp_path / "a", name="mine").manifest.name == "mine"
    assert convert(SHANGHAI, shanghai.root, tmp_path / "b", name="mine",
                   unlabelled=True).manifest.name == "mine-unlabelled"


def test_an_existing_data_set_stays_unless_it_is_to_be_replaced(tmp_path, shanghai):
    shanghai.add(1, [[3, 4]])
    first = convert(SHANGHAI, shanghai.root, tmp_path / "set").manifest
    with pytest.raises(InputError, match="already"):
        convert(SHANGHAI, shanghai.root, tmp_path / "set")
    shanghai.add(2, [[300, 4]] * 4)
    with pytest.raises(InputError, match="outside"):
        convert(SHANGHAI, shanghai.root, tmp_path / "set", overwrite=True)
    assert verify(tmp_path / "set") == first
    shanghai.add(2, [[30, 4]])
    assert convert(SHANGHAI, shanghai.root, tmp_path / "set", overwrite=True).manifest.num_samples == 2
    assert verify(tmp_path / "set").num_samples == 2 and sorted(os.listdir(tmp_path)) == ["part_B_final", "set"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_no_conversion_wrote_is_never_replaced(tmp_path, shanghai, overwrite):
    shanghai.add(1, [[3, 4]])
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "manifest.json").write_text('{"name": "web app"}')
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("")
    convert(SHANGHAI, shanghai.root, tmp_path / "mixed")
    (tmp_path / "mixed" / "diary.txt").write_text("mine")
    for name in ("site", "photos", "mixed"):
        before = storage.list_files(tmp_path / name)
        with pytest.raises(InputError):
            convert(SHANGHAI, shanghai.root, tmp_path / name, overwrite=overwrite)
        assert storage.list_files(tmp_path / name) == before
    for place in (shanghai.root, f"{tmp_path}/"):
        with pytest.raises(InputError, match=r"is the source, or a folder around it; choose another"):
            convert(SHANGHAI, shanghai.root, place, overwrite=overwrite)


def test_bad_arguments(tmp_path, shanghai):
    shanghai.add(1, [[3, 4]])
    with pytest.raises(InputError, match="no split 'dev'; choose one of all, train, val, test"):
        convert(SHANGHAI, shanghai.root, tmp_path / "set", split="dev")
    with pytest.raises(InputError, match="largest side"):
        convert(SHANGHAI, shanghai.root, tmp_path / "set", max_size=0)
    for source in (tmp_path / "nothing", shanghai.root / "train_data" / "images" / "IMG_1.jpg"):
        with pytest.raises(FileNotFoundError, match="no folder at"):
            convert(SHANGHAI, source, tmp_path / "set")


def test_any_number_of_workers_writes_the_same_bytes(tmp_path, shanghai):
    for number in range(1, 30):
        shanghai.add(number, [[number, 1], [30 + number / 10, 20]])
    manifests = [convert(SHANGHAI, shanghai.root, tmp_path / f"{workers}", max_size=40, num_workers=workers).manifest
                 for workers in (1, 3, 8)]
    assert manifests[0] == manifests[1] == manifests[2] and manifests[0].num_samples == 29
    with pytest.raises(InputError, match="at least one worker, got 0"):
        convert(SHANGHAI, shanghai.root, tmp_path / "none", num_workers=0)


@pytest.mark.parametrize("workers", [1, 4])
def test_the_first_bad_file_stops_it_whatever_other_workers_found(tmp_path, shanghai, workers):
    for number in range(1, 9):
        shanghai.add(number, [[3, 4]])
    for number in (2, 3, 5):
        shanghai.add(number, [[300 + number, 4]] * 4)
    with pytest.raises(InputError, match=r"GT_IMG_2\.mat"):
        convert(SHANGHAI, shanghai.root, tmp_path / "set", num_workers=workers)
    assert not (tmp_path / "set").exists()
    done = convert(SHANGHAI, shanghai.root, tmp_path / "set", num_workers=workers, skip_bad=True)
    assert [entry["file"].rpartition("/")[2] for entry in done.skipped] == ["IMG_2.jpg", "IMG_3.jpg", "IMG_5.jpg"]
    assert done.manifest.num_samples == 5


def test_workers_are_few_images_ahead_of_what_is_written():
    made, most = [], 0
    for number, result in in_order(range(100), lambda number: made.append(number) or number, 2):
        assert result() == number
        most = max(most, len(made) - number)
    assert sorted(made) == list(range(100)) and 2 <= most <= 2 * ITEMS_AHEAD + 1


def test_watch_sees_every_item_before_it_is_converted(tmp_path, shanghai):
    for number in (1, 2):
        shanghai.add(number, [[3, 4]])
    seen = []
    convert(SHANGHAI, shanghai.root, tmp_path / "set",
            watch=lambda items: (seen.append((len(items), item.name)) or item for item in items))
    assert seen == [(2, "IMG_1"), (2, "IMG_2")]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_conversion_leaves_no_data_set_and_goes_on(tmp_path, tmp_path_factory, shanghai, number):
    for index in range(1, 13):
        shanghai.add(index, [[3, 4]])
    code = (
        # A suite started in the background ignores SIGINT, and its children inherit that.
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import sys, time\nfrom crowddist.data.convert.base import convert\nfrom crowddist.data.convert.formats import "
        "FORMATS\n"
        "def slow(items):\n for item in items:\n  open(sys.argv[3], 'a').write('n')\n  yield item\n  time.sleep(0.05)\n"
        "convert(FORMATS['shanghaitech'], sys.argv[1], sys.argv[2], max_shard_bytes=1, watch=slow)"
    )
    begun = tmp_path_factory.mktemp("begun") / "images"
    job = Started("-c", code, shanghai.root, tmp_path / "set", begun, cwd=ROOT,
                  env={**os.environ, "PYTHONPATH": str(ROOT)})
    while not begun.exists() or begun.stat().st_size < 10:
        assert job.poll(0.01) is None
    job.send_signal(number)
    assert job.wait(30) != 0
    assert (not (tmp_path / "set").exists()
            and storage.list_files(tmp_path / "part_B_final") == storage.list_files(shanghai.root))
    (litter,) = [name for name in os.listdir(tmp_path) if name != "part_B_final"]
    assert litter.startswith(".set.") and litter.endswith(".partial")
    done = convert(SHANGHAI, shanghai.root, tmp_path / "set", max_shard_bytes=1)
    assert done.manifest.num_samples == 12 and done.num_resumed >= 3
    assert f"{done.num_resumed} images done before it was stopped" in done.summary()
    assert sorted(os.listdir(tmp_path)) == ["part_B_final", "set"]
    assert done.manifest == convert(SHANGHAI, shanghai.root, tmp_path / "unbroken", max_shard_bytes=1).manifest
    assert storage.list_files(tmp_path / "set") == storage.list_files(tmp_path / "unbroken")


def stop_after(num_items):
    def watch(items):
        yield from items[:num_items]
        raise KeyboardInterrupt

    return watch


@pytest.mark.parametrize("stops", [[3], [8], [12], [9, 8, 7]])
def test_a_stopped_conversion_goes_on_with_all_it_knew(tmp_path, shanghai, stops):
    for number in range(1, 13):
        shanghai.add(number, [[3, 4], [3, 4], [47.3, 5]] if number % 2 else [[300, 4]] * 4 if number == 4 else [[3, 4]])
    options = {"skip_bad": True, "max_shard_bytes": 4000}
    whole = convert(SHANGHAI, shanghai.root, tmp_path / "whole", **options)
    assert (len(whole.manifest.shards) >= 4 and len(whole.skipped) == 1
            and whole.manifest.statistics["num_repeated_points"] > 3)
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            convert(SHANGHAI, shanghai.root, tmp_path / "set", watch=stop_after(stop), **options)
        assert not (tmp_path / "set").exists()
    done = convert(SHANGHAI, shanghai.root, tmp_path / "set", **options)
    assert (done.manifest, done.skipped) == (whole.manifest, whole.skipped)
    assert (done.num_resumed > 0) == (stops[0] > 3) and sorted(os.listdir(tmp_path)) == ["part_B_final", "set", "whole"]
    verify(done.url)


def test_what_another_conversion_left_is_not_gone_on_with(tmp_path, shanghai):
    for number in range(1, 13):
        shanghai.add(number, [[3, 4]])
    for change in ({"max_size": 40}, {"unlabelled": True}, {"max_shard_bytes": 2}, "a photograph"):
        with pytest.raises(KeyboardInterrupt):
            convert(SHANGHAI, shanghai.root, tmp_path / "set", watch=stop_after(10), max_shard_bytes=1, overwrite=True)
        if change == "a photograph":
            shanghai.add(12, [[3, 4], [5, 6]])
        options = {"max_shard_bytes": 1, **({} if change == "a photograph" else change)}
        done = convert(SHANGHAI, shanghai.root, tmp_path / "set", overwrite=True, **options)
        assert done.num_resumed == 0 and done.manifest.num_samples == 12


def test_one_process_at_a_time_does_a_conversion(tmp_path, shanghai):
    for number in range(1, 13):
        shanghai.add(number, [[3, 4]])

    def second(items):
        with pytest.raises(InputError, match="another process is at work"):
            convert(SHANGHAI, shanghai.root, tmp_path / "set", max_shard_bytes=1)
        yield from items

    assert convert(SHANGHAI, shanghai.root, tmp_path / "set", max_shard_bytes=1,
                   watch=second).manifest.num_samples == 12


def test_a_conversion_killed_when_all_was_written(tmp_path, shanghai, monkeypatch):
    shanghai.add(1, [[3, 4]])
    with monkeypatch.context() as one, pytest.raises(KeyboardInterrupt):
        one.setattr(os, "replace", lambda source,
                    place: _replace(source, place) if Path(source).is_file() else interrupt())
        convert(SHANGHAI, shanghai.root, tmp_path / "set")
    assert convert(SHANGHAI, shanghai.root, tmp_path / "set").manifest.num_samples == 1
    assert sorted(os.listdir(tmp_path)) == ["part_B_final", "set"]


_replace = os.replace


def interrupt():
    raise KeyboardInterrupt


def test_image_bytes_are_the_files_own(tmp_path, shanghai):
    path = shanghai.add(1, [[3, 4]])
    _, members = ShardReader(convert(SHANGHAI, shanghai.root, tmp_path / "set").url).read(0)
    assert members["jpg"] == path.read_bytes()
    np.testing.assert_array_equal(np.load(io.BytesIO(members["points.npy"])), np.array([[3, 4]], np.float32))
