"""`python jobs/x.py` and `python -m crowddist.cli` without the seconds that their imports take.

A fresh Python needs 4 s of CPU to import PyTorch, MLflow and the rest, and tests start a hundred. `warm_server.py`
imports them once, and forks a child for each start. The child is a process of its own as any: its own words, folder,
environment, output, signals and exit code; `kill -9` kills it alone. What differs is that modules are imported already,
and that Python is not taken apart at the end, so a test of import times, of missing packages, of variables that Python
or a library reads at the start, or of Python's end takes a fresh Python (`subprocess`). So does one test of every job.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]


class Started:
    """A process, as `subprocess.Popen` has it; what it writes is in files until it has ended."""

    def __init__(self, *words: object, cwd: Path, env: Mapping[str, str]) -> None:
        """Words: those behind `python`, a file or `-m MODULE` or `-c CODE` first."""
        self._output, self._errors = (tempfile.TemporaryFile() for _ in range(2))  # noqa: SIM115
        self._server = socket.socket(socket.AF_UNIX)
        self._server.connect(_server())
        socket.send_fds(self._server, [b"!"], [self._output.fileno(), self._errors.fileno()])
        self._server.sendall(json.dumps({"words": [*map(str, words)], "cwd": str(cwd), "env": dict(env)}).encode())
        self._server.shutdown(socket.SHUT_WR)
        self.args, self.returncode = words, None
        self.pid = int(self._told())

    def _told(self) -> str:
        return b"".join(iter(lambda: self._server.recv(1), b"\n")).decode()

    def poll(self, wait_s: float | None = 0.0) -> int | None:
        """The exit code, negative for a signal; None for a process that has not ended after `wait_s` seconds."""
        if self.returncode is None and select.select([self._server], [], [], wait_s)[0]:
            self.returncode = os.waitstatus_to_exitcode(int(self._told()))
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.poll(timeout) is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits for the end; what was written to stdout and stderr."""
        self.wait(timeout)
        return _text(self._output), _text(self._errors)


def run(*words: object, cwd: Path, env: Mapping[str, str], timeout: float = 500) -> subprocess.CompletedProcess[str]:
    """`subprocess.run` of such a process."""
    process = Started(*words, cwd=cwd, env=env)
    try:
        output, errors = process.communicate(timeout)
    finally:
        process.kill()
    return subprocess.CompletedProcess(words, process.wait(), output, errors)


def together(work: Callable[..., None], *words: object, number: int) -> None:
    """Runs a function of a test's module in `number` processes at once, each with its rank and the same words (as
    texts); all must end well.
    """
    code = f"import sys; from {work.__module__} import {work.__name__} as work; work(int(sys.argv[1]), *sys.argv[2:])"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    for process in [Started("-c", code, rank, *words, cwd=ROOT, env=env) for rank in range(number)]:
        assert process.wait(500) == 0, process.communicate()[1]


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


_servers: list[subprocess.Popen[bytes]] = []


@functools.cache
def _server() -> str:
    """The server's address; starts it. It ends with this process, or, where several run the tests (pytest -n), with
    the one that started them: they share it.
    """
    shared, owner = os.environ.get("PYTEST_XDIST_TESTRUNUID"), os.getpid()
    if shared:
        owner = os.getppid()
        folder = Path(tempfile.gettempdir(), f"warm{shared}")
        folder.mkdir(mode=0o700, exist_ok=True)
    else:
        folder = Path(tempfile.mkdtemp(prefix="warm"))
    address = folder / "socket"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not address.exists():
            _start(address, owner)
    return str(address)


def _start(address: Path, owner: int) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
           "MLFLOW_DISABLE_TELEMETRY": "true"}
    server = subprocess.Popen([sys.executable, "-P", "tests/warm_server.py", address, str(owner)], cwd=ROOT, env=env,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert server.stdout is not None and server.stdout.readline() == b"ready\n", "the server has ended"
    _servers.append(server)
