"""NWPU-Crowd in its original layout: heads as points; the labels of its test split were never released.

Its boxes are not used: the boxes of a data set stand for its points, so a point with a faulty box would not be counted.
"""

from __future__ import annotations

import re
from pathlib import Path

from crowddist.data.convert.annotations import as_count, as_points, read_json_object, read_lines
from crowddist.data.convert.layout import (
    Annotation,
    Format,
    Item,
    Listing,
    NoSetError,
    below,
    fullest,
    list_images,
    require_annotations,
    subfolders,
    unwrapped,
)
from crowddist.data.images import SUFFIXES
from crowddist.errors import InputError

# P: Wang et al., TPAMI 2021: how bright an image is, and which of five ranges its count lies in.
_FACTS = ("luminance", "scene_level")


def find(folder: Path, split: str, labelled: bool) -> Listing:
    """The images that `train.txt`, `val.txt` or `test.txt` in `folder` lists, by their numbers.

    Images lie in `images` or, as released, in `images_part1` to `images_part5`, annotations in the folder beside them
    that holds most JSON files, in the set itself `jsons`. An image gets the `luminance` and
    `scene_level` that the list gives; an unlabelled one no `scene_level`, which reveals its count.
    """
    listed = below(folder, f"{split}.txt")
    annotations = (fullest(map(unwrapped, subfolders(folder)), "*.json") if labelled else None) or folder / "jsons"
    parts = [unwrapped(path) for path in subfolders(folder) if path.name.lower().startswith("images_part")]
    places = [path for path in (below(folder, "images"), *parts) if path.is_dir()]
    if not places or not listed.is_file():
        missing = listed.name if places else "images"
        advice = "give the folder that holds images, jsons, train.txt, val.txt and test.txt"
        raise NoSetError(f"no NWPU-Crowd data of the split {split!r} in {folder}: {missing} is missing; {advice}")
    if labelled and split == "test":
        raise InputError("the labels of NWPU-Crowd's test split were never released; convert with --unlabelled, or "
                         "take the split val")
    require_annotations(annotations, labelled)
    entries, refused = _read_list(listed)
    items = [Item(name=path.stem, image=path, annotations=(annotations / f"{path.stem}.json",),
                  facts=entries[path.stem][1])
             for path in list_images(*places) if path.stem in entries]
    found = {item.name for item in items}
    refused += [(places[0] / f"{name}.jpg", f"the image is missing, line {line} of {listed} names it")
                for name, (line, _) in entries.items() if name not in found]
    return Listing(name="nwpu-crowd", split=split, items=tuple(items), refused=tuple(refused))


def annotate(item: Item, size: tuple[int, int]) -> Annotation:
    """Heads x, y as annotated."""
    place = item.annotations[0]
    facts = read_json_object(place)
    points, count = facts.get("points"), as_count(facts.get("human_num"))
    # Other programs write null where nobody is.
    points = [] if points is None and count == 0 else points
    return Annotation(points=as_points(points, place, "points"), count=count, place=place)


def _read_list(place: Path) -> tuple[dict[str, tuple[int, dict[str, int]]], list[tuple[Path, str]]]:
    """Line number and facts of each image by its name, and bad lines; a line is a name and, where known, two codes.

    The name may have a path and an ending; both are left out, as images are looked for in their own folders.
    """
    entries: dict[str, tuple[int, dict[str, int]]] = {}
    refused = []
    for number, line in enumerate(read_lines(place), start=1):
        if not line:
            continue
        path, *codes = line.split()
        name = Path(path.replace("\\", "/")).name
        name = Path(name).stem if name.lower().endswith(SUFFIXES) else name
        if not name:
            refused.append((place, f"line {number} names no image: {path[:80]!r}"))
        elif name in entries:
            again = f"line {number} names {name!r} again, after line {entries[name][0]}; remove one of the two"
            refused.append((place, again))
        else:
            known = len(codes) >= len(_FACTS) and all(re.fullmatch("[0-9]", code) for code in codes[:len(_FACTS)])
            entries[name] = (number, dict(zip(_FACTS, map(int, codes), strict=False)) if known else {})
    return entries, refused


FORMAT = Format(name="nwpu_crowd", splits=("train", "val", "test"), find=find, annotate=annotate,
                summary="images/0001.jpg (or images_part1 to images_part5), jsons/0001.json, and {train,val,test}.txt")
