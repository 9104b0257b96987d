"""What a count of a video leaves: counts.csv row by row, the overlay as a video, a chart and a summary."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from crowddist import storage
from crowddist.errors import InputError

COLUMNS = ("time", "frame", "zone", "count", "low", "high")
"""Seconds; number from 0; `all` or a zone's name; persons."""
OVERLAY, CHART, SUMMARY = "overlay.mp4", "counts.png", "summary.json"
CODEC = "mp4v"
"""MPEG-4 Part 2: every FFmpeg can write it."""


@dataclass(frozen=True, kw_only=True)
class PlaceSummary:
    """Counts of a place over the time."""

    mean: float
    """Persons a counted frame."""
    peak: float
    peak_time_s: float
    """When it first came, s."""


@dataclass(frozen=True, kw_only=True)
class VideoSummary:
    """A count of a video."""

    source: str
    started: str
    """When the count began, UTC."""
    frames: int
    """Counted."""
    frames_read: int
    first_s: float
    """Of the first counted frame; `last_s`: of the last."""
    last_s: float
    places: dict[str, PlaceSummary]
    """`all`, the whole image, and the zones by name."""
    dropped: int = 0
    """Frames of a live source that came while older ones were counted."""
    reconnects: int = 0
    whole: bool = True
    """False where the count was stopped, or its source broke off."""
    notes: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    """Names of the files in the output folder."""

    def record(self) -> dict[str, Any]:
        """For summary.json."""
        return asdict(self)


def is_video_table(path: Path) -> bool:
    """True for a counts.csv of a video."""
    with open(path, "rb") as stream:
        return stream.readline(200).strip() == ",".join(COLUMNS).encode()


class CountLog:
    """counts.csv: the rows of a frame reach the disk together, as soon as it is counted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream: TextIO | None = None

    def add(self, rows: Iterable[Sequence[Any]]) -> None:
        """Adds the rows of a frame, of `COLUMNS`; None is an empty cell. The first call replaces an older table."""
        text = io.StringIO()
        writer = csv.writer(text)
        if self._stream is None:
            self._stream = open(self.path, "w", encoding="utf-8", newline="")  # noqa: SIM115 closed by close
            writer.writerow(COLUMNS)
        writer.writerows(rows)
        with storage.naming(self.path):
            self._stream.write(text.getvalue())
            self._stream.flush()

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()


class OverlayVideo:
    """Pictures as a video of MPEG-4, all of the first one's size. Nothing is written before the first."""

    def __init__(self, path: Path, fps: float, *, codec: str = CODEC) -> None:
        # Two decimals: MPEG-4's clock has at most 65,535 ticks a second.
        self.path, self.fps, self.codec = path, min(max(round(fps, 2), 0.01), 240.0), codec
        self.num_written = 0
        self._writer: Any = None
        self._size = (0, 0)

    def add(self, picture: np.ndarray) -> None:
        """Adds an RGB picture, shrunk or padded with black to the first one's size.

        Raises InputError where this OpenCV cannot write such a video.
        """
        import cv2

        if self._writer is None:
            # MPEG-4 stores colours for two by two pixels.
            self._size = (picture.shape[0] // 2 * 2, picture.shape[1] // 2 * 2)
            self._writer = cv2.VideoWriter(str(self.path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*self.codec),
                                           self.fps, self._size[::-1])
            if not self._writer.isOpened():
                self._writer = None
                self.path.unlink(missing_ok=True)
                raise InputError(f"{self.path}: no video can be written: this OpenCV has no encoder {self.codec}, or "
                                 "the place cannot be written to; count without the overlay video")
        self._writer.write(np.ascontiguousarray(_fitted(picture, self._size)[..., ::-1]))
        self.num_written += 1

    def close(self) -> str:
        """Ends the file. Returns what is wrong with it; "" where it is whole."""
        import cv2

        if self._writer is None:
            return ""
        self._writer.release()
        self._writer = None
        written = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG)
        number = written.get(cv2.CAP_PROP_FRAME_COUNT) if written.isOpened() else 0
        written.release()
        lost = self.num_written - max(int(number), 0)
        if lost <= 0:
            return ""
        return f"{self.path.name}: {lost} of {self.num_written} frames were not written; is the disk full?"


def _fitted(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture at a size (height, width): cut by a pixel, or shrunk and put on black where a stream changed its own.
    """
    import cv2

    if picture.shape[0] // 2 * 2 == size[0] and picture.shape[1] // 2 * 2 == size[1]:
        return picture[: size[0], : size[1]]
    scale = min(size[0] / picture.shape[0], size[1] / picture.shape[1])
    height, width = (max(1, min(round(side * scale), most)) for side, most in zip(picture.shape, size, strict=False))
    canvas = np.zeros((*size, 3), np.uint8)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    canvas[top : top + height, left : left + width] = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    return canvas
