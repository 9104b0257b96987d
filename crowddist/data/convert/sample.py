"""One image of a source becomes one sample. Whatever is raised while its files are read becomes a line that names them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from crowddist.data.convert.doubts import Doubt
from crowddist.data.convert.layout import Annotation, Format, Item, Listing, NoSetError, subfolders
from crowddist.data.convert.points import box_centres, check_boxes, check_points
from crowddist.data.images import NOT_TURNED, StoredImage, store_image
from crowddist.data.shard_codec import LABEL_FACTS, Member
from crowddist.data.transforms import resize_boxes, resize_points
from crowddist.errors import InputError

DEEPEST = 3
"""Ours: folders in which a set may lie alone."""


def find_items(form: Format, folder: Path, split: str, labelled: bool) -> Listing:
    """What the format finds in a folder, or else in the only folder there, whatever files lie beside that of a public
    set. Raises InputError, naming the folder, for anything that cannot be listed.
    """
    with _as_input_error(f"{folder}: cannot be listed as {form.name}", f"see that the folder holds {form.summary}"):
        try:
            return form.find(folder, split, labelled)
        except InputError as error:
            # An archive that is unpacked into a folder of its name leaves a folder in a folder, often beside itself.
            beside = False
            for _ in range(DEEPEST):
                inside = subfolders(folder)
                beside |= any(path.is_file() and path.name[0] != "." for path in folder.iterdir())
                if len(inside) != 1 or (beside and not isinstance(error, NoSetError)):
                    break
                (folder,) = inside
                with suppress(InputError):
                    listing = form.find(folder, split, labelled)
                    # A file beside the test data may be the training data, still packed.
                    if listing.split == split or not beside:
                        return listing
            raise error from None


def read_labels(form: Format, item: Item, size: tuple[int, int]) -> Annotation:
    """The annotation of an item whose image has this (height, width). Raises InputError, naming the file."""
    assert form.annotate is not None, "asked of labelled formats only"
    files = " or ".join(map(str, item.annotations)) or "the labels"
    with _as_input_error(f"{item.image}: its annotation {files} cannot be read"):
        return form.annotate(item, size)


def make_sample(form: Format, item: Item, labelled: bool,
                max_size: int | None) -> tuple[dict[str, Member], list[Doubt]]:
    """The members of one sample, and what was doubtful at it. Raises InputError, naming the file."""
    with _as_input_error(f"{item.image}: cannot be read"):
        return _make_sample(form, item, labelled, max_size)


def _make_sample(form: Format, item: Item, labelled: bool,
                 max_size: int | None) -> tuple[dict[str, Member], list[Doubt]]:
    image = store_image(item.image, upright=form.upright, max_size=max_size)
    if not labelled or form.annotate is None:
        scene = _scene(item, image)
        for fact in LABEL_FACTS:
            scene.pop(fact, None)
        return {image.extension: image.data, "json": scene}, [Doubt(note, 1) for note in image.notes]
    annotation = read_labels(form, item, image.source_size)
    if annotation.size not in (None, image.source_size):
        image = _labelled_image(form, item, annotation, image, max_size)
    scene, (height, width) = _scene(item, image), image.size
    members: dict[str, Member] = {image.extension: image.data, "json": scene}
    heads, doubts = annotation.points, _image_doubts(item, annotation)
    doubts += [Doubt(note, 1) for note in image.notes if note != NOT_TURNED]  # of which below, with the reason
    if annotation.boxes is not None:
        boxes, found = check_boxes(annotation.boxes, image.source_size, annotation.place, annotation.left_out)
        members["boxes.npy"] = resize_boxes(boxes, width / image.source_size[1], height / image.source_size[0])
        heads = box_centres(boxes)
        doubts += found
    assert heads is not None, "an annotation has points or boxes"
    # Labels that tell the size of their image tell whether it lay on its side; not whether it was mirrored or on its
    # head, nor anything of a square.
    told = (annotation.size is not None and image.rotation in (5, 6, 7, 8)
            and image.source_size[0] != image.source_size[1])
    rotation, turned = 1 if told else image.rotation, NOT_TURNED not in image.notes
    points, found = check_points(heads, image.source_size, annotation.place, rotation, turned)
    doubts += found
    members["points.npy"] = _scale(points, image)
    scene |= {**annotation.scene, "count": len(points)}
    scene |= {doubt.kind: doubt.number for doubt in found if doubt.kind == "num_repeated_points"}
    if annotation.roi is not None and len(annotation.roi):
        scene["roi"] = _scale(annotation.roi.astype(np.float32), image).tolist()
    if annotation.mask is not None:
        import cv2

        binary = (annotation.mask != 0).astype(np.uint8)
        members["mask.png"] = cv2.resize(binary, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    if rotation != 1 and turned:
        doubts.append(Doubt("num_turned_images", 1))
    elif rotation != 1:
        doubts.append(Doubt("num_rotation_tags", 1, f"the image has the rotation tag {rotation}; its labels were taken "
                            "as those of the pixels as stored, see that they are"))
    return members, doubts


def _scene(item: Item, image: StoredImage) -> dict[str, Any]:
    height, width = image.size
    return {**item.facts, "id": item.name, "file": item.image.name, "height": height, "width": width}


def _image_doubts(item: Item, annotation: Annotation) -> list[Doubt]:
    """Marks left out; boxes that became points; counts, of the index or the annotation, that differ from the points as
    annotated.
    """
    counted = {"num_other_marks": annotation.num_other_marks, "num_corner_boxes": annotation.num_corner_boxes}
    others = [Doubt(kind, number) for kind, number in counted.items() if number]
    if annotation.points is None:
        return others
    held = len(annotation.points)
    told = {f"{annotation.place}": annotation.count, "the index": item.count}
    wrong = [f"{where} says {count}" for where, count in told.items() if count is not None and count != held]
    return others + ([Doubt("num_wrong_counts", 1, f"{' and '.join(wrong)}, but {held} points are there")] if wrong
                     else [])


def _labelled_image(form: Format, item: Item, annotation: Annotation, image: StoredImage,
                    max_size: int | None) -> StoredImage:
    """The image turned as it was when it was labelled, so that its tag is no doubt. Raises InputError if it has
    another size either way.
    """
    turned = store_image(item.image, upright=not form.upright, max_size=max_size)
    if annotation.size == turned.source_size:
        return replace(turned, notes=tuple(note for note in turned.notes if note != NOT_TURNED))
    assert annotation.size is not None
    (height, width), (true_height, true_width) = annotation.size, image.source_size
    raise InputError(f"{annotation.place}: labelled on an image of {width} x {height} px, but {item.image} has "
                     f"{true_width} x {true_height} px; give the image that was labelled, or scale the labels")


def _scale(points: np.ndarray, image: StoredImage) -> np.ndarray:
    """Move points from the source image to the stored one."""
    if image.size == image.source_size:
        return points
    (height, width), (source_height, source_width) = image.size, image.source_size
    # A point within half a pixel of the border may leave the smaller frame by a fraction of a pixel.
    return np.clip(resize_points(points, width / source_width, height / source_height), 0,
                   [width - 1, height - 1]).astype(np.float32)


@contextmanager
def _as_input_error(place: str, advice: str = "mend it, or leave it out with --skip-bad") -> Iterator[None]:
    """Turns what a damaged file raises in a library, or in ours, into one line; `place` names the file."""
    try:
        yield
    except InputError:
        raise
    except MemoryError:
        raise InputError(f"{place}: there is not enough memory for it; read fewer images at once") from None
    except Exception as error:
        reason = " ".join(str(error).split()) or "no reason given"
        raise InputError(f"{place}: {type(error).__name__}: {reason[:200]}; {advice}") from error
