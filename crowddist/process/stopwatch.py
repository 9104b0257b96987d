"""Where a worker's time goes: seconds by phase, one phase at a time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar

PHASES = ("start_up", "read", "compute", "exchange", "checkpoint", "predict", "idle", "other")
"""start_up: processes, networks and checkpoints are loaded. read: waiting for decoded samples. compute: training steps.
exchange: waiting for the other workers and their gradients. checkpoint: writing checkpoints and curves. predict: the
networks run over images. idle: waiting for work. other: all else, as preparing data and drawing pictures."""


class Stopwatch:
    """Adds up the seconds of each phase. It costs well below a microsecond a change of phase.

    Args:
        phase: one of `PHASES`, in which the watch starts.
        seconds: spent before.
    """

    def __init__(self, phase: str, seconds: Mapping[str, float] | None = None) -> None:
        self.phase = phase
        self._seconds = dict(seconds or {})
        self._since = time.perf_counter()

    def at(self, phase: str) -> None:
        """Ends the phase under way and begins another."""
        now = time.perf_counter()
        self._seconds[self.phase] = self._seconds.get(self.phase, 0.0) + now - self._since
        self.phase, self._since = phase, now

    def move(self, seconds: float, phase: str, to: str) -> None:
        """Counts some of a phase's seconds as another's, at most as many as it has."""
        seconds = min(seconds, self._seconds.get(phase, 0.0))
        if seconds > 0:
            self._seconds[phase] -= seconds
            self._seconds[to] = self._seconds.get(to, 0.0) + seconds

    def seconds(self) -> dict[str, float]:
        """Seconds by phase so far, without phases that never were."""
        self.at(self.phase)
        return dict(self._seconds)

    def take(self) -> dict[str, float]:
        """As `seconds`; then begins at zero."""
        taken, self._seconds = self.seconds(), {}
        return taken

    @contextlib.contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """The block is a phase; then the phase before goes on. In the block `reading` counts with this watch."""
        before, token = self.phase, _running.set(self)
        self.at(phase)
        try:
            yield
        finally:
            self.at(before)
            _running.reset(token)


_running: ContextVar[Stopwatch | None] = ContextVar("stopwatch", default=None)


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """The block reads samples, for the stopwatch in whose block it lies, if any."""
    watch = _running.get()
    if watch is None:
        yield
        return
    before = watch.phase
    watch.at("read")
    try:
        yield
    finally:
        watch.at(before)


def added(*parts: Mapping[str, float]) -> dict[str, float]:
    """Sums by phase, in the order of `PHASES`."""
    return {phase: sum(part.get(phase, 0.0) for part in parts) for phase in PHASES if any(phase in p for p in parts)}
