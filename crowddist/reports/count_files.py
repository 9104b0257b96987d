"""Counts people in a user's own files: a table of counts, and an overlay for each image."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crowddist import storage
from crowddist.data.images import NOTES, read_image
from crowddist.data.safe_decode import encode_png
from crowddist.data.walk import Found, find_images, none_found
from crowddist.errors import InputError
from crowddist.inference.intervals import interval_cells
from crowddist.inference.predictor import Predictor
from crowddist.process.safe_text import readable
from crowddist.reports.counts_table import COLUMNS, COUNTS, CountsTable

__all__ = ["COLUMNS", "COUNTS", "predict_files"]


def predict_files(
    predictor: Predictor, inputs: Sequence[str], output: str, *, skip_bad: bool = False, fresh: bool = False,
    job: str = "", say: Callable[[str], None] = print
) -> list[dict[str, Any]]:
    """Counts every image among `inputs` (files and folders); writes `counts.csv` and one overlay PNG each to `output`.

    Unless `skip_bad`, all files are read once before the first is counted, so that a bad file stops the job before it
    writes anything. Each row is written as it comes; after a stop the same call goes on behind the last one. Returns
    one row per image: file, count and uncertainty in persons, number of head points, and the ends of the count's
    interval, `low` and `high`, which are None where the counter has no intervals.

    Args:
        fresh: count everything anew, also where an earlier call with the same output was stopped.
        job: names the counter and its settings; a stopped call of another job is not taken up.

    Raises:
        InputError, FileNotFoundError: an input is missing, holds no image, lies in `output`, or (unless `skip_bad`)
            cannot be read. A file that can no longer be read when its turn comes is named after all others are counted.
    """
    files = _image_files(inputs, skip_bad=skip_bad, say=say)
    place = storage.normalise(output)
    # An overlay could replace an image of the same name, or be counted the next time. Links may lead to one folder.
    real = os.path.realpath(storage.shown(place)) if storage.is_local(place) else None
    inside = next((path for path in files if os.path.realpath(path.parent) == real), None)
    if inside is not None:
        raise InputError(f"the image {inside} lies in the output folder; choose another --output")
    table = CountsTable(place, files, job, fresh=fresh)
    if table.resumed:
        say(table.resumed)
    if not skip_bad:
        for path in table.missing():
            _read(predictor, path)
    bad: list[str] = []
    with table:
        for index, path in enumerate(files):
            if table.has(index):
                continue
            try:
                entry = table.new_entry(index)
                image, entry["notes"] = _read(predictor, path)
            except InputError as error:
                bad.append(str(error))
                say(readable(f"left out: {error}"))
                continue
            row, words, picture = _count(predictor, image, path)
            storage.write_bytes(storage.join(place, entry["overlay"]), picture)
            table.add(index, entry | {"row": row})
            say(f"{index + 1}/{len(files)} {row['file']}: {words}")
    rows = table.rows()
    if not rows:
        raise InputError("none of the files could be read as an image")
    for note, number in Counter(table.notes()).items():
        say(f"{number} {NOTES[note]}")
    table.finish(whole=not bad or skip_bad)
    if bad and not skip_bad:
        more = f", and {len(bad) - 1} more" if bad[1:] else ""
        raise InputError(f"{bad[0]}{more}; the other {len(rows)} images are counted, --skip-bad leaves such files out")
    return rows


def _read(predictor: Predictor, path: Path) -> tuple[np.ndarray, list[str]]:
    """The pixels of a file that can be counted, and notes on it. Raises InputError, naming the file."""
    image, notes = read_image(path)
    try:
        return predictor.checked(image), list(notes)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _count(predictor: Predictor, image: np.ndarray, path: Path) -> tuple[dict[str, Any], str, bytes]:
    """A file's row of the table, its count in words, and its overlay."""
    from crowddist.reports.sheets import overlay

    found = predictor.predict(image)
    row = dict.fromkeys(COLUMNS) | {
        "file": _cell(path), "count": round(found.count, 2), **interval_cells(found.interval),
        "uncertainty": round(found.uncertainty, 2), "points": len(found.points)}
    picture = overlay(image, found.density, count=found.count, uncertainty=found.uncertainty,
                      interval=found.interval, points=found.points, sizes=found.sizes, title=readable(path.name))
    words = f"{found.count:.1f} ± {found.uncertainty:.1f}" + (f", {found.interval}" if found.interval else "")
    return row, words, encode_png(picture)


def _image_files(inputs: Sequence[str], *, skip_bad: bool, say: Callable[[str], None]) -> list[Path]:
    files: list[Path] = []
    searched: list[Found] = []
    for name in inputs:
        if not name:  # as of a variable of the shell that is not set; a path would be the current folder
            raise InputError("an input is empty; give image files or folders")
        path = Path(name)
        if path.is_dir():
            searched.append(find_images(path))
            for bad, reason in searched[-1].refused:
                if not skip_bad:
                    raise InputError(f"{bad}: {reason}")
                say(readable(f"left out: {bad}: {reason}"))
            for line in searched[-1].lines():
                say(line)
            files += searched[-1].images
        elif path.exists():
            files.append(path)
        else:
            raise FileNotFoundError(f"no file or folder at {name}")
    if not files:
        raise none_found(searched, ", ".join(inputs))
    return files


def _cell(path: Path) -> str:
    """A path as valid text that no spreadsheet takes for a formula."""
    name = readable(str(path))
    return f"./{name}" if name.startswith(("=", "+", "-", "@")) else name
