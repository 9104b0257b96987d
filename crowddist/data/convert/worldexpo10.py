"""WorldExpo'10 in its original layout and in that of its mirrors: frames of many cameras, each with its own region."""

from __future__ import annotations

from pathlib import Path

from crowddist.data.convert import layout
from crowddist.data.convert.annotations import read_mat_count, read_mat_points, read_mat_polygon
from crowddist.data.convert.layout import Annotation, Format, Item, Listing, NoSetError

# P: Zhang et al., CVPR 2015: five scenes are for testing.
TEST_SCENES = ("104207", "200608", "200702", "202201", "500717")
_ROI_FILE = "roi.mat"


def find(folder: Path, split: str, labelled: bool) -> Listing:
    """The images of a split, by scene, then by number.

    `folder` holds `train_frame`, `train_label`, `test_frame` and `test_label`; frames lie in those folders or in one
    folder per scene (mirrors differ). `all` is the whole training data, which `train` and `val` divide by the hash of
    the scene's name: no scene is in both (ours).
    """
    side = "test" if split == "test" else "train"
    frames, labels = layout.below(folder, f"{side}_frame"), layout.below(folder, f"{side}_label")
    if not frames.is_dir():
        raise NoSetError(f"no WorldExpo'10 data of the split {split!r}: {frames} is missing; give the folder with "
                         "train_frame, train_label, test_frame and test_label")
    layout.require_annotations(labels, labelled)
    scenes = [path for path in frames.iterdir() if path.is_dir() and not path.name.startswith(".")]
    paths = sorted(layout.list_images(frames, *scenes), key=_scene)
    items, refused = [], []
    for path in paths:
        scene = _scene(path)
        if (scene in TEST_SCENES) != (side == "test"):
            shown = "none" if side == "test" else "one"
            refused.append((path, f"shows {shown} of the scenes for testing; remove it from {frames.name}"))
        elif layout.in_split(scene, split):
            annotations = (labels / scene / f"{path.stem}.mat", labels / scene / _ROI_FILE)
            items.append(Item(name=path.stem, image=path, annotations=annotations, facts={"scene": scene}))
    if labelled:
        stems = {path.stem for path in paths}
        refused += layout.lone_annotations(path for path in labels.glob("*/*.mat")
                                         if path.name != _ROI_FILE and path.stem not in stems)
    return Listing(name="worldexpo10", split=split, items=tuple(items), refused=tuple(refused),
                   facts=layout.split_facts(split, "scene"))


def annotate(item: Item, size: tuple[int, int]) -> Annotation:
    """Heads and the scene's region of interest, x, y as annotated (from 1, as MATLAB counts); heads outside it stay."""
    place, roi = item.annotations
    polygon = read_mat_polygon(roi, ("maskVerticesXCoordinates", "maskVerticesYCoordinates"))
    return Annotation(points=read_mat_points(place, "point_position"), count=read_mat_count(place, "point_num"),
                      place=place, roi=polygon)


def _scene(path: Path) -> str:
    """P: the first six characters of a frame's name are its scene."""
    return path.stem[:6]


FORMAT = Format(name="worldexpo10", splits=("all", "train", "val", "test"), find=find, annotate=annotate,
                summary="{train,test}_frame with SCENE*.jpg (or a folder per scene), {train,test}_label/SCENE with a "
                        ".mat per frame and roi.mat")
