"""UCF_CC_50 in its original layout, in five folds of our own: the published folds were random and never released."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crowddist.data.convert.base import Format, Listing, list_images, list_pairs
from crowddist.data.convert.ucf_qnrf import ENDING, annotate
from crowddist.errors import InputError

# P: Idrees et al., CVPR 2013: 50 images, five folds.
NUM_IMAGES = 50
NUM_FOLDS = 5


def find(folder: Path, split: str, labelled: bool) -> Listing:
    """The images of a split by their numbers; missing images are reported, as a fold without them is another fold.

    `folder` holds the images, or one folder that does. `fold-K-test` is images 10 (K - 1) + 1 to 10 K, `fold-K-train`
    the others (ours).
    """
    place = _image_folder(folder)
    items, refused = list_pairs(place, ENDING, labelled)
    known = {str(number) for number in range(1, NUM_IMAGES + 1)}
    refused += [(item.image, f"not one of the images 1 to {NUM_IMAGES}; remove it")
                for item in items if item.name not in known]
    numbers, facts = _fold(split)
    names, found = {str(number) for number in numbers}, {item.name for item in items}
    # `list_pairs` has reported an image that is missing but has an annotation.
    missing = [name for name in sorted(names - found, key=int)
               if not (labelled and (place / f"{name}{ENDING}").exists())]
    refused += [(place / f"{name}.jpg", f"the image is missing; {split} needs all of its {len(names)} images")
                for name in missing]
    return Listing(name="ucf-cc-50", split=split, items=tuple(item for item in items if item.name in names),
                   refused=tuple(refused), facts=facts)


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
    """The folder itself, or the only one in it, that holds images with numbers for names."""
    def holds_images(place: Path) -> bool:
        return any(path.stem.isdecimal() for path in list_images(place))

    if holds_images(folder):
        return folder
    inside = [path for path in sorted(folder.iterdir())
              if path.is_dir() and not path.name.startswith(".") and holds_images(path)]
    if len(inside) == 1:
        return inside[0]
    advice = (f"it holds {', '.join(path.name for path in inside)}, give one of them" if inside
              else "1.jpg and the others are missing")
    raise InputError(f"no UCF_CC_50 data in {folder}: {advice}")


FORMAT = Format(
    name="ucf_cc_50", find=find, annotate=annotate,
    splits=("all", *(f"fold-{fold}-{side}" for fold in range(1, NUM_FOLDS + 1) for side in ("train", "test"))),
    summary="1.jpg and 1_ann.mat (annPoints) to 50.jpg and 50_ann.mat side by side, or one folder that holds them")
