"""Processes that share out work of the CPU, and end as soon as the one that started them does."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any


@contextmanager
def process_pool(num_workers: int, start: Callable[..., None] | None = None, *arguments: Any
                 ) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes. Where the block raises, as at Ctrl-C, they end at once, in the middle of what they do; they
    also end with this process, however that ends. The caller's main module must be importable.

    Args:
        start: called in each process before its first task.
        arguments: of `start`.
    """
    context = get_context("spawn")
    # Nothing is ever sent: the end that this process holds closes when it is told to, or when the process dies.
    theirs, ours = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(num_workers, mp_context=context, initializer=_begin, initargs=(theirs, start, arguments))
    try:
        yield pool
    except BaseException:
        ours.close()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        ours.close()
        theirs.close()


def _begin(theirs: Connection, start: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches all processes; the first one decides

    def leave() -> None:
        theirs.poll(None)
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()
    if start is not None:
        start(*arguments)
