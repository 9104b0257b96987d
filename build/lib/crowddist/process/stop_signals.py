"""SIGTERM and SIGUSR1 ask a program to stop: training writes a checkpoint first; the exit code asks for a restart."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: start again. Slurm's batch script and Kubernetes' failure policy look for it."""
ECHO_S = 2.0
"""Signals so soon after the first are echoes: schedulers signal a process and its group, or send two kinds at once."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Termination:
    """Remembers a request to stop. `grace_s` after the signal the program exits, whatever it does."""

    def __init__(self, grace_s: float = 25.0) -> None:
        self.grace_s = grace_s
        self.signal = ""
        """Name of the signal that came; "" before."""
        self._came, self._deferred, self._over = 0.0, False, False

    @property
    def requested(self) -> bool:
        return bool(self.signal)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """In the block a signal only sets `requested`; the block should then end within `grace_s`. Raises
        SystemExit(EXIT_CODE) at the block's end, or earlier if the time is over or a second signal comes.
        """
        if self.requested:
            sys.exit(EXIT_CODE)
        self._deferred = True
        try:
            yield
        except Exception:
            if not self.requested:  # the same scheduler may have stopped our workers too
                raise
        finally:
            self._deferred = False
        if self.requested:
            sys.exit(EXIT_CODE)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """In the block (main thread only) handles both signals; outside `deferred` they raise SystemExit(EXIT_CODE)."""
        before = {number: signal.signal(number, self._hear) for number in SIGNALS}
        try:
            yield
        except (SystemExit, KeyboardInterrupt):
            if self.requested:
                print(f"stopped by {self.signal}; the same command takes the run up again", file=sys.stderr)
                sys.exit(EXIT_CODE)  # Ray may have turned it into another exception
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hear(self, number: int, frame: object) -> None:
        if not self.requested:
            self.signal, self._came = signal.Signals(number).name, time.monotonic()
            if self._deferred:
                timer = threading.Timer(self.grace_s, self._end_of_grace)
                timer.daemon = True
                timer.start()
                return
        elif not self._over and time.monotonic() - self._came < ECHO_S:
            return
        else:  # the exit may hang as well; then another signal kills
            for each in SIGNALS:
                signal.signal(each, signal.SIG_DFL)
        sys.exit(EXIT_CODE)

    def _end_of_grace(self) -> None:
        self._over = True
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
