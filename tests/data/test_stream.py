"""Streams: crops depend on their position alone, labels follow the pixels, the target's labels stay closed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
import torch

from crowddist.data.config import StreamConfig
from crowddist.data.plan import Plan
from crowddist.data.scenes import SceneRule
from crowddist.data.shards import Manifest, ShardReader, decode, publish_manifest, write_shard
from crowddist.data.stream import CropDataset, batches, cell_density, collate, to_tensor, whole_image
from crowddist.data.transforms import resize_points
from crowddist.errors import InputError
from crowddist.randomness import generator

CONFIG = StreamConfig(image_size=96, crop_size=64)


def write_set(folder: Path, samples: dict[str, dict], **options: Any) -> str:
    """Writes a data set of one shard and returns its URL."""
    facts = {"name": "n", "split": "all", "kind": "images", "labelled": True, "converter": "test", **options}
    publish_manifest(folder, Manifest(shards=(write_shard(folder, "a.tar", samples.items()),), **facts))
    return folder.as_uri()


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def crops_equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_an_oblong_crop_holds_what_a_window_of_its_size_shows(tiny_source: str) -> None:
    """At its own size an image of 72 x 96 px fills one of 72 x 96; a window of half the width shows half of it."""
    plain = {"image_size": 96, "scale_jitter": (1.0, 1.0), "colour_jitter": 0.0, "grey_share": 0.0, "soft_share": 0.0}
    whole = CropDataset(tiny_source, StreamConfig(crop_size=72, crop_width=96, **plain), plan_seed=3, name="a",
                        with_masks=True, with_heads=True)
    reader = ShardReader(tiny_source)
    for position in range(4):
        crop = whole[position]
        assert crop["image"].shape == (72, 96, 3) and crop["mask"].shape == (72, 96)
        assert crop["density"].shape == (9, 12)
        sample = next(sample for sample in (decode(*reader.read(index)) for index in range(len(reader)))
                      if sample.key == crop["key"])
        flipped = not np.array_equal(crop["image"], sample.image)
        assert np.array_equal(crop["image"][:, :: -1 if flipped else 1], sample.image)
        x = 95 - sample.points[:, 0] if flipped else sample.points[:, 0]
        np.testing.assert_allclose(crop["heads"][:, 0], x, atol=1e-4)
        assert crop["density"].sum() == pytest.approx(len(sample.points), rel=1e-4)
    narrow = CropDataset(tiny_source, StreamConfig(crop_size=72, crop_width=48, **plain), plan_seed=3, name="a")
    assert narrow[0]["image"].shape == (72, 48, 3) and narrow[0]["density"].shape == (9, 6)


def test_a_crop_depends_on_its_position_alone(tiny_source: str) -> None:
    first = CropDataset(tiny_source, CONFIG, plan_seed=3, name="a")
    second = CropDataset(tiny_source, CONFIG, plan_seed=3, name="a")
    forward = [first[position] for position in range(8)]
    backward = [second[position] for position in reversed(range(8))][::-1]
    assert all(map(crops_equal, forward, backward))
    assert not crops_equal(forward[0], CropDataset(tiny_source, CONFIG, plan_seed=3, name="b")[0])
    assert not crops_equal(first[0], first[12])  # the same sample, an epoch later


@pytest.mark.parametrize("num_readers", [0, 2])
def test_ranks_and_readers_cut_the_same_batches(tiny_source: str, num_readers: int) -> None:
    config = StreamConfig(image_size=96, crop_size=64, num_readers=num_readers)
    dataset = CropDataset(tiny_source, config, plan_seed=0, name="a")
    whole = list(batches(CropDataset(tiny_source, CONFIG, plan_seed=0, name="a"), first_step=0, steps=3, global_batch=4,
                         rank=0, world_size=1))
    parts = [list(batches(dataset, first_step=1, steps=3, global_batch=4, rank=rank, world_size=2))
             for rank in range(2)]
    for step in (1, 2):
        joined = torch.cat([parts[rank][step - 1].images for rank in range(2)])
        assert torch.equal(joined, whole[step].images)
        assert parts[0][step - 1].keys + parts[1][step - 1].keys == whole[step].keys
        assert torch.equal(torch.cat([parts[rank][step - 1].draws for rank in range(2)]), whole[step].draws)


MORNINGS = SceneRule(name="mornings", hours=(5, 11))


@pytest.fixture(scope="module")
def hourly(tmp_path_factory: pytest.TempPathFactory, make_images) -> str:
    """Fourteen images of the hours 0, 1, 2, 5, 10, 15, ... in several shards; the first holds only nights."""
    hours = [0, 1, 2, *(5 * index % 24 for index in range(1, 12))]
    return make_images(tmp_path_factory.mktemp("hourly"), count=14, facts=[{"hour": hour} for hour in hours],
                       max_shard_bytes=70_000)


def read_keys(dataset: CropDataset, first: int, last: int) -> list[str]:
    return [dataset[position]["key"] for position in range(first, last)]


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_without_a_rule_the_order_is_that_of_the_plan(tiny_source: str, share: float) -> None:
    images = ShardReader(tiny_source)
    plan = Plan([shard.num_samples for shard in images.manifest.shards], seed=3, name="a")
    some = generator(3, "share").permutation(12)[:6]
    expected = [images.keys()[index if share == 1 else some[index % 6]] for index in map(plan.sample_at, range(30))]
    assert read_keys(CropDataset(tiny_source, CONFIG, plan_seed=3, name="a", share=share), 0, 30) == expected


def test_a_rule_keeps_its_scenes_alone(hourly: str) -> None:
    images = ShardReader(hourly)
    kept = [key for key, members in map(images.read, range(14)) if 5 <= decode(key, members).scene["hour"] <= 11]
    assert 2 < len(kept) < 8 and images.manifest.shards[0].num_samples < 4
    dataset = CropDataset(hourly, CONFIG, plan_seed=3, name="a", scenes=MORNINGS)
    epochs = [read_keys(dataset, epoch * len(kept), (epoch + 1) * len(kept)) for epoch in range(4)]
    assert all(sorted(epoch) == kept for epoch in epochs) and len(set(map(tuple, epochs))) > 1
    again = CropDataset(hourly, CONFIG, plan_seed=3, name="a", scenes=MORNINGS)
    assert [key for epoch in epochs for key in epoch] == read_keys(again, 0, 4 * len(kept))
    half = CropDataset(hourly, CONFIG, plan_seed=3, name="a", scenes=MORNINGS, share=0.5)
    assert set(read_keys(half, 0, 20)) < set(kept) and len(set(read_keys(half, 0, 20))) == round(len(kept) / 2)
    everything = CropDataset(hourly, CONFIG, plan_seed=3, name="a", scenes=SceneRule(name="all"))
    assert all(crops_equal(everything[position], CropDataset(hourly, CONFIG, plan_seed=3, name="a")[position])
               for position in range(3))


@pytest.mark.parametrize("num_readers", [0, 2])
def test_ranks_and_readers_cut_the_same_kept_scenes(hourly: str, num_readers: int) -> None:
    def rows(first_step: int, rank: int, world_size: int, readers: int = num_readers) -> list:
        dataset = CropDataset(hourly, replace(CONFIG, num_readers=readers), plan_seed=0, name="a", scenes=MORNINGS,
                              share=0.8)
        return list(batches(dataset, first_step=first_step, steps=4, global_batch=4, rank=rank, world_size=world_size))

    whole, parts = rows(0, 0, 1, readers=0), [rows(2, rank, 2) for rank in range(2)]
    for step in (2, 3):
        assert parts[0][step - 2].keys + parts[1][step - 2].keys == whole[step].keys
        assert torch.equal(torch.cat([parts[rank][step - 2].images for rank in range(2)]), whole[step].images)


def test_a_rule_without_its_facts_is_refused(tiny_source: str, hourly: str) -> None:
    with pytest.raises(InputError, match=r"rule mornings cannot judge sample image-000 of .*: .* needs the hour"):
        CropDataset(tiny_source, CONFIG, plan_seed=0, name="a", scenes=MORNINGS)
    with pytest.raises(InputError, match=r"scene rule nine keeps none of the 14 images"):
        CropDataset(hourly, CONFIG, plan_seed=0, name="a", scenes=SceneRule(name="nine", hours=(9, 9)))


def test_density_counts_the_points_of_the_crop(tiny_source: str) -> None:
    whole = StreamConfig(image_size=64, crop_size=64, scale_jitter=(1.0, 1.0))  # the crop holds the whole image
    dataset = CropDataset(tiny_source, whole, plan_seed=0, name="a")
    reader = ShardReader(tiny_source)
    for position in range(6):
        crop = dataset[position]
        _, members = reader.read(reader.index_of(crop["key"]))
        assert crop["density"].sum() == pytest.approx(len(decode(crop["key"], members).points), rel=1e-4)
        assert crop["density"].shape == (8, 8)


def test_density_lies_where_the_heads_are(tiny_source: str) -> None:
    config = StreamConfig(image_size=96, crop_size=64, scale_jitter=(1.0, 1.0), colour_jitter=0.0, grey_share=0.0,
                          sigma_px=4.0)
    dataset, compared = CropDataset(tiny_source, config, plan_seed=0, name="a"), 0
    for position in range(12):
        crop = dataset[position]
        bright = crop["image"].astype(int).min(2) > 150  # the blobs; noise ends at 120
        cells = bright.reshape(8, 8, 8, 8).sum((1, 3))
        if cells.sum() > 20 and crop["density"].sum() > 0.9:
            compared += 1
            assert np.corrcoef(cells.ravel(), crop["density"].ravel())[0, 1] > 0.7
    assert compared > 5


def test_target_labels_stay_closed(tiny_evaluation: str) -> None:
    assert "density" not in CropDataset(tiny_evaluation, CONFIG, plan_seed=0, name="a", open_points=False)[0]
    assert "density" in CropDataset(tiny_evaluation, CONFIG, plan_seed=0, name="a")[0]


def label_set(folder: Path, images_url: str) -> str:
    """Pseudo-labels with one person in the left half of each image, and kept cells in the right half."""
    density, keep = np.zeros((9, 12), np.float32), np.zeros((9, 12), np.uint8)
    density[:, :6], keep[:, 6:] = 1 / 54, 255
    keys = reversed(ShardReader(images_url).keys())  # another order and shard cut than the images'
    return write_set(folder, {key: {"density.npy": density, "keep.png": keep} for key in keys}, kind="labels")


@pytest.mark.parametrize("shape", [(72, 96), (90, 60), (20, 50)], ids=["landscape", "portrait", "small"])
def test_whole_images_have_one_shape_and_all_their_heads(tmp_path: Path, shape: tuple[int, int]) -> None:
    """Also in portrait, and enlarged: the brightest place, where the head is, moves with the pixels."""
    pixels, head = np.full((*shape, 3), 60, np.uint8), np.array([[40.0, 8.0]], np.float32)
    cv2.circle(pixels, (40, 8), 2, (255, 255, 255), -1)
    url = write_set(tmp_path, {"a": {"png": png(pixels), "points.npy": head}})
    plain = replace(CONFIG, colour_jitter=0.0, grey_share=0.0, soft_share=0.0)
    dataset, flips = CropDataset(url, plain, plan_seed=0, name="a", whole_px=64, with_heads=True), set()
    x, y = resize_points(head, 64 / shape[1], 48 / shape[0])[0]
    for position in range(8):
        crop = dataset[position]
        assert crop["image"].shape == (48, 64, 3) and crop["density"].sum() == pytest.approx(1, rel=1e-4)
        assert crop["heads"][0, :2] == pytest.approx((x, y), abs=1e-3) or crop["heads"][0, :2] == pytest.approx(
            (63 - x, y), abs=1e-3)
        bright = crop["image"][:, :, 0].astype(float) - 60
        centre = [(bright.sum(axis) @ np.arange(bright.shape[1 - axis])) / bright.sum() for axis in (0, 1)]
        assert centre == pytest.approx(crop["heads"][0, :2], abs=1.0)
        flips.add(bool(abs(crop["heads"][0, 0] - x) > 1))
    assert flips == {True, False}


@pytest.mark.parametrize("num_readers", [0, 2])
def test_ranks_and_readers_read_the_same_whole_images(tiny_source: str, num_readers: int) -> None:
    def rows(first_step: int, rank: int, world_size: int, readers: int) -> list:
        dataset = CropDataset(tiny_source, replace(CONFIG, num_readers=readers), plan_seed=0, name="a", whole_px=64)
        return list(batches(dataset, first_step=first_step, steps=5, global_batch=4, rank=rank, world_size=world_size))

    whole, parts = rows(0, 0, 1, 0), [rows(2, rank, 2, num_readers) for rank in range(2)]
    for step in (2, 3, 4):
        assert parts[0][step - 2].keys + parts[1][step - 2].keys == whole[step].keys
        assert torch.equal(torch.cat([parts[rank][step - 2].images for rank in range(2)]), whole[step].images)
    assert not torch.equal(whole[0].images, whole[3].images), "the same images an epoch later, other colours"


def test_pseudo_labels_follow_the_crop(tiny_target: str, tmp_path: Path) -> None:
    config = StreamConfig(image_size=64, crop_size=64, scale_jitter=(1.0, 1.0))
    dataset = CropDataset(tiny_target, config, labels_url=label_set(tmp_path / "labels", tiny_target), plan_seed=0,
                          name="a", open_points=False)
    flips = set()
    for position in range(10):
        crop = dataset[position]
        assert crop["density"].sum() == pytest.approx(1, rel=1e-3)
        columns = crop["density"].sum(0)
        flips.add(bool(columns[:4].sum() < columns[4:].sum()))
        assert not (crop["keep"] * crop["density"]).sum() > 0.2  # kept cells are the other half
        assert crop["keep"].sum() == pytest.approx(24, abs=9)  # half of a 6 x 8 image in an 8 x 8 crop
    assert flips == {True, False}


def test_pseudo_labels_lie_where_points_would(tmp_path: Path) -> None:
    # An image of 116 x 89 px has 14.5 x 11.125 cells: if 15 x 12 cells covered it exactly, this head would be 5 px off.
    place, pixels = np.array([[100.0, 72.0]], np.float32), np.zeros((100, 130, 3), np.uint8)
    url = write_set(tmp_path / "images", {"a": {"png": png(pixels), "points.npy": place}})
    size = whole_image(pixels, 116).shape[:2]
    cells = cell_density(resize_points(place, size[1] / 130, size[0] / 100), (12, 15), StreamConfig(sigma_px=4.0))
    known = {"density.npy": cells, "keep.png": np.ones_like(cells), "json": {"extent": [size[0] / 8, size[1] / 8]}}
    labels_url = write_set(tmp_path / "labels", {"a": known}, kind="labels")
    config = StreamConfig(image_size=116, crop_size=64, scale_jitter=(1.0, 1.0), sigma_px=4.0)
    true, labelled = (CropDataset(url, config, labels_url=labels, plan_seed=0, name="a") for labels in ("", labels_url))
    compared = 0
    for position in range(120):
        from_points, from_labels = true[position]["density"], labelled[position]["density"]
        # wholly inside the crop
        if from_points.sum() > 0.99 and from_points[[0, -1]].sum() + from_points[:, [0, -1]].sum() < 0.05:
            compared += 1
            assert from_labels.sum() == pytest.approx(1, abs=0.02)
            for axis in (0, 1):
                centres = [float((density.sum(axis) @ np.arange(8)) / density.sum()) * 8
                           for density in (from_points, from_labels)]
                assert centres[0] == pytest.approx(centres[1], abs=1.0)  # px
    assert compared > 5


def test_missing_labels_are_named(tiny_target: str, tiny_source: str, tmp_path: Path) -> None:
    labels = label_set(tmp_path / "labels", tiny_target)
    with pytest.raises(InputError, match="no sample is called"):
        dataset = CropDataset(tiny_source, CONFIG, labels_url=labels, plan_seed=0, name="a")
        _ = [dataset[position] for position in range(12)]


def test_images_without_points_teach_nothing(tiny_target: str) -> None:
    """The stream must not rely on a manifest that says the set is labelled."""
    with pytest.raises(InputError, match=r"sample image-00\d of .* has no points, so nothing can be learnt from it"):
        CropDataset(tiny_target, CONFIG, plan_seed=0, name="source")[0]


@pytest.mark.parametrize("boxes, message", [(None, "has no boxes"), ([[4, 4, 0, 6]], "has boxes without an area")])
def test_boxes_that_are_none_are_refused(tmp_path: Path, boxes: list | None, message: str) -> None:
    members = {"png": png(np.zeros((80, 96, 3), np.uint8)), "points.npy": np.array([[5, 5]], np.float32)}
    members |= {} if boxes is None else {"boxes.npy": np.array(boxes, np.float32)}
    url = write_set(tmp_path, {"a": members})
    with pytest.raises(InputError, match=f"sample a of .* {message}"):
        CropDataset(url, CONFIG, plan_seed=0, name="boxes", with_heads=True, with_boxes=True)[0]


def test_half_labelled_batches_are_refused(tiny_source: str) -> None:
    crops = [CropDataset(tiny_source, CONFIG, plan_seed=0, name="a")[position] for position in range(2)]
    del crops[1]["density"]
    with pytest.raises(InputError, match="has no density"):
        collate(crops)


def test_crops_are_as_sharp_as_whole_images(tmp_path: Path) -> None:
    # The cache keeps a large image shrunk; its crops must not be softer than the image that is counted.
    pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    url = write_set(tmp_path, {"a": {"png": png(pixels)}}, labelled=False)
    config = StreamConfig(image_size=128, crop_size=64, scale_jitter=(1.0, 1.0), colour_jitter=0.0, grey_share=0.0,
                          soft_share=0.0)
    dataset = CropDataset(url, config, plan_seed=0, name="a", open_points=False)
    crops = np.stack([dataset[position]["image"] for position in range(20)])
    assert crops.std() == pytest.approx(whole_image(pixels, 128).std(), rel=0.08)
    assert dataset._cached(0).image.shape[1] == 256  # the cache holds a quarter of the pixels


def test_large_jpgs_give_the_crops_that_other_images_give(tmp_path: Path) -> None:
    # Decoded at a quarter of their size: heads, boxes, masks and pseudo-labels keep their places.
    rng = np.random.default_rng(0)
    pixels = cv2.GaussianBlur(rng.integers(0, 256, (481, 642, 3), dtype=np.uint8), (0, 0), 6) * 3
    boxes = np.column_stack([rng.uniform(0, 600, 40), rng.uniform(0, 450, 40), np.full((40, 2), 30)]).astype(np.float32)
    known = {"points.npy": boxes[:, :2] + 14.5, "boxes.npy": boxes, "mask.png": pixels[:, :, 0] > 180}
    images = {"png": png(pixels[:, :, ::-1]), "jpg": simplejpeg.encode_jpeg(pixels, quality=98, colorsubsampling="444")}
    config = StreamConfig(image_size=64, crop_size=32, scale_jitter=(0.7, 1.2), colour_jitter=0.0, grey_share=0.0)
    urls = [write_set(tmp_path / name, {"a": {name: image, **known}}) for name, image in images.items()]
    labels = {"density.npy": rng.random((7, 9)), "keep.png": np.ones((7, 9), np.uint8), "json": {"extent": [6.5, 8.7]},
              "detections.npy": np.array([[300, 200, 20, 0.9]], np.float32)}
    for labels_url in ("", write_set(tmp_path / "labels", {"a": labels}, kind="labels")):
        of_png, of_jpg = (CropDataset(url, config, labels_url=labels_url, plan_seed=0, name="a", with_heads=True,
                                      with_masks=True) for url in urls)
        assert of_jpg._read(0).image.shape == of_png._read(0).image.shape and of_jpg._read(0).frame is None
        num_heads = 0
        for position in range(20):
            first, second = of_png[position], of_jpg[position]
            num_heads += len(first["heads"])
            for name in ("heads", "density", "mask"):
                np.testing.assert_allclose(first[name], second[name], atol=1e-5)
            assert np.abs(first["image"].astype(int) - second["image"]).mean() < 2.5
        assert num_heads > 5


def test_the_cache_holds_what_fits(tiny_source: str) -> None:
    def reads(cache_bytes: int) -> int:
        dataset = CropDataset(tiny_source, replace(CONFIG, cache_bytes=cache_bytes), plan_seed=0, name="a")
        read, count = dataset.images.read, 0

        def counted(index: int) -> tuple[str, dict[str, bytes]]:
            nonlocal count
            count += 1
            return read(index)

        dataset.images.read = counted
        for position in range(36):
            dataset[position]
        return count

    assert (reads(10**9), reads(0)) == (12, 36)
    assert 12 < reads(8 * 72 * 96 * 3) < 36


def test_whole_images_have_the_asked_longest_side() -> None:
    image = np.zeros((300, 400, 3), np.uint8)
    assert whole_image(image, 128).shape == (96, 128, 3)
    assert whole_image(image, 800).shape == (600, 800, 3)
    assert whole_image(image, 400) is image
    assert to_tensor(np.full((2, 3, 3), 255, np.uint8)).shape == (1, 3, 2, 3)


def test_masks_are_read_where_they_are_asked_for_and_open_nothing_else(tiny_source: str, make_images,
                                                                       tmp_path: Path) -> None:
    def crop(url: str, **options: bool) -> dict:
        whole = StreamConfig(image_size=96, crop_size=96, scale_jitter=(1.0, 1.0), colour_jitter=0.0, grey_share=0.0,
                             soft_share=0.0)
        return CropDataset(url, whole, plan_seed=0, name="a", **options)[0]

    assert "mask" not in crop(tiny_source) and "density" in crop(tiny_source)
    closed = crop(tiny_source, with_masks=True, open_points=False)
    assert "density" not in closed and set(np.unique(closed["mask"])) == {0, 1}
    # Persons are drawn brighter than anything else, so the mask lies where they are.
    assert closed["image"][closed["mask"] == 1].mean() > closed["image"][closed["mask"] == 0].mean() + 60
    bare = make_images(tmp_path / "bare", count=2, masks=False)
    with pytest.raises(InputError, match="has no mask of persons"):
        crop(bare, with_masks=True)
