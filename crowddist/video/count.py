"""Counts people in a video over time: a table, and on request an overlay video; a chart and a summary at the end."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crowddist import storage
from crowddist.data.safe_decode import encode_png
from crowddist.data.walk import is_counts_table
from crowddist.data.zones.files import Zones, as_zones
from crowddist.data.zones.zone import WHOLE, WHY_NO_INTERVALS, PlacedZones, ZoneSet
from crowddist.errors import InputError, require_positive
from crowddist.inference.intervals import interval_cells
from crowddist.process.progress_bar import LINE_EVERY_S, Progress
from crowddist.process.safe_text import readable
from crowddist.reports.counts_table import COUNTS
from crowddist.video.capture import Connection
from crowddist.video.frames import Frame, Frames
from crowddist.video.results import (
    CHART,
    OVERLAY,
    SUMMARY,
    CountLog,
    OverlayVideo,
    PlaceSummary,
    VideoSummary,
    is_video_table,
)
from crowddist.video.sampling import EVERY, clock_text, parse_every
from crowddist.video.series import Series
from crowddist.video.source import Source, find_source

if TYPE_CHECKING:
    from crowddist.inference.base_predictor import BasePredictor, ImagePrediction

FADING = 0.98
"""Share of the heat map's scale that is left after a frame: one wrong peak must not dim the rest of a video. ours."""
UPLOAD_EVERY = 50
"""Counted frames after which a table in object storage is written again, which cannot append. ours."""


def count_video(
    counter: BasePredictor, source: str | int | os.PathLike[str], output: str | os.PathLike[str], *,
    every: str | int = EVERY, zones: Zones = None,
    save_video: bool = False, stop_after_s: float | None = None, fresh: bool = False,
    connection: Connection | None = None, say: Callable[[str], None] = print
) -> VideoSummary:
    """Counts people in frames of a video file, a stream or a camera; writes to the folder `output`.

    `counts.csv` has a row for the whole image ("all") and for each zone of every counted frame, as it comes; `low` and
    `high` are the ends of the count's interval, empty for zones and where the counter has none. At the end come
    `counts.png`, a chart, and `summary.json`. However a count ends, by Ctrl-C or SIGTERM too, what was counted is kept
    and these are written. Memory does not grow with the video.

    Args:
        source: as `find_source` takes it.
        every: which frames are counted, see `parse_every`.
        zones: as `as_zones` takes them.
        save_video: also write `overlay.mp4`, the heat map over the counted frames.
        stop_after_s: end after so many seconds of the video, > 0; None: at its end.
        fresh: replace the results of an earlier count in `output`.
        connection: time-outs and reconnects.
        say: told of progress, a line each.

    Returns:
        The summary, also in summary.json.

    Raises:
        InputError: the source, the zones or a setting is wrong, `output` holds an earlier count or others' files of the
            results' names, or a stream broke off and did not come back, which says what is kept.
    """
    turns, opened = parse_every(every), find_source(source)
    if stop_after_s is not None:
        require_positive(stop_after_s=stop_after_s)
    zone_set = as_zones(zones)
    place = storage.normalise(output)
    _require_room(opened, place, fresh=fresh)
    for note in zone_set.notes if zone_set else ():
        say(readable(note))
    if zone_set and counter.intervals is not None and counter.intervals.calibration is not None:
        say(WHY_NO_INTERVALS)
    with Frames(opened, turns, connection=connection, say=say) as frames:
        count = _Count(counter, frames, place, zone_set, save_video=save_video, say=say)
        whole = False
        try:
            for frame in frames:
                if stop_after_s is not None and frame.time_s - count.first_s(frame) >= stop_after_s:
                    break
                count.add(frame)
            whole = True
        except InputError as error:
            if not count.number:
                raise
            raise InputError(f"{error}; the {count.number} frames counted before are kept in "
                             f"{storage.shown(place)}") from error
        finally:
            summary = count.finish(whole=whole) if count.number else None
    assert summary is not None, "a source without frames raises"
    return summary


