"""A run's data: shards stay as they are, raw data is converted once, and each role gets only what it may hold."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from crowddist import storage
from crowddist.data import shard_codec
from crowddist.data.config import DataSpec, parse_data
from crowddist.data.prepare import Prepared, Role, prepare
from crowddist.data.shards import ShardReader, decode
from crowddist.errors import InputError


def write_photograph(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 255, (40, 56, 3), dtype=np.uint8))


@pytest.fixture
def part_a(tmp_path: Path) -> Path:
    """Ten images in ShanghaiTech's layout with two heads each; their names put IMG_1 and others into `val`."""
    import scipy.io

    train = tmp_path / "part_A_final" / "train_data"
    (train / "ground_truth").mkdir(parents=True)
    for number in range(1, 11):
        write_photograph(train / "images" / f"IMG_{number}.jpg", number)
        inner = np.empty((1, 1), [("location", object), ("number", object)])
        inner[0, 0] = (np.array([[5.0, 6.0], [30.0, 20.5 + number / 10]]), np.array([[2]], np.uint16))
        info = np.empty((1, 1), object)
        info[0, 0] = inner
        scipy.io.savemat(train / "ground_truth" / f"GT_IMG_{number}.mat", {"image_info": info})
    return tmp_path / "part_A_final"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for index in range(3):
        write_photograph(tmp_path / "my photos" / f"{index}.jpg", index)
    return tmp_path / "my photos"


def prepared(text: str, place: Path, role: Role, **options: bool) -> tuple[Prepared, list[str]]:
    lines: list[str] = []
    return prepare(parse_data(text), str(place), role=role, say=lines.append, **options), lines


def keys(found: Prepared) -> list[str]:
    return ShardReader(found.url).keys()


@pytest.mark.parametrize("role", ["source", "target", "evaluation"])
def test_shards_are_taken_as_they_are(tmp_path: Path, tiny_source: str, role: Role) -> None:
    found, lines = prepared(tiny_source, tmp_path / "runs", role)
    assert found.url == storage.normalise(tiny_source) and lines == [f"{role}: tiny, 12 images"]
    assert found.summary() == {"url": found.url, "name": "tiny", "digest": found.manifest.digest, "num_images": 12}
    assert not (tmp_path / "runs").exists()


def test_only_a_target_may_be_without_labels(tmp_path: Path, tiny_target: str) -> None:
    assert prepared(tiny_target, tmp_path, "target")[0].manifest.num_samples == 10
    for role in ("source", "evaluation"):
        with pytest.raises(InputError, match=f"the {role} at .* has no labels; give a labelled data set"):
            prepared(tiny_target, tmp_path, role)


def test_shards_that_were_changed_are_refused(tmp_path: Path, make_images) -> None:
    url = make_images(tmp_path / "set", count=3)
    shard = next((tmp_path / "set").glob("*.tar"))
    content = bytearray(shard.read_bytes())
    content[600] ^= 1  # in the first image
    shard.write_bytes(content)
    with pytest.raises(InputError, match=r"SHA-256 .* it was cut or changed"):
        prepared(url, tmp_path / "runs", "source")
    shard.write_bytes(content[:-1024])
    with pytest.raises(InputError, match="it was cut or changed"):
        prepared(url, tmp_path / "runs", "target")


@pytest.mark.parametrize("form", ["", "folder:"])
def test_a_folder_of_photographs_is_a_target(photos: Path, tmp_path: Path, form: str) -> None:
    found, lines = prepared(f"{form}{photos}", tmp_path / "runs", "target")
    assert (found.url.startswith(
        f"file://{tmp_path}/runs/data/{'folder' if form else 'place'}-my-photos-all-unlabelled-"))
    assert not found.manifest.labelled and keys(found) == ["0", "1", "2"]
    assert lines == [f"target: converting {photos} to {found.url}", "target: my photos, 3 images"]


def test_a_conversion_is_made_once_and_kept(photos: Path, tmp_path: Path) -> None:
    first, _ = prepared(str(photos), tmp_path / "runs", "target")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    again, lines = prepared(f"{photos}/", tmp_path / "runs", "target")  # however the place is written
    assert again == first and lines == ["target: my photos, 3 images"]
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    elsewhere, lines = prepared(str(photos), tmp_path / "other runs", "target")
    assert elsewhere.url != first.url and elsewhere.manifest == first.manifest and len(lines) == 2


