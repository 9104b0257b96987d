"""ShanghaiTech A and B, in the original layout and in that of its mirrors."""

from __future__ import annotations

import re
from pathlib import Path

from crowddist.data.convert.annotations import read_mat_info
from crowddist.data.convert.layout import (
    IMAGES,
    Annotation,
    Format,
    Item,
    Listing,
    NoSetError,
    folder_called,
    fullest,
    holds,
    in_split,
    is_called,
    list_pairs,
    split_facts,
    subfolders,
)
from crowddist.errors import InputError

_PREFIX = "GT_"  # of annotations


def find(folder: Path, split: str, labelled: bool) -> Listing:
    """The images of a split, by their numbers.

    `folder` is a part (`part_A_final`, `part_B`, ...) or one of its `train_data` and `test_data`. `train` and `val`
    divide the training data by the hash of the image's name; `all` is the whole training data, or `test` where the
    folder is `test_data`. Annotations are taken from the folder beside `images` that holds most of them.
    """
    place = _split_folder(folder, split)
    images = _images(place)
    assert images is not None, "_split_folder finds none other"
    beside = sorted((path for path in subfolders(place)), key=lambda path: not is_called(path, "ground_truth"))
    annotations = (fullest(beside, f"{_PREFIX}*.mat") if labelled else None) or (
        folder_called(place, "ground_truth") or place / "ground_truth")
    items, refused, facts = list_pairs(images, ".mat", labelled, annotations, prefix=_PREFIX)
    return Listing(name=_name(place), split="test" if _is_test(place) else split, refused=tuple(refused),
                   items=tuple(item for item in items if in_split(item.name, split)),
                   facts=split_facts(split) | facts)


def annotate(item: Item, size: tuple[int, int]) -> Annotation:
    """Heads x, y as annotated; MATLAB's counting from 1 is kept, as the published methods do."""
    place = item.annotations[0]
    points, count = read_mat_info(place)
    return Annotation(points=points, count=count, place=place)


def _split_folder(folder: Path, split: str) -> Path:
    """The folder that holds `images`."""
    wanted = "test_data" if split == "test" else "train_data"
    if _images(folder):
        if (split == "test" and not _is_test(folder)) or (_is_test(folder) and split in ("train", "val")):
            raise InputError(f"{folder} does not hold the split {split!r}; give the part's folder or its {wanted}")
        return folder
    inside = folder_called(folder, wanted, wanted.removesuffix("_data"))
    if inside is not None and _images(inside):
        return inside
    parts = [path.name for path in subfolders(folder) if re.match(r"part_?[AB]", path.name, re.IGNORECASE)]
    advice = (f"it holds {', '.join(parts)}, give one of them" if parts
              else f"{wanted}/images is missing; {holds(inside or folder)}")
    raise NoSetError(f"no ShanghaiTech data of the split {split!r} in {folder}: {advice}")


def _images(folder: Path) -> Path | None:
    return folder_called(folder, *IMAGES)


def _is_test(folder: Path) -> bool:
    return is_called(folder, "test_data", "test")


def _name(place: Path) -> str:
    parts = [match for part in place.resolve().parts if (match := re.match(r"part_?([AB])", part, re.IGNORECASE))]
    return f"shanghaitech-{parts[-1].group(1).upper()}" if parts else "shanghaitech"


FORMAT = Format(name="shanghaitech", splits=("all", "train", "val", "test"), find=find, annotate=annotate,
                summary="part_A_final or part_B_final (also part_A, part_B), or a train_data or test_data folder with "
                        "images/ and ground_truth/")
