"""Descriptions and sheets of data sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from crowddist.data.shards import Manifest, ShardWriter, publish_manifest, write_shard
from crowddist.errors import InputError
from crowddist.reports.dataset_summary import describe, histogram, samples_of, write_sheet


def test_a_histogram_by_hand() -> None:
    assert histogram(np.array([1, 9, 10, 24, 24, 120])) == [
        "    1 to 9       2  ###########################",  # ceil(2 / 3 of 40)
        "  10 to 24       3  ########################################",
        "  25 to 49       0",
        "  50 to 99       0",
        "100 to 249       1  ##############",
    ]
    assert histogram(np.zeros(3)) == [f"0       3  {'#' * 40}"]
    assert histogram(np.array([2500, 9999])) == [f"2,500 and more       2  {'#' * 40}"]
    assert histogram(np.array([0.6, 1.2]))[0].split() == ["0", "1", "#" * 40]  # summed densities


def test_every_image_is_in_one_bar() -> None:
    counts = np.random.default_rng(0).integers(0, 4000, 300)
    lines = histogram(counts)
    assert sum(int(line.replace("and more", "").replace(" to ", "-").split()[1].replace(",", ""))
               for line in lines) == 300


def test_images_are_described_without_pixels(make_images: Callable[..., str], tmp_path: Path) -> None:
    url = make_images(tmp_path / "set", count=12, max_shard_bytes=100_000)  # 3, 4, 5, 6, 7, 3, ... persons
    described = describe(url)
    assert described.counts.tolist() == [3 + index % 5 for index in range(12)] and described.sizes == {(72, 96): 12}
    lines = described.lines()
    assert lines[0].startswith("tiny (all): 12 images, ") and f", digest {described.manifest.digest[:12]}" in lines[1]
    assert lines[2:] == ["sizes: 96 x 72 px (12)", "persons: 57; an image 3 to 7, mean 4.8, median 4.5",
                         f"1 to 9      12  {'#' * 40}"]
    seen = []
    describe(url, watch=lambda numbers: (seen.append(number) or number
                                         for number in numbers))  # type: ignore[func-returns-value]
    assert seen == list(range(12))


def test_the_most_usual_sizes_are_named(make_images: Callable[..., str], tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "set", name="many", split="all", labelled=False, converter="test") as shards:
        for index, width in enumerate([40, 48, 48, 56, 56, 56, 64, 64, 64, 64, 72]):
            _, png = cv2.imencode(".png", np.zeros((32, width, 3), np.uint8))
            shards.add(f"image-{index}",
                       {"png": png.tobytes(), "json": {"id": f"{index}", "height": 32, "width": width}})
    assert describe(str(tmp_path
                        / "set")).lines()[2:] == ["sizes: 64 x 32 px (4), 56 x 32 px (3), 48 x 32 px (2) and 2 more",
                                                  "unlabelled"]


def test_samples_are_spread_over_the_counts(make_images: Callable[..., str], tmp_path: Path) -> None:
    described = describe(make_images(tmp_path / "set", count=12))
    assert [described.counts[index] for index in samples_of(described, 3)] == [3, 5, 7]
    assert sorted(samples_of(described, 50)) == list(range(12)) and len(samples_of(described, 1)) == 1
    unlabelled = describe(make_images(tmp_path / "target", count=5, labelled=False))
    assert samples_of(unlabelled, 3) == [0, 2, 4]


def test_a_sheet_shows_images_and_heads(make_images: Callable[..., str], tmp_path: Path) -> None:
    described = describe(make_images(tmp_path / "set", count=5))
    assert write_sheet(described, str(tmp_path / "sheet.png")) == (tmp_path / "sheet.png").as_uri()
    picture = cv2.imread(str(tmp_path / "sheet.png"))
    assert picture is not None and picture.shape[1] == 3 * 480 + 2 * 16 and picture.shape[0] > 2 * 360
    dots = (np.abs(picture[:, :, ::-1].astype(int) - (255, 80, 205)).max(2) < 40).sum()
    bare = cv2.imread(write_sheet(describe(make_images(tmp_path / "bare", count=5, labelled=False)),
                                  str(tmp_path / "bare.png")).removeprefix("file://"))
    assert bare is not None
    assert dots >= 25 > (np.abs(bare[:, :, ::-1].astype(int) - (255, 80, 205)).max(2) < 40).sum()  # 25 persons


def test_pseudo_labels_are_described_but_have_no_sheet(tmp_path: Path) -> None:
    density = np.full((4, 5), 0.5, np.float32)
    members = {"density.npy": density, "keep.png": density > 0, "json": {"extent": [4.0, 5.0]}}
    shard = write_shard(tmp_path / "labels", "a.tar", [(f"image-{index}", members) for index in range(2)])
    publish_manifest(tmp_path / "labels", Manifest(name="round", split="all", kind="labels", labelled=False,
                                                   shards=(shard,), converter="test"))
    described = describe(str(tmp_path / "labels"))
    assert "2 pseudo-labels" in described.lines()[0] and described.counts.tolist() == [10, 10]
    with pytest.raises(InputError, match="holds pseudo-labels, which are no images"):
        write_sheet(described, str(tmp_path / "sheet.png"))
