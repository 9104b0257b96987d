"""Shared by the formats of one's own labels: which marks are heads, and which image they belong to.

A format reads its files into marks by image and is a row of `RAW_FORMATS`; all else is here.
"""

from __future__ import annotations

import math
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from crowddist.data.convert.layout import Annotation, Format, Item, Listing, holds, in_split, split_facts
from crowddist.data.convert.points import box_centres
from crowddist.data.walk import find_images
from crowddist.errors import InputError

PEOPLE = (("head", "heads"), ("face", "faces"), ("person", "persons", "people", "pedestrian", "pedestrians", "human"))
"""Classes whose marks are taken: those of the first group that a set has. Where it has none, it has one class alone."""
_SPLITS = ("all", "train", "val")


class OtherFileError(InputError):
    """A sound file that holds something else than labels of the format."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The marks of one image."""

    place: Path
    """The file that holds them."""
    marks: list[tuple[str, float, float]] = field(default_factory=list)
    """Class ("" where the format has none), x, y in px of each; NaN where they are no numbers."""
    size: tuple[int, int] | None = None
    """(height, width) of the image that was labelled, where it is told."""
    num_unplaced: int = 0
    """Marks of a shape that has no single place."""


def own_format(name: str, summary: str, suffix: str, read: Callable[[Path], Mapping[str, Labels]]) -> Format:
    """A format of labels in files of this ending (".csv"), anywhere in the folder of the images.

    `read` makes of one file the labels by image, whose name may be a path or lack its ending. It raises OtherFileError
    for a file of something else, which is counted if another one holds labels, and InputError for a damaged one.
    """

    def find(folder: Path, split: str, labelled: bool) -> Listing:
        found = find_images(folder)
        images, refused = found.images, found.refused
        facts = dict(split_facts(split))
        if labelled:
            labels, damaged, others = _read_all(folder, suffix, read)
            found.others.pop(suffix[1:].upper(), None)  # labels, or counted as other files
            items, lone, unlabelled = _pair(folder, images, labels)
            refused = [*refused, *damaged, *lone]
            facts |= {fact: number for fact, number in (("num_other_files", others),
                                                        ("num_unlabelled_images", unlabelled)) if number}
        else:
            items = [_item(folder, path, None) for path in images]
        return Listing(name=folder.resolve().name or name, split=split, refused=tuple(refused), facts=facts,
                       items=tuple(item for item in items if in_split(item.name, split)), notes=tuple(found.lines()))

    def annotate(item: Item, size: tuple[int, int]) -> Annotation:
        labels: Labels = item.record
        points = np.array([mark[1:] for mark in labels.marks], np.float64).reshape(-1, 2)
        return Annotation(points=points, place=f"{labels.place} ({item.name})", size=labels.size,
                          num_other_marks=labels.num_unplaced)

    return Format(name=name, summary=summary, splits=_SPLITS, upright=True, find=find, annotate=annotate)


def numbers(values: Any, count: int) -> list[float]:
    """The first `count` numbers of a list; all NaN where they are not there, so that `check_points` tells of them."""
    try:
        found = [float(value) for value in values[:count]] if isinstance(values, list) else []
    except (TypeError, ValueError, OverflowError):
        found = []
    return found if len(found) == count else [math.nan] * count


def box_centre(left: float, top: float, width: float, height: float) -> tuple[float, float]:
    """x, y of a box's centre, as `box_centres` counts."""
    ((x, y),) = box_centres(np.array([[left, top, width, height]]))
    return float(x), float(y)


def image_size(height: Any, width: Any) -> tuple[int, int] | None:
    """(height, width) where both are whole numbers above 0; None where a tool left them out."""
    sides = numbers([height, width], 2)
    return (int(sides[0]), int(sides[1])) if all(side >= 1 and side % 1 == 0 for side in sides) else None


