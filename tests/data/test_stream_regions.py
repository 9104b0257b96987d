"""Crops of images that count in a region of interest alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crowddist.data.config import StreamConfig
from crowddist.data.stream import CropDataset, collate
from crowddist.data.transforms import draw_softness
from crowddist.errors import InputError
from crowddist.randomness import generator
from tests.data.test_stream import CONFIG, crops_equal, label_set, png, write_set

ROI = np.array([[30.0, 10.0], [250.0, 40.0], [200.0, 180.0], [60.0, 150.0]])


def region_set(folder: Path, rois: list, converter: str = "worldexpo10 0.1.0") -> str:
    points = np.array([[100, 60], [20, 20], [150, 170]], np.float32)
    return write_set(folder, {
        f"image-{index}": {"png": png(np.full((200, 300, 3), 90, np.uint8)), "points.npy": points,
                           "json": {"id": str(index), **({"roi": roi} if roi is not None else {})}}
        for index, roi in enumerate(rois)
    }, converter=converter)


def side_of(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance to the nearest side of the convex ROI, px; positive inside."""
    distances = []
    for (x0, y0), (x1, y1) in zip(ROI, np.roll(ROI, -1, axis=0), strict=True):
        distances.append(((x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)) / np.hypot(x1 - x0, y1 - y0))
    return np.min(distances, axis=0)


@pytest.mark.parametrize("image_size", [300, 60])
@pytest.mark.parametrize("stride", [2, 8])
def test_cells_outside_a_region_of_interest_are_left_out(tmp_path: Path, image_size: int, stride: int) -> None:
    """Every cell against the sides of the polygon, in images as they are and in those shrunk when read; the sum of the
    labels does not change.
    """
    config = StreamConfig(image_size=image_size, crop_size=64, scale_jitter=(0.5, 1.2))
    url = region_set(tmp_path / "region", [ROI.tolist()])
    dataset = CropDataset(url, config, plan_seed=0, name="a", stride=stride, with_heads=True)
    whole = CropDataset(region_set(tmp_path / "whole", [None]), config, plan_seed=0, name="a", stride=stride,
                        with_heads=True)
    sample = dataset._cached(0)
    assert (sample.image.shape[1] < 300) == (image_size == 60) and sample.region is not None
    kept = 0
    for position in range(12):
        crop, without = dataset[position], whole[position]
        assert "keep" not in without and crops_equal({name: crop[name] for name in without}, without)
        rng = generator(0, "a", position)
        top, left, height, width = dataset._window(sample, rng)
        unshrunk = 300 / sample.image.shape[1]
        centre = (np.arange(64 // stride) + 0.5) * stride / 64
        x, y = np.meshgrid((left + width * centre) * unshrunk - 0.5, (top + height * centre) * unshrunk - 0.5)
        # Half a cell's diagonal, and vertices and outline snap to whole pixels, here and when the image is shrunk.
        distance, margin = side_of(x, y), width * unshrunk / 64 * stride / 2**0.5 + 1.5 * unshrunk
        draw_softness(config, rng)
        keep = crop["keep"][:, ::-1] if rng.random() < 0.5 else crop["keep"]  # flipped after it was cut
        assert keep.dtype == np.float32 and (keep[distance > margin] == 1).all()
        assert (keep[distance < -margin] == 0).all()
        kept += keep.sum()
    assert kept > 0


@pytest.mark.parametrize(("roi", "converter"), [
    (None, "worldexpo10 0.1.0"), ([], "worldexpo10 0.1.0"), (ROI.tolist(), "gcc 0.1.0"),
    ([[0, 0], [299, 0], [299, 199], [0, 199]], "renderer 0.1.0"),
])
def test_images_that_count_whole_train_whole(tmp_path: Path, roi: list | None, converter: str) -> None:
    dataset = CropDataset(region_set(tmp_path, [roi], converter), CONFIG, plan_seed=0, name="a")
    assert all("keep" not in dataset[position] for position in range(6))
    assert collate([dataset[position] for position in range(6)]).keep is None


def test_images_with_and_without_a_region_share_a_batch(tmp_path: Path) -> None:
    dataset = CropDataset(region_set(tmp_path, [ROI.tolist(), None]), CONFIG, plan_seed=0, name="a")
    crops = [dataset[position] for position in range(8)]
    batch = collate(crops)
    assert batch.keep is not None and batch.keep.shape == batch.density.shape
    for crop, keep in zip(crops, batch.keep, strict=True):
        assert np.array_equal(keep[0], crop.get("keep", np.ones((8, 8))))
    assert {"keep" in crop for crop in crops} == {True, False} and not batch.keep.bool().all()


def test_pseudo_labels_are_of_whole_images_also_with_a_region(tmp_path: Path) -> None:
    url = region_set(tmp_path / "images", [ROI.tolist()])
    labels = label_set(tmp_path / "labels", url)
    crop = CropDataset(url, CONFIG, labels_url=labels, plan_seed=0, name="a", open_points=False)[0]
    bare = region_set(tmp_path / "bare", [None])
    assert crops_equal(crop, CropDataset(bare, CONFIG, labels_url=labels, plan_seed=0, name="a", open_points=False)[0])


def test_a_region_that_is_none_is_one_line(tmp_path: Path) -> None:
    dataset = CropDataset(region_set(tmp_path, [[[1, 1], [2, 2]]]), CONFIG, plan_seed=0, name="a")
    with pytest.raises(InputError, match=r"sample image-0: no region of interest: .*convert the data set again"):
        dataset[0]
