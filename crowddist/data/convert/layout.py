"""What a format is, and how its folders are listed: images with their annotations, splits, and what else lies there."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from crowddist.data.config import OWN_FORMATS
from crowddist.data.file_kinds import ARCHIVES
from crowddist.data.images import SUFFIXES
from crowddist.data.walk import is_preview
from crowddist.errors import InputError

IMAGES = ("images", "imgs", "img")
"""Names of the folder that holds a set's images, where other folders hold pictures too."""
VALIDATION_SHARE = 0.2  # ours: share of the training split held out for validation where a set has no split for it


class NoSetError(InputError):
    """A folder does not hold the layout of a public set."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One image of a source, not yet opened."""

    name: str  # unique in the source, e.g. "scene_00_0/1536371984"; the sample's key is made from it
    image: Path
    annotations: tuple[Path, ...] = ()  # the image's annotation files, in the format's own order; they may not exist
    record: Any = None  # the image's annotation, where `find` has read it from a file for many images
    facts: dict[str, Any] = field(default_factory=dict)  # from the folder and its index, for the sample's json
    count: int | None = None  # of persons, as the set's index tells it


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The images of one split of a source."""

    name: str  # of the data set, unless the user gives another
    split: str  # as asked for, or as the folder itself says
    items: tuple[Item, ...]  # in the order of the shards
    refused: tuple[tuple[Path, str], ...] = ()  # files that belong to no item, and why
    facts: dict[str, Any] = field(default_factory=dict)  # for the manifest's statistics, e.g. how the split was made
    notes: tuple[str, ...] = ()  # lines about the folder, for the user


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """The labels of one image, in pixels of the image as stored in the source."""

    points: np.ndarray | None = None  # N x 2 or N x 3 x, y of heads, as annotated; None: the centres of `boxes`
    boxes: np.ndarray | None = None  # N x 4 left, top, width, height of heads, edges in px: pixel j covers [j, j + 1)
    left_out: np.ndarray | None = None  # (N,) bool, boxes not to use, by the set's flags or its converter
    place: Path | str  # the file, or a place in it, for messages
    count: int | None = None  # of points, as the file itself tells it
    size: tuple[int, int] | None = None  # (height, width) of the image that was labelled, where the file tells it
    num_other_marks: int = 0  # of another class, or of a shape without a place
    num_corner_boxes: int = 0  # of `points`, those that are centres of boxes of which a table tells a corner
    mask: np.ndarray | None = None  # (H, W), nonzero = person
    roi: np.ndarray | None = None  # the polygon that was annotated, K x 2 x, y; None or empty: the whole image
    scene: dict[str, Any] = field(default_factory=dict)  # further entries of the sample's json


@dataclass(frozen=True, kw_only=True)
class Format:
    """One layout of raw data."""

    name: str  # as the user types it
    summary: str  # for --help: what the source folder must look like
    splits: tuple[str, ...]  # the first is the default
    upright: bool = False  # turn pixels by their rotation tags; never where annotations refer to the stored pixels
    find: Callable[[Path, str, bool], Listing]
    """(folder, split, labelled) -> listing. Raises NoSetError for a folder without the layout of a public set, and
    InputError for a damaged one."""
    annotate: Callable[[Item, tuple[int, int]], Annotation] | None
    """(item, (height, width)) -> annotation; None: the format has no labels. Raises InputError naming the file."""


def hash_share(name: str) -> float:
    """A number in [0, 1) from the name alone, so that a split stays the same whatever else is in the folder."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8]) / 2**64


def in_split(stem: str, split: str) -> bool:
    """True for an image or scene, e.g. "IMG_12", that belongs to the split.

    `train` and `val` divide the training data by the hash of the name; any other split holds all its images.
    """
    return (hash_share(stem) < VALIDATION_SHARE) == (split == "val") if split in ("train", "val") else True


def split_facts(split: str, noun: str = "image") -> dict[str, Any]:
    """The rule of `in_split` for the manifest; `noun`: whose name is hashed."""
    return ({"split_rule": f"val: SHA-256 of the {noun}'s name below {VALIDATION_SHARE:g}"} if split in ("train", "val")
            else {})


def relative_names(folder: Path, images: Iterable[Path]) -> dict[Path, str]:
    """A name for each image below a folder: its path there without the ending; or with it where two differ in nothing
    else, or where it does not tell an image, as in `snap.jpg.1`.
    """
    paths = {path: path.relative_to(folder) for path in images}
    alike = Counter(path.with_suffix("") for path in paths.values())

    def is_bare(name: Path) -> bool:
        return name.suffix.lower() in SUFFIXES and alike[name.with_suffix("")] == 1

    names = {path: (name.with_suffix("") if is_bare(name) else name).as_posix() for path, name in paths.items()}
    while twice := {name for name, number in Counter(names.values()).items() if number > 1}:  # a.jpg, a.png, a.jpg.jpg
        names |= {path: paths[path].as_posix() for path, name in names.items() if name in twice}
    return names


