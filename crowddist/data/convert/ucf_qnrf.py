"""UCF-QNRF in its original layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from crowddist.data.convert.annotations import read_mat_points
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
    list_images,
    list_pairs,
    split_facts,
    subfolders,
)
from crowddist.errors import InputError

ENDING = "_ann.mat"


def find(folder: Path, split: str, labelled: bool) -> Listing:
    """The images of a split, by their numbers.

    `folder` holds `Train` and `Test`, or is one of them; images and annotations lie side by side in them, or each kind
    in a folder there. `train` and `val` divide the training data by the hash of the image's name; `all` is the whole
    training data, or `test` where the folder is `Test`.
    """
    place = _split_folder(folder, split)
    places = [place, *subfolders(place)]
    items, refused, facts = list_pairs(image_folder(places), ENDING, labelled, fullest(places, f"*{ENDING}"))
    return Listing(name="ucf-qnrf", split="test" if is_called(place, "test") else split, refused=tuple(refused),
                   items=tuple(item for item in items if in_split(item.name, split)), facts=split_facts(split) | facts)


def annotate(item: Item, size: tuple[int, int]) -> Annotation:
    """Heads x, y as annotated; MATLAB's counting from 1 is kept, as the published methods do."""
    place = item.annotations[0]
    return Annotation(points=read_mat_points(place, "annPoints"), place=place)


def image_folder(places: Sequence[Path]) -> Path:
    """The place called images that holds some, or else the one with the most that are no pictures of annotations; the
    first one if none holds any.
    """
    def rank(place: Path) -> tuple[bool, int]:
        number = sum(not path.stem.endswith(Path(ENDING).stem) for path in list_images(place))
        return number > 0 and is_called(place, *IMAGES), number

    return max(places, key=rank)


def _split_folder(folder: Path, split: str) -> Path:
    wanted = "Test" if split == "test" else "Train"
    inside = folder_called(folder, wanted)
    if inside is not None:
        return inside
    if is_called(folder, wanted) or (is_called(folder, "Test") and split == "all"):
        return folder
    if is_called(folder, "Train", "Test"):
        raise InputError(f"{folder} does not hold the split {split!r}; give the folder that holds Train and Test, or "
                         f"its {wanted}")
    deeper = [path.name for path in subfolders(folder) if folder_called(path, wanted)]
    advice = (f"it holds {', '.join(deeper)}, give one of them" if deeper
              else f"the folder {wanted} is missing; {holds(folder)}")
    raise NoSetError(f"no UCF-QNRF data of the split {split!r} in {folder}: {advice}")


FORMAT = Format(name="ucf_qnrf", splits=("all", "train", "val", "test"), find=find, annotate=annotate,
                summary="Train and Test, or one of them, with img_0001.jpg beside img_0001_ann.mat (annPoints), or "
                        "each kind in a folder there")
