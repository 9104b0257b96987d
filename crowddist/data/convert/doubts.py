"""What was doubtful in a source and did not stop its conversion: kinds, their words, and lists of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from crowddist.data import images
from crowddist.errors import InputError

DOUBTS = "doubts.json"
"""Beside the manifest where something was doubtful: a list of {"file", "kind", "number", "reason"}."""
DOUBTFUL_IMAGES = "doubtful_images"
"""Statistic of the manifest: kind -> number of images."""

_POINTS = {
    "num_outside_points": "points beyond the image dropped",
    "num_invalid_points": "points that are no numbers dropped",
    "num_clipped_points": "points moved to the border",
    "num_repeated_points": "points repeat another",
    "num_corner_points": "points alone in their image lie in its first pixel (shares of its sides, not px?)",
    "num_outside_boxes": "boxes centred beyond the image dropped",
    "num_invalid_boxes": "boxes that are no numbers or without an area dropped",
}
_IMAGES = {
    "num_wrong_counts": "counts differ from the points",
    "num_swapped_images": "images whose points beyond them fit with x and y swapped (are the columns?)",
    "num_extra_columns": "images whose third column after x and y was not read",
    "num_turned_images": "images turned as their rotation tags say (labels made on the pixels as stored do not fit)",
    **images.NOTES,
}
REACH = "heads_within_percent"
"""Statistic of the manifest: per cent of the images' width and height, from the upper left, that hold all heads."""
_OTHERS = {
    REACH: "% of width and height, from the upper left, hold all heads (marked on smaller copies of the images?)",
    "num_skipped": "files skipped, for the reasons in skipped.json",
    "num_cut_boxes": "boxes cut at the border",
    "num_left_out_boxes": "boxes left out, flagged invalid or without an area or centre in the image",
    "num_other_marks": "marks left out: of another class, shape or annotator, or without a place",
    "num_corner_boxes": "heads put into the middle of their boxes, as x and y beside a width and height were taken as "
                        "upper left corners (if x and y are heads, leave the sizes out)",
    "num_unlabelled_images": "images without labels left out",
    "num_other_files": "other files",
    "num_alike_names": "images whose names differ only in signs that keys lack; a hash in their keys tells them apart",
    "num_label_files": "files not read that may be labels; csv (columns file, x, y), coco, labelme, cvat, "
                       "label_studio, json, npy or mat reads them if given instead of folder",
}
_DROPPED = ("num_outside_points", "num_invalid_points", "num_outside_boxes", "num_invalid_boxes")
# ours: images of few heads may lose three each; where a tenth of all goes, size or axes are wrong everywhere.
_MOST_BAD_SHARE, _FROM_HEADS = 0.1, 100
# ours: of twenty heads or more one lies beyond this share of its image's width or height.
_SHORT_REACH, _REACH_FROM_HEADS = 0.6, 20


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


def require_few(listed: Sequence[Mapping[str, Any]], num_heads: float) -> None:
    """Raises InputError where too many heads of a whole set were dropped, though few of each image: all, or more than a
    tenth and more than ten. `listed`: doubts as `DOUBTS` holds them; `num_heads`: of the set, without those.
    """
    dropped = [entry for entry in listed if entry["kind"] in _DROPPED]
    num_bad = sum(entry["number"] for entry in dropped)
    if num_bad and (not num_heads or num_bad > _MOST_BAD_SHARE * max(num_heads + num_bad, _FROM_HEADS)):
        worst = max(dropped, key=lambda entry: entry["number"])
        raise InputError(f"{num_bad} of {num_heads + num_bad:.0f} heads cannot be taken, too many for slips; at "
                         f"{worst['file']}: {worst['reason']}; with --skip-bad the others are taken")


def reach_with(members: Mapping[str, Any], reach: Sequence[float]) -> tuple[float, float]:
    """The largest x and y of a sample's points, as shares of its width and height, or `reach` where that is larger."""
    points, scene = members.get("points.npy"), members["json"]
    x, y = (0.0, 0.0) if points is None or not len(points) else points.max(axis=0).tolist()
    return max(reach[0], x / scene["width"]), max(reach[1], y / scene["height"])


def reach_fact(reach: Sequence[float], num_heads: float) -> dict[str, Any]:
    """The statistic `REACH` where it is doubtful: of few heads it says nothing."""
    within = max(reach)
    return {REACH: math.ceil(100 * within)} if num_heads >= _REACH_FROM_HEADS and within < _SHORT_REACH else {}


def image_counts(listed: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The statistic `DOUBTFUL_IMAGES` of a list as `DOUBTS` holds it; empty for an empty list."""
    counts = Counter(entry["kind"] for entry in listed)
    return {DOUBTFUL_IMAGES: dict(sorted(counts.items()))} if counts else {}
