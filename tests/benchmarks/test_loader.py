"""Shards to cropped batches: our reader against WebDataset decoding with PIL, photographs that are shrunk, and the
memory of a long epoch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg

from crowddist import storage
from crowddist.data.config import StreamConfig
from crowddist.data.shards import ShardReader, ShardWriter, decode
from crowddist.data.stream import CropDataset, _shrink
from tests.benchmarks.harness import compare

NUM_IMAGES, BATCH_SIZE = 96, 8
SIZE, CROP = (1080, 1920), (480, 640)
MEAN_BYTES = (450_000, 550_000)
LEAST_RATIO = 1.2
"""The goal is 2.9: it needs a decoder that leaves out what the crop does not show, which no package has."""
LEAST_RATIO_KEPT = 2.9  # The goal.
LEAST_RATIO_SHRUNK = 2.0
NUM_SAMPLES, MOST_GROWTH_BYTES = 10_000, 16 * 2**20


def picture(generator: np.random.Generator) -> np.ndarray:
    """Like a photograph to a JPEG decoder: noise that is weaker the finer it is, fine noise in some places only, and a
    little grain.
    """

    def noise(cell_px: int) -> np.ndarray:
        cells = generator.standard_normal((SIZE[0] // cell_px + 2, SIZE[1] // cell_px + 2, 3), np.float32)
        return cv2.resize(cells.mean(2, keepdims=True) + 0.3 * cells, SIZE[::-1], interpolation=cv2.INTER_CUBIC)

    coarse = sum(strength * noise(cell_px) for cell_px, strength in ((480, 60), (120, 30), (30, 15)))
    fine = sum(strength * noise(cell_px) for cell_px, strength in ((8, 25), (2, 25)))
    textured = (noise(200) > 0.2).astype(np.float32)
    grain = 1.5 * generator.standard_normal((*SIZE, 1), np.float32)
    return (128 + coarse + fine * textured + grain).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1080p JPEGs of quality 90, chroma halved, about 500 KB each, in shards; they are six pictures, each rolled by
    another distance.
    """
    generator = np.random.default_rng(0)
    drawn = [picture(generator) for _ in range(6)]
    folder = tmp_path_factory.mktemp("pictures")
    sizes = []
    with ShardWriter(folder, name="pictures", split="all", labelled=False, converter="test",
                     max_shard_bytes=13_000_000) as writer:
        for index in range(NUM_IMAGES):
            rolled = np.roll(drawn[index % 6], 97 * index, axis=1)
            jpg = simplejpeg.encode_jpeg(np.ascontiguousarray(rolled), quality=90, colorsubsampling="420")
            sizes.append(len(jpg))
            writer.add(f"picture-{index:03d}", {"jpg": jpg, "json": {"height": SIZE[0], "width": SIZE[1]}})
    assert MEAN_BYTES[0] <= np.mean(sizes) <= MEAN_BYTES[1], f"{np.mean(sizes):.0f} bytes a picture"
    return folder


def corner(index: int) -> tuple[int, int]:
    """The top left corner of a picture's crop, the same for everybody."""
    top, left = np.random.default_rng(index).integers(0, (SIZE[0] - CROP[0], SIZE[1] - CROP[1]))
    return int(top), int(left)


def batches_of(crops: Iterator[np.ndarray]) -> list[np.ndarray]:
    """Crops stacked to batches, as a loader's collate function does."""
    batches = []
    while batch := list(itertools.islice(crops, BATCH_SIZE)):
        batches.append(np.stack(batch))
    return batches


def crops_by_webdataset(shard: Path, indexes: range) -> Iterator[np.ndarray]:
    """Decoded with PIL by WebDataset; the crop comes before the conversion to an array."""
    import webdataset

    images = webdataset.WebDataset([str(shard)], shardshuffle=False).decode("pil").to_tuple("jpg")
    for index, (image,) in zip(indexes, images, strict=True):
        top, left = corner(index)
        yield np.asarray(image.crop((left, top, left + CROP[1], top + CROP[0])))


def crops_by_us(reader: ShardReader, indexes: range) -> Iterator[np.ndarray]:
    """What a stream does for a sample before it is augmented."""
    for index in indexes:
        top, left = corner(index)
        # a view would keep the whole image
        yield decode(*reader.read(index)).image[top:top + CROP[0], left:left + CROP[1]].copy()


