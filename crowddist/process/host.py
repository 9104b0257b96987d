"""This process and others: who is alive, which version runs, and how SIGTERM ends a program."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import crowddist

KEPT_BYTES = 2**30
"""Freed memory at the end of the heap that is kept (ours)."""


def started(pid: int) -> str | None:
    """When a process began, in the kernel's ticks; "" where the system does not tell; None where it is gone, also as a
    zombie.
    """
    try:
        # The name, in parentheses, may hold anything; the fields after it are fixed: the state is the 1st, the start
        # the 20th.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""


def is_alive(pid: int, began: str) -> bool:
    """Whether the process of this number that began at `began` (as `started` said then) still runs.

    Numbers are given out again, and after a container's restart the very same ones: the start tells two such processes
    apart.
    """
    now = started(pid)
    return now is not None and (now == began or "" in (now, began))


def versions() -> dict[str, str]:
    """`crowddist_version`, and `git_sha` (with -dirty after it where files were changed) when running from a
    checkout.
    """
    root = Path(crowddist.__file__).resolve().parents[1]
    facts = {"crowddist_version": crowddist.__version__}
    if (root / ".git").exists() and shutil.which("git"):
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        described = subprocess.run(command, capture_output=True, text=True, check=False)
        if described.returncode == 0:
            facts["git_sha"] = described.stdout.strip()
    return facts


def keep_freed_memory() -> bool:
    """Keeps what the program frees for what it allocates next, up to 1 GiB, as networks on a CPU need: else every large
    map is new memory, whose pages the system fills with zeros first.

    Returns:
        Whether it could be set: glibc alone knows how.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # of malloc.h
    return all([mallopt(mmap_max, 0), mallopt(trim_threshold, KEPT_BYTES), mallopt(top_pad, KEPT_BYTES // 4)])


@contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """Within the block SIGTERM raises SystemExit(143), so that `finally` runs; a second SIGTERM ends the process at
    once.

    Outside the main thread, where Python allows no signal handlers, and where the program has one of its own, it
    changes nothing.
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
