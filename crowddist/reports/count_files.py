"""Counts people in a user's own files: a table of counts, and an overlay for each image."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crowddist import storage
from crowddist.data.images import NOTES
from crowddist.data.safe_decode import encode_png
from crowddist.data.user_files import UserFile, find_user_files
from crowddist.data.zones.files import ZoneFile
from crowddist.data.zones.zone import WHY_NO_INTERVALS, ZoneSet
from crowddist.errors import InputError
from crowddist.inference.base_predictor import BasePredictor, ImagePrediction
from crowddist.inference.intervals import interval_cells
from crowddist.process.safe_text import readable
from crowddist.reports.counts_table import COLUMNS, COUNTS, ZONES, CountsTable
from crowddist.reports.point_formats import FILES
from crowddist.reports.points_table import LABELME, POINTS, PointFormat, PointsTable
from crowddist.reports.zone_drawing import DrawnZone, drawn_zones
from crowddist.storage.http import fetch_in_turn

__all__ = ["COLUMNS", "COUNTS", "predict_files"]
_TABLES = frozenset((ZONES, POINTS, LABELME, *(name for name, _ in FILES.values())))
"""All that a count may write beside counts.csv."""
_MOST_NAMED = 6
"""Zones in an image's line."""


def predict_files(
    predictor: BasePredictor, inputs: Sequence[str], output: str, *, skip_bad: bool = False, fresh: bool = False,
    job: str = "", points: Sequence[PointFormat] | None = None, zones: ZoneFile | None = None,
    about: Sequence[str] = (), say: Callable[[str], None] = print
) -> list[dict[str, Any]]:
    """Counts every image among `inputs`, see `find_user_files`; writes `counts.csv` and one overlay PNG each to
    `output`.

    Unless `skip_bad`, all files but those on the web are read once before the first is counted, so that a bad file
    stops the job before it writes anything; those on the web are fetched when their turn comes. Each row is written as
    it comes; after a stop the same call goes on behind the last one. Returns one row per image: file, count and
    uncertainty in persons, number of head points, and the ends of the count's interval, `low` and `high`, which are
    None where the counter has no intervals.

    Args:
        fresh: count everything anew, also where an earlier call with the same output was stopped.
        job: names the counter and its settings; a stopped call of another job is not taken up.
        points: also write the heads' points, `points.csv` and `points.json`, and these formats; None: none.
        zones: also write `zones.csv`, and draw them; None: none.
        about: lines to say before the first image is counted, after all errors of what was given.

    Raises:
        InputError, FileNotFoundError: an input is missing, holds no image, lies in `output`, or (unless `skip_bad`)
            cannot be read, or does not fit its zones. A file that can no longer be read when its turn comes is named
            after all others are counted.
    """
    files = find_user_files(inputs, skip_bad=skip_bad, say=say)
    place = storage.normalise(output)
    # An overlay could replace an image of the same name, or be counted the next time. Links may lead to one folder.
    inside = next((file for file in files if file.lies_in(place)), None)
    if inside is not None:
        raise InputError(f"the image {inside.name} lies in the output folder; choose another --output")
    placed = _Zones(predictor, zones, files, say)
    job += " with points" * (points is not None) + (f" and zones {zones.digest}" if zones else "")
    table = CountsTable(place, files, job, fresh=fresh, zones=zones is not None)
    heads = None if points is None else PointsTable(place, table, points)
    if table.resumed:
        say(table.resumed)
    missing = table.missing()
    fetches = fetch_in_turn(files[index].address for index in missing if files[index].address)
    for index in missing:
        if not skip_bad and not files[index].address:
            try:
                _read(predictor, files[index], placed.sets[index])
            except InputError as error:
                raise InputError(f"{error}{'; --skip-bad leaves such files out' if files[1:] else ''}") from None
    if kept := table.others(_TABLES - {ZONES if zones else "", *(heads.files if heads else ())}):
        say(f"{storage.shown(place)}: tables of an earlier count there stay as they are: {', '.join(kept)}")
    for line in about:
        say(line)
    bad: list[str] = []
    with table:
        for index in missing:
            file = files[index]
            try:
                fetched = next(fetches).result() if file.address else None
                entry = table.new_entry(index)
                image, entry["notes"] = _read(predictor, file, placed.sets[index], fetched)
            except InputError as error:
                bad.append(str(error))
                say(readable(f"left out: {error}"))
                continue
            found = predictor.predict(image)
            drawn, entry["zones"] = placed.count(index, found, (image.shape[0], image.shape[1]))
            row, words, picture = _told(found, image, file, drawn, entry["zones"])
            table.draw(entry, picture)
            if heads is not None:
                heads.add(entry, row, image.shape[:2], found.points, found.sizes)
            table.add(index, entry | {"row": row})
            say(f"{index + 1}/{len(files)} {row['file']}: {words}")
        rows = table.rows()
        if not rows:
            raise InputError(f"none of the files could be read as an image: {bad[0]}")
        for note, number in Counter(table.notes()).items():
            say(f"{number} {NOTES[note]}")
        whole = not bad or skip_bad
        if heads is not None:
            say(f"points: {', '.join(heads.publish())}")
        table.finish(whole=whole)
        if heads is not None and whole:
            heads.clear()
        if bad and not skip_bad:
            more = f", and {len(bad) - 1} more" if bad[1:] else ""
            raise InputError(f"{bad[0]}{more}; the other {len(rows)} images are counted, --skip-bad leaves such files "
                             "out")
        return rows