def test_a_folder_that_gained_a_photograph_is_another_data_set(photos: Path, tmp_path: Path) -> None:
    first, _ = prepared(str(photos), tmp_path / "runs", "target")
    write_photograph(photos / "deeper" / "3.jpg", 3)
    second, _ = prepared(str(photos), tmp_path / "runs", "target")
    assert first.url != second.url and keys(first) == ["0", "1", "2"] and keys(second) == ["0", "1", "2", "deeper_3"]


@pytest.mark.parametrize("as_url", [True, False])
def test_a_folder_may_be_written_in_any_way_and_hold_links(photos: Path, tmp_path: Path, as_url: bool) -> None:
    write_photograph(tmp_path / "camera" / "0.jpg", 5)
    (photos / "camera").symlink_to(tmp_path / "camera")
    (photos / "round").symlink_to(photos)
    place = photos.as_uri() if as_url else f"{photos}/../{photos.name}"
    # the loop is left out
    first, _ = prepared(place, tmp_path / "runs", "target", skip_bad=True)
    assert keys(first) == ["0", "1", "2", "camera_0"]
    write_photograph(tmp_path / "camera" / "1.jpg", 6)
    second, _ = prepared(place, tmp_path / "runs", "target", skip_bad=True)
    assert keys(second) == ["0", "1", "2", "camera_0", "camera_1"]


def test_two_runs_convert_one_after_the_other(photos: Path, tmp_path: Path) -> None:
    code = ("import sys; from crowddist import storage\nwith storage.exclusive(sys.argv[1]):\n print('held', "
            "flush=True); sys.stdin.read()")
    command = [sys.executable, "-c", code, str(tmp_path / "runs" / "data")]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              env={**os.environ, "PYTHONPATH": str(Path(storage.__file__).parents[1])})
    lines: list[str] = []
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"

        def say(line: str) -> None:
            lines.append(line)
            holder.kill()  # the first line says that it waits

        found = prepare(parse_data(str(photos)), str(tmp_path / "runs"), role="target", say=say)
    finally:
        holder.kill()
        holder.communicate()
    assert (keys(found) == ["0", "1", "2"] and lines[0].startswith("waiting for another run")
            and "converting" in lines[1])


def test_what_cannot_be_read_stops_or_is_left_out(photos: Path, tmp_path: Path) -> None:
    (photos / "torn.jpg").write_bytes((photos / "0.jpg").read_bytes()[:100])
    with pytest.raises(InputError, match=r"torn\.jpg"):
        prepared(str(photos), tmp_path / "runs", "target")
    found, lines = prepared(str(photos), tmp_path / "runs", "target", skip_bad=True)
    assert (keys(found) == ["0", "1", "2"]
            and lines[1] == f"target: 1 files left out, listed in {found.url}/skipped.json")
    with pytest.raises(InputError, match=r"torn\.jpg"):  # without skip_bad, nothing is skipped
        prepared(str(photos), tmp_path / "runs", "target")


def test_equal_names_of_two_places_are_two_conversions(photos: Path, tmp_path: Path) -> None:
    write_photograph(tmp_path / "elsewhere" / "my photos" / "9.jpg", 9)
    first, _ = prepared(str(photos), tmp_path / "runs", "target")
    second, _ = prepared(str(tmp_path / "elsewhere" / "my photos"), tmp_path / "runs", "target")
    assert first.url != second.url and keys(second) == ["9"]


def test_labels_of_a_target_are_not_even_converted(part_a: Path, tmp_path: Path) -> None:
    source, lines = prepared(str(part_a), tmp_path / "runs", "source")
    assert lines[0] == f"source: converting {part_a} as shanghaitech to {source.url}"
    target, _ = prepared(f"shanghaitech:{part_a}", tmp_path / "runs", "target")
    assert source.url != target.url and source.manifest.labelled and not target.manifest.labelled
    assert source.manifest.statistics["persons"] == 20 and "persons" not in target.manifest.statistics
    for index, key in enumerate(keys(target)):
        labelled, plain = decode(*ShardReader(source.url).read(index)), decode(*ShardReader(target.url).read(index))
        assert labelled.key == plain.key == key and np.array_equal(labelled.image, plain.image)
        assert labelled.points is not None and len(labelled.points) == 2
        assert plain.points is None and plain.mask is None and "count" not in plain.scene
        assert set(ShardReader(target.url).read(index)[1]) == {"jpg", "json"}
    # Unreadable annotations do no harm to a target.
    for path in (part_a / "train_data" / "ground_truth").iterdir():
        path.write_bytes(b"damage")
    assert prepared(f"shanghaitech:{part_a}", tmp_path / "fresh", "target")[0].manifest == target.manifest
    with pytest.raises(InputError, match=r"GT_IMG_\d+\.mat"):
        prepared(f"shanghaitech:{part_a}", tmp_path / "fresh", "source")


