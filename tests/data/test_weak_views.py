"""What a mean teacher needs of a stream: the plain view of each crop, and erased patches in the counter's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from crowddist.data.config import StreamConfig
from crowddist.data.stream import CropDataset, batches, collate
from crowddist.data.transforms import ERASED_AREA, PAD_VALUE, draw_patch
from crowddist.randomness import generator
from tests.data.test_stream import crops_equal, label_set, png, write_set

STRONG = StreamConfig(image_size=96, crop_size=64, scale_jitter=(0.5, 1.6), colour_jitter=0.5, grey_share=0.3,
                      soft_share=1.0, noisy_share=0.5)
PLAIN = replace(STRONG, colour_jitter=0.0, grey_share=0.0, soft_share=0.0, noisy_share=0.0)
POSITIONS = range(24)
TWICE: dict[str, Any] = {"weak_scales": (0.5, 1.6), "weak_zoom": 2.0}


def crops(url: str, config: StreamConfig, **options: Any) -> list[dict]:
    dataset = CropDataset(url, config, plan_seed=0, name="a", **options)
    return [dataset[position] for position in POSITIONS]


@pytest.fixture
def smooth(tmp_path: Path) -> str:
    """Six images that look alike at every size."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (72, 96, 3), dtype=np.uint8) for _ in range(6)]
    images = {f"image-{index}": {"png": png(cv2.GaussianBlur(one, (0, 0), 6) * 3), "points.npy": np.zeros((1, 2))}
              for index, one in enumerate(noise)}
    return write_set(tmp_path / "images", images)


def test_the_weak_view_is_the_crop_without_colours_blur_and_noise(tiny_source: str) -> None:
    strong, plain = crops(tiny_source, STRONG, weak_scales=(0.2, 4.0)), crops(tiny_source, PLAIN)
    for one, other in zip(strong, plain, strict=True):
        assert np.array_equal(one["weak"], other["image"]) and not np.array_equal(one["image"], other["image"])


def test_the_crop_is_the_same_with_and_without_its_weak_view(tiny_source: str) -> None:
    with_it, without = crops(tiny_source, STRONG, **TWICE), crops(tiny_source, STRONG)
    assert all(crops_equal({name: part for name, part in one.items() if name != "weak"}, other)
               for one, other in zip(with_it, without, strict=True))
    assert all(np.array_equal(one["weak"], other["weak"])
               for one, other in zip(with_it, crops(tiny_source, STRONG, **TWICE), strict=True))


@pytest.mark.parametrize("zoom", [1.5, 3.0])
def test_a_weak_view_of_another_size_shows_the_same_place(smooth: str, zoom: float) -> None:
    sizes, strong = set(), crops(smooth, STRONG, weak_scales=(0.1, 9.0), weak_zoom=zoom)
    for one, plain in zip(strong, crops(smooth, PLAIN), strict=True):
        height, width = one["weak"].shape[:2]
        sizes.add(height)
        assert height == width and height % 8 == 0 and 64 / zoom - 4 <= height <= 64 * zoom + 4
        error = np.abs(cv2.resize(one["weak"], (64, 64), interpolation=cv2.INTER_AREA).astype(int) - plain["image"])
        assert error.mean() < 4, "another place"
    assert min(sizes) < 64 < max(sizes) and len(sizes) > 3


@pytest.mark.parametrize(("own", "scales", "sides"), [
    (0.8, (0.8, 0.8), {64}), (0.8, (0.4, 0.8), {32, 40, 48, 56, 64}), (0.8, (0.1, 0.8), {32, 40, 48, 56, 64}),
    (0.8, (0.8, 1.2), {64, 72, 80, 88, 96}), (0.8, (1.2, 1.2), {64, 72, 80, 88, 96}),
    (0.8, (0.6, 0.7), {48, 56, 64}), (0.8, (5.0, 9.0), set(range(64, 129, 8))),
])
def test_a_weak_view_lies_between_the_crop_and_the_sizes_of_the_labels(
    smooth: str, own: float, scales: tuple[float, float], sides: set[int]
) -> None:
    """At most twice as large or small as a crop of 64 px."""
    config = replace(STRONG, scale_jitter=(own, own))
    found = {crop["weak"].shape[0] for crop in crops(smooth, config, weak_scales=scales, weak_zoom=2.0)}
    assert found <= sides and min(found) <= min(sides) + 8 and max(found) >= max(sides) - 8


