"""SIGTERM and SIGUSR1 as a request to stop: training writes a checkpoint after its step, and the program leaves with
the code that asks for another start.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: nothing is wrong, start it again. What Slurm's batch script and Kubernetes' failure policy
look for."""
ECHO_S = 2.0
"""Schedulers send a signal to a process and to its group, or two kinds at once: what comes so soon after the first says
nothing new."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Termination:
    """Whether this process has been asked to stop, and how long it may take.

    Args:
        grace_s: how long after the signal the program may go on; then it leaves whatever it does.
    """

    def __init__(self, grace_s: float = 25.0) -> None:
        self.grace_s = grace_s
        self.signal = ""
        """Name of the signal that came; "" while none has."""
        self._came = 0.0
        self._deferred = False
        self._over = False

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return bool(self.signal)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within the block a signal only sets `requested`: the block is expected to see it and to end within `grace_s`.

        Raises:
            SystemExit: EXIT_CODE, at the block's end where a signal came; in its midst when the time is over, or at a
                second signal.
        """
        if self.requested:
            sys.exit(EXIT_CODE)
        self._deferred = True
        try:
            yield
        except Exception:
            if not self.requested:  # whoever stops us may have stopped our workers too
                raise
        finally:
            self._deferred = False
        if self.requested:
            sys.exit(EXIT_CODE)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within the block, of the main thread, both signals are heard; outside of `deferred` they raise
        SystemExit(EXIT_CODE).
        """
        before = {number: signal.signal(number, self._hear) for number in SIGNALS}
        try:
            yield
        except (SystemExit, KeyboardInterrupt):
            if self.requested:
                print(f"stopped by {self.signal}; the same command takes the run up again", file=sys.stderr)
                sys.exit(EXIT_CODE)  # whatever became of it on its way through Ray
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hear(self, number: int, frame: object) -> None:
        if self.requested and not self._over and time.monotonic() - self._came < ECHO_S:
            return
        first = not self.requested
        if first:
            self.signal, self._came = signal.Signals(number).name, time.monotonic()
        if first and self._deferred:
            timer = threading.Timer(self.grace_s, self._end_of_grace)
            timer.daemon = True
            timer.start()
            return
        if not first:  # what ends now may hang as well
            for each in SIGNALS:
                signal.signal(each, signal.SIG_DFL)
        sys.exit(EXIT_CODE)

    def _end_of_grace(self) -> None:
        self._over = True
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
