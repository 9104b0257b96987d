"""The cache of downloads: once for all processes, whole or absent, within its limit, and honest about a full disk."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import shutil
import signal
import time
from collections import namedtuple
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from crowddist.errors import InputError
from crowddist.storage.cache import LIMIT_BYTES, Cache, CacheError

BYTES = 1000


def name(number: int) -> str:
    return hashlib.sha256(bytes([number])).hexdigest()


def filled(number: int) -> Any:
    return lambda stream: stream.write(bytes([number]) * BYTES)


def fetch(cache: Cache, number: int) -> bytes:
    return cache.fetch(name(number), BYTES, filled(number)).read_bytes()


def held(cache: Cache) -> set[int]:
    """Which files are there."""
    files = {path.name for path in cache.folder.iterdir() if path.is_file()}
    numbers = {number for number in range(100) if name(number) in files}
    assert len(numbers) == len(files), "and nothing else"
    return numbers


def test_a_file_is_downloaded_once(tmp_path: Path) -> None:
    cache = Cache(folder=tmp_path / "cache")
    assert fetch(cache, 1) == bytes([1]) * BYTES

    def never(stream: BinaryIO) -> None:
        raise AssertionError

    assert cache.fetch(name(1), BYTES, never).read_bytes() == bytes([1]) * BYTES and cache.find(name(2)) is None
    cache.drop(name(1))
    cache.drop(name(1))
    assert cache.find(name(1)) is None


def test_what_fails_leaves_nothing_and_comes_out_as_it_is(tmp_path: Path) -> None:
    cache = Cache(folder=tmp_path / "cache")
    for error in (ConnectionError("cut"), InputError("another hash"), FileNotFoundError("no file at s3://a/b"),
                  KeyboardInterrupt()):

        def fail(stream: BinaryIO, error: BaseException = error) -> None:
            stream.write(b"half")
            raise error

        with pytest.raises(type(error)) as raised:
            cache.fetch(name(1), BYTES, fail)
        assert raised.value is error and held(cache) == set()


def test_the_least_used_make_room(tmp_path: Path) -> None:
    cache = Cache(folder=tmp_path / "cache", limit_bytes=3 * BYTES)
    for number in (1, 2, 3):
        fetch(cache, number)
        time.sleep(0.02)  # the clock of file systems ticks slowly
    fetch(cache, 1)
    fetch(cache, 4)
    assert held(cache) == {1, 3, 4}
    with pytest.raises(CacheError, match=r"cannot take .* MiB: No space left on device; make room"):
        cache.fetch(name(5), 4 * BYTES, filled(5))
    assert held(cache) == {1, 3, 4}, "for what never fits nothing goes"


def test_a_disk_that_fills_up_lowers_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(folder=tmp_path / "cache")
    fetch(cache, 1)
    time.sleep(0.02)
    fetch(cache, 2)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 10**9, BYTES // 2))
    fetch(cache, 3)
    assert held(cache) == {2, 3}

    def full(*arguments: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(CacheError):
        fetch(cache, 4)
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="cannot take"):
        fetch(Cache(folder=tmp_path / "file"), 1)


def _fetch_many(folder: Path, numbers: list[int], answers: Any) -> None:
    cache, downloads = Cache(folder=folder, limit_bytes=6 * BYTES), []

    def download(stream: BinaryIO, number: int) -> None:
        downloads.append(number)
        for _ in range(10):
            stream.write(bytes([number]) * (BYTES // 10))
            time.sleep(0.001)

    good = 0
    for number in numbers:
        path = cache.fetch(name(number), BYTES, lambda stream, number=number: download(stream, number))
        try:
            good += path.read_bytes() == bytes([number]) * BYTES
        except FileNotFoundError:  # made room for another
            good += 1
    answers.put((good, len(downloads)))


def test_many_processes_share_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    for numbers, most in ((list(range(5)), 5), (list(range(12)) * 2, 96)):
        children = [context.Process(target=_fetch_many, args=(tmp_path / "cache", numbers, answers)) for _ in range(4)]
        for child in children:
            child.start()
        found = [answers.get(timeout=60) for _ in children]
        for child in children:
            child.join()
        assert [good for good, _ in found] == [len(numbers)] * 4 and sum(downloads for _, downloads in found) <= most
        assert len(held(Cache(folder=tmp_path / "cache"))) <= 6


def _hang(folder: Path, number: int) -> None:
    def half(stream: BinaryIO) -> None:
        stream.write(b"half")
        stream.flush()
        (folder / "reached").touch()
        time.sleep(60)

    Cache(folder=folder / "cache").fetch(name(number), BYTES, half)


def test_a_killed_download_is_done_again_and_its_rest_removed(tmp_path: Path) -> None:
    cache = Cache(folder=tmp_path / "cache", limit_bytes=2 * BYTES)
    for number in (1, 2):
        (tmp_path / "reached").unlink(missing_ok=True)
        child = multiprocessing.get_context("fork").Process(target=_hang, args=(tmp_path, number))
        child.start()
        while not (tmp_path / "reached").exists():
            time.sleep(0.01)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
    assert fetch(cache, 1) == bytes([1]) * BYTES
    assert fetch(cache, 3) == bytes([3]) * BYTES
    assert held(cache) == {1, 3}


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("CROWDDIST_CACHE", "CROWDDIST_CACHE_BYTES"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Cache.from_environment() == Cache(folder=tmp_path / "crowddist", limit_bytes=LIMIT_BYTES)
    monkeypatch.setenv("CROWDDIST_CACHE", str(tmp_path / "other"))
    monkeypatch.setenv("CROWDDIST_CACHE_BYTES", "5")
    assert Cache.from_environment() == Cache(folder=tmp_path / "other", limit_bytes=5)
    monkeypatch.setenv("CROWDDIST_CACHE_BYTES", "5G")
    with pytest.raises(InputError, match="CROWDDIST_CACHE_BYTES must be a whole number of bytes, got '5G'"):
        Cache.from_environment()
