"""Which frames are counted, and when each was shown."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import timedelta

from crowddist.errors import InputError

EVERY = "1s"
"""ours: a crowd hardly changes in a second, and a CPU counts about one frame in that time."""
ASSUMED_FPS = 25.0
"""Frames a second of a video that tells neither times nor a rate. ours: as FFmpeg assumes."""
_FASTEST_FPS = 1000.0
"""ours: some containers give their clock's rate (90,000) as frames a second."""
_ROUNDING_S = 1e-3
"""Containers round times to milliseconds, the first frame's too: a frame so little before its turn has come."""
_EVERY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(s?)\s*")


@dataclass(frozen=True, kw_only=True)
class Every:
    """Each n-th frame, or the first frame of every so many seconds; one of the two is 0."""

    frames: int = 0
    seconds: float = 0.0

    def slot(self, number: int, since_s: float) -> int:
        """The turn that a frame belongs to; of each turn the first frame is counted.

        Args:
            number: of the frame, from 0.
            since_s: seconds since the first frame.
        """
        return number // self.frames if self.frames else math.floor((since_s + _ROUNDING_S) / self.seconds)

    def rate(self, fps: float) -> float:
        """Counted frames a second of a video of `fps` frames a second."""
        return fps / self.frames if self.frames else min(1 / self.seconds, fps)


def parse_every(text: str | int) -> Every:
    """Reads 10 or "10", each tenth frame, and "2s", a frame in two seconds. Raises InputError for anything else."""
    found = _EVERY.fullmatch(str(text))
    number = float(found[1]) if found else 0.0
    if found and found[2] and 0 < number < 1e6:
        return Every(seconds=number)
    if found and not found[2] and number % 1 == 0 and 0 < number < 1e9:
        return Every(frames=int(number))
    raise InputError(f"every must be a number of frames, e.g. 10, or of seconds, e.g. 2s, got {str(text)!r}")


class Clock:
    """Times of the frames of a file: those of the container while they rise, else a frame's length after the last.

    Args:
        fps: frames a second as the container tells; not finite, 0 or absurd: `ASSUMED_FPS`.
    """

    def __init__(self, fps: float) -> None:
        self.is_assumed = not 0 < fps <= _FASTEST_FPS
        self.fps = ASSUMED_FPS if self.is_assumed else fps
        self.num_guessed = 0
        """Frames after the first without a time of their own."""
        self.last_s = math.nan
        """Seconds of the last frame."""

    def time(self, stamp_ms: float) -> float:
        """Seconds of the next frame, which the container shows at `stamp_ms`."""
        stamp = stamp_ms / 1000
        if math.isnan(self.last_s):
            self.last_s = stamp if 0 <= stamp < math.inf else 0.0
        elif self.last_s < stamp < math.inf:
            self.last_s = stamp
        else:
            self.last_s += 1 / self.fps
            self.num_guessed += 1
        return self.last_s


def clock_text(seconds: float) -> str:
    """Hours, minutes and seconds, e.g. 0:01:05."""
    return str(timedelta(seconds=math.floor(max(seconds, 0))))
