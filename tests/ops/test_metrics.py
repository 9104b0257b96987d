"""Count errors, their ranges, and PSNR."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crowddist.ops.metrics import LARGEST_PSNR_DB, count_errors, count_errors_by_range, pixel_density, psnr


def test_count_errors_by_hand():
    # Errors 3, -4, 0: mean 7/3, root of 25/3.
    errors = count_errors([13, 16, 5], [10, 20, 5])
    assert errors == {"mae": pytest.approx(7 / 3), "rmse": pytest.approx(math.sqrt(25 / 3))}
    assert all(type(value) is float for value in errors.values())


COUNT = st.floats(0, 1e5, width=32)


@given(st.lists(st.tuples(COUNT, COUNT), min_size=1))
def test_rmse_is_never_below_mae(pairs):
    predicted, true = zip(*pairs, strict=True)
    errors = count_errors(predicted, torch.tensor(true, dtype=torch.float64))
    assert errors["rmse"] >= errors["mae"] * (1 - 1e-9) - 1e-9
    assert errors["mae"] == pytest.approx(sum(abs(p - t) for p, t in pairs) / len(pairs), abs=1e-9)


@pytest.mark.parametrize("predicted, true",
                         [([], []), ([1], [1, 2]), ([1.0, np.nan], [1, 2]), ([1], [np.inf]), ([[1]], [[1]])])
def test_count_errors_refuse_bad_input(predicted, true):
    with pytest.raises(ValueError):
        count_errors(predicted, true)


def test_ranges_by_hand():
    # Errors 1 of 9 persons; -2 and 5 of 10 and 49; 100 of 500.
    errors = count_errors_by_range([600, 10, 8, 54], [500, 9, 10, 49])
    assert errors == {
        "000-009": {"mae": 1, "bias": 1, "num_images": 1},
        "010-049": {"mae": 3.5, "bias": 1.5, "num_images": 2},
        "500-up": {"mae": 100, "bias": 100, "num_images": 1},
    }
    assert list(errors) == ["000-009", "010-049", "500-up"]
    assert all(type(value) is float for row in errors.values() for value in row.values())


@given(st.lists(st.tuples(COUNT, COUNT), min_size=1))
def test_ranges_hold_every_image_once(pairs):
    predicted, true = zip(*pairs, strict=True)
    errors = count_errors_by_range(predicted, true)
    for name, low, high in (("000-009", 0, 10), ("010-049", 10, 50), ("050-099", 50, 100), ("100-499", 100, 500),
                            ("500-up", 500, math.inf)):
        there = [p - t for p, t in pairs if low <= t < high]
        assert (name in errors) == bool(there)
        if there:
            assert errors[name] == {"mae": pytest.approx(np.abs(there).mean()), "bias": pytest.approx(np.mean(there)),
                                    "num_images": len(there)}
    total = sum(row["num_images"] * row["mae"] for row in errors.values())
    assert total / len(pairs) == pytest.approx(count_errors(predicted, true)["mae"])


@pytest.mark.parametrize("predicted, true", [([], []), ([1], [1, 2]), ([1.0], [np.nan]), ([1], [-1])])
def test_ranges_refuse_bad_input(predicted, true):
    with pytest.raises(ValueError):
        count_errors_by_range(predicted, true)


def test_psnr_by_hand():
    # Normalised to 1, 0.5, 0, 0 and 1, 0, 0, 0: mean squared error 1/16.
    assert psnr(np.array([[4.0, 2.0], [0, 0]]), np.array([[10.0, 0], [0, 0]])) == pytest.approx(10 * math.log10(16))


def test_psnr_compares_shapes_not_counts():
    generator = np.random.default_rng(0)
    a, b = generator.random((2, 20, 30))
    assert psnr(a * 7, b) == pytest.approx(psnr(a, b))
    assert psnr(torch.tensor(a), torch.tensor(b)) == pytest.approx(psnr(a, b))
    assert psnr(b + 0.01 * a, b) > psnr(b + 0.1 * a, b)


def test_psnr_of_equal_and_empty_maps():
    empty, some = np.zeros((4, 4)), np.eye(4)
    assert psnr(some, some) == 100
    assert psnr(empty, empty) == LARGEST_PSNR_DB
    assert psnr(some, empty) == pytest.approx(10 * math.log10(4))
    assert psnr(empty, some) == pytest.approx(10 * math.log10(4))


def test_psnr_by_the_truths_peak_counts_the_scale():
    truth = np.array([[4.0, 2.0], [0, 0]])
    # Three times the truth: off by 8 and 4, so the mean squared error is 20 where the peak's square is 16.
    assert psnr(3 * truth, truth, peak=4.0) == pytest.approx(10 * math.log10(16 / 20))
    assert psnr(3 * truth, truth) == LARGEST_PSNR_DB
    generator = np.random.default_rng(0)
    a, b = generator.random((2, 20, 30)).astype(np.float32)
    assert psnr(torch.tensor(a), torch.tensor(b), peak=0.7) == pytest.approx(
        20 * math.log10(0.7 / math.sqrt(sum((float(p) - float(t)) ** 2
                                            for p, t in zip(a.ravel(), b.ravel(), strict=True)) / 600)))
    with pytest.raises(ValueError, match="peak must be positive"):
        psnr(truth, truth, peak=0.0)


def test_pixels_of_cells_by_hand():
    """Between the centres of two cells of 2 px, at 0.5 and 2.5 px, lie a quarter and three quarters of the way."""
    pixels = pixel_density(np.array([[4.0, 0.0]]), (2, 4), 2)
    np.testing.assert_allclose(pixels, [[1.0, 0.75, 0.25, 0.0]] * 2)
    # Without the last column, which lies beyond the image, the four persons are spread over the rest.
    np.testing.assert_allclose(pixel_density(np.array([[4.0, 0.0]]), (2, 3), 2), [[1.0, 0.75, 0.25]] * 2)
    np.testing.assert_allclose(pixel_density(np.array([[0.0, 4.0]]), (2, 3), 2), np.array([[0, 0.5, 1.5]] * 2),
                               rtol=1e-6)


@pytest.mark.parametrize("size", [(40, 56), (37, 50)])
@pytest.mark.parametrize("stride", [1, 2, 8])
def test_pixels_of_cells_equal_the_loop_and_keep_the_sum(size, stride):
    """Every cell's persons are spread over the pixels that it weighs in, by its weight."""
    cells = tuple(-(-side // stride) for side in size)
    density = np.random.default_rng(0).random(cells).astype(np.float32)
    weights = [np.zeros((side, count)) for side, count in zip(size, cells, strict=True)]
    for weight in weights:
        for pixel, row in enumerate(weight):
            place = (pixel + 0.5) / stride - 0.5
            for cell in (math.floor(place), math.floor(place) + 1):
                row[min(max(cell, 0), len(row) - 1)] += 1 - abs(place - cell)
    if size == (40, 56):
        assert all((weight.sum(0) == stride).all() for weight in weights), "the cells tile the image"
    down, across = (weight / weight.sum(0) for weight in weights)
    pixels = pixel_density(density, size, stride)
    assert pixels.dtype == np.float32 and pixels.sum() == pytest.approx(density.sum(), rel=1e-5)
    np.testing.assert_allclose(pixels, down @ density @ across.T, rtol=1e-4, atol=1e-7)


def test_pixels_of_cells_of_another_image_are_refused():
    with pytest.raises(ValueError, match="has no"):
        pixel_density(np.ones((3, 4)), (24, 33), 8)


@pytest.mark.parametrize("a, b", [
    (np.ones((2, 2)), np.ones((2, 3))),
    (np.ones((0, 2)), np.ones((0, 2))),
    (np.full((2, 2), np.nan), np.ones((2, 2))),
])
def test_psnr_refuses_bad_input(a, b):
    with pytest.raises(ValueError):
        psnr(a, b)
