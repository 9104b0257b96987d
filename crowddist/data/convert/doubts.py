"""What was doubtful in a source and did not stop its conversion: kinds, their words, and lists of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from crowddist.data import images

DOUBTS = "doubts.json"
"""Beside the manifest where something was doubtful: a list of {"file", "kind", "number", "reason"}."""
DOUBTFUL_IMAGES = "doubtful_images"
"""Statistic of the manifest: kind -> number of images."""

_POINTS = {
    "num_outside_points": "points beyond the image dropped",
    "num_invalid_points": "points that are no numbers dropped",
    "num_clipped_points": "points moved to the border",
    "num_repeated_points": "points repeat another",
    "num_outside_boxes": "boxes centred beyond the image dropped",
    "num_invalid_boxes": "boxes that are no numbers or without an area dropped",
}
_IMAGES = {
    "num_wrong_counts": "counts differ from the points",
    "num_extra_columns": "images whose third column after x and y was not read",
    **images.NOTES,
}
_OTHERS = {
    "num_skipped": "files skipped: cannot be read",
    "num_cut_boxes": "boxes cut at the border",
    "num_left_out_boxes": "boxes left out, flagged invalid or without an area or centre in the image",
    "num_other_marks": "marks left out: of another class or shape, or without a place",
    "num_unlabelled_images": "images without labels left out",
    "num_other_files": "other files",
    "num_label_files": "files not read that may be labels; csv (columns file, x, y), coco, labelme or cvat reads them "
                       "if given instead of folder",
}


class Doubt(NamedTuple):
    """What was doubtful at one image."""

    kind: str
    """Name of the statistic that counts it."""
    number: int
    """Of points or boxes; 1 where the image as a whole is doubtful."""
    reason: str = ""
    """One line for the list; "" counts it only."""


def notes(statistics: Mapping[str, Any]) -> list[str]:
    """What a manifest's statistics count beside images and persons, in words: one entry a kind."""
    images = statistics.get(DOUBTFUL_IMAGES)
    images = images if isinstance(images, dict) else {}
    return [f"{statistics[kind]} {words}{f' (in {images[kind]} images)' if kind in _POINTS and kind in images else ''}"
            for kind, words in {**_OTHERS, **_POINTS, **_IMAGES}.items() if statistics.get(kind)]


def image_counts(listed: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The statistic `DOUBTFUL_IMAGES` of a list as `DOUBTS` holds it; empty for an empty list."""
    counts = Counter(entry["kind"] for entry in listed)
    return {DOUBTFUL_IMAGES: dict(sorted(counts.items()))} if counts else {}
