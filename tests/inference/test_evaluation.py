"""Evaluation: metrics by hand, every image once, and a truth whose sum is the count."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crowddist import storage
from crowddist.data.config import StreamConfig
from crowddist.data.regions import find_region
from crowddist.data.sample import Part, Sample
from crowddist.data.shards import ShardReader, ShardWriter, decode
from crowddist.data.zones.files import make_zones
from crowddist.errors import InputError
from crowddist.inference.evaluation import _compare, evaluate_data, evaluate_unit
from crowddist.inference.metrics import ImageResult, image_rows, summarise, zone_errors
from crowddist.inference.predictor import ImagePrediction, Predictor
from crowddist.ops.ssim import ssim


def result(
    key: str = "a", *, true: float, count: float, points: list | None = None, truth: list | None = None,
    scene: str = "", **others: float
) -> ImageResult:
    return ImageResult(
        key=key,
        true_count=true,
        count=count,
        uncertainty=others.get("uncertainty", 0.5),
        psnr_db=others.get("psnr_db", 20.0),
        ssim=others.get("ssim", 0.5),
        psnr_full_db=others.get("psnr_full_db", 24.0),
        ssim_full=others.get("ssim_full", 0.75),
        points=np.array(points or [], np.float32).reshape(-1, 3),
        truth=np.array(truth or [], np.float32).reshape(-1, 2),
        scene=scene,
    )


def test_metrics_by_hand() -> None:
    results = [
        # The head found lies 5 px from the true one (3, 4, 5); its nearest truth is the only one.
        result(true=8, count=10, points=[[13, 14, 0.9]], truth=[[10, 10]], psnr_db=20, ssim=0.4,
               psnr_full_db=21, ssim_full=0.5),
        result(true=7, count=3, truth=[[50, 60]], psnr_db=26, ssim=0.8, psnr_full_db=28, ssim_full=0.8),
    ]
    metrics = summarise(results)
    assert metrics["target/mae"] == pytest.approx((2 + 4) / 2)
    assert metrics["target/rmse"] == pytest.approx(math.sqrt((4 + 16) / 2))
    assert metrics["target/bias"] == pytest.approx((2 - 4) / 2)
    assert metrics["target/mean_count"] == pytest.approx(6.5)
    assert metrics["target/psnr"] == pytest.approx(23) and metrics["target/ssim"] == pytest.approx(0.6)
    assert metrics["target/psnr_full"] == pytest.approx(24.5) and metrics["target/ssim_full"] == pytest.approx(0.65)
    # One of two heads is found with precision 1: half the area, at each of the 96 distances from 5 to 100 px.
    assert metrics["target/map"] == pytest.approx(0.5 * 96 / 100)
    assert metrics["target/num_images"] == 2 and all(type(value) is float for value in metrics.values())


def test_errors_by_zoom_by_hand() -> None:
    first, second = (replace(result(true=10, count=12), zoom_counts={0.5: 7.0, 1.0: 14.0}),
                     replace(result(true=20, count=21), zoom_counts={0.5: 15.0, 1.0: 21.0}))
    metrics = {name: value for name, value in summarise([first, second]).items() if "zoom" in name}
    assert metrics == pytest.approx({"target/zoom/0.5/mae": (3 + 5) / 2, "target/zoom/1/mae": (4 + 1) / 2,
                                     "target/best_zoom_mae": (3 + 1) / 2})
    # One image with a region of interest has no counts by zoom, so no zoom is judged.
    assert not any("zoom" in name for name in summarise([first, result(true=5, count=4)]))


def test_errors_by_range_and_by_scene() -> None:
    told = [("a", 8, 10), ("b", 60, 53), ("a", 4, 3), ("b", 99, 100), ("c 1/2", 70, 76)]
    metrics = summarise([result(scene=scene, true=true, count=count) for scene, true, count in told])
    ranges = {name.removeprefix("target/count/"): value
              for name, value in metrics.items() if name.startswith("target/count/")}
    assert ranges == pytest.approx({
        "000-009/mae": 1.5, "000-009/bias": 0.5, "000-009/num_images": 2, "050-099/mae": 14 / 3, "050-099/bias": 0,
        "050-099/num_images": 3
    })
    scenes = {name: value for name, value in metrics.items() if "scene" in name}
    assert scenes == pytest.approx({
        "target/scene/a/mae": 1.5, "target/scene/b/mae": 4, "target/scene/c_1_2/mae": 6,
        "target/mae_by_scene": (1.5 + 4 + 6) / 3
    })
    assert metrics["target/mae"] == pytest.approx(17 / 5) and all(type(value) is float for value in metrics.values())
    assert not any("scene" in name for name in summarise([result(true=3, count=4),
                                                          result(scene="a", true=3, count=4)])), "not all tell it"


def test_a_part_that_says_nothing_of_some_images_is_left_out() -> None:
    whole = replace(result(true=8, count=10), parts={"regression": Part(count=6),
                                                     "detection": Part(count=5, points=np.zeros((5, 3), np.float32))})
    inside = replace(whole, parts={"detection": Part(count=7, points=np.zeros((7, 3), np.float32))})
    metrics = summarise([whole, inside])
    assert metrics["target/detection_mae"] == 2 and "target/detection_map" in metrics
    assert not any(name.startswith("target/regression") for name in metrics)


def test_nothing_cannot_be_summarised() -> None:
    with pytest.raises(InputError, match="no image"):
        summarise([])


def test_the_largest_error_comes_first() -> None:
    rows = image_rows([result("a", true=5, count=5.004), result("b", true=9, count=2.5, uncertainty=1.23456),
                       result("c", true=1, count=3)])
    assert [row["image"] for row in rows] == ["b", "c", "a"] and [row["error"] for row in rows] == [-6.5, 2, 0]
    assert rows[0] == {"image": "b", "true_count": 9, "count": 2.5, "error": -6.5, "uncertainty": 1.235,
                       "psnr_full_db": 24, "ssim_full": 0.75, "psnr_db": 20, "ssim": 0.5}


def test_every_image_counts_once(tmp_path: Path, make_images: Callable[..., str], tiny_checkpoint: str) -> None:
    data = ShardReader(make_images(tmp_path, count=19, max_shard_bytes=100_000))  # more than one chunk, several shards
    counter = Predictor.from_checkpoint(tiny_checkpoint)
    results = evaluate_data(counter, data)
    assert [found.key for found in results] == data.keys() and len(data.manifest.shards) > 1
    for index, found in enumerate(results):
        sample = decode(*data.read(index))
        assert sample.points is not None and found.true_count == len(sample.points) == 3 + index % 5
        assert found.count == pytest.approx(counter.predict(sample.image).count, rel=1e-4)
        np.testing.assert_array_equal(found.truth, sample.points)
    parts = [found for unit in (range(0, 7), range(7, 19)) for found in evaluate_unit(counter, data, unit)]
    assert [part.key for part in parts] == data.keys()
    assert summarise(parts) == pytest.approx(summarise(results), rel=1e-4)
    naive = [abs(found.count - found.true_count) for found in results]
    assert summarise(results)["target/mae"] == pytest.approx(sum(naive) / 19)


def test_an_evaluation_counts_at_the_zooms_of_the_run(tiny_evaluation: str, tiny_checkpoint: str) -> None:
    images = ShardReader(tiny_evaluation)
    counter = Predictor.from_checkpoint(tiny_checkpoint, zooms=(0.5, 1.0))  # of 96 px
    found = evaluate_data(counter, images)
    for index, one in enumerate(found):
        image = decode(*images.read(index)).image
        assert one.count == next(counter.predict_views([image], (0.5, 1.0))).count
        alone = {zoom: Predictor.from_checkpoint(tiny_checkpoint, image_size=side).predict(image).count
                 for zoom, side in ((0.5, 48), (1.0, 96))}
        assert one.zoom_counts == pytest.approx(alone, rel=1e-4)


def test_zones_have_errors_of_their_own(tiny_evaluation: str, tiny_checkpoint: str) -> None:
    """Two halves sum to the whole image, its true heads counted one by one."""
    data, counter = ShardReader(tiny_evaluation), Predictor.from_checkpoint(tiny_checkpoint)
    half = [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]
    zones = make_zones({"left": half, "right": [[x + 0.5, y] for x, y in half]}, unit="share")
    results, heads = evaluate_data(counter, data, zones), 0
    for result, plain in zip(results, evaluate_data(counter, data), strict=True):
        sample = decode(*data.read(data.index_of(result.key)))
        assert sample.points is not None
        middle = sample.image.shape[1] / 2 - 0.5
        assert result.zones["left"][1] == sum(x < middle for x in sample.points[:, 0].tolist())
        assert np.sum(list(result.zones.values()), axis=0) == pytest.approx((result.count, result.true_count), rel=1e-5)
        assert result.count == plain.count and plain.zones == {}
        heads += result.zones["left"][1]
    errors = zone_errors(results)
    assert errors["left"]["mean_true_count"] == heads / len(results) > 0
    bias = summarise(results)["target/bias"]
    assert errors["left"]["bias"] + errors["right"]["bias"] == pytest.approx(bias, rel=1e-4)
    assert zone_errors(evaluate_data(counter, data)) == {}
    with pytest.raises(InputError, match=r"^sample \S+: zones: the zone 'far' lies outside the image"):
        evaluate_data(counter, data, make_zones({"far": [[9000, 0], [9100, 0], [9100, 9]]}))


def test_an_unlabelled_image_is_refused(tiny_target: str, tiny_checkpoint: str) -> None:
    with pytest.raises(InputError,
                       match=r"sample image-000 of file:.* has no points; an evaluation needs a labelled data set"):
        evaluate_data(Predictor.from_checkpoint(tiny_checkpoint), ShardReader(tiny_target))


def test_an_image_without_people_is_evaluated(tmp_path: Path, tiny_evaluation: str, tiny_checkpoint: str) -> None:
    _, members = ShardReader(tiny_evaluation).read(0)
    with ShardWriter(tmp_path, name="empty", split="all", labelled=True, converter="test") as writer:
        writer.add("empty", {"png": members["png"], "points.npy": np.zeros((0, 2), np.float32),
                             "json": {"id": "empty"}})
    metrics = summarise(evaluate_data(Predictor.from_checkpoint(tiny_checkpoint), ShardReader(tmp_path)))
    assert metrics["target/mae"] == metrics["target/mean_count"] > 0
    storage.write_json((tmp_path / "metrics.json").as_uri(), metrics)  # refuses what is not finite


def naive_density(points: np.ndarray, cells: tuple[int, int], sigma_cells: float) -> np.ndarray:
    """Each person as a Gaussian over the cells' centres, made to sum to 1 inside the map."""
    total = np.zeros(cells)
    for x, y in points:
        weights = np.array([[math.exp(-((j - x) ** 2 + (i - y) ** 2) / (2 * sigma_cells**2)) for j in range(cells[1])]
                            for i in range(cells[0])])
        total += weights / weights.sum()
    return total


