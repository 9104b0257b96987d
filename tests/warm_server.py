"""The server of `warm_start.py`: imports what jobs import, and forks a child for each that is asked for.

It has one thread, for a fork has the thread alone that forked. A child waits for its threads, calls what asked to be
called at the end (atexit), writes what is left to write, and leaves. What Python does beyond that, it takes all objects
apart, would copy 300 MB of the server's memory, for 0.4 s of CPU.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import socket
import sys
import threading
from functools import partial

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
    gc.disable()  # it would look for garbage for a third of the time
    for name in IMPORTED:
        importlib.import_module(name)
    assert threading.active_count() == 1
    gc.freeze()  # a child need not look through what is here
    gc.enable()
    ended = os.pidfd_open(owner)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen()
    os.write(1, b"ready\n")
    children: dict[int, tuple[int, socket.socket]] = {}  # by what tells of the end: the pid, and who asked for it
    while ended not in (ready := select.select([listening, ended, *children], [], [])[0]):
        for file in ready:
            if file is not listening:
                pid, asked = children.pop(file)
                tell(asked, os.waitpid(pid, 0)[1])
                asked.close()
                os.close(file)
                continue
            asked, _ = listening.accept()
            _, outputs, _, _ = socket.recv_fds(asked, 1, 2)
            request = json.loads(b"".join(iter(partial(asked.recv, 2**16), b"")))
            pid = os.fork()
            if pid == 0:
                for number, opened in enumerate([os.open(os.devnull, os.O_RDONLY), *outputs]):
                    os.dup2(opened, number)
                    os.close(opened)
                for one in (listening, asked, *(other for _, other in children.values())):
                    one.close()
                for one in (ended, *children):
                    os.close(one)
                return become(**request)
            for opened in outputs:
                os.close(opened)
            tell(asked, pid)
            children[os.pidfd_open(pid)] = pid, asked
    shutil.rmtree(os.path.dirname(address))
    os._exit(0)


def tell(asked: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # whoever asked may have gone
        asked.sendall(b"%d\n" % number)


def become(words: list[str], cwd: str, env: dict[str, str]) -> None:
    """Does what `python WORDS` does once Python has started, and ends; comes back only with an error that nobody
    caught.
    """
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    code: object = None
    try:
        execute(words)
    except SystemExit as ending:
        code = ending.code
    if not isinstance(code, int | None):
        print(code, file=sys.stderr)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def execute(words: list[str]) -> None:
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