def _require_room(source: Source, place: str, *, fresh: bool) -> None:
    """Raises InputError where a result would replace the film itself or a table of another program; without `fresh`
    also where the folder `place` holds an earlier count, or other files of the results' names.
    """
    for name in (COUNTS, OVERLAY, CHART, SUMMARY):
        where = storage.join(place, name)
        if not storage.exists(where):
            continue
        shown, local = storage.shown(where), storage.is_local(where)
        if local and source.kind == "file" and os.path.samefile(shown, source.place):
            raise InputError(f"{source.shown}: a result has its name and would replace it; choose another output")
        if local and name == COUNTS and not (is_counts_table(Path(shown)) or is_video_table(Path(shown))):
            raise InputError(f"{shown} is not a table of this command; choose another output, or move it")
        if not fresh:
            there = "holds an earlier count" if name == COUNTS else "is there already"
            raise InputError(f"{shown} {there}; choose another output, or --fresh to replace it")


class _Count:
    """A count under way; nothing is written before the first frame is counted."""

    def __init__(self, counter: BasePredictor, frames: Frames, place: str, zones: ZoneSet | None, *, save_video: bool,
                 say: Callable[[str], None]) -> None:
        self.counter, self.frames, self.place, self.zones, self.say = counter, frames, place, zones, say
        self.number, self.peak = 0, 0.0
        self.progress: Progress | None = None
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        self.notes = list(zones.notes) if zones else []
        self.series: dict[str, Series] = {}
        self._save_video = save_video
        self._times: list[float] = []  # of the first and the last frame

    def first_s(self, frame: Frame) -> float:
        """Time of the first frame counted, or of this one."""
        return self._times[0] if self._times else frame.time_s

    def add(self, frame: Frame) -> None:
        """Counts a frame and writes its rows."""
        try:
            found = self.counter.predict(frame.image)
        except InputError as error:
            raise InputError(f"{self.frames.source.shown}: frame {frame.number}: {error}") from None
        placed = self._zones_on(frame, found)
        counts = {WHOLE: found.count, **(placed.counts(found.density) if placed else {})}
        if not self.number:
            self._begin(frame)
        if self.video is not None:  # before the rows: where none can be written, there is nothing half done
            self.video.add(self._overlay(frame, found, placed, counts))
        cells = interval_cells(found.interval)
        self.log.add([f"{frame.time_s:.3f}", frame.number, name, f"{count:.2f}",
                      *((cells.get("low"), cells.get("high")) if name == WHOLE else (None, None))]
                     for name, count in counts.items())
        self.number += 1
        self._times = [self.first_s(frame), frame.time_s]
        for name, count in counts.items():
            self.series.setdefault(name, Series()).add(frame.time_s, count)
        if not storage.is_local(self.place) and self.number % UPLOAD_EVERY == 0:
            self._upload(COUNTS)
        self._progress(frame, found.count)

    def finish(self, *, whole: bool) -> VideoSummary:
        """Writes the chart and the summary, and ends the files; says what came out."""
        from crowddist.reports.charts import counts_chart, pixels

        self.log.close()
        if self.progress is not None:
            self.progress.close()
        files, late = [COUNTS, CHART], list(self.frames.notes)
        if self.video is not None and (lost := self.video.close()):
            late.append(lost)
        if self.video is not None and self.video.num_written:
            files.append(OVERLAY)
        all_of_it = self.series[WHOLE]
        chart = counts_chart({name: series.line() for name, series in self.series.items()},
                             title=readable(self.frames.source.title), peak=(all_of_it.peak_time_s, all_of_it.peak))
        storage.write_bytes(storage.join(self.place, CHART), encode_png(pixels(chart)))
        summary = VideoSummary(
            source=self.frames.source.shown, started=self.started, frames=self.number, frames_read=self.frames.num_read,
            first_s=round(self._times[0], 3), last_s=round(self._times[-1], 3), dropped=self.frames.dropped,
            reconnects=self.frames.num_reconnects, whole=whole,
            places={name: PlaceSummary(mean=round(series.mean, 2), peak=round(series.peak, 2),
                                       peak_time_s=round(series.peak_time_s, 3))
                    for name, series in self.series.items()},
            notes=[*self.notes, *late], files=[*files, SUMMARY])
        storage.write_json(storage.join(self.place, SUMMARY), summary.record())
        if not storage.is_local(self.place):
            for name in {COUNTS, OVERLAY} & set(files):
                self._upload(name)
        for line in (*late, *_words(summary, storage.shown(self.place))):
            self.say(readable(line))
        return summary

    def _begin(self, frame: Frame) -> None:
        """Prepares the files: in the output folder, or in a temporary one that is copied to object storage."""
        frames, (height, width) = self.frames, frame.image.shape[:2]
        self.folder = storage.scratch_folder(self.place)
        for name in (OVERLAY, CHART, SUMMARY):  # of an earlier count
            storage.remove_file(storage.join(self.place, name))
        self.log = CountLog(self.folder / COUNTS)
        rate = frames.every.rate(frames.fps)
        self.video = OverlayVideo(self.folder / OVERLAY, rate) if self._save_video else None
        length = f"{frames.num_frames} frames" if frames.num_frames else "live" if frames.live else "of unknown length"
        self.say(readable(f"{frames.source.shown}: {width} x {height} px, {frames.fps:.4g} frames a second, {length}"))
        # As many as will be counted where frames have a fixed rate.
        total = math.ceil(frames.num_frames / frames.fps * rate)
        self.progress = Progress(total, "frames", self.say) if total and not frames.live else None
        self._said_s = time.monotonic()

    def _progress(self, frame: Frame, count: float) -> None:
        if self.progress is not None:
            if self.number <= self.progress.total:
                self.progress.show(self.number)
        elif time.monotonic() - self._said_s > LINE_EVERY_S:
            self._said_s = time.monotonic()
            self.say(f"{clock_text(frame.time_s)}: {count:.1f} people, {self.number} frames counted")

    def _zones_on(self, frame: Frame, found: ImagePrediction) -> PlacedZones | None:
        """The zones at this frame's size, which a stream may change."""
        if self.zones is None:
            return None
        size = (frame.image.shape[0], frame.image.shape[1])
        placed = self.zones.on(size, seen=found.size, cells=found.density.shape, stride=self.counter.stride)
        for note in placed.notes:
            if note not in self.notes:
                self.notes.append(note)
                self.say(readable(note))
        return placed

    def _overlay(self, frame: Frame, found: ImagePrediction, placed: PlacedZones | None,
                 counts: Mapping[str, float]) -> Any:
        from crowddist.reports.sheets import overlay
        from crowddist.reports.zone_drawing import drawn_zones

        # One scale of colours that follows the crowd slowly: one a frame would flicker.
        self.peak = max(FADING * self.peak, float(found.density.max()))
        title = f"{readable(self.frames.source.title)}   {clock_text(frame.time_s)}"
        return overlay(frame.image, found.density, count=found.count, uncertainty=found.uncertainty,
                       interval=found.interval, title=title, zones=drawn_zones(placed, counts) if placed else (),
                       peak=self.peak)

    def _upload(self, name: str) -> None:
        with open(self.folder / name, "rb") as file, storage.open_write(storage.join(self.place, name)) as stream:
            shutil.copyfileobj(file, stream)


def _words(summary: VideoSummary, place: str) -> list[str]:
    """A summary for people."""
    lines = []
    if summary.dropped:
        lines.append(f"{summary.dropped} frames dropped: they came while older ones were counted; count fewer (every)")
    lines += [f"{name}: {found.mean:.1f} people on average, {found.peak:.1f} at most, at "
              f"{clock_text(found.peak_time_s)}" for name, found in summary.places.items()]
    ended = "" if summary.whole else "stopped: "
    return [*lines, f"{ended}{summary.frames} frames counted of {summary.frames_read} read: {place}"]
