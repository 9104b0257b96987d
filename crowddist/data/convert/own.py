"""Shared by the formats of one's own labels: which marks are heads, and which image they belong to.

A format reads its files into marks by image and is a row of `RAW_FORMATS`; all else is here.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from crowddist.data.config import OWN_FORMATS
from crowddist.data.convert.layout import (
    Annotation,
    Format,
    Item,
    Listing,
    holds,
    in_split,
    relative_names,
    split_facts,
)
from crowddist.data.convert.points import box_centres, heads_of_rows
from crowddist.data.images import SUFFIXES
from crowddist.data.walk import Found, find_images
from crowddist.errors import InputError

# Persons before faces: who looks away has no face, but counts.
PEOPLE = (("head", "heads"), ("person", "persons", "people", "pedestrian", "pedestrians", "human"), ("face", "faces"))
"""Classes whose marks are taken: those of the first group that a set has. Where it has none, it has one class alone."""
OWN_WAY = "bring your own into a .csv with the columns file, x, y beside the images"
"""What to do with labels in a form that is not read."""
HEAD_KEYPOINTS = ("head", "head_top", "nose")
"""Names of the keypoints that stand for a person, the best first."""
_SPLITS = ("all", "train", "val")
# What public sets put round the name of an image to name its annotation.
_ROUND_NAMES = re.compile("^gt_|_(?:ann|gt|points)$", re.IGNORECASE)


class OtherFileError(InputError):
    """Nothing is labelled in the format: a sound file that holds something else, or a folder without any."""


Mark = tuple[Any, ...]
"""Class ("" where the format has none), x, y in px, NaN where they are no numbers; in all marks of a file or in none
also the width and height that `heads_of_rows` takes.
"""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The marks of one image."""

    place: Path
    """The file that holds them."""
    marks: list[Mark] = field(default_factory=list)
    size: tuple[int, int] | None = None
    """(height, width) of the image that was labelled, where it is told."""
    declared: frozenset[str] = frozenset()
    """Classes that the file knows, also those without marks, where it tells them."""
    unplaced: list[tuple[str, str]] = field(default_factory=list)
    """Class of each mark that is no head's place, as `no_place` says, and why."""
    num_others: int = 0
    """Further marks that are left out."""
    points: np.ndarray | None = None
    """N x 2 or N x 3, x and y first, in place of `marks` where the format has no classes."""
    count: int | None = None
    """Of points, where the file tells it."""
    also: str = ""
    """A second name that the image may have."""


def own_format(name: str, summary: str, suffixes: Sequence[str],
               read: Callable[[Path], Mapping[str, Labels]]) -> Format:
    """A format of labels in files of these endings (".csv"), anywhere in the folder of the images.

    `read` makes of one file the labels by image, whose name may be a path or lack its ending. It raises OtherFileError
    for a file of something else, which is counted if another one holds labels, and InputError for a damaged one.
    """

    def find(folder: Path, split: str, labelled: bool) -> Listing:
        found = find_images(folder)
        images, refused = found.images, found.refused
        facts = dict(split_facts(split))
        if labelled:
            labels, damaged, others = _read_all(folder, suffixes, _label_files(found, suffixes), read)
            for suffix in suffixes:
                found.others.pop(suffix[1:].upper(), None)  # labels, or counted as other files
            items, lone, unlabelled = _pair(folder, images, labels)
            refused = [*refused, *damaged, *lone]
            facts |= {fact: number for fact, number in (("num_other_files", others),
                                                        ("num_unlabelled_images", unlabelled)) if number}
        else:
            items = [Item(name=name, image=path) for path, name in relative_names(folder, images).items()]
        return Listing(name=folder.resolve().name or name, split=split, refused=tuple(refused), facts=facts,
                       items=tuple(item for item in items if in_split(item.name, split)), notes=tuple(found.lines()))

    def annotate(item: Item, size: tuple[int, int]) -> Annotation:
        labels: Labels = item.record
        if labels.unplaced and not labels.marks:
            raise _no_heads(item.name, labels)
        rows = np.array([mark[1:] for mark in labels.marks] or np.zeros((0, 2)), np.float64)
        points, num_boxes = heads_of_rows(rows, size)
        return Annotation(points=points if labels.points is None else labels.points, count=labels.count,
                          place=f"{labels.place} ({item.name})", size=labels.size, num_corner_boxes=num_boxes,
                          num_other_marks=len(labels.unplaced) + labels.num_others)

    return Format(name=name, summary=summary, splits=_SPLITS, upright=True, find=find, annotate=annotate)


def numbers(values: Any, count: int) -> list[float]:
    """The first `count` numbers of a list; all NaN where they are not there, so that `check_points` tells of them."""
    try:
        found = [float(value) for value in values[:count]] if isinstance(values, list) else []
    except (TypeError, ValueError, OverflowError):
        found = []
    return found if len(found) == count else [math.nan] * count