# 138 x 200 px looked at with 69 x 100: half the size, and the last cells reach beyond the image.
POINTS = np.array([[20.5, 30.5], [100, 70], [101, 72], [180.5, 20.5], [60.2, 110.7]], np.float32)


def compare(density: np.ndarray, points: np.ndarray = POINTS, roi: list | None = None,
            **others) -> ImageResult:  # type: ignore[no-untyped-def]
    sample = Sample(key="a", image=np.zeros((138, 200, 3), np.uint8), points=points,
                    scene={"roi": roi, "scene": "104207"} if roi else {})
    prediction = ImagePrediction(
        count=float(density.sum()),
        uncertainty=0.0,
        density=density.astype(np.float32),
        spread=np.zeros_like(density),
        certainty=np.ones_like(density),
        keep=np.ones(density.shape, bool),
        points=others.get("found", np.zeros((0, 3), np.float32)),
        parts=others.get("parts", {}),
        size=(69, 100),
    )
    return _compare(sample, prediction, StreamConfig(sigma_px=8.0), 8, find_region(sample))


def test_a_perfect_prediction_is_seen_as_one() -> None:
    # Half the size, 8 px a cell: 16 px of the image a cell, whose first one has its centre at 7.5 px.
    truth = naive_density((POINTS - 7.5) / 16, (9, 13), 1.0)
    assert truth.sum() == pytest.approx(5)
    found = compare(truth)
    assert found.true_count == 5 and found.count == pytest.approx(5)
    assert found.psnr_db > 60 and found.ssim > 0.9999
    assert compare(np.roll(truth, 1, axis=1)).psnr_db < 30 and compare(np.roll(truth, 1, axis=0)).ssim < 0.9
    # PSNR compares shapes, SSIM also their size.
    assert compare(2 * truth).psnr_db > 60 and compare(2 * truth).ssim < 0.95


