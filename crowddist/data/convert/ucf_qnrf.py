"""UCF-QNRF in its original layout."""

from __future__ import annotations

from pathlib import Path

from crowddist.data.convert.annotations import read_mat_points
from crowddist.data.convert.base import Annotation, Format, Item, Listing, in_split, list_pairs, split_facts
from crowddist.errors import InputError

ENDING = "_ann.mat"


def find(folder: Path, split: str, labelled: bool) -> Listing:
    """The images of a split, by their numbers.

    `folder` holds `Train` and `Test`, or is one of them. `train` and `val` divide the training data by the hash of the
    image's name; `all` is the whole training data, or `test` where the folder is `Test`.
    """
    place = _split_folder(folder, split)
    items, refused = list_pairs(place, ENDING, labelled)
    return Listing(name="ucf-qnrf", split="test" if _is_called(place, "Test") else split, refused=tuple(refused),
                   items=tuple(item for item in items if in_split(item.name, split)), facts=split_facts(split))


def annotate(item: Item, size: tuple[int, int]) -> Annotation:
    """Heads x, y as annotated; MATLAB's counting from 1 is kept, as the published methods do."""
    place = item.annotations[0]
    return Annotation(points=read_mat_points(place, "annPoints"), place=place)


def _split_folder(folder: Path, split: str) -> Path:
    wanted = "Test" if split == "test" else "Train"
    if (folder / wanted).is_dir():
        return folder / wanted
    if _is_called(folder, wanted) or (_is_called(folder, "Test") and split == "all"):
        return folder
    if _is_called(folder, "Train") or _is_called(folder, "Test"):
        raise InputError(f"{folder} does not hold the split {split!r}; give the folder that holds Train and Test, or "
                         f"its {wanted}")
    inside = sorted(path.name for path in folder.iterdir() if (path / wanted).is_dir())
    advice = f"it holds {', '.join(inside)}, give one of them" if inside else f"the folder {wanted} is missing"
    raise InputError(f"no UCF-QNRF data of the split {split!r} in {folder}: {advice}")


def _is_called(folder: Path, name: str) -> bool:
    return folder.resolve().name == name


FORMAT = Format(name="ucf_qnrf", splits=("all", "train", "val", "test"), find=find, annotate=annotate,
                summary="Train and Test, or one of them, with img_0001.jpg beside img_0001_ann.mat (annPoints)")