def no_place(shape: str) -> str:
    """Why a mark of this shape is no head's place, and what to do."""
    return f"have no single place ({shape}): mark points or boxes"


def people(kinds: Iterable[str]) -> list[str]:
    """Those of the classes that tell people: of the first group of `PEOPLE` that has any."""
    return next(filter(None, ([kind for kind in kinds if kind.strip().lower() in names] for names in PEOPLE)), [])


def of_one_image(place: Path, points: np.ndarray | None, count: int | None = None,
                 marks: Sequence[Mark] = ()) -> dict[str, Labels]:
    """The labels of a file for one image, which has the file's name or what is left of it without GT_ and _ann."""
    bare = _ROUND_NAMES.sub("", place.stem)
    return {place.stem: Labels(place=place, points=points, count=count, marks=[*marks],
                               also="" if bare == place.stem else bare)}


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


def _label_files(found: Found, suffixes: Sequence[str]) -> list[Path]:
    """The files with the endings in the folder, sorted: also beside images that a link leads to, and not in folders
    that are left out for images.
    """
    homes = {path.parent for path in found.images}
    above = homes.union(*(home.parents for home in homes))
    left_out = {path for paths in found.left_out.values() for path in paths} - above
    paths = {*found.root.rglob("*"), *(path for home in homes for path in home.iterdir())}
    return sorted(path for path in paths if path.suffix.lower() in suffixes and left_out.isdisjoint(path.parents)
                  and not any(part.startswith(".") for part in path.relative_to(found.root).parts)
                  and not path.is_dir())


def _read_all(folder: Path, suffixes: Sequence[str], paths: Iterable[Path],
              read: Callable[[Path], Mapping[str, Labels]]) -> tuple[dict[str, Labels], list[tuple[Path, str]], int]:
    """The labels of all files, of people alone; the damaged files, with the reason; and the number of other files."""
    labels: dict[str, Labels] = {}
    damaged, others = [], []
    for path in paths:
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
                    also = (path.parent.relative_to(folder) / _plain(held.also)).as_posix() if held.also else ""
                    labels[key] = replace(held, also=also)
                elif labels[key].place == path and labels[key].points is held.points is None:  # written in two ways
                    labels[key].marks.extend(held.marks)
                    labels[key].unplaced.extend(held.unplaced)
                else:
                    raise InputError(f"{path} and {labels[key].place} both label {image[:80]!r}; keep one of the two")
    if not labels and not damaged:
        why = others[0] if others else f"no {' or '.join(suffixes)} with labels in {folder}: {holds(folder)}"
        raise OtherFileError(f"{why}; read are {', '.join(OWN_FORMATS)}: {OWN_WAY}")
    return _of_people(labels), damaged, len(others)


def _of_people(labels: Mapping[str, Labels]) -> dict[str, Labels]:
    """The labels with the marks of heads alone, and why those of other people are none. Raises InputError as `_taken`,
    and where people are marked, but no head at all.
    """
    taken = _taken(labels.values())
    called = f"are not called {' or '.join(map(repr, sorted(taken)))}, as heads are here: call them so"
    found = {}
    for image, held in labels.items():
        marks = [mark for mark in held.marks if mark[0] in taken]
        others = [*held.unplaced, *((kind, called) for kind, *_ in held.marks if kind not in taken)]
        unplaced = [other for other in others if other[0] in taken or people(other[:1])]
        found[image] = replace(held, marks=marks, unplaced=unplaced,
                               num_others=held.num_others + len(others) - len(unplaced))
    lost = [(image, held) for image, held in found.items() if held.unplaced]
    if lost and not any(held.marks for held in found.values()):  # a file of zones, perhaps, and of another format heads
        raise _no_heads(*lost[0])
    return found


def _no_heads(image: str, labels: Labels) -> InputError:
    """The error of an image on which people are marked, but no head: it would be taken for one of nobody."""
    marks = ", ".join(f"{number} marks {kind[:80]!r} {why}" for (kind, why), number in Counter(labels.unplaced).items())
    return InputError(f"{labels.place}: the heads on {image[:200]!r} cannot be taken: {marks}")


def _taken(labels: Collection[Labels]) -> set[str]:
    """The classes whose marks are heads. Raises InputError where classes do not tell which these are."""
    placed = {kind for held in labels for kind, *_ in held.marks}
    unplaced = {kind for held in labels for kind, _ in held.unplaced}
    declared = {kind for held in labels for kind in held.declared}
    # Where a file knows people and marks only cars, nobody is there.
    if taken := people(placed) or (people(declared) if placed <= declared else []):
        return set(taken)
    # One class of any name is heads; not beside outlines of people.
    found = placed.union(people(unplaced)) or unplaced
    if len(found) > 1:
        place = next(iter(labels)).place
        raise InputError(f"{place}: the classes {', '.join(sorted(map(repr, found))[:8])} do not tell which are "
                         "heads; call these head")
    return found


