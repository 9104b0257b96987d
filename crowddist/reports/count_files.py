"""Counts people in a user's own files: a table of counts, and an overlay for each image."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from crowddist import storage
from crowddist.data.images import find_images, read_pixels
from crowddist.data.safe_decode import encode_png
from crowddist.errors import InputError
from crowddist.inference.intervals import interval_cells
from crowddist.inference.predictor import Predictor
from crowddist.process.safe_text import readable

COUNTS = "counts.csv"
COLUMNS = ("file", "count", "low", "high", "uncertainty", "points")


def predict_files(
    predictor: Predictor, inputs: Sequence[str], output: str, *, skip_bad: bool = False,
    say: Callable[[str], None] = print
) -> list[dict[str, Any]]:
    """Counts every image among `inputs` (files and folders); writes `counts.csv` and one overlay PNG each to `output`.

    Unless `skip_bad`, all files are read once before the first is counted, so that a bad file stops the job before it
    writes anything. Returns one row per image: file, count and uncertainty in persons, number of head points, and the
    ends of the count's interval, `low` and `high`, where the counter has intervals; else these columns are empty.

    Raises:
        InputError, FileNotFoundError: an input is missing, holds no image, lies in `output`, or (unless `skip_bad`)
            cannot be read.
    """
    from crowddist.reports.sheets import overlay

    files = _image_files(inputs, skip_bad=skip_bad, say=say)
    place = storage.normalise(output)
    # An overlay could replace an image of the same name, or be counted the next time.
    inside = next((path for path in files if storage.normalise(path.parent) == place), None)
    if inside is not None:
        raise InputError(f"the image {inside} lies in the output folder; choose another --output")
    if not skip_bad:
        for path in files:
            read_pixels(path)
    rows: list[dict[str, Any]] = []
    names: set[str] = set()
    for index, path in enumerate(files):
        try:
            image = read_pixels(path)
        except InputError as error:
            if not skip_bad:
                raise
            say(readable(f"left out: {error}"))
            continue
        found = predictor.predict(image)
        name = _cell(path)
        rows.append({"file": name, "count": round(found.count, 2), **interval_cells(found.interval),
                     "uncertainty": round(found.uncertainty, 2), "points": len(found.points)})
        picture = overlay(image, found.density, count=found.count, uncertainty=found.uncertainty,
                          interval=found.interval, points=found.points, sizes=found.sizes, title=readable(path.name))
        storage.write_bytes(storage.join(place, _free_name(path.stem, names)), encode_png(picture))
        say(f"{index + 1}/{len(files)} {name}: {found.count:.1f} ± {found.uncertainty:.1f}"
            + (f", {found.interval}" if found.interval else ""))
    if not rows:
        raise InputError("none of the files could be read as an image")
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    storage.write_bytes(storage.join(place, COUNTS), table.getvalue().encode())
    return rows


def _image_files(inputs: Sequence[str], *, skip_bad: bool, say: Callable[[str], None]) -> list[Path]:
    files: list[Path] = []
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            images, refused = find_images(path)
            for bad, reason in refused:
                if not skip_bad:
                    raise InputError(f"{bad}: {reason}")
                say(readable(f"left out: {bad}: {reason}"))
            files += images
        elif path.exists():
            files.append(path)
        else:
            raise FileNotFoundError(f"no file or folder at {name}")
    if not files:
        raise InputError(f"no images in {', '.join(inputs)}; give image files or folders that hold some")
    return files


def _cell(path: Path) -> str:
    """A path as valid text that no spreadsheet takes for a formula."""
    name = readable(str(path))
    return f"./{name}" if name.startswith(("=", "+", "-", "@")) else name


def _free_name(stem: str, taken: set[str]) -> str:
    """`<stem>.png`, numbered if images of several folders have the same name."""
    name, number = f"{stem}.png", 2
    while name in taken:
        name, number = f"{stem}-{number}.png", number + 1
    taken.add(name)
    return name