def test_boxes_of_a_target_are_not_even_converted(tmp_path: Path) -> None:
    write_photograph(tmp_path / "wider" / "WIDER_train" / "images" / "0--Parade" / "1.jpg", 1)
    labels = tmp_path / "wider" / "wider_face_split" / "wider_face_train_bbx_gt.txt"
    labels.parent.mkdir()
    labels.write_text("0--Parade/1.jpg\n1\n4 5 6 7 0 0 0 0 0 0\n")
    source, _ = prepared(f"wider_face:{tmp_path / 'wider'}", tmp_path / "runs", "source")
    target, _ = prepared(f"wider_face:{tmp_path / 'wider'}:train", tmp_path / "runs", "target")
    sample = decode(*ShardReader(source.url).read(0))
    assert np.array_equal(sample.boxes, [[4, 5, 6, 7]]) and np.array_equal(sample.points, [[6.5, 8]])
    assert set(ShardReader(target.url).read(0)[1]) == {"jpg", "json"}


def test_boxes_need_boxes(tmp_path: Path, tiny_source: str) -> None:
    with pytest.raises(InputError, match="has points, but no boxes; give one that has"):
        prepared(tiny_source, tmp_path / "runs", "boxes")


def test_splits_are_conversions_of_their_own(part_a: Path, tmp_path: Path) -> None:
    train, val, whole = (prepared(f"shanghaitech:{part_a}{split}", tmp_path / "runs", "evaluation")[0]
                         for split in (":train", ":val", ""))
    assert len({found.url for found in (train, val, whole)}) == 3
    assert keys(train) and keys(val) and not set(keys(train)) & set(keys(val))
    assert sorted(keys(train) + keys(val)) == sorted(keys(whole)) and len(keys(whole)) == 10
    with pytest.raises(InputError, match="no split 'validation'; choose one of all, train, val, test"):
        prepared(f"shanghaitech:{part_a}:validation", tmp_path / "runs", "source")