def _pair(folder: Path, images: Sequence[Path],
          labels: Mapping[str, Labels]) -> tuple[list[Item], list[tuple[Path, str]], int]:
    """The images with labels; labels without an image, with the reason; and the number of images without labels.

    An image is found by its path, or else by the end of it that it shares with the labels, down to its name alone; with
    or without its ending, and, where none has the same, with another ending, with other capitals, or as servers rename
    uploads. Of several, the one whose folder is nearest to the labels is taken, or else the one of their second name.
    Labels open no file that `images` does not name.
    """
    indexes = [(_index(folder, images, fold), fold) for fold in (str, str.casefold, _as_uploaded)]

    def named(names: Sequence[str]) -> tuple[int, list[Path]]:
        return next(((rank, index[fold(name)]) for rank, name in enumerate(names) for index, fold in indexes
                     if fold(name) in index), (0, []))

    matches = []
    for image, held in labels.items():
        also = _ends(held.also) if held.also else []
        rank, places = named([*_ends(image), *also, *_without_ending(image)])
        places = _nearest(places, folder, image)
        if len(places) > 1:
            places = [path for path in named(also)[1] if path in places] or places
        # Zones drawn on an image say nothing of its heads, and give way to what does.
        lesser = held.num_others > 0 and not held.marks and not held.unplaced and held.points is None
        matches.append((rank, lesser, places, image, held))
    taken: dict[Path, Labels] = {}
    refused = []
    shown = f"; those in the folder are called as {images[0].name!r}" if images else ""
    for _, lesser, places, image, held in sorted(matches, key=lambda match: match[:2]):  # who shares most goes first
        if len(places) == 1 and places[0] not in taken:
            taken[places[0]] = held
        elif len(places) != 1 or not lesser:
            why = ("it is labelled twice" if len(places) == 1 else "several images have the name, write their paths"
                   if places else f"the image is missing{shown}")
            refused.append((held.place, f"names {image[:200]!r}: {why}"))
    items = [Item(name=name, image=path, record=taken[path], annotations=(taken[path].place,))
             for path, name in relative_names(folder, images).items() if path in taken]
    return items, refused, len(images) - len(items)


def _index(folder: Path, images: Iterable[Path], fold: Callable[[str], str]) -> dict[str, list[Path]]:
    """The images by all names of `_ends`, with and without their endings; and by their paths from above the folder,
    where no other has that name.
    """
    index: dict[str, list[Path]] = defaultdict(list)
    above: dict[str, list[Path]] = defaultdict(list)
    root = fold(_plain(folder.absolute().name))
    for path in images:
        whole = PurePosixPath(fold(_plain(path.relative_to(folder).as_posix())))
        for name in {whole, whole.with_suffix("")}:
            for end in _ends(str(name)):
                index[end].append(path)
            above[f"{root}/{name}"].append(path)
    return {**above, **index}


def _ends(name: str) -> list[str]:
    """A path, marked as whole by a slash; then its ends, from the whole down to the name alone."""
    parts = PurePosixPath(name).parts
    return [f"/{name}", *("/".join(parts[start:]) for start in range(len(parts)))]


def _without_ending(name: str) -> list[str]:
    """The path and its ends without the ending of an image: the images may have been saved in another format."""
    path = PurePosixPath(name)
    return _ends(str(path.with_suffix(""))) if path.suffix.lower() in SUFFIXES else []


def _as_uploaded(name: str) -> str:
    """A path without capitals, and as servers keep the names of uploads: spaces become _, other signs go."""
    return re.sub(r"[^\w./-]", "", name.replace(" ", "_")).casefold()


def _nearest(places: list[Path], folder: Path, image: str) -> list[Path]:
    """Those of the places that share most folders, from the top, with the labels of `image`."""
    parts = PurePosixPath(image).parts
    shared = [sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1],
                                       zip(path.relative_to(folder).parts, parts, strict=False))) for path in places]
    return [path for path, number in zip(places, shared, strict=True) if number == max(shared)]


def _plain(name: str) -> str:
    """A name of an image as labels write it, as a relative path of ours; systems write accents in two ways."""
    if re.match(r"[a-z][a-z0-9+.-]+://", name.strip(), re.IGNORECASE):  # an address: what stands before its query
        with suppress(ValueError):
            name = unquote(urlsplit(name.strip()).path)
    return unicodedata.normalize("NFC", name.strip().replace("\\", "/").lstrip("/"))
