"""Counts people in a user's own files: a table of counts, and an overlay for each image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crowddist import storage
from crowddist.data.images import NOTES
from crowddist.data.safe_decode import encode_png
from crowddist.data.user_files import UserFile, find_user_files
from crowddist.errors import InputError
from crowddist.inference.base_predictor import BasePredictor, ImagePrediction
from crowddist.inference.intervals import interval_cells
from crowddist.process.safe_text import readable
from crowddist.reports.counts_table import COLUMNS, COUNTS, CountsTable
from crowddist.reports.points_table import PointFormat, PointsTable

__all__ = ["COLUMNS", "COUNTS", "predict_files"]


def predict_files(
    predictor: BasePredictor, inputs: Sequence[str], output: str, *, skip_bad: bool = False, fresh: bool = False,
    job: str = "", points: Sequence[PointFormat] | None = None, say: Callable[[str], None] = print
) -> list[dict[str, Any]]:
    """Counts every image among `inputs`, see `find_user_files`; writes `counts.csv` and one overlay PNG each to
    `output`.

    Unless `skip_bad`, all files are read once before the first is counted, so that a bad file stops the job before it
    writes anything. Each row is written as it comes; after a stop the same call goes on behind the last one. Returns
    one row per image: file, count and uncertainty in persons, number of head points, and the ends of the count's
    interval, `low` and `high`, which are None where the counter has no intervals.

    Args:
        fresh: count everything anew, also where an earlier call with the same output was stopped.
        job: names the counter and its settings; a stopped call of another job is not taken up.
        points: also write the heads' points, `points.csv` and `points.json`, and these formats; None: none.

    Raises:
        InputError, FileNotFoundError: an input is missing, holds no image, lies in `output`, or (unless `skip_bad`)
            cannot be read. A file that can no longer be read when its turn comes is named after all others are counted.
    """
    files = find_user_files(inputs, skip_bad=skip_bad, say=say)
    place = storage.normalise(output)
    # An overlay could replace an image of the same name, or be counted the next time. Links may lead to one folder.
    inside = next((file for file in files if file.lies_in(place)), None)
    if inside is not None:
        raise InputError(f"the image {inside.name} lies in the output folder; choose another --output")
    table = CountsTable(place, files, job if points is None else f"{job} with points", fresh=fresh)
    heads = None if points is None else PointsTable(place, table, points)
    if table.resumed:
        say(table.resumed)
    if not skip_bad:
        for file in table.missing():
            _read(predictor, file)
    bad: list[str] = []
    with table:
        for index, file in enumerate(files):
            if table.has(index):
                continue
            try:
                entry = table.new_entry(index)
                image, entry["notes"] = _read(predictor, file)
            except InputError as error:
                bad.append(str(error))
                say(readable(f"left out: {error}"))
                continue
            found, row, words, picture = _count(predictor, image, file)
            storage.write_bytes(storage.join(place, entry["overlay"]), picture)
            if heads is not None:
                heads.add(entry, row, image.shape[:2], found.points, found.sizes)
            table.add(index, entry | {"row": row})
            say(f"{index + 1}/{len(files)} {row['file']}: {words}")
    rows = table.rows()
    if not rows:
        raise InputError("none of the files could be read as an image")
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
        raise InputError(f"{bad[0]}{more}; the other {len(rows)} images are counted, --skip-bad leaves such files out")
    return rows


def _read(predictor: BasePredictor, file: UserFile) -> tuple[np.ndarray, list[str]]:
    """The pixels of a file that can be counted, and notes on it. Raises InputError, naming the file."""
    image, notes = file.read()
    try:
        return predictor.checked(image), list(notes)
    except InputError as error:
        raise InputError(f"{file.name}: {error}") from None


def _count(predictor: BasePredictor, image: np.ndarray,
           file: UserFile) -> tuple[ImagePrediction, dict[str, Any], str, bytes]:
    """What is found in an image: itself, as a row of the table, in words, and as an overlay."""
    from crowddist.reports.sheets import overlay

    found = predictor.predict(image)
    row = dict.fromkeys(COLUMNS) | {
        "file": _cell(file.name), "count": round(found.count, 2), **interval_cells(found.interval),
        "uncertainty": round(found.uncertainty, 2), "points": len(found.points)}
    picture = overlay(image, found.density, count=found.count, uncertainty=found.uncertainty,
                      interval=found.interval, points=found.points, sizes=found.sizes,
                      title=readable(Path(file.name).name))
    words = f"{found.count:.1f} ± {found.uncertainty:.1f}" + (f", {found.interval}" if found.interval else "")
    return found, row, words, encode_png(picture)


def _cell(name: str) -> str:
    """A path as valid text that no spreadsheet takes for a formula."""
    name = readable(name)
    return f"./{name}" if name.startswith(("=", "+", "-", "@")) else name
