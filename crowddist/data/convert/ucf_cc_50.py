"""UCF_CC_50 in its original layout, in five folds of our own: the published folds were random and never released."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from crowddist.data.convert.layout import (
    IMAGES,
    Format,
    Listing,
    NoSetError,
    fullest,
    holds,
    is_called,
    list_images,
    list_pairs,
    subfolders,
)
from crowddist.data.convert.ucf_qnrf import ENDING, annotate

# P: Idrees et al., CVPR 2013: 50 images, five folds.
NUM_IMAGES = 50
NUM_FOLDS = 5


def find(folder: Path, split: str, labelled: bool) -> Listing:
    """The images of a split by their numbers, 1.jpg or 01.jpg; missing images are reported, as a fold without them is
    another fold.

    `folder` holds the images, or one folder that does; annotations lie beside them or in another folder there. Images
    whose names are no numbers are counted as other files. `fold-K-test` is images 10 (K - 1) + 1 to 10 K,
    `fold-K-train` the others (ours).
    """
    place = _image_folder(folder)
    annotations = fullest([place, folder, *subfolders(folder)], f"*{ENDING}") or place
    items, refused, others = list_pairs(place, ENDING, labelled, annotations)
    items = [replace(item, name=item.name.lstrip("0") or "0") if item.name.isdecimal() else item for item in items]
    known = {str(number) for number in range(1, NUM_IMAGES + 1)}
    strays = [item for item in items if not item.name.isdecimal()]
    if strays:
        others = {"num_other_files": others.get("num_other_files", 0) + len(strays)}
    refused += [(item.image, f"not one of the images 1 to {NUM_IMAGES}; remove it")
                for item in items if item.name.isdecimal() and item.name not in known]
    numbers, facts = _fold(split)
    names, found = {str(number) for number in numbers}, {item.name for item in items}
    # `list_pairs` has reported an image that is missing but has an annotation.
    missing = [name for name in sorted(names - found, key=int)
               if not (labelled and (annotations / f"{name}{ENDING}").exists())]
    refused += [(place / f"{name}.jpg", f"the image is missing; {split} needs all of its {len(names)} images")
                for name in missing]
    return Listing(name="ucf-cc-50", split=split, items=tuple(item for item in items if item.name in names),
                   refused=tuple(refused), facts=facts | others)


def _fold(split: str) -> tuple[list[int], dict[str, Any]]:
    """The numbers of a split's images, and the rule in words."""
    numbers = range(1, NUM_IMAGES + 1)
    if split == "all":
        return list(numbers), {}
    _, fold, side = split.split("-")
    tested = numbers[(int(fold) - 1) * NUM_IMAGES // NUM_FOLDS:int(fold) * NUM_IMAGES // NUM_FOLDS]
    rule = (f"fold {fold} of {NUM_FOLDS}: test is images {tested[0]}-{tested[-1]} in the order of their numbers, train "
            "the others (ours)")
    return [number for number in numbers if (number in tested) == (side == "test")], {"split_rule": rule}


def _image_folder(folder: Path) -> Path:
    """The folder itself, or the only one in it, that holds images with numbers for names; of several, that called
    images.
    """
    def holds_images(place: Path) -> bool:
        return any(path.stem.isdecimal() for path in list_images(place))

    if holds_images(folder):
        return folder
    inside = [path for path in subfolders(folder) if holds_images(path)]
    called = [path for path in inside if is_called(path, *IMAGES)]
    if len(called or inside) == 1:
        return (called or inside)[0]
    advice = (f"it holds {', '.join(path.name for path in inside)}, give one of them" if inside
              else f"1.jpg and the others are missing; {holds(folder)}")
    raise NoSetError(f"no UCF_CC_50 data in {folder}: {advice}")


FORMAT = Format(
    name="ucf_cc_50", find=find, annotate=annotate,
    splits=("all", *(f"fold-{fold}-{side}" for fold in range(1, NUM_FOLDS + 1) for side in ("train", "test"))),
    summary="1.jpg and 1_ann.mat (annPoints) to 50.jpg and 50_ann.mat side by side, or one folder that holds them")