def test_rendered_images_are_drawn_once_for_every_role(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # in this process
    source, lines = prepared("renderer:source:2:3:64", tmp_path, "source")
    assert "rendering 2 images, look source" in lines and source.url.endswith("/data/renderer-source-2-64-3-labelled")
    raw = tmp_path / "data" / "raw" / "renderer-source-2-64-3"
    drawn = {path.name: path.stat().st_mtime_ns for path in raw.rglob("*") if path.is_file()}
    target, lines = prepared("renderer:source:2:3:64", tmp_path, "target")
    assert not any("rendering" in line for line in lines) and target.url.endswith("-unlabelled")
    assert {path.name: path.stat().st_mtime_ns for path in raw.rglob("*") if path.is_file()} == drawn
    assert source.manifest.labelled and not target.manifest.labelled and keys(source) == keys(target)
    sample = decode(*ShardReader(source.url).read(0))
    assert sample.image.shape == (64, 113, 3) and sample.points is not None and sample.mask is not None


def test_a_killed_renderer_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves an empty folder, and half of the images in another one."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    raw = tmp_path / "data" / "raw" / "renderer-source-1-64-0"
    raw.mkdir(parents=True)
    raw.with_name(f"{raw.name}.partial").mkdir()
    found, lines = prepared("renderer:source:1:0:64", tmp_path, "source")
    assert found.manifest.num_samples == 1 and "rendering 1 images, look source" in lines
    assert not raw.with_name(f"{raw.name}.partial").exists()


def test_places_are_filled_in_from_the_environment(photos: Path, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_CAMERAS", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    plain, _ = prepared(str(photos), tmp_path / "runs", "target")
    for text in ("$MY_CAMERAS/my photos", "${MY_CAMERAS}/my photos", "~/my photos"):
        assert prepared(text, tmp_path / "runs", "target")[0] == plain
    monkeypatch.delenv("MY_CAMERAS")
    for text in ("$MY_CAMERAS/my photos", "${MY_CAMERAS}/my photos", "folder:$MY_CAMERAS",
                 "shanghaitech:$MY_CAMERAS/part_A:val"):
        with pytest.raises(InputError,
                           match=r"\$MY_CAMERAS is not set; set it, or give the data with --source, --target, "
                                 r"--evaluation and --calibration"):
            prepared(text, tmp_path / "runs", "target")


@pytest.mark.parametrize(
    ("text", "role", "message"),
    [("{}/missing", "source", "no data set at"), ("{}/missing", "evaluation", "no data set at"),
     ("{}/missing", "target", "no folder at"), ("shanghaitech:{}/missing", "source", "no folder at"),
     ("{}/empty", "target", "no images"), ("{}/file", "target", "no folder at"),
     ("shanghaitech:{}/my photos", "source", "no ShanghaiTech data"), ("{}/my photos", "source", "no data set at"),
     ("folder:{}/my photos", "source", "has no labels"), ("ftp://host/photos", "target", "unknown kind of storage"),
     ("renderer:source:1:0:8", "source", "size must be")],
)
def test_bad_places_get_one_line_and_leave_no_data_set(photos: Path, tmp_path: Path, text: str, role: Role,
                                                       message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("a file")
    with pytest.raises((InputError, FileNotFoundError), match=message) as caught:
        prepared(text.format(tmp_path), tmp_path / "runs", role)
    assert "\n" not in str(caught.value)
    kept = [] if "has no labels" in message else list((tmp_path / "runs").rglob("manifest.json"))
    assert kept == []


def test_a_bad_photograph_stops_a_conversion_and_leaves_nothing(photos: Path, tmp_path: Path) -> None:
    (photos / "3.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"3\.jpg: not an image"):
        prepared(str(photos), tmp_path / "runs", "target")
    assert [path.name for path in (tmp_path / "runs").rglob("*") if path.is_file()] == [".lock"]
    (photos / "3.jpg").unlink()
    assert prepared(str(photos), tmp_path / "runs", "target")[0].manifest.num_samples == 3


def test_a_spec_needs_no_text(photos: Path, tmp_path: Path) -> None:
    spec = DataSpec(format="folder", place=str(photos))
    assert prepare(spec, str(tmp_path / "runs"), role="target", say=lambda line: None).manifest.num_samples == 3


def spoil(url: str, *numbers: int) -> None:
    """Makes images unreadable and writes a manifest that matches the changed shard."""
    from dataclasses import replace

    from crowddist.data.shards import publish_manifest, read_manifest, write_shard

    reader, manifest = ShardReader(url), read_manifest(url)
    samples = [reader.read(index) for index in range(len(reader))]
    changed = [(key, {**held, "png": b"not a picture"} if index in numbers else held)
               for index, (key, held) in enumerate(samples)]
    (shard,) = manifest.shards
    storage.remove_file(storage.join(url, "manifest.json"))
    publish_manifest(url, replace(manifest, shards=(write_shard(url, shard.name, changed),)))


@pytest.mark.parametrize("role", ["source", "evaluation", "target"])
def test_samples_of_shards_that_cannot_be_read_are_left_out_and_counted(tmp_path: Path, make_images,
                                                                        role: Role) -> None:
    url = make_images(tmp_path / "set", count=6, facts=[{"count": 5, "hour": number} for number in range(6)])
    spoil(url, 1, 4)
    found, lines = prepared(url, tmp_path / "runs", role, skip_bad=True)
    assert (keys(found) == ["image-000", "image-002", "image-003", "image-005"]
            and found.manifest.labelled == (role != "target"))
    skipped = storage.read_json(storage.join(found.url, "skipped.json"))
    assert ([entry["sample"] for entry in skipped] == ["image-001", "image-004"]
            and "png is damaged: not a PNG image" in skipped[0]["reason"])
    assert found.summary()["num_skipped"] == 2 and found.summary()["num_images"] == 4
    assert f"{role}: 2 of 6 samples cannot be read and are left out, listed in {found.url}/skipped.json" in lines
    scene = decode(*ShardReader(found.url).read(1)).scene
    assert scene["hour"] == 2 and ("count" in scene) == (role != "target")
    for index in range(4):
        key, copied = ShardReader(found.url).read(index)
        original = dict(ShardReader(url).read(int(key[-3:]))[1])
        assert copied == (original if role != "target" else {**copied, "png": original["png"]})
        assert role != "target" or set(copied) == {"png", "json"}
    again, lines = prepared(url, tmp_path / "runs", role, skip_bad=True)
    assert again == found and not any("looking" in line for line in lines)  # the bad samples are known


def test_readable_shards_are_taken_as_they_are(tmp_path: Path, tiny_source: str) -> None:
    assert prepared(tiny_source, tmp_path, "source", skip_bad=True)[0] == prepared(tiny_source, tmp_path, "source")[0]


def test_shards_of_which_nothing_can_be_read(tmp_path: Path, make_images) -> None:
    url = make_images(tmp_path / "set", count=2)
    spoil(url, 0, 1)
    with pytest.raises(InputError, match=r"none of the 2 samples of .* can be read; the last: sample image-001"):
        prepared(url, tmp_path / "runs", "source", skip_bad=True)


def test_labels_of_a_target_stay_closed_also_when_it_is_looked_through(tmp_path: Path, make_images,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    url = make_images(tmp_path / "set", count=3)
    spoil(url, 1)

    def opened(data: bytes) -> None:
        raise AssertionError("a label of the target was opened")

    for name in ("points.npy", "mask.png"):
        monkeypatch.setitem(shard_codec._DECODERS, name, opened)
    found, _ = prepared(url, tmp_path / "runs", "target", skip_bad=True)
    assert keys(found) == ["image-000", "image-002"]
    with pytest.raises(AssertionError, match="was opened"):
        prepared(url, tmp_path / "runs", "source", skip_bad=True)


@pytest.mark.parametrize("role", ["source", "evaluation"])
def test_labels_of_ones_own_need_no_name_of_their_format(photos: Path, tmp_path: Path, role: Role) -> None:
    (photos / "points.csv").write_text("file,x,y\n0.jpg,3,4\n0.jpg,90,4\n1.jpg,,\n")
    found, lines = prepared(str(photos), tmp_path / "runs", role)
    assert keys(found) == ["0", "1"] and found.manifest.statistics["persons"] == 1
    assert f"{role}: 1 images without labels left out, 1 points beyond the image dropped (in 1 images), listed in " \
           f"{found.url}/doubts.json" in lines
    assert prepared(f"csv:{photos}", tmp_path / "named", role)[0].manifest == found.manifest


def test_labels_beside_a_target_are_not_opened(photos: Path, tmp_path: Path) -> None:
    (photos / "points.csv").write_text("damaged")
    found, _ = prepared(str(photos), tmp_path / "runs", "target")
    assert not found.manifest.labelled and found.manifest.num_samples == 3


def test_a_folder_whose_labels_are_not_read_is_told_what_is(photos: Path, tmp_path: Path) -> None:
    (photos / "0.txt").write_text("3 4")
    with pytest.raises(FileNotFoundError, match=r"no data set at .*my photos: manifest\.json is missing, and no labels "
                                                r"that are read in .*: it holds 3 \.jpg, 1 \.txt; read are gcc, .*"):
        prepared(str(photos), tmp_path / "runs", "evaluation")


def test_a_folder_called_as_a_variable_is_itself(photos: Path, tmp_path: Path) -> None:
    photos.rename(tmp_path / "$HOME")
    assert keys(prepared(str(tmp_path / "$HOME"), tmp_path / "runs", "target")[0]) == ["0", "1", "2"]


def test_runs_inside_the_target_are_no_part_of_it(photos: Path) -> None:
    """The storage lies in the target, and holds pictures of a run that began before."""
    storage = photos / "runs"
    first, _ = prepared(str(photos), storage, "target")
    (storage / "data" / "raw").mkdir()
    (storage / "data" / "raw" / "0.jpg").write_bytes((photos / "0.jpg").read_bytes())
    second, lines = prepared(str(photos), storage, "target")
    assert first.url == second.url and keys(second) == ["0", "1", "2"]
    third, lines = prepared(str(photos), photos / "other runs", "target")
    assert keys(third) == ["0", "1", "2"] and any("written by crowddist: runs/data" in line for line in lines)