def naive_pixels(cells: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cells of 8 px as hats between their centres, each made to hold the cell's persons inside the image."""
    pixels = np.zeros(size)
    for i, j in np.ndindex(*cells.shape):
        hats = []
        for place, count, length in ((i, cells.shape[0], size[0]), (j, cells.shape[1], size[1])):
            at = np.clip((np.arange(length) + 0.5) / 8 - 0.5, 0, count - 1)
            hats.append(np.clip(1 - np.abs(at - place), 0, None))
        hat = np.outer(*hats)
        pixels += cells[i, j] * hat / hat.sum()
    return pixels


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_maps_are_compared_at_full_resolution_in_units_of_the_truth(factor: float) -> None:
    """PSNR by its definition, SSIM by the function for images, against Gaussians of 8 px at the pixels of the image
    as it was seen.
    """
    cells = factor * naive_density((POINTS - 7.5) / 16, (9, 13), 1.0)
    truth = naive_density((POINTS + 0.5) / 2 - 0.5, (69, 100), 8.0)
    pixels, peak = naive_pixels(cells, (69, 100)), truth.max()
    found = compare(cells)
    assert pixels.sum() == pytest.approx(5 * factor)
    assert found.psnr_full_db == pytest.approx(10 * math.log10(peak**2 / np.square(pixels - truth).mean()), abs=0.01)
    assert found.ssim_full == pytest.approx(ssim(pixels / peak, truth / peak, peak=1.0), abs=1e-3)
    # Cells of 8 px blur a sigma of 8 px a little; three times the truth is as wrong as the truth is large, twice over.
    assert found.psnr_full_db > 28 if factor == 1 else found.psnr_full_db < 20
    assert found.psnr_db > 60


def test_where_nobody_is_the_full_resolution_is_in_units_of_one_head() -> None:
    found = compare(np.full((9, 13), 0.01), np.zeros((0, 2), np.float32))
    errors = naive_pixels(np.full((9, 13), 0.01), (69, 100)) * 2 * math.pi * 8.0**2
    assert found.psnr_full_db == pytest.approx(-10 * math.log10(np.square(errors).mean()), abs=0.01)
    assert compare(np.zeros((9, 13)), np.zeros((0, 2), np.float32)).psnr_full_db == 100


def test_people_at_the_border_are_part_of_the_truth() -> None:
    """In the corner cells, and in the strip whose cell ends outside the image, a person is still one person."""
    corners = np.array([[0, 0], [199, 0], [0, 137], [199, 137]], np.float32)
    cells = np.clip((corners - 7.5) / 16, 0, [12, 8])
    found = compare(naive_density(cells, (9, 13), 1.0), corners)
    assert found.psnr_db > 60 and found.ssim > 0.9999 and found.count == pytest.approx(found.true_count, rel=1e-4)


# Columns 32 to 99 and rows 0 to 87: of cells of 16 px two columns to the left of it, 4 px of the seventh, 8 px of the
# sixth row.
ROI = [[32, 0], [99, 0], [99, 87], [32, 87]]


def test_inside_a_region_by_hand() -> None:
    density = np.arange(9 * 13, dtype=np.float32).reshape(9, 13)
    heads = np.array([[20.5, 30.5, 0.9], [32, 0, 0.8], [99, 87, 0.7], [99.6, 80, 0.6], [60, 88, 0.5]], np.float32)
    parts = {
        "regression": Part(count=float(density.sum()), density=density),
        "detection": Part(count=5.0, points=heads),
        "told": Part(count=3.0),
    }
    found = compare(density, np.array([[20.5, 30.5], [40, 70], [98.5, 72], [99.5, 20], [60, 110]], np.float32), ROI,
                    found=heads, parts=parts)
    assert found.true_count == 2 and found.truth.tolist() == [[40, 70], [98.5, 72]] and found.scene == "104207"
    assert found.points.tolist() == heads[[1, 2]].tolist()
    shares = np.zeros((9, 13))
    shares[:5, 2:6], shares[5, 2:6], shares[:5, 6], shares[5, 6] = 1, 0.5, 0.25, 0.125
    assert (found.count == pytest.approx((density * shares).sum())
            and found.parts["regression"].count == pytest.approx(found.count))
    assert found.parts["detection"].count == 2 and found.parts["detection"].points is not None
    assert (found.parts["detection"].points.tolist() == heads[[1, 2]].tolist()
            and set(found.parts) == {"regression", "detection"}), "a count cannot be cut"
    assert all(part.density is None for part in found.parts.values())


def test_maps_are_compared_inside_the_region() -> None:
    truth = naive_density((POINTS - 7.5) / 16, (9, 13), 1.0)
    outside = truth.copy()
    outside[:, 8:] = 3 * np.random.default_rng(0).random((9, 5))
    whole, inside = compare(outside), compare(outside, roi=ROI)
    assert whole.psnr_db < 30 and inside.psnr_db > 60 and whole.ssim < 0.9 and inside.ssim > 0.9999
    same = compare(truth, roi=ROI)
    assert whole.psnr_full_db < 0 and inside.psnr_full_db == same.psnr_full_db > 20
    assert whole.ssim_full < 0.9 and inside.ssim_full == same.ssim_full > 0.8
    assert (inside.true_count == 0
            and inside.count == pytest.approx(compare(truth, roi=ROI).count)), "all five lie outside"
    assert compare(np.roll(truth, 1, axis=1), roi=ROI).psnr_db < 30


def test_a_region_of_the_whole_frame_changes_nothing() -> None:
    density = np.random.default_rng(1).random((9, 13)).astype(np.float32)
    heads = np.array([[0, 0, 0.9], [199, 137, 0.8]], np.float32)
    parts = {"regression": Part(count=float(density.sum(dtype=np.float64)), density=density),
             "detection": Part(count=2.0, points=heads)}
    whole = compare(density, found=heads, parts=parts)
    framed = compare(density, roi=[[0, 0], [199, 0], [199, 137], [0, 137]], found=heads, parts=parts)
    assert summarise([replace(framed, scene="")]) == pytest.approx(summarise([whole]), rel=1e-6)


@pytest.mark.parametrize(
    ("roi", "message"),
    [
        ([[1, 1], [2, 2]], "a polygon needs three vertices or more"),
        ([[1, 1], [2, 2], [3]], "inhomogeneous"),
        ([[1, 1], [2, "x"], [3, 3]], "could not convert string"),
        ({"x": [1]}, "float"),
        ([[300, 300], [400, 300], [400, 400]], "lies outside the image"),
    ],
)
def test_a_region_that_is_none_is_one_line(roi: object, message: str) -> None:
    with pytest.raises(InputError, match=f"sample a: .*{message}.*; convert the data set again") as caught:
        find_region(Sample(key="a", image=np.zeros((138, 200, 3), np.uint8), scene={"roi": roi}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("converter", "counted"), [("worldexpo10 0.1.0", 0.25), ("gcc 0.1.0", 1.0)])
def test_regions_bound_the_count_but_of_gccs(tmp_path: Path, tiny_checkpoint: str, tiny_evaluation: str, converter: str,
                                             counted: float) -> None:
    """GCC's regions are where people were placed: its images are counted whole, as published."""
    _, members = ShardReader(tiny_evaluation).read(0)
    points = np.array([[10, 10], [40, 30], [80, 60]], np.float32)
    with ShardWriter(tmp_path, name="regions", split="all", labelled=True, converter=converter) as writer:
        facts = {"scene": "104207", "roi": [[0, 0], [47, 0], [47, 35], [0, 35]]}  # a quarter of 96 x 72 px
        writer.add("a", {"png": members["png"], "points.npy": points, "json": facts})
    predictor, data = Predictor.from_checkpoint(tiny_checkpoint), ShardReader(tmp_path)
    (found,) = evaluate_data(predictor, data)
    prediction = predictor.predict(decode(*data.read(0)).image)
    assert prediction.density.shape == (9, 12)
    expected = (prediction.density.sum() if counted == 1
                else prediction.density[:4, :6].sum() + prediction.density[4, :6].sum() / 2)
    assert found.count == pytest.approx(expected, rel=1e-4) and found.true_count == (3 if counted == 1 else 2)
    assert summarise([found])["target/mae_by_scene"] == pytest.approx(abs(found.count - found.true_count))