def entries(value: Any, noun: str, place: Path) -> list[dict[str, Any]]:
    """`value` as a list of objects. Raises InputError, naming the place, for anything else."""
    if not (isinstance(value, list) and all(isinstance(entry, dict) for entry in value)):
        raise InputError(f"{place}: wrong layout: {noun} must be a list of objects, got {str(value)[:80]!r}")
    return value


def _read_all(folder: Path, suffix: str, read: Callable[[Path], Mapping[str, Labels]]
              ) -> tuple[dict[str, Labels], list[tuple[Path, str]], int]:
    """The labels of all files, of people alone; the damaged files, with the reason; and the number of other files."""
    labels: dict[str, Labels] = {}
    damaged, others = [], []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or path.suffix.lower() != suffix:
            continue
        try:
            found = read(path)
        except OtherFileError as error:
            others.append(error)
        except InputError as error:
            damaged.append((path, str(error).removeprefix(f"{path}: ")))
        else:
            for image, held in found.items():
                key = (path.parent.relative_to(folder) / _plain(image)).as_posix()
                if key not in labels:
                    labels[key] = held
                elif labels[key].place == path:  # written in two ways
                    labels[key].marks.extend(held.marks)
                else:
                    raise InputError(f"{path} and {labels[key].place} both label {image[:80]!r}; keep one of the two")
    if not labels and not damaged:
        raise others[0] if others else InputError(f"no {suffix} with labels in {folder}: {holds(folder)}")
    return _of_people(labels), damaged, len(others)


def _of_people(labels: Mapping[str, Labels]) -> dict[str, Labels]:
    """The labels with the marks of people alone. Raises InputError where classes do not tell which these are."""
    classes = {kind for held in labels.values() for kind, _, _ in held.marks}
    groups = ({kind for kind in classes if kind.strip().lower() in names} for names in PEOPLE)
    taken = next(filter(None, groups), classes)
    if taken is classes and len(classes) > 1:
        place = next(iter(labels.values())).place
        raise InputError(f"{place}: the classes {', '.join(sorted(map(repr, classes))[:8])} do not tell which are "
                         "heads; call these head")
    people = {}
    for image, held in labels.items():
        marks = [mark for mark in held.marks if mark[0] in taken]
        people[image] = replace(held, marks=marks, num_unplaced=held.num_unplaced + len(held.marks) - len(marks))
    return people


def _pair(folder: Path, images: Iterable[Path],
          labels: Mapping[str, Labels]) -> tuple[list[Item], list[tuple[Path, str]], int]:
    """The images with labels; labels without an image, with the reason; and the number of images without labels.

    An image is found by its path, or else by its name alone, with or without its ending. Labels open no file that
    `images` does not name.
    """
    by_name: dict[str, list[Path]] = defaultdict(list)
    for path in images:
        relative = path.relative_to(folder)
        for name in {relative.as_posix(), relative.with_suffix("").as_posix(), relative.name, relative.stem}:
            by_name[_plain(name)].append(path)
    found: dict[Path, Labels] = {}
    refused = []
    for image, held in labels.items():
        places = by_name.get(_plain(image)) or by_name.get(_plain(PurePosixPath(image).name), [])
        if len(places) == 1 and places[0] not in found:
            found[places[0]] = held
        else:
            why = ("it is labelled twice" if len(places) == 1 else "several images have the name, write their paths"
                   if places else "the image is missing")
            refused.append((held.place, f"names {image[:200]!r}: {why}"))
    items = [_item(folder, path, found[path]) for path in sorted(found)]
    return items, refused, sum(path not in found for path in images)


def _item(folder: Path, path: Path, labels: Labels | None) -> Item:
    return Item(name=path.relative_to(folder).with_suffix("").as_posix(), image=path, record=labels,
                annotations=(labels.place,) if labels else ())


def _plain(name: str) -> str:
    """A name of an image as labels write it, as a relative path of ours; systems write accents in two ways."""
    return unicodedata.normalize("NFC", name.strip().replace("\\", "/").lstrip("/"))
