"""URLs, atomic publishing and the guards of storage."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crowddist import storage
from crowddist.errors import InputError
from crowddist.storage.names import path_of_file_url

NAMES = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="/\0"), min_size=1,
                max_size=40).filter(
    lambda n: n not in (".", "..")
)


def test_normalise_hand_worked():
    assert storage.normalise("/a/b/../c/") == "file:///a/c"
    assert storage.normalise("//a") == "file:///a"
    assert storage.normalise("/a b/ü#?%20") == "file:///a%20b/%C3%BC%23%3F%2520"
    assert storage.normalise("file:///a%20b/") == "file:///a%20b"
    assert storage.normalise("file://localhost/a") == storage.normalise("file:/a") == "file:///a"
    assert storage.normalise(Path("x")) == storage.normalise("x") == "file://" + os.path.abspath("x")
    assert storage.normalise("~/x") == "file://" + os.path.expanduser("~/x")
    assert storage.normalise("s3://bucket/a b/") == storage.normalise("S3://bucket/x/..//./a b") == "s3://bucket/a b"
    assert storage.normalise("s3://bucket/") == storage.normalise("s3://bucket/../..") == "s3://bucket"


@given(st.lists(NAMES, min_size=1, max_size=3))
def test_any_name_round_trips_through_its_url(names):
    path = Path("/", *names)
    url = storage.normalise(path)
    assert url.isascii() and storage.normalise(url) == url
    assert storage.join("/", *names) == url
    assert path_of_file_url(url) == path


def test_a_name_that_is_not_unicode_round_trips(tmp_path):
    place = tmp_path / os.fsdecode(b"caf\xe9")
    storage.write_bytes(place, b"x")
    assert storage.list_files(tmp_path) == [os.fsdecode(b"caf\xe9")]
    assert storage.read_bytes(storage.normalise(place)) == b"x"


@pytest.mark.parametrize("place", ["", "a\0b", "file:///a%00b", "http://host/x", "hdfs://x", "s3://", "s3:/x",
                                   "s3://a:b@c/x", "file://host/x"])
def test_bad_places_are_refused(place):
    with pytest.raises(InputError) as refused:
        storage.normalise(place)
    assert "a:b" not in str(refused.value), "a key and its secret are not repeated"


def test_join_refuses_names_that_leave_the_folder():
    assert storage.join("/a", "b/c", "d e") == "file:///a/b/c/d%20e"
    assert storage.join("s3://bucket/p", "b/d e") == "s3://bucket/p/b/d e"
    for part in ("", "/b", "b/", "../b", "b/../c", ".", "b\0"):
        with pytest.raises(InputError):
            storage.join("/a", part)


def test_files_are_listed_sorted_without_those_being_written(tmp_path):
    for name in ("b/2", "a", "b/1", ".hidden", "b/.7f.partial", ".x.partial/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    assert storage.list_files(tmp_path) == [".hidden", "a", "b/1", "b/2"]
    with pytest.raises(FileNotFoundError, match="no folder at"):
        storage.list_files(tmp_path / "a")


def test_write_replaces_and_creates_folders(tmp_path):
    url = storage.join(tmp_path, "ü b/c")
    storage.write_bytes(url, b"1")
    storage.write_bytes(url, b"22")
    assert storage.read_bytes(url) == b"22" and storage.num_bytes(url) == 2
    assert storage.exists(url) and not storage.is_folder(url)
    assert storage.is_folder(tmp_path / "ü b") and not storage.exists(tmp_path / "z")
    assert storage.local_file(url).read_bytes() == b"22"
    with pytest.raises(FileNotFoundError, match="no file at"):
        storage.read_bytes(storage.join(tmp_path, "ü b"))


def test_a_new_file_is_readable_by_others_as_the_mask_allows(tmp_path):
    (tmp_path / "plain").write_text("")
    storage.write_bytes(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_exception_while_writing_leaves_the_old_content_and_no_litter(tmp_path):
    storage.write_bytes(tmp_path / "a", b"old")
    with pytest.raises(RuntimeError), storage.open_write(tmp_path / "a") as stream:
        stream.write(b"new")
        raise RuntimeError
    assert os.listdir(tmp_path) == ["a"] and storage.read_bytes(tmp_path / "a") == b"old"


def test_a_full_disk_is_told_with_the_file(tmp_path):
    with pytest.raises(OSError, match="No space") as error, storage.open_write(tmp_path / "a.json"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert error.value.filename == str(tmp_path / "a.json") and not list(tmp_path.iterdir())


def test_a_pipe_is_written_to_and_stays_one(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    storage.write_bytes(tmp_path / "pipe", b"7")
    assert os.read(reader, 9) == b"7" and (tmp_path / "pipe").is_fifo() and len(list(tmp_path.iterdir())) == 1
    os.close(reader)
    with pytest.raises(IsADirectoryError):
        storage.write_bytes(tmp_path, b"7")


def test_a_reader_never_sees_half_a_file(tmp_path):
    contents = {bytes([value]) * 300_000 for value in b"abc"}
    storage.write_bytes(tmp_path / "f", next(iter(contents)))
    seen, stop = set(), threading.Event()

    def read():
        while not stop.is_set():
            seen.add(storage.read_bytes(tmp_path / "f"))

    thread = threading.Thread(target=read)
    thread.start()
    for _ in range(20):
        for content in contents:
            storage.write_bytes(tmp_path / "f", content)
    stop.set()
    thread.join()
    assert seen <= contents


def test_json_is_sorted_indented_and_strict(tmp_path):
    storage.write_json(tmp_path / "j", {"b": [1], "a": "ü"})
    assert (tmp_path / "j").read_text() == '{\n  "a": "ü",\n  "b": [\n    1\n  ]\n}\n'
    assert storage.read_json(tmp_path / "j") == {"a": "ü", "b": [1]}
    with pytest.raises(ValueError):
        storage.write_json(tmp_path / "j", float("nan"))
    for bad in (b"{", b"\xff"):
        storage.write_bytes(tmp_path / "j", bad)
        with pytest.raises(InputError, match="not JSON"):
            storage.read_json(tmp_path / "j")


def test_append_line_ends_a_line_that_was_cut(tmp_path):
    curve = tmp_path / "run" / "curve.jsonl"
    storage.append_line(curve, json.dumps({"step": 1}))
    curve.write_text(curve.read_text() + '{"st')
    storage.append_line(curve, json.dumps({"step": 2}))
    assert curve.read_text() == '{"step": 1}\n{"st\n{"step": 2}\n'
    with pytest.raises(ValueError):
        storage.append_line(curve, "a\nb")


def test_a_file_in_the_way_of_a_folder_is_one_clear_line(tmp_path):
    (tmp_path / "a").write_text("")
    for call in (lambda: storage.local_folder(tmp_path / "a"), lambda: storage.write_bytes(tmp_path / "a" / "b", b"")):
        with pytest.raises(InputError, match="a file is in the way"):
            call()
    assert (storage.local_folder(storage.join(tmp_path, "x/y")) == tmp_path / "x" / "y"
            and (tmp_path / "x" / "y").is_dir())


def test_staged_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "ü" / "set"
    with pytest.raises(RuntimeError), storage.staged_folder(target) as staging:
        storage.write_bytes(storage.join(staging, "a"), b"")
        raise RuntimeError
    assert os.listdir(tmp_path / "ü") == []
    with storage.staged_folder(target) as staging:
        storage.write_bytes(storage.join(staging, "a"), b"1")
        assert not target.exists() and storage.list_files(tmp_path) == []
    assert storage.list_files(tmp_path) == ["ü/set/a"]


def test_what_a_stopped_job_staged_is_there_for_the_same_job_alone(tmp_path):
    target = tmp_path / "set"
    with pytest.raises(OSError), storage.staged_folder(target, job="a1") as staging:
        storage.write_bytes(storage.join(staging, "first"), b"1")
        with pytest.raises(InputError, match="is at work"), storage.staged_folder(target, job="a1"):
            pass
        raise OSError
    assert os.listdir(tmp_path) == [".set.a1.partial"] and storage.list_files(tmp_path) == []
    with pytest.raises(InputError), storage.staged_folder(target, job="b2") as staging:
        storage.write_bytes(storage.join(staging, "other"), b"")
        raise InputError("no")
    assert os.listdir(tmp_path) == [".set.a1.partial"]
    with storage.staged_folder(target, job="a1"):
        pass
    assert os.listdir(tmp_path) == ["set"] and storage.list_files(tmp_path) == ["set/first"]


def test_staged_folder_keeps_what_is_there(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "photo").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name, overwrite in (("full", False), ("full", True), ("file", False), ("file", True)):
        with pytest.raises(InputError), storage.staged_folder(tmp_path / name, overwrite=overwrite):
            pass
    assert storage.list_files(tmp_path) == ["file", "full/photo"]
    (tmp_path / "full" / "manifest.json").write_text("")
    with pytest.raises(RuntimeError), storage.staged_folder(tmp_path / "full", overwrite=True):
        raise RuntimeError
    assert (tmp_path / "full" / "photo").exists()
    with storage.staged_folder(tmp_path / "full", overwrite=True) as staging:
        storage.write_bytes(storage.join(staging, "new"), b"")
    assert storage.list_files(tmp_path) == ["file", "full/new"]


def test_remove_tree_removes_only_what_is_ours(tmp_path, monkeypatch):
    storage.remove_tree(tmp_path / "nothing")
    for name, marker in (("a", "manifest.json"), ("b", "DONE.json"), (".c.partial", "x")):
        (tmp_path / name).mkdir()
        (tmp_path / name / marker).write_text("")
        storage.remove_tree(tmp_path / name)
    assert os.listdir(tmp_path) == []

    (tmp_path / "user" / "sub").mkdir(parents=True)
    (tmp_path / "user" / "sub" / "manifest.json").write_text("")
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "user" / "sub")
    for name in ("user", "file", "link"):
        with pytest.raises(InputError, match="will not remove"):
            storage.remove_tree(tmp_path / name)
    monkeypatch.setenv("HOME", str(tmp_path / "user" / "sub"))
    for place in ("/", "/tmp", tmp_path / "user" / "sub"):
        with pytest.raises(InputError, match="will not remove"):
            storage.remove_tree(place)
    assert (tmp_path / "user" / "sub" / "manifest.json").exists()


def test_remove_file(tmp_path):
    storage.write_bytes(tmp_path / "a", b"")
    storage.remove_file(tmp_path / "a")
    storage.remove_file(tmp_path / "a")
    assert not storage.exists(tmp_path / "a")


def test_exclusive_keeps_another_process_out_until_the_holder_dies(tmp_path):
    code = (
        "import sys, time; from crowddist import storage\nwith storage.exclusive(sys.argv[1]):\n print('held', "
        "flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(storage.__file__).parents[2])}
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE,
                              env=environment)
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(InputError), storage.exclusive(tmp_path / "run"):
            pass
    finally:
        holder.kill()
        holder.wait()
    with storage.exclusive(tmp_path / "run"):
        pass
