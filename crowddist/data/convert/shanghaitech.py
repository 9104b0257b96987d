"""ShanghaiTech A and B, in the original layout and in that of its mirrors."""

from __future__ import annotations

import re
from pathlib import Path

from crowddist.data.convert.annotations import read_mat_locations
from crowddist.data.convert.base import Annotation, Format, Item, Listing, in_split, list_pairs, split_facts
from crowddist.errors import InputError


def find(folder: Path, split: str, labelled: bool) -> Listing:
    """The images of a split, by their numbers.

    `folder` is a part (`part_A_final`, `part_B`, ...) or one of its `train_data` and `test_data`. `train` and `val`
    divide the training data by the hash of the image's name; `all` is the whole training data, or `test` where the
    folder is `test_data`.
    """
    place = _split_folder(folder, split)
    annotations, mirrored = place / "ground_truth", place / "ground-truth"
    if mirrored.is_dir() and not annotations.is_dir():
        annotations = mirrored
    items, refused = list_pairs(place / "images", ".mat", labelled, annotations, prefix="GT_")
    return Listing(name=_name(place), split="test" if _is_test(place) else split, refused=tuple(refused),
                   items=tuple(item for item in items if in_split(item.name, split)), facts=split_facts(split))


def annotate(item: Item, size: tuple[int, int]) -> Annotation:
    """Heads x, y as annotated; MATLAB's counting from 1 is kept, as the published methods do."""
    place = item.annotations[0]
    return Annotation(points=read_mat_locations(place), place=place)


def _split_folder(folder: Path, split: str) -> Path:
    """The folder that holds `images`."""
    wanted = "test_data" if split == "test" else "train_data"
    if (folder / "images").is_dir():
        if (split == "test" and not _is_test(folder)) or (_is_test(folder) and split in ("train", "val")):
            raise InputError(f"{folder} does not hold the split {split!r}; give the part's folder or its {wanted}")
        return folder
    if (folder / wanted / "images").is_dir():
        return folder / wanted
    parts = sorted(path.name for path in folder.iterdir() if re.match(r"part_?[AB]", path.name, re.IGNORECASE))
    advice = f"it holds {', '.join(parts)}, give one of them" if parts else f"{wanted}/images is missing"
    raise InputError(f"no ShanghaiTech data of the split {split!r} in {folder}: {advice}")


def _is_test(folder: Path) -> bool:
    return folder.resolve().name == "test_data"


def _name(place: Path) -> str:
    parts = [match for part in place.resolve().parts if (match := re.match(r"part_?([AB])", part, re.IGNORECASE))]
    return f"shanghaitech-{parts[-1].group(1).upper()}" if parts else "shanghaitech"


FORMAT = Format(name="shanghaitech", splits=("all", "train", "val", "test"), find=find, annotate=annotate,
                summary="part_A_final or part_B_final (also part_A, part_B), or a train_data or test_data folder with "
                        "images/ and ground_truth/")
