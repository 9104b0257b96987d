"""The server of `warm_start.py`: imports what jobs import, and forks a child for each that is asked for.

It has one thread, for a fork has the thread alone that forked. Of each start there are two children: the job, and one
that waits for its end and tells it.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import sys
import threading

IMPORTED = ("crowddist.pipeline", "crowddist.preflight.checks", "crowddist.launch.local", "crowddist.methods.build",
            "crowddist.tracking.choose", "crowddist.inference.open_counter", "crowddist.inference.evaluation",
            "crowddist.reports.html_report", "crowddist.search.threshold_search", "crowddist.video.count",
            "crowddist.cli.adapt", "crowddist.cli.count", "crowddist.cli.convert", "crowddist.cli.evaluate",
            "crowddist.cli.tune", "torch._inductor.config", "cv2", "scipy.optimize", "matplotlib.pyplot",
            "PIL.Image", "jinja2", "simplejpeg", "tyro", "webdataset", "mlflow",
            "mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store")
"""Modules that start no thread; that of inductor is what a training imports to be deterministic, for 3 s. Not Ray: it
reads variables at its import."""


def serve(address: str, owner: int) -> None:
    """Returns in a child that has become the process asked for; in the server it never does, and ends with `owner`."""
    for name in IMPORTED:
        importlib.import_module(name)
    assert threading.active_count() == 1
    gc.freeze()  # a child need not look through what is here at its end
    ended = os.pidfd_open(owner)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen()
    os.write(1, b"ready\n")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who watch a process
    while ended not in select.select([listening, ended], [], [])[0]:
        asked, _ = listening.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listening.close()
            os.close(ended)
            return watch(asked)
        asked.close()
    shutil.rmtree(os.path.dirname(address))
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
    serve(sys.argv[1], int(sys.argv[2]))
