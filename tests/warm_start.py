"""`python jobs/x.py` and `python -m crowddist.cli` without the seconds that their imports take.

A fresh Python needs 4 s of CPU to import PyTorch, MLflow and the rest, and tests start a hundred. Here a server imports
them once, and forks a child for each start. The child is a process of its own as any: its own words, folder,
environment, output, signals and exit code; `kill -9` kills it alone. What differs is that modules are imported already,
so a test of import times, of missing packages, or of variables that Python or a library reads at the start takes a
fresh Python (`subprocess`). So does one test of every job.

The server ends with the process that started it, whatever ends that one.
"""

from __future__ import annotations

import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
IMPORTED = ("crowddist.pipeline", "crowddist.preflight.checks", "crowddist.launch.local", "crowddist.methods.build",
            "crowddist.tracking.choose", "crowddist.inference.open_counter", "crowddist.inference.evaluation",
            "crowddist.reports.html_report", "crowddist.search.threshold_search", "crowddist.video.count",
            "crowddist.cli.adapt", "crowddist.cli.count", "crowddist.cli.convert", "crowddist.cli.evaluate",
            "crowddist.cli.tune", "cv2", "scipy.optimize", "matplotlib.pyplot", "mlflow",
            "mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store")
"""Must start no thread: a fork has the one thread alone that forked. Not Ray: it reads variables at its import."""


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


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


@functools.cache
def _server() -> str:
    """The server's address; starts it."""
    address = str(Path(tempfile.mkdtemp(prefix="warm")) / "socket")
    # The pipe to its input stays open as long as this process lives.
    server = subprocess.Popen([sys.executable, "-P", __file__, address], cwd=ROOT, stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT),
                                                           "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
                                                           "MLFLOW_DISABLE_TELEMETRY": "true"})
    assert server.stdout is not None and server.stdout.readline() == b"ready\n", "the server has ended"
    _kept.append(server)
    return address


_kept: list[subprocess.Popen[bytes]] = []


# The server


def serve(address: str) -> None:
    """Returns in a child that has become the process asked for; in the server it never does."""
    for name in IMPORTED:
        importlib.import_module(name)
    assert threading.active_count() == 1
    gc.freeze()  # a child need not look through what is here at its end
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen()
    os.write(1, b"ready\n")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who watch a process
    while listening in select.select([listening, 0], [], [])[0]:
        asked, _ = listening.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listening.close()
            return watch(asked)
        asked.close()
    os.unlink(address)
    os.rmdir(os.path.dirname(address))
    os._exit(0)


def watch(asked: socket.socket) -> None:
    """Starts the process and tells its pid, and its end."""
    _, outputs, _, _ = socket.recv_fds(asked, 1, 2)
    request = json.loads(b"".join(iter(lambda: asked.recv(2**16), b"")))
    pid = os.fork()
    if pid == 0:
        asked.close()
        for number, file in enumerate([os.open(os.devnull, os.O_RDONLY), *outputs]):
            os.dup2(file, number)
            os.close(file)
        return become(**request)
    asked.sendall(b"%d\n" % pid)
    asked.sendall(b"%d\n" % os.waitpid(pid, 0)[1])
    os._exit(0)


def become(words: list[str], cwd: str, env: dict[str, str]) -> None:
    """Does what `python WORDS` does once Python has started."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    match words:
        case "-m", module, *others:
            sys.argv[1:] = others
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case "-c", code, *others:
            sys.argv = ["-c", *others]
            exec(code, {"__name__": "__main__"})
        case file, *others:
            sys.argv = [file, *others]
            sys.path.insert(0, os.path.dirname(file))
            runpy.run_path(file, run_name="__main__")


if __name__ == "__main__":
    serve(sys.argv[1])
