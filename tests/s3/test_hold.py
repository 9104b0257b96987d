"""Holding a place in object storage: one process at a time, until it ends, however it ends."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from crowddist import storage
from crowddist.errors import InputError
from crowddist.process.host import sigterm_as_exit
from crowddist.storage import s3_lock
from crowddist.storage.s3_object import S3Object
from tests.s3.conftest import PROJECT

HOLD = ("import sys, time; from crowddist import storage\nwith storage.exclusive(sys.argv[1]):\n print('held', "
        "flush=True); time.sleep(60)")


pytestmark = pytest.mark.usefixtures("quick")


@contextmanager
def holder(url: str) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, url], stdout=subprocess.PIPE, cwd=PROJECT)
    try:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_hold_keeps_others_out_and_what_a_killed_process_elsewhere_held_runs_out(
        steady: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one is renewed while the other, and one that nobody can read, run out."""
    monkeypatch.setattr(s3_lock, "EXPIRY_S", 2.0)
    ours, theirs, odd = (storage.join(steady, name) for name in ("ours", "theirs", "odd"))
    owner = {"owner": "x", "host": "elsewhere", "pid": 1, "machine": "another", "began": ""}
    with storage.exclusive(ours):
        with pytest.raises(InputError, match=r"another process .* is at work in s3://"), storage.exclusive(ours):
            pass
        storage.write_json(storage.join(theirs, ".lock"), owner)
        storage.write_bytes(storage.join(odd, ".lock"), b"no JSON")
        started = time.monotonic()
        for place in (theirs, odd):
            with storage.exclusive(place):
                # The server's clock counts whole seconds.
                assert time.monotonic() - started > s3_lock.EXPIRY_S - 1.1
        while time.monotonic() - started < 1.2 * s3_lock.EXPIRY_S:
            time.sleep(0.05)
        with pytest.raises(InputError, match="another process"), storage.exclusive(ours):
            pass
    assert not storage.exists(ours)
    with storage.exclusive(ours), pytest.raises(InputError), storage.exclusive(ours):
        pass


def test_one_who_waits_gets_it_next(steady: str) -> None:
    order: list[str] = []

    def second() -> None:
        with storage.exclusive(steady, waiting=lambda: order.append("waits")):
            order.append("has it")

    with storage.exclusive(steady):
        thread = threading.Thread(target=second)
        thread.start()
        while not order:
            time.sleep(0.05)
        order.append("gives it back")
    thread.join()
    assert order == ["waits", "gives it back", "has it"]


def test_of_many_one_has_it_at_a_time(steady: str) -> None:
    inside, most, done = [0], [0], []

    def work() -> None:
        with storage.exclusive(steady, waiting=lambda: None):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.05)
            inside[0] -= 1
        done.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] and len(done) == 4


@pytest.mark.s3
def test_a_killed_process_of_this_machine_gives_way_at_once(real: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_lock, "EXPIRY_S", 1e6)
    with holder(real) as process:
        process.kill()
        process.wait()
        with storage.exclusive(real):
            pass


def test_who_finds_the_hold_taken_ends(steady: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SystemExit), sigterm_as_exit(), storage.exclusive(steady):
        storage.write_json(storage.join(steady, ".lock"), {"owner": "another"})
        time.sleep(20)
    assert "was lost" in caplog.text
    assert storage.read_json(storage.join(steady, ".lock")) == {"owner": "another"}, "the other's hold stays"


def test_a_server_that_ignores_conditions_is_told_of(steady: str, monkeypatch: pytest.MonkeyPatch,
                                                     caplog: pytest.LogCaptureFixture) -> None:
    def write(self: S3Object, data: bytes, *, new: bool = False, etag: str = "") -> bool:
        self._call("put_object", Body=data)
        return True

    monkeypatch.setattr(S3Object, "write_if", write)
    with storage.exclusive(steady):
        assert "ignores conditions" in caplog.text
        assert json.loads(storage.read_bytes(storage.join(steady, ".lock")))["pid"]
        with pytest.raises(InputError, match="another process"), storage.exclusive(steady):
            pass