@pytest.mark.benchmark
def test_shard_to_cropped_batch(pictures: Path) -> None:
    """Shard by shard in turn: neighbours in time are compared."""
    manifest = ShardReader(storage.normalise(pictures)).manifest
    num_shards = len(manifest.shards)
    assert num_shards >= 4
    turns = {way: itertools.cycle(range(num_shards)) for way in ("peer", "ours")}

    def peer() -> list[np.ndarray]:
        number = next(turns["peer"])
        indexes = ShardReader(pictures, manifest).shard_range(number)
        return batches_of(crops_by_webdataset(pictures / manifest.shards[number].name, indexes))

    def ours() -> list[np.ndarray]:
        reader = ShardReader(pictures, manifest)  # a new one: it indexes its shard again
        return batches_of(crops_by_us(reader, reader.shard_range(next(turns["ours"]))))

    def agree(peer: list[np.ndarray], ours: list[np.ndarray]) -> bool:
        return all(np.array_equal(a, b) for a, b in zip(peer, ours, strict=True))

    result = compare(peer, ours, rounds=5 * num_shards, agree=agree)
    print(f"\n{NUM_IMAGES} JPEGs of 1080p to batches of {CROP[1]} x {CROP[0]}, pixels identical, WebDataset with PIL / "
          f"ours: {result}")
    assert result.ratio >= LEAST_RATIO


@pytest.mark.benchmark
def test_cropped_batch_of_images_that_are_kept(pictures: Path) -> None:
    """From the second epoch on, where a stream's `cache_bytes` holds all images; crops as above."""
    config = StreamConfig(image_size=SIZE[1], cache_bytes=2**30)
    dataset = CropDataset(storage.normalise(pictures), config, plan_seed=0, name="target", open_points=False)
    manifest = dataset.images.manifest
    turns = {way: itertools.cycle(range(len(manifest.shards))) for way in ("peer", "ours")}

    def peer() -> list[np.ndarray]:
        number = next(turns["peer"])
        return batches_of(crops_by_webdataset(pictures / manifest.shards[number].name,
                                              dataset.images.shard_range(number)))

    def ours() -> list[np.ndarray]:
        corners = ((index, *corner(index)) for index in dataset.images.shard_range(next(turns["ours"])))
        return batches_of(dataset._cached(index).image[top:top + CROP[0], left:left + CROP[1]]
                          for index, top, left in corners)

    def agree(peer: list[np.ndarray], ours: list[np.ndarray]) -> bool:
        return all(np.array_equal(a, b) for a, b in zip(peer, ours, strict=True))

    for index in range(NUM_IMAGES):  # the first epoch
        dataset._cached(index)
    result = compare(peer, ours, rounds=5 * len(manifest.shards), agree=agree)
    print(f"\n{NUM_IMAGES} JPEGs of 1080p to batches of {CROP[1]} x {CROP[0]}, again and from memory, pixels "
          f"identical, WebDataset with PIL / ours: {result}")
    assert result.ratio >= LEAST_RATIO_KEPT


@pytest.mark.benchmark
def test_photographs_that_are_shrunk(pictures: Path) -> None:
    """As `StreamConfig.image_size` of 448 px keeps pictures of 1,920 px: at no more than half."""
    reader, numbers = ShardReader(pictures), {"whole": itertools.count(), "part": itertools.count()}
    longest_px = 960

    def read(way: str, **how: float) -> np.ndarray:
        return _shrink(decode(*reader.read(next(numbers[way]) % NUM_IMAGES), **how), longest_px).image

    def agree(whole: np.ndarray, part: np.ndarray) -> bool:
        return whole.shape == part.shape and float(np.abs(whole.astype(int) - part).mean()) < 2

    result = compare(lambda: read("whole"), lambda: read("part", longest_px=longest_px), rounds=60, agree=agree)
    print(f"\nJPEGs of 1080p kept at {longest_px} px, decoded whole / at half size: {result}")
    assert result.ratio >= LEAST_RATIO_SHRUNK


@pytest.mark.benchmark
def test_memory_stays_the_same(tmp_path: Path) -> None:
    """Resident bytes after the memory for samples is full, and after 10,000 samples more."""
    import os

    resident = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")  # noqa: E731
    generator = np.random.default_rng(0)
    with ShardWriter(tmp_path, name="small", split="all", labelled=True, converter="test",
                     max_shard_bytes=2**23) as writer:
        for index in range(2000):
            jpg = simplejpeg.encode_jpeg(generator.integers(0, 256, (96, 128, 3), dtype=np.uint8))
            writer.add(f"{index:04d}", {"jpg": jpg, "points.npy": generator.uniform(0, 90, (20, 2)),
                                        "json": {"height": 96, "width": 128}})
    config = StreamConfig(image_size=128, crop_size=64, cache_bytes=20 * 2**20)
    dataset = CropDataset(storage.normalise(tmp_path), config, plan_seed=0, name="source")
    for position in range(2 * len(dataset.images)):
        dataset[position]
    before = resident()
    for position in range(NUM_SAMPLES):
        dataset[2 * len(dataset.images) + position]
    growth = resident() - before
    print(f"\n{NUM_SAMPLES:,} samples: the memory grew by {growth / 2**20:.1f} MiB, from {before / 2**20:.0f}")
    assert growth < MOST_GROWTH_BYTES
