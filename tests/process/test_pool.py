"""Processes that share out work, and their end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from crowddist.process.pool import process_pool

BEGUN: list[str] = []
PARENT = """
import sys, time
sys.path.insert(0, {root!r})
from tests.process.test_pool import doze
from crowddist.process.pool import process_pool
if __name__ == "__main__":
    with process_pool(2) as pool:
        print(*[pool.submit(doze, 0.1).result() for _ in range(2)], flush=True)
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
        started = time.monotonic()
        raise KeyboardInterrupt
    assert time.monotonic() - started < 60 and not psutil.pid_exists(pid)
    assert long.done() and waiting.done()


def test_processes_end_with_the_one_that_started_them(tmp_path: Path):
    """However it ends: killed, it tells nobody."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(root=str(Path(__file__).parents[2])))
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert pids and all(psutil.pid_exists(pid) for pid in pids)
        parent.kill()
        psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=60)
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)
