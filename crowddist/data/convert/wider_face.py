"""WIDER FACE in its original layout: boxes of faces, to pre-train a head detector. Its test labels are not public."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from crowddist.data.convert.annotations import parse_numbers, parse_rows, read_lines
from crowddist.data.convert.layout import Annotation, Format, Item, Listing, NoSetError, below, require_annotations
from crowddist.data.images import SUFFIXES
from crowddist.data.walk import find_images
from crowddist.errors import InputError

# P: the columns of the set's own readme.
_COLUMNS = ("x1", "y1", "w", "h", "blur", "expression", "illumination", "invalid", "occlusion", "pose")
_INVALID = _COLUMNS.index("invalid")


class Entry(NamedTuple):
    """The annotation of one image."""

    line: int  # number of the line that names the image, from 1; the boxes begin two lines below
    boxes: tuple[str, ...]  # one line per box, as in the file


def find(folder: Path, split: str, labelled: bool) -> Listing:
    """The images of a split, by event and name; `folder` holds `WIDER_train`, `WIDER_val` and `wider_face_split`."""
    images = below(folder, f"WIDER_{split}", "images")
    annotations = below(folder, "wider_face_split", f"wider_face_{split}_bbx_gt.txt")
    if not images.is_dir():
        raise NoSetError(f"no WIDER FACE data of the split {split!r}: {images} is missing; give the folder that holds "
                         "WIDER_train, WIDER_val and wider_face_split")
    require_annotations(annotations, labelled)
    found = find_images(images)
    paths, refused = found.images, found.refused
    entries = read_entries(annotations) if labelled else {}
    names = [path.relative_to(images) for path in paths]
    items = tuple(Item(name=name.with_suffix("").as_posix(), image=path, annotations=(annotations,),
                       record=entries.pop(name.as_posix(), None))
                  for path, name in zip(paths, names, strict=True))
    refused += [(images / name, f"the image is missing, line {entry.line} of {annotations} names it")
                for name, entry in entries.items()]
    return Listing(name="wider-face", split=split, items=items, refused=tuple(refused))


def annotate(item: Item, size: tuple[int, int]) -> Annotation:
    """Boxes as annotated; those flagged invalid, or without a width or height, are left out."""
    place, entry = item.annotations[0], item.record
    if entry is None:
        raise InputError(f"{item.image}: {place} does not name it; add its boxes or remove the image")
    table = parse_rows(enumerate(entry.boxes, start=entry.line + 2), _numbers, len(_COLUMNS), place)
    left_out = (table[:, _INVALID] == 1) | (table[:, 2:4] <= 0).any(axis=1)
    return Annotation(boxes=table[:, :4], left_out=left_out, place=f"{place}: line {entry.line} ({item.name})")


def read_entries(place: Path) -> dict[str, Entry]:
    """The entries of an annotation file by image: a line with the name, one with the number of boxes, one per box.

    The numbers of a box are read with its image. Raises InputError, naming the line, where the file has another layout
    or ends early.
    """
    lines, index = read_lines(place), 0
    entries: dict[str, Entry] = {}
    while index < len(lines):
        name, number = lines[index], index + 1
        if not _is_image(name):
            raise InputError(f"{place}: line {number} should name an image, got {name[:80]!r}; download the file again")
        if name in entries:
            raise InputError(f"{place}: line {number} names {name!r} again, after line {entries[name].line}; remove "
                             "one of the two entries")
        count = _count(lines, index + 1, place)
        boxes = tuple(lines[index + 2:index + 2 + count])
        if len(boxes) < count or any(map(_is_image, boxes)):
            got = next((row for row, line in enumerate(boxes) if _is_image(line)), len(boxes))
            then = "the next image" if got < len(boxes) else "the end of the file"
            raise InputError(f"{place}: line {number + 1} says {count} boxes, but {got} lines follow before {then}; "
                             "download the file again")
        entries[name] = Entry(line=number, boxes=boxes)
        index += 2 + count
        # An image without faces has one line of zeros instead of boxes.
        if not count and index < len(lines) and lines[index].split() == ["0"] * len(_COLUMNS):
            index += 1
    return entries


def _count(lines: list[str], index: int, place: Path) -> int:
    if index >= len(lines):
        raise InputError(f"{place}: ends after line {index}, the number of boxes is missing; download the file again")
    # A longer number is wrong, and Python refuses to parse one of thousands of digits.
    if not (lines[index].isascii() and lines[index].isdecimal() and len(lines[index]) < 10):
        raise InputError(f"{place}: line {index + 1} should be the number of boxes, got {lines[index][:80]!r}; "
                         "download the file again")
    return int(lines[index])


def _numbers(line: str, place: str) -> list[float]:
    numbers = parse_numbers(line, _COLUMNS, place)
    if numbers[_INVALID] not in (0, 1):
        raise InputError(f"{place}: invalid should be 0 or 1, got {line[:80]!r}; download the file again")
    return numbers


def _is_image(line: str) -> bool:
    return line.lower().endswith(SUFFIXES)


FORMAT = Format(name="wider_face", splits=("train", "val"), find=find, annotate=annotate,
                summary="WIDER_{train,val}/images/EVENT and wider_face_split/wider_face_{train,val}_bbx_gt.txt")