def list_images(*folders: Path) -> list[Path]:
    """The image files directly in the folders, by their numbers whatever their folder: IMG_2 comes before IMG_10."""
    paths = [path for folder in folders
             for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
    return sorted(paths, key=lambda path: (len(path.stem), path.name, path))


def list_pairs(folder: Path, ending: str, labelled: bool, annotations: Path | None = None,
               prefix: str = "") -> tuple[list[Item], list[tuple[Path, str]], dict[str, Any]]:
    """The images of a folder with their annotations; the annotations that lack an image, with the reason; and the
    number of other files for the manifest, which pictures of annotations (NAME_ann.png) belong to.

    The annotation of NAME.jpg is `prefix` + NAME + `ending` in the folder `annotations`; None: beside the images.
    Raises InputError where that folder is needed and missing, or holds no annotation at all.
    """
    place = annotations or folder
    require_annotations(place, labelled)
    images, mark = list_images(folder), ending.removesuffix(Path(ending).suffix)
    stems = {path.stem for path in images}
    pictures = {path for path in images
                if (name := path.stem.removeprefix(prefix).removesuffix(mark)) != path.stem and name in stems}
    items = [Item(name=path.stem, image=path, annotations=(place / f"{prefix}{path.stem}{ending}",))
             for path in images if path not in pictures]
    found = [path for path in place.glob(f"{prefix}*{ending}") if not path.name.startswith(".")]
    if labelled and items and not found:
        raise InputError(f"no annotations {prefix}NAME{ending} in {place}: {holds(place)}; add them, convert with "
                         f"--unlabelled, or give the format of labels of your own: {', '.join(OWN_FORMATS)}")
    taken = {*images, *found} - pictures
    others = sum(path.is_file() and path not in taken and not path.name.startswith(".")
                 for shown in ({folder, place} if labelled else {folder}) for path in shown.iterdir())
    lone = lone_annotations(path for path in found
                            if path.name.removeprefix(prefix).removesuffix(ending) not in stems) if labelled else []
    return items, lone, {"num_other_files": others} if others else {}


def lone_annotations(paths: Iterable[Path]) -> list[tuple[Path, str]]:
    """Annotations without an image as `Listing.refused` takes them: sorted, hidden files left out."""
    return [(path, "an annotation without its image") for path in sorted(paths) if not path.name.startswith(".")]


def require_annotations(place: Path, labelled: bool) -> None:
    """Raises InputError where a labelled conversion has no annotations at `place`."""
    if labelled and not place.exists():
        raise InputError(f"no annotations: {place} is missing; convert with --unlabelled, or add it")


def subfolders(folder: Path) -> list[Path]:
    """The visible folders directly in a folder, sorted, without those that systems fill."""
    return sorted(path for path in folder.iterdir()
                  if path.is_dir() and not path.name.startswith(".") and not is_preview(path))


def unwrapped(folder: Path) -> Path:
    """The folder, or that of its name which lies alone in it, as an archive leaves it that is unpacked into a folder of
    its name, e.g. `images_part1 (1)/images_part1`.
    """
    inside = list(islice((path for path in folder.iterdir() if not path.name.startswith(".")), 2))
    alone = len(inside) == 1 and inside[0].is_dir() and _plain(folder.name).startswith(_plain(inside[0].name))
    return inside[0] if alone else folder


def is_called(folder: Path, *names: str) -> bool:
    """True if the folder has one of the names, however it writes capitals, hyphens, underscores and spaces."""
    return _plain(folder.resolve().name) in map(_plain, names)


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").replace(" ", "_")


def below(folder: Path, *names: str) -> Path:
    """The file or folder at these names below each other, however they are written, see `is_called`; where there is
    none, the path with the names as they are given.
    """
    for name in names:
        alike = [path for path in (folder.iterdir() if folder.is_dir() else ()) if _plain(path.name) == _plain(name)]
        folder = folder / min((path.name for path in alike), key=lambda found: (found != name, found), default=name)
        folder = unwrapped(folder) if folder.is_dir() else folder
    return folder


def folder_called(folder: Path, *names: str) -> Path | None:
    """The folder in `folder` with one of the names as `is_called` compares them; the exact name goes first."""
    found = [path for path in subfolders(folder) if is_called(path, *names)]
    return unwrapped(min(found, key=lambda path: path.name not in names)) if found else None


def fullest(places: Iterable[Path], pattern: str) -> Path | None:
    """The folder with the most visible files that fit the pattern; the first of equal ones, None if none holds any."""
    counts = {place: sum(not path.name.startswith(".") for path in place.glob(pattern)) for place in places}
    best = max(counts, key=lambda place: counts[place], default=None)
    return best if best is not None and counts[best] else None


def holds(folder: Path) -> str:
    """What lies directly in a folder, in words for a message: files by their endings, and folders."""
    if not folder.is_dir():
        return "it is no folder"
    visible = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    kinds: Mapping[str, int] = Counter((path.suffix or "files without ending") for path in visible if path.is_file())
    names = [path.name for path in visible if path.is_dir()]
    parts = [f"{number} {kind}" for kind, number in sorted(kinds.items())]
    if names:
        parts.append(f"the folders {', '.join(names[:5])}{' and more' if names[5:] else ''}")
    text = f"it holds {', '.join(parts[:8]) or 'nothing'}"
    if any(path.suffix[1:].upper() in ARCHIVES for path in visible):
        text += " (unpack what is packed)"
    return "".join(char if char.isprintable() else "?" for char in text)
