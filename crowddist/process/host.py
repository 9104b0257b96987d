"""Processes: which are alive, which version and code runs, freed memory, and SIGTERM."""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

import crowddist

KEPT_BYTES = 2**30
"""ours: freed memory kept at the end of the heap."""


def started(pid: int) -> str | None:
    """A process's start time in kernel ticks; "" if the system does not tell; None for a dead process or a zombie."""
    try:
        # The name, in parentheses, may hold anything. Of the fields after it the 1st is the state, the 20th the start.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except (FileNotFoundError, ProcessLookupError):
        return "" if not Path("/proc/self/stat").exists() and psutil.pid_exists(pid) else None


def is_alive(pid: int, began: str) -> bool:
    """True if the process that `started` at `began` still runs: pids are reused, also after a container's restart."""
    now = started(pid)
    return now is not None and (now == began or "" in (now, began))


def versions() -> dict[str, str]:
    """`crowddist_version`, and in a checkout `git_sha` (with -dirty appended if files were changed)."""
    root = Path(crowddist.__file__).resolve().parents[1]
    facts = {"crowddist_version": crowddist.__version__}
    if (root / ".git").exists() and shutil.which("git"):
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        described = subprocess.run(command, capture_output=True, text=True, check=False)
        if described.returncode == 0:
            facts["git_sha"] = described.stdout.strip()
    return facts


def code_digest(rooms: Sequence[str], package: Path = Path(crowddist.__file__).parent) -> str:
    """SHA-256, in hex, of the source files in `rooms`, which are files and folders of the package."""
    digest = hashlib.sha256()
    for room in rooms:
        for path in sorted((package / room).rglob("*.py")) if (package / room).is_dir() else [package / room]:
            digest.update(f"{path.relative_to(package)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def keep_freed_memory() -> bool:
    """Reuses up to 1 GiB of freed memory: else the system zeroes new pages for every large map. Threads that come share
    it, for their own heaps would give it back. False without glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    trim_threshold, top_pad, mmap_max, arena_max = -1, -2, -4, -8  # of malloc.h
    return all([mallopt(mmap_max, 0), mallopt(trim_threshold, KEPT_BYTES), mallopt(top_pad, KEPT_BYTES // 4),
                mallopt(arena_max, 1)])


def give_back_memory() -> bool:
    """Gives freed memory back to the system, also what `keep_freed_memory` keeps. False without glibc."""
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (OSError, AttributeError):
        return False


@contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """In the block SIGTERM raises SystemExit(143), so that `finally` runs; a second SIGTERM ends the process at once.
    Changes nothing outside the main thread, where Python allows no handlers, or if the program has a handler already.
    """
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or before is not signal.SIG_DFL:
        yield
        return

    def leave(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
