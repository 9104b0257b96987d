"""Processes that share out work, and their end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crowddist.process.host import started
from crowddist.process.pool import process_pool

BEGUN: list[str] = []
PARENT = """
import os, time
from crowddist.process.pool import process_pool

def doze(seconds):
    time.sleep(seconds)
    return os.getpid()

if __name__ == "__main__":
    with process_pool(2) as pool:
        print(*[task.result() for task in [pool.submit(doze, 0.2), pool.submit(doze, 0.2)]], flush=True)
        pool.submit(doze, 600.0).result()
"""


def begin(word: str) -> None:
    BEGUN.append(word)


def begun(number: int) -> tuple[int, list[str]]:
    return number, BEGUN


def doze(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def test_tasks_are_done_in_processes_that_were_made_ready():
    with process_pool(2, begin, "ready") as pool:
        assert list(pool.map(begun, range(4))) == [(number, ["ready"]) for number in range(4)]


def test_where_the_block_raises_nothing_is_waited_for():
    with pytest.raises(KeyboardInterrupt), process_pool(1) as pool:
        pid = pool.submit(doze, 0.0).result()
        long, waiting = pool.submit(doze, 600.0), pool.submit(doze, 600.0)
        began = time.monotonic()
        raise KeyboardInterrupt
    assert time.monotonic() - began < 60 and started(pid) is None
    assert long.done() and waiting.done()


def test_processes_end_with_the_one_that_started_them(tmp_path: Path):
    """However it ends: killed, it tells nobody."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert pids and all(map(started, pids))
        parent.kill()
    late = time.monotonic() + 60
    while any(map(started, pids)) and time.monotonic() < late:
        time.sleep(0.05)
    assert not any(map(started, pids))