class _Zones:
    """The zones of each file, and what is told of them once."""

    def __init__(self, predictor: BasePredictor, zones: ZoneFile | None, files: Sequence[UserFile],
                 say: Callable[[str], None]) -> None:
        self.predictor, self.say = predictor, say
        self._told: set[str] = set()
        self.sets: list[ZoneSet | None] = [None] * len(files)
        """In the order of the files; None: of such a file only the whole image is counted."""
        if zones is None:
            return
        self.sets = zones.of_images([file.name.partition("?")[0] if file.is_remote else os.path.abspath(file.name)
                                     for file in files])
        if not any(self.sets):
            raise InputError(f"{zones.place}: it has zones of {len(zones.sets)} images, e.g. {next(iter(zones.sets))}, "
                             "but none of those to be counted; give zones of these, or of one camera")
        if predictor.intervals is not None and predictor.intervals.calibration is not None:
            self.tell(WHY_NO_INTERVALS)
        if without := self.sets.count(None):
            self.tell(f"{zones.place}: {without} of {len(files)} images have no zones there: they are counted whole")
        for each in filter(None, self.sets):
            self.tell(*each.notes)

    def tell(self, *notes: str) -> None:
        """Says each note once."""
        for note in notes:
            if note not in self._told:
                self._told.add(note)
                self.say(readable(note))

    def count(self, index: int, found: ImagePrediction,
              size: tuple[int, int]) -> tuple[list[DrawnZone], dict[str, float]]:
        """The zones of an image of `size` (height, width) px: to be drawn, and persons by name."""
        zones = self.sets[index]
        if zones is None:
            return [], {}
        placed = zones.on(size, seen=found.size, cells=found.density.shape, stride=self.predictor.stride)
        self.tell(*placed.notes)
        counts = placed.counts(found.density)
        return drawn_zones(placed, counts), {name: round(count, 2) for name, count in counts.items()}


def _read(predictor: BasePredictor, file: UserFile, zones: ZoneSet | None,
          fetched: bytes | None = None) -> tuple[np.ndarray, list[str]]:
    """The pixels of a file that can be counted, and notes on it. Raises InputError, naming the file."""
    image, notes = file.read(fetched)
    try:
        image = predictor.checked(image)
        if zones is not None:
            zones.outlined((image.shape[0], image.shape[1]))
    except InputError as error:
        raise InputError(f"{file.name}: {error}") from None
    return image, list(notes)


def _told(found: ImagePrediction, image: np.ndarray, file: UserFile, drawn: Sequence[DrawnZone],
          counts: Mapping[str, float]) -> tuple[dict[str, Any], str, bytes]:
    """What is found in an image: as a row of the table, in words, and as an overlay."""
    from crowddist.reports.sheets import overlay

    row = dict.fromkeys(COLUMNS) | {
        "file": _cell(file.name), "count": round(found.count, 2), **interval_cells(found.interval),
        "uncertainty": round(found.uncertainty, 2), "points": len(found.points)}
    picture = overlay(image, found.density, count=found.count, uncertainty=found.uncertainty,
                      interval=found.interval, points=found.points, sizes=found.sizes, zones=drawn,
                      title=readable(Path(file.name).name))
    # The ensemble's spread is a hint where nothing better is known: an interval is wider, and right more often.
    words = f"{found.count:.1f} people, {found.interval}" if found.interval else (
        f"{found.count:.1f} ± {found.uncertainty:.1f} people")
    parts = [f"{name} {count:.1f}" for name, count in counts.items()]
    more = f" and {len(parts) - _MOST_NAMED} more zones" if parts[_MOST_NAMED:] else ""
    words += f"; {', '.join(parts[:_MOST_NAMED])}{more}" if parts else ""
    return row, words, encode_png(picture)


def _cell(name: str) -> str:
    """A path as valid text that no spreadsheet takes for a formula."""
    name = readable(name)
    return f"./{name}" if name.startswith(("=", "+", "-", "@")) else name
