"""Places in object storage: every operation on a mock, on a real server, and on that through a proxy that fails, with
the same bytes.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from crowddist import storage
from crowddist.errors import InputError
from crowddist.storage import s3_requests
from crowddist.storage.s3_object import S3Object

LARGE = random.Random(0).randbytes(3 * 2**20 + 12345)  # four parts


@pytest.fixture(autouse=True)
def small_parts(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("CROWDDIST_S3_PART_MIB", "1")


def test_what_is_written_is_read(place: str) -> None:
    contents = {"a": b"1", "ä b/k%+?#&=": b"two", "empty": b"", "large": LARGE, "b/.hidden": b"x"}
    for name, data in contents.items():
        storage.write_bytes(storage.join(place, name), data)
    assert storage.list_files(place) == sorted(contents)
    for name, data in contents.items():
        url = storage.join(place, name)
        assert storage.read_bytes(url) == data and storage.local_file(url).read_bytes() == data
        assert storage.num_bytes(url) == len(data) and storage.exists(url) and not storage.is_folder(url)
    storage.write_bytes(storage.join(place, "a"), b"22")
    assert storage.read_bytes(storage.join(place,
                                           "a")) == storage.local_file(storage.join(place, "a")).read_bytes() == b"22"
    assert (storage.is_folder(place) and storage.is_folder(storage.join(place, "ä b"))
            and storage.is_folder(place.rpartition("/")[0]))
    assert not storage.exists(storage.join(place, "emp")) and not storage.is_folder(storage.join(place, "emp"))
    storage.remove_file(storage.join(place, "a"))
    storage.remove_file(storage.join(place, "a"))
    assert not storage.exists(storage.join(place, "a"))


def test_what_is_not_there(place: str) -> None:
    for call in (storage.num_bytes, storage.read_bytes, storage.read_json, storage.local_file):
        with pytest.raises(FileNotFoundError, match="no file at"):
            call(storage.join(place, "a"))
    with pytest.raises(FileNotFoundError, match="no folder at"):
        storage.list_files(place)
    storage.remove_tree(place)


def test_an_exception_while_writing_leaves_the_old_content_and_no_parts(place: str) -> None:
    url = storage.join(place, "a")
    storage.write_bytes(url, b"old")
    with pytest.raises(RuntimeError), storage.open_write(url) as stream:
        stream.write(LARGE)
        raise RuntimeError
    assert storage.read_bytes(url) == b"old"
    broken = os.open("/dev/null", os.O_RDONLY)
    os.close(broken)
    with pytest.raises(OSError):  # the file is gone before its parts are sent
        S3Object(url)._upload(broken, len(LARGE), 5 * 2**20)
    assert storage.read_bytes(url) == b"old"
    assert not s3_requests.request("list_multipart_uploads", place, Bucket=place.split("/")[2]).get("Uploads")


def test_a_reader_never_sees_half_a_file(place: str) -> None:
    contents = [bytes([value]) * (2**20 + value * 1000) for value in b"ab"]
    url = storage.join(place, "f")
    storage.write_bytes(url, contents[0])
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for content in contents:
                storage.write_bytes(url, content)
                time.sleep(0.2)  # a reader whose answers are cut needs some of it

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = {storage.read_bytes(url) for _ in range(6)}
    finally:
        stop.set()
        writer.join()
    assert seen <= set(contents)


def test_lines_are_appended(place: str) -> None:
    url = storage.join(place, "curve.jsonl")
    for line in ("1", "2", "ü"):
        storage.append_line(url, line)
    assert storage.read_bytes(url) == "1\n2\nü\n".encode()
    storage.write_bytes(url, b"1\n{cut")
    storage.append_line(url, "2")
    assert storage.read_bytes(url) == b"1\n{cut\n2\n"


def test_staged_folder_appears_whole_or_not_at_all(place: str) -> None:
    target = storage.join(place, "set")
    with pytest.raises(RuntimeError), storage.staged_folder(target) as staging:
        storage.write_bytes(storage.join(staging, "a"), b"")
        raise RuntimeError
    assert not storage.exists(place)
    with storage.staged_folder(target) as staging:
        storage.write_bytes(storage.join(staging, "a"), b"1")
        storage.write_json(storage.join(staging, "manifest.json"), {})
        assert not storage.exists(target) and storage.list_files(place) == []
    assert storage.list_files(place) == ["set/a", "set/manifest.json"]
    with pytest.raises(InputError, match="already"), storage.staged_folder(target):
        pass
    with storage.staged_folder(target, overwrite=True) as staging:
        storage.write_bytes(storage.join(staging, "new"), b"")
    assert storage.list_files(place) == ["set/new"]
    with pytest.raises(InputError, match="will not remove"), storage.staged_folder(target, overwrite=True):
        pass
    assert storage.list_files(place) == ["set/new"]


def test_what_a_stopped_job_staged_is_there_for_the_same_job_alone(steady: str, quick: None) -> None:
    target = storage.join(steady, "set")
    with pytest.raises(KeyboardInterrupt), storage.staged_folder(target, job="a1") as staging:
        storage.write_bytes(storage.join(staging, "first"), b"1")
        with pytest.raises(InputError, match="is at work"), storage.staged_folder(target, job="a1"):
            pass
        raise KeyboardInterrupt
    assert storage.list_files(steady) == []
    with pytest.raises(InputError), storage.staged_folder(target, job="b2") as staging:
        assert not storage.exists(storage.join(staging, "first"))
        storage.write_bytes(storage.join(staging, "other"), b"")
        raise InputError("no")
    with storage.staged_folder(target, job="a1") as staging:
        assert storage.list_files(staging) == [".lock", "first"]
        storage.write_json(storage.join(staging, "manifest.json"), {})
    assert storage.list_files(steady) == ["set/first", "set/manifest.json"]
    assert not storage.exists(staging)


def test_a_job_that_was_killed_when_it_copied_what_it_staged(steady: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from crowddist.storage.s3_place import S3Place

    target, copies = storage.join(steady, "set"), []
    copy = S3Place.copy_from

    def killed(place: S3Place, source: S3Place) -> None:
        copies.append(place.url)
        if len(copies) == 2:
            raise KeyboardInterrupt
        copy(place, source)

    with monkeypatch.context() as one, pytest.raises(KeyboardInterrupt), storage.staged_folder(target,
                                                                                               job="a1") as staging:
        one.setattr(S3Place, "copy_from", killed)
        for name in ("1.tar", "2.tar", "manifest.json"):
            storage.write_bytes(storage.join(staging, name), name.encode())
    assert storage.list_files(steady) == ["set/1.tar"]
    for job in ("", "b2"):
        with pytest.raises(InputError, match="something is at"), storage.staged_folder(target, job=job):
            pass
    with storage.staged_folder(target, job="a1") as staging:
        assert "2.tar" in storage.list_files(staging)
    assert storage.list_files(steady) == ["set/1.tar", "set/2.tar", "set/manifest.json"]
    with pytest.raises(InputError, match="something is at"), storage.staged_folder(target, job="a1"):
        pass


def test_remove_tree_removes_only_what_is_ours(place: str) -> None:
    for name in ("a/manifest.json", "a/b/c", "ab", "photos/1.jpg", ".x.partial/y"):
        storage.write_bytes(storage.join(place, name), b"")
    storage.remove_tree(storage.join(place, "a"))
    storage.remove_tree(storage.join(place, ".x.partial"))
    for name in ("ab", "photos", "photos/1.jpg"):
        with pytest.raises(InputError, match="will not remove"):
            storage.remove_tree(storage.join(place, name))
    with pytest.raises(InputError, match="will not remove"):
        storage.remove_tree(place.rpartition("/")[0])
    assert storage.list_files(place) == ["ab", "photos/1.jpg"]


def test_stamps_change_with_the_files(place: str) -> None:
    from crowddist.storage.s3_place import S3Place

    storage.write_bytes(storage.join(place, "a"), b"1")
    storage.write_bytes(storage.join(place, "b"), b"1")
    before = list(S3Place(place).stamps())
    storage.write_bytes(storage.join(place, "a"), b"2")
    after = list(S3Place(place).stamps())
    assert before == list(dict.fromkeys(before)) and before[0] != after[0] and before[1:] == after[1:]


def test_a_folder_for_libraries_is_local(place: str) -> None:
    with pytest.raises(InputError, match="a folder on this machine is needed, got s3://"):
        storage.local_folder(place)
    folder = storage.scratch_folder(place)
    assert (folder.is_dir()
            and folder == storage.scratch_folder(place) != storage.scratch_folder(storage.join(place, "a")))
    storage.write_bytes(storage.join(place, "photos/a/1"), LARGE)
    storage.write_bytes(storage.join(place, "photos/2"), b"2")
    with storage.local_copy(storage.join(place, "photos")) as copy:
        assert copy.name == "photos" and (copy / "a" / "1").read_bytes() == LARGE and (copy / "2").read_bytes() == b"2"
    assert not copy.exists()


@pytest.mark.s3
def test_more_files_than_a_page_holds(real: str) -> None:
    place = real
    names = [f"n/{number:04}" for number in range(1003)] + ["n/manifest.json"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: storage.write_bytes(storage.join(place, name), b""), names))
    assert storage.list_files(place) == names
    storage.remove_tree(storage.join(place, "n"))
    assert not storage.exists(place)


def _read_in_child(url: str, answers) -> None:  # type: ignore[no-untyped-def]
    answers.put(storage.read_bytes(url))


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.s3)])
def test_children_have_a_client_of_their_own(place: str, method: str) -> None:
    url = storage.join(place, "a")
    storage.write_bytes(url, LARGE)
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    children = [context.Process(target=_read_in_child, args=(url, answers)) for _ in range(2)]
    for child in children:
        child.start()
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(storage.read_bytes, [url] * 8)) == {LARGE}
    assert [answers.get(timeout=60) for _ in children] == [LARGE] * 2
    for child in children:
        child.join()


def test_shards_are_read_by_way_of_the_cache(place: str, make_images,
                                             tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from crowddist.data.shards import ShardReader, verify

    local = make_images(tmp_path / "local", count=6, max_shard_bytes=60_000)
    for name in storage.list_files(local):
        storage.write_bytes(storage.join(place, name), (tmp_path / "local" / name).read_bytes())
    assert verify(place) == verify(local)
    reader, expected = ShardReader(place), ShardReader(local)
    assert [reader.read(index) for index in range(6)] == [expected.read(index) for index in range(6)]
    names = {path.name for path in (tmp_path / "cache").iterdir() if path.is_file()}
    assert names == {shard.sha256 for shard in reader.manifest.shards}
    # Evicted under a reader, or damaged on the disk, it is fetched again.
    for path in (tmp_path / "cache").iterdir():
        if path.is_file():
            path.unlink()
    assert reader.read(3) == expected.read(3)
    damaged = next(path for path in (tmp_path / "cache").iterdir() if path.is_file())
    damaged.write_bytes(bytes(damaged.stat().st_size))
    assert verify(place) == expected.manifest and ShardReader(place).read(3) == expected.read(3)


def test_without_room_in_the_cache_shards_are_read_directly(
    place: str, make_images, tmp_path: Path, environment: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture  # type: ignore[no-untyped-def]
) -> None:
    from crowddist.data.shards import ShardReader, verify
    from crowddist.storage import s3_place

    environment.setenv("CROWDDIST_CACHE_BYTES", "1000")
    environment.setattr(s3_place.S3Content, "_warned", False)
    local = make_images(tmp_path / "local", count=4, max_shard_bytes=60_000)
    for name in storage.list_files(local):
        storage.write_bytes(storage.join(place, name), (tmp_path / "local" / name).read_bytes())
    reader, expected = ShardReader(place), ShardReader(local)
    assert (verify(place) == expected.manifest
            and [reader.read(index) for index in range(4)] == [expected.read(index) for index in range(4)])
    (warning,) = [record.getMessage() for record in caplog.records if record.name == "crowddist.storage.s3_place"]
    assert "cannot take" in warning and "read directly" in warning


def test_photographs_are_converted_from_and_to_object_storage(place: str, tmp_path: Path) -> None:
    import cv2
    import numpy as np

    from crowddist.data.config import parse_data
    from crowddist.data.prepare import prepare

    photos = tmp_path / "photos"
    (photos / "day 1").mkdir(parents=True)
    for number in range(3):
        cv2.imwrite(str(photos / "day 1" / f"ü {number}.jpg"),
                    np.random.default_rng(number).integers(0, 255, (64, 96, 3), dtype=np.uint8))
    for name in storage.list_files(photos):
        storage.write_bytes(storage.join(place, "photos", name), (photos / name).read_bytes())
    said: list[str] = []
    prepared = [
        prepare(parse_data(source), runs, role="target", say=said.append)
        for source, runs in ((str(photos), str(tmp_path / "runs")),
                             (storage.join(place, "photos"), storage.join(place, "runs")))
    ]
    assert (prepared[0].manifest == prepared[1].manifest
            and prepared[0].manifest.num_samples == 3), "byte for byte, by their hashes"
    again = prepare(parse_data(storage.join(place, "photos")), storage.join(place, "runs"), role="target",
                    say=said.append)
    assert again == prepared[1] and sum("converting" in line for line in said) == 2
    assert [name for name in storage.list_files(place) if ".partial" in name or name.endswith(".lock")] == []
