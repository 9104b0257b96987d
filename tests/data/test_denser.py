"""Denser crops: who hides whom, what stays labelled, and that a crop still depends on its position alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from crowddist.data.config import StreamConfig
from crowddist.data.denser import Layer, denser, lay_among, nearness, other_window
from crowddist.data.shards import ShardWriter
from crowddist.data.stream import CropDataset, batches
from tests.data.test_stream import crops_equal, label_set

CONFIG = StreamConfig(image_size=96, crop_size=64, denser_share=0.5)
PLAIN = replace(CONFIG, scale_jitter=(1.0, 1.0), colour_jitter=0.0, grey_share=0.0, soft_share=0.0, denser_share=1.0)


def layer(level: int, heads: list[tuple[float, ...]], mask: np.ndarray | None = None) -> Layer:
    return Layer(pixels=np.full((40, 60, 3), level, np.uint8), heads=np.array(heads, np.float32).reshape(-1, 3),
                 mask=mask)


def test_the_nearer_head_hides_the_farther_one_and_the_others_of_both_crops_stay() -> None:
    lower = layer(50, [(10, 10, 8), (44, 10, 4)])
    # On free ground; before the second head; behind the first one; behind its body, which ends at row 34.
    upper = layer(200, [(26, 10, 8), (45, 11, 10), (10, 12, 6), (12, 24, 5)])
    laid = lay_among(lower, upper)
    assert laid.heads.tolist() == [[10, 10, 8], [26, 10, 8], [45, 11, 10]] and laid.mask is None
    places = ((10, 10), (24, 12), (10, 26), (20, 26), (11, 45), (39, 26))  # the last: below the bust
    assert [int(laid.pixels[place][0]) for place in places] == [50, 50, 200, 200, 200, 50]
    # 4 px of head are 5.2 before a body of 5: people stand so that heads are seen.
    assert len(lay_among(layer(50, [(10, 10, 4)]), layer(200, [(10, 2, 5)])).heads) == 2


def test_a_mask_cuts_people_out() -> None:
    masks = np.zeros((2, 40, 60), np.uint8)
    masks[0, 5:35, 5:15] = masks[1, 5:35, 25:30] = 1
    lower, upper = layer(50, [(10, 10, 8)], masks[0]), layer(200, [(26, 10, 8), (10, 10, 7)], masks[1])
    assert nearness(upper)[10, 26] > 8 == nearness(upper)[34, 26] > 0 == nearness(upper)[10, 31]
    laid = lay_among(lower, upper)
    assert laid.heads.tolist() == [[10, 10, 8], [26, 10, 8]]  # the mask shows nobody at the other
    np.testing.assert_array_equal(laid.mask, masks.max(0))
    assert (laid.pixels[20, 33:] == 50).all() and laid.pixels[20, 27, 0] > 190


def test_a_crop_that_would_not_become_denser_stays() -> None:
    lower, rng = layer(50, [(10, 10, 8)]), np.random.default_rng(0)
    hidden = layer(200, [(60 - 1 - 10, 10, 6)])
    assert denser(lower, lambda window: hidden, (0.0, 0.0, 40.0, 60.0), (40, 60), rng) is lower
    beside = layer(200, [(30, 10, 6)])
    assert len(denser(lower, lambda window: beside, (0.0, 0.0, 40.0, 60.0), (40, 60), rng).heads) == 2


def test_the_other_place_has_the_same_rows() -> None:
    rng = np.random.default_rng(0)
    lefts = [other_window((10.0, 40.0, 32.0, 32.0), (100, 200), (64, 64), rng) for _ in range(200)]
    assert {(top, height, width) for top, _, height, width in lefts} == {(10.0, 32.0, 32.0)}
    found = np.array([left for _, left, _, _ in lefts])
    assert found.min() < 5 and 163 < found.max() <= 200 - 32 and ((2 * found) % 1 == 0).all()
    # An image of 20 px in a crop of 32, 3 px from its left edge: mirrored 3 px from its right edge.
    assert other_window((10.0, -3.0, 32.0, 32.0), (100, 20), (64, 64), rng) == (10.0, -9.0, 32.0, 32.0)


def test_a_stream_counts_what_its_denser_crops_show(tmp_path: Path) -> None:
    """By hand: a whole image with heads at 20 and 48 of 96 px; mirrored they are at 75 and 47, where the nearer one is
    already.
    """
    pixels = np.full((72, 96, 3), 90, np.uint8)
    for x in (20, 48):
        cv2.circle(pixels, (x, 30), 3, (250, 250, 250), -1)
    heads = np.array([[20, 30], [48, 30]], np.float32)
    boxes = np.column_stack([heads + 0.5 - 4, np.full((2, 2), 8)]).astype(np.float32)
    with ShardWriter(tmp_path, name="a", split="all", labelled=True, converter="test") as writer:
        writer.add("a", {"png": cv2.imencode(".png", pixels)[1].tobytes(), "points.npy": heads, "boxes.npy": boxes})
    config = replace(PLAIN, crop_size=72, crop_width=96)
    for position in range(6):
        crop = CropDataset(str(tmp_path), config, plan_seed=0, name="a", with_heads=True)[position]
        columns = sorted(crop["heads"][:, 0].round().tolist())
        assert columns in ([20, 48, 75], [20, 47, 75]) and crop["density"].sum() == pytest.approx(3, rel=1e-4)
        assert (crop["image"][30, [20, 75]] > 240).all()


def test_only_crops_that_are_drawn_change_and_each_depends_on_its_position_alone(tiny_source: str) -> None:
    options = {"plan_seed": 3, "name": "a", "with_heads": True, "with_masks": True}
    one, two = (CropDataset(tiny_source, CONFIG, **options) for _ in range(2))
    before = CropDataset(tiny_source, replace(CONFIG, denser_share=0.0), **options)
    crops = [one[position] for position in range(24)]
    assert all(map(crops_equal, crops, [two[position] for position in reversed(range(24))][::-1]))
    more = [len(crop["heads"]) - len(before[position]["heads"]) for position, crop in enumerate(crops)]
    assert min(more) == 0 and 6 <= np.count_nonzero(more) <= 18
    for position, crop in enumerate(crops):
        assert crop["density"].sum() == pytest.approx(len(crop["heads"]), rel=1e-4)
        assert crops_equal(crop, before[position]) == (more[position] == 0)
        assert (crop["mask"].sum() > before[position]["mask"].sum()) == (more[position] > 0)


def test_ranks_and_readers_cut_the_same_denser_batches(tiny_source: str) -> None:
    def rows(first_step: int, rank: int, world_size: int, readers: int) -> list:
        dataset = CropDataset(tiny_source, replace(CONFIG, num_readers=readers), plan_seed=0, name="a")
        return [batch.images for batch in batches(dataset, first_step=first_step, steps=3, global_batch=4, rank=rank,
                                                  world_size=world_size)]

    whole, parts = rows(0, 0, 1, 0), [rows(1, rank, 2, 2) for rank in range(2)]
    for step in (1, 2):
        assert np.array_equal(np.concatenate([part[step - 1] for part in parts]), whole[step])


def test_pseudo_labels_regions_and_unlabelled_images_stay(tiny_target: str, tmp_path: Path) -> None:
    labels = label_set(tmp_path / "labels", tiny_target)
    with ShardWriter(tmp_path / "region", name="a", split="all", labelled=True, converter="test") as writer:
        png = cv2.imencode(".png", np.full((72, 96, 3), 90, np.uint8))[1].tobytes()
        region = np.ones((72, 96), bool)
        region[:40] = False
        writer.add("a", {"png": png, "points.npy": np.array([[20, 50]], np.float32), "region.png": region})
    for url, options in ((tiny_target, {"labels_url": labels, "open_points": False}),
                         (tiny_target, {"open_points": False}), ((tmp_path / "region").as_uri(), {})):
        cut = [[CropDataset(url, replace(PLAIN, denser_share=share), plan_seed=0, name="a", **options)[position]
                for position in range(3)] for share in (0.0, 1.0)]
        assert all(map(crops_equal, *cut)), (url, options)
