"""One open video in OpenCV, with time-outs; an error tells why it does not open."""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np

from crowddist.data import safe_decode
from crowddist.errors import InputError, require_not_negative, require_positive
from crowddist.video.mp4_length import shown_s
from crowddist.video.source import Source

FFMPEG_LOG = "OPENCV_FFMPEG_LOGLEVEL"
"""Environment variable of OpenCV: what FFmpeg says on stderr."""
_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443, "rtmp": 1935, "rtmps": 443}
LONGEST_WAIT_S = 30.0
"""ours: between two tries to open a stream again."""
_CONNECT_S = 3.0
"""ours: long enough for another continent."""


@dataclass(frozen=True, kw_only=True)
class Connection:
    """How patient a source is read."""

    open_timeout_s: float = 10.0
    """Seconds that a source may take to open, > 0."""
    read_timeout_s: float = 10.0
    """Seconds that a frame may take to come, > 0."""
    reconnects: int = 5
    """Times that a live stream is opened again after it broke off, without 30 steady seconds between; 0: never."""
    first_wait_s: float = 1.0
    """Seconds before the first of these, >= 0; doubled each time, up to 30."""

    def __post_init__(self) -> None:
        require_positive(open_timeout_s=self.open_timeout_s, read_timeout_s=self.read_timeout_s)
        require_not_negative(reconnects=self.reconnects, first_wait_s=self.first_wait_s)

    def wait_s(self, tries: int) -> float:
        """Seconds to wait after so many tries."""
        return min(self.first_wait_s * 2.0**min(tries, 99), LONGEST_WAIT_S)  # powers of thousands are no floats


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """In the block OpenCV and FFmpeg print nothing of their own on stderr, unless their environment variables ask."""
    os.environ.setdefault(FFMPEG_LOG, "-8")  # AV_LOG_QUIET
    with safe_decode.quiet_opencv():
        yield


class Capture:
    """An open source. Of one thread: a time-out of FFmpeg's ends a call, but nothing ends it from outside.

    Raises InputError, naming the source and the likely reason, where it does not open in time.
    """

    def __init__(self, source: Source, connection: Connection) -> None:
        import cv2

        began = time.monotonic()
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _whole_ms(connection.open_timeout_s),
                  cv2.CAP_PROP_READ_TIMEOUT_MSEC, _whole_ms(connection.read_timeout_s)]
        if source.kind == "camera":
            self._video = cv2.VideoCapture(source.place)
            self._video.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest frame, not the oldest that waits
        else:
            # FFmpeg alone: another backend would take "photo-1.jpg" for the first of a row of images.
            self._video = cv2.VideoCapture(source.place, cv2.CAP_FFMPEG, limits)
        if not self._video.isOpened():
            in_time = time.monotonic() - began < 0.9 * connection.open_timeout_s
            raise InputError(_refusal(source, f"{connection.open_timeout_s:g} s", in_time))
        fps, number = (self._video.get(fact) for fact in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT))
        self.fps = fps if math.isfinite(fps) else 0.0
        """Frames a second as the container tells; 0: not told."""
        self.num_frames = int(number) if 0 < number < 2**53 and source.kind != "camera" else 0
        """As the container tells, perhaps roughly; 0: not told, as of what is live."""
        if source.kind == "file" and self.fps and (length_s := shown_s(str(source.place))):
            self.num_frames = min(self.num_frames, round(length_s * self.fps))
        self.is_live = source.kind == "camera" or (source.kind == "stream" and (
            not self.num_frames or not str(source.place).lower().startswith("http")))
        """Frames come at their time, whether they are read or not."""

    def grab(self) -> bool:
        """Goes to the next frame; False at the end, after a time-out, and where the rest cannot be read."""
        return bool(self._video.grab())

    def stamp_ms(self) -> float:
        """The container's time of the frame that was grabbed, ms; 0 where it has none."""
        import cv2

        return float(self._video.get(cv2.CAP_PROP_POS_MSEC))

    def start_s(self) -> float:
        """The container's own time of the film's begin, which `stamp_ms` counts from, s, at least 0; known with the
        first frame.
        """
        import cv2

        own_s = float(self._video.get(cv2.CAP_PROP_PTS)) / self.fps if self.fps else 0.0
        return max(own_s - self.stamp_ms() / 1000, 0.0)

    def shape_of_pixels(self) -> float:
        """A pixel's width by its height; 1: square, or not told."""
        import cv2

        width, height = (self._video.get(fact) for fact in (cv2.CAP_PROP_SAR_NUM, cv2.CAP_PROP_SAR_DEN))
        return width / height if width > 0 and height > 0 else 1.0

    def image(self) -> np.ndarray | None:
        """(H, W, 3) uint8 RGB of the frame that was grabbed, turned upright; None where it cannot be decoded."""
        import cv2

        decoded, image = self._video.retrieve()
        if not decoded or image is None or image.ndim not in (2, 3) or image.dtype != np.uint8:
            return None
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB if image.ndim == 3 and image.shape[2] == 3 else cv2.COLOR_GRAY2RGB)

    def close(self) -> None:
        self._video.release()


def _whole_ms(seconds: float) -> int:
    """A time-out as OpenCV takes it: 32 bits, which is 24 days."""
    return math.ceil(min(1000 * seconds, 2**31 - 1))


def _refusal(source: Source, patience: str, in_time: bool) -> str:
    """Why a source does not open, and the next step."""
    if source.kind == "camera":
        return (f"{source.shown} cannot be opened; is it plugged in, not in use by another program, and may this user "
                "read it?")
    if source.kind == "file":
        return (f"{source.shown}: not a video that can be read, or one that was cut off (the index of an MP4 stands at "
                "its end); try to play it, or copy it again")
    if not in_time:
        return f"{source.shown}: no video came within {patience}; is the address right, and the camera on?"
    return f"{source.shown}: {_no_contact(str(source.place)) or _NO_VIDEO}"


_NO_VIDEO = "the host answers, but gives no video at this address; check its path, user and password"


def _no_contact(address: str) -> str:
    """Why a host cannot be reached; "" where it can, or where the kind of address has no connection to try."""
    try:
        parts = urlsplit(address)
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        return "not an address: its port must be a number up to 65535"
    if parts.scheme not in (*_PORTS, "tcp"):
        return ""
    if not parts.hostname:
        return "the address names no host; write e.g. rtsp://HOST/PATH"
    try:
        socket.create_connection((parts.hostname, port), timeout=_CONNECT_S).close()
    except (socket.gaierror, UnicodeError):
        return f"no host is called {parts.hostname!r}"
    except OSError as error:
        return f"{parts.hostname} cannot be reached at port {port}: {error.strerror or 'no answer'}"
    return ""
