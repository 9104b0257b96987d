"""The frames of a source, read ahead in a thread: bounded in memory and in time, and with reconnects where live."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from crowddist.errors import InputError
from crowddist.video.capture import Capture, Connection, quiet_opencv
from crowddist.video.sampling import ASSUMED_FPS, Clock, Every
from crowddist.video.source import Source

AHEAD = 3
"""Frames read ahead; a 4K frame takes 25 MB. ours: enough to bridge a slow read."""
STEADY_S = 30.0
"""ours: a stream that lived so long may be opened again as often as at first."""
_GRACE_S = 5.0
"""ours: how much later than FFmpeg's own time-out a read counts as hanging, as of a camera's driver."""
_POLL_S = 0.2
_LEAVE_S = 1.0
"""ours: how long the end of a count waits for a read that hangs."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A frame that is to be counted."""

    number: int
    """From 0, among all frames that were read."""
    time_s: float
    """Seconds: of a file, as its container tells; of a live source, since its first frame, by this machine's clock."""
    image: np.ndarray
    """(H, W, 3) uint8 RGB."""


class Frames:
    """Iterates over the frames of a source that are to be counted; a context manager, which opens it.

    Files wait for the reader. Of live sources old frames are dropped, see `dropped`.

    Args:
        say: told of reconnects, in the thread that iterates.

    Raises:
        InputError: while iterating, naming the source: it does not open, gives no frame, stalls, or broke off and did
            not come back.
    """

    def __init__(self, source: Source, every: Every, *, connection: Connection | None = None,
                 say: Callable[[str], None] = print) -> None:
        self.source, self.every, self.say = source, every, say
        self.connection = connection or Connection()
        self.live = source.kind != "file"
        """Known for sure with the first frame."""
        self.fps, self.num_frames = ASSUMED_FPS, 0
        """Frames a second, and their number as the container tells; 0: not told."""
        self.num_read = 0
        """Frames read, counted or not."""
        self.dropped = 0
        """Frames of a live source that were to be counted, but came while older ones still were."""
        self.num_reconnects = 0
        self.notes: list[str] = []
        """What was doubtful, one line each; whole at the end."""
        self._slot = -1
        self._first_s = self._begin_s = 0.0
        self._queue: queue.Queue[Frame | BaseException | None] = queue.Queue(AHEAD)
        self._words: deque[str] = deque()
        self._stop = threading.Event()
        self._deadline = self._allowed_s = 0.0
        self._quiet = ExitStack()
        self._thread = threading.Thread(target=self._run, name="frames", daemon=True)

    def __enter__(self) -> Frames:
        self._quiet.enter_context(quiet_opencv())
        self._allow(self.connection.open_timeout_s)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(_LEAVE_S)
        self._quiet.close()

    def __iter__(self) -> Iterator[Frame]:
        while (item := self._next()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def _next(self) -> Frame | BaseException | None:
        while True:
            while self._words:
                self.say(self._words.popleft())
            try:
                item = self._queue.get(timeout=_POLL_S)
            except queue.Empty:
                if time.monotonic() > self._deadline:
                    return InputError(f"{self.source.shown}: the {self.source.kind} hangs: no frame and no error for "
                                      f"{self._allowed_s:g} s")
                continue
            if not isinstance(item, Frame):
                while self._words:
                    self.say(self._words.popleft())
            return item

    # In the thread.

    def _run(self) -> None:
        end: BaseException | None = None
        try:
            self._read_all()
        except BaseException as error:
            end = error
        self._put(end)

    def _read_all(self) -> None:
        capture: Capture | None = Capture(self.source, self.connection)
        assert capture is not None
        self.live, self.num_frames = capture.is_live, capture.num_frames
        clock = Clock(capture.fps)
        self.fps, tries = clock.fps, 0
        while capture is not None:
            before, began = self.num_read, time.monotonic()
            why = self._read(capture, clock)
            if self._stop.is_set():
                return
            if not self.num_read:
                raise InputError(f"{self.source.shown}: {'gives' if self.live else 'holds'} no frames that can be read"
                                 f"{'' if why == 'ended' else f': it {why}'}")
            if not self.live:
                self._check_whole(clock, why)
                return
            if time.monotonic() - began > STEADY_S and self.num_read > before:
                tries = 0
            capture, tries = self._open_again(why, tries)

    def _read(self, capture: Capture, clock: Clock) -> str:
        """Reads to the end of a connection; says how it ended. Closes it."""
        undecoded = 0
        try:
            while not self._stop.is_set():
                self._allow(self.connection.read_timeout_s)
                began = time.monotonic()
                if not capture.grab():
                    stalled = time.monotonic() - began > 0.9 * self.connection.read_timeout_s
                    return f"stalled for {self.connection.read_timeout_s:g} s" if stalled else "ended"
                now = time.monotonic() if self.live else clock.time(capture.stamp_ms())
                if not self.num_read:
                    self._first_s, self._begin_s = now, capture.start_s()
                    self._note_pixels(capture.shape_of_pixels())
                slot = self.every.slot(self.num_read, now - self._first_s)
                self.num_read += 1
                if slot > self._slot:
                    image = capture.image()
                    if image is None:
                        undecoded += 1  # the next frame takes its turn
                        continue
                    self._slot = slot
                    self._put(Frame(number=self.num_read - 1, image=image,
                                    time_s=now - self._first_s if self.live else now))
            return "was stopped"
        finally:
            if undecoded:
                self.notes.append(f"{undecoded} frames could not be decoded; the next ones were counted instead")
            capture.close()

    def _open_again(self, why: str, tries: int) -> tuple[Capture | None, int]:
        """The stream, opened anew, and the number of tries so far; None where it is over or the count was stopped."""
        most = self.connection.reconnects
        if not most:
            self.notes.append(f"the stream {why}")
            return None, 0
        while tries < most:
            wait_s = self.connection.wait_s(tries)
            tries += 1
            self._words.append(f"{self.source.shown}: the stream {why}; opened again in {wait_s:g} s ({tries} of "
                               f"{most})")
            self._allow(wait_s + self.connection.open_timeout_s)
            if self._stop.wait(wait_s):
                return None, tries
            try:
                capture = Capture(self.source, self.connection)
            except InputError:
                why = "does not open"
                continue
            self.num_reconnects += 1
            return capture, tries
        tried = "1 try" if most == 1 else f"{most} tries"
        raise InputError(f"{self.source.shown}: the stream {why} and did not come back to stay in {tried}")

    def _note_pixels(self, shape: float) -> None:
        if abs(shape - 1) > 0.02:
            self.notes.append(f"pixels are {shape:.3g} times as wide as high, and frames are counted as they are "
                              "stored; scale the film to square ones for better counts")

    def _check_whole(self, clock: Clock, why: str) -> None:
        if why != "ended":
            self.notes.append(f"{self.source.shown} {why}; what came before is counted")
        if clock.num_guessed:
            frames = "no frame has" if clock.num_guessed >= self.num_read - 1 else f"{clock.num_guessed} frames have no"
            rate = f"{clock.fps:.4g} frames a second{', which is assumed,' * clock.is_assumed}"
            self.notes.append(f"{frames} time in the file: {rate} gives it")
        # Its number of frames may be a guess by its length where frames have no fixed rate: both must be short.
        # Some containers count its length from 0, also where it begins later.
        length_s, seen_s = self.num_frames / clock.fps, clock.last_s - self._first_s + self._begin_s
        if self.num_read < 0.98 * self.num_frames - 1 and seen_s < 0.98 * length_s - 2 / clock.fps:
            self.notes.append(f"the video seems cut off: {self.num_read} of {self.num_frames} frames could be read and "
                              "are counted")

    def _put(self, item: Frame | BaseException | None) -> None:
        """Waits for room; of a live source the oldest frame makes room for a new one."""
        drops = self.live and isinstance(item, Frame)
        while not self._stop.is_set():
            try:
                self._queue.put(item, block=not drops, timeout=_POLL_S / 2)
                self._allow(self.connection.read_timeout_s)
                return
            except queue.Full:
                if drops:
                    with suppress(queue.Empty):  # the reader was faster
                        self._queue.get_nowait()
                        self.dropped += 1

    def _allow(self, seconds: float) -> None:
        """The next sign of this thread comes within so many seconds, or it hangs."""
        self._allowed_s = seconds + _GRACE_S
        self._deadline = time.monotonic() + self._allowed_s