def test_ranks_and_readers_cut_the_same_weak_views(tiny_source: str) -> None:
    def read(config: StreamConfig, **place: int) -> list[torch.Tensor]:
        dataset = CropDataset(tiny_source, config, plan_seed=0, name="a", **TWICE)
        (batch,) = batches(dataset, first_step=1, steps=2, global_batch=4, **place)
        assert batch.weak is not None and all(view.shape[0] == 3 and view.min() >= 0 and view.max() <= 1
                                              for view in batch.weak)
        return batch.weak

    whole = read(STRONG, rank=0, world_size=1)
    parts = [view for rank in range(2) for view in read(replace(STRONG, num_readers=1), rank=rank, world_size=2)]
    assert len(whole) == len(parts) == 4 and all(map(torch.equal, whole, parts))


def test_erased_patches_are_grey_and_teach_nothing(tiny_target: str, tmp_path: Path) -> None:
    """The rest of the crop, and the weak view, stay as they are."""
    known = {"labels_url": label_set(tmp_path / "labels", tiny_target), "open_points": False, "weak_scales": (1.0, 1.0)}
    num_erased = 0
    for one, whole in zip(crops(tiny_target, STRONG, erased_share=0.5, **known), crops(tiny_target, STRONG, **known),
                          strict=True):
        assert np.array_equal(one["density"], whole["density"]) and np.array_equal(one["weak"], whole["weak"])
        differs = (one["image"] != whole["image"]).any(2)
        erased = differs.reshape(8, 8, 8, 8).any((1, 3))
        if not erased.any():
            assert crops_equal(one, whole)
            continue
        num_erased += 1
        rows, columns = (np.flatnonzero(erased.any(axis)) for axis in (1, 0))
        patch = np.zeros((8, 8), bool)
        patch[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
        assert (one["image"][patch.repeat(8, 0).repeat(8, 1)] == PAD_VALUE).all()
        # Padding is grey already: a patch may reach farther than what differs.
        assert (one["keep"][patch] == 0).all() and (one["keep"] <= whole["keep"]).all()
        taken = (one["keep"] < whole["keep"]) & ~patch
        assert (one["image"][taken.repeat(8, 0).repeat(8, 1)] == PAD_VALUE).all()
    assert len(POSITIONS) / 4 < num_erased < len(POSITIONS)


def test_all_cells_outside_an_erased_patch_of_a_labelled_image_teach(tiny_source: str) -> None:
    """Images without a selection of cells share their batches."""
    made = crops(tiny_source, STRONG, erased_share=0.5)
    assert 0 < sum("keep" in crop for crop in made) < len(made)
    batch = collate(made)
    assert batch.keep is not None and batch.keep.shape == (len(made), 1, 8, 8)
    assert all(bool((keep == 0).any()) == ("keep" in crop) and (keep == 1).any()
               for keep, crop in zip(batch.keep, made, strict=True))


def test_patches_lie_inside_and_cover_what_is_printed() -> None:
    rng = generator(0, "patches")
    shares = []
    for _ in range(400):
        top, left, height, width = draw_patch((40, 60), rng)
        assert 0 <= top <= 40 - height and 0 <= left <= 60 - width and height >= 1 and width >= 1
        shares.append(height * width / 2400)
    assert min(shares) > 0.5 * ERASED_AREA[0] and max(shares) < 1.1 * ERASED_AREA[1]
    assert np.mean(shares) == pytest.approx(np.mean(ERASED_AREA), rel=0.15)
    assert all(draw_patch((1, 1), rng) == (0, 0, 1, 1) for _ in range(20))
