"""JHU-Crowd++ in its original layout: heads as points, and weather and scene from its index of images.

The width and height of heads are not used: the boxes of a data set stand for its points, so heads without a size would
not be counted.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from crowddist.data.convert.annotations import as_count, parse_numbers, parse_rows, read_lines
from crowddist.data.convert.layout import Annotation, Format, Item, Listing, NoSetError, below, list_pairs
from crowddist.errors import InputError

# P: the columns of the set's own readme: centre, width and height of a head, occlusion 1-3, blur 0-1.
_COLUMNS = ("x", "y", "w", "h", "o", "b")
# P: none, fog or haze, rain, snow; not GCC's weather codes, so the entry has another name.
_NUM_DEGRADATIONS = 4


def find(folder: Path, split: str, labelled: bool) -> Listing:
    """The images of a split, by their numbers; `folder` holds `train`, `val` and `test`.

    A labelled image gets `scene_type`, `weather_degradation` and `distractor` (1: shows a mass of something else than
    people) from the `image_labels.txt` of its split, if there is one. An unlabelled conversion does not open that file,
    as it holds counts as well.
    """
    images = below(folder, split, "images")
    if not images.is_dir():
        raise NoSetError(f"no JHU-Crowd++ data of the split {split!r}: {images} is missing; give the folder that holds "
                         "train, val and test")
    items, refused, facts = list_pairs(images, ".txt", labelled, below(folder, split, "gt"))
    index = below(folder, split, "image_labels.txt")
    known = _read_index(index) if labelled and index.is_file() else {}
    return Listing(name="jhu-crowd", split=split, refused=tuple(refused), facts=facts,
                   items=tuple(replace(item, **known.get(item.name, {})) for item in items))


def annotate(item: Item, size: tuple[int, int]) -> Annotation:
    """Centres x, y of heads as annotated, at any occlusion and blur; an empty file means that nobody is there."""
    place = item.annotations[0]
    lines = [(number, line) for number, line in enumerate(read_lines(place, may_be_empty=True), start=1) if line]
    rows = parse_rows(lines, lambda line, where: parse_numbers(line, _COLUMNS, where), len(_COLUMNS), place)
    return Annotation(points=rows[:, :2], place=place)


def _read_index(place: Path) -> dict[str, dict[str, Any]]:
    """`facts` and `count` of each image's item by its name, from lines of name, count, scene type, weather, distractor.
    """
    index = {}
    for number, line in enumerate(read_lines(place), start=1):
        try:
            name, count, scene_type, weather, distractor = (column.strip() for column in line.split(","))
            facts = {"scene_type": scene_type, "weather_degradation": int(weather), "distractor": int(distractor)}
        except ValueError:
            facts = {}
        if not (facts and scene_type.isprintable() and facts["weather_degradation"] in range(_NUM_DEGRADATIONS)
                and facts["distractor"] in (0, 1)):
            should = f"should be name, count, scene type, weather 0 to {_NUM_DEGRADATIONS - 1}, distractor 0 or 1"
            raise InputError(f"{place}: line {number} {should}, got {line[:80]!r}; download the file again, or "
                             "remove it")
        index[Path(name).stem] = {"facts": facts, "count": as_count(count)}
    return index


FORMAT = Format(name="jhu_crowd", splits=("train", "val", "test"), find=find, annotate=annotate,
                summary="{train,val,test} with images/0001.jpg, gt/0001.txt and, where wanted, image_labels.txt")
