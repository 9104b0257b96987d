"""Density maps: mass, borders, tiny kernels, and a loop over points as reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowddist.ops.density import (
    TILE_PX,
    Kernels,
    adaptive_sigma,
    density_map,
)


def map_by_loop(points, size, sigmas):
    """One full-frame float64 Gaussian a point, cut to its window and divided by its sum."""
    height, width = size
    total = np.zeros(size)
    rows, columns = np.mgrid[:height, :width]
    for (x, y), sigma in zip(points, sigmas, strict=True):
        if not (0 <= x < width and 0 <= y < height):
            continue
        radius = math.ceil(4 * sigma)
        column, row = min(round(float(x)), width - 1), min(round(float(y)), height - 1)
        inside = (abs(columns - column) <= radius) & (abs(rows - row) <= radius)
        kernel = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2)) * inside
        total += kernel / kernel.sum()
    return total


def test_one_head_by_hand():
    # sigma 1 at (2, 1) in 3 x 5: columns e^0, e^-0.5, e^-2 (2 away is the edge); rows e^-0.5, 1, e^-0.5.
    column = np.exp([-2, -0.5, 0, -0.5, -2])
    row = np.exp([-0.5, 0, -0.5])
    expected = np.outer(row / row.sum(), column / column.sum())
    result = density_map([[2, 1]], (3, 5), 1.0)
    assert result.dtype == np.float32 and result.shape == (3, 5)
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_equals_a_loop_over_points():
    generator = np.random.default_rng(0)
    size = (2 * TILE_PX + 17, 3 * TILE_PX + 5)
    points = generator.uniform(-5, 5 + np.array(size[::-1]), (200, 2))
    sigmas = np.exp(generator.uniform(np.log(0.4), np.log(30), 200))
    np.testing.assert_allclose(density_map(points, size, sigmas), map_by_loop(points, size, sigmas), atol=2e-6,
                               rtol=1e-5)


@pytest.mark.parametrize("sigma", [1e-8, 0.01, 0.2, 1.0, 15.0, 1e4])
@pytest.mark.parametrize("point", [(0, 0), (63.99, 39.99), (0.5, 20.5), (63.4, 0.0), (31.5, 39.5)])
def test_each_head_counts_one_everywhere(point, sigma):
    assert density_map([point], (40, 64), sigma).sum(dtype=np.float64) == pytest.approx(1, rel=1e-5)


def test_heads_outside_the_frame_are_ignored():
    points = [[-0.01, 5], [5, -0.01], [20, 5], [5, 10], [19.99, 9.99], [0, 0]]
    sigmas = np.arange(1, 7)
    result = density_map(points, (10, 20), sigmas)
    np.testing.assert_array_equal(result, density_map(points[4:], (10, 20), sigmas[4:]))
    assert result.sum(dtype=np.float64) == pytest.approx(2, rel=1e-5)


@pytest.mark.parametrize("points", [[], np.zeros((0, 2)), [[-1, -1]]])
def test_nobody_gives_an_empty_map(points):
    result = density_map(points, (4, 7), 2.0)
    assert result.shape == (4, 7) and not result.any()


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_the_sum_is_the_number_of_heads_inside(data):
    height, width = data.draw(st.integers(1, 150)), data.draw(st.integers(1, 150))
    coordinate = st.floats(-10, 160, width=32)
    points = np.array(data.draw(st.lists(st.tuples(coordinate, coordinate), max_size=20)), np.float32).reshape(-1, 2)
    sigma = data.draw(st.floats(0.001, 60))
    inside = (points >= 0).all(1) & (points < [width, height]).all(1)
    assert density_map(points, (height, width), sigma).sum(dtype=np.float64) == pytest.approx(inside.sum(), rel=1e-4)


def test_a_flip_of_the_points_flips_the_map():
    points = np.random.default_rng(1).uniform(0, [89, 49], (40, 2))
    flipped = density_map(np.stack([89 - points[:, 0], points[:, 1]], axis=1), (50, 90), 3.0)
    np.testing.assert_allclose(flipped[:, ::-1], density_map(points, (50, 90), 3.0), atol=1e-6)


@pytest.mark.parametrize("points, size, sigma", [
    ([[np.nan, 1]], (5, 5), 1.0),
    ([[np.inf, 1]], (5, 5), 1.0),
    ([[1, 2, 3]], (5, 5), 1.0),
    ([1, 2], (5, 5), 1.0),
    ([[1, 1]], (0, 5), 1.0),
    ([[1, 1]], (5, 5), 0.0),
    ([[1, 1]], (5, 5), -1.0),
    ([[1, 1]], (5, 5), np.nan),
    ([[1, 1]], (5, 5), [1.0, 2.0]),
    ([[1, 1]], (5, 5), [[1.0]]),
])
def test_bad_input_is_refused(points, size, sigma):
    with pytest.raises(ValueError):
        density_map(points, size, sigma)


def test_adaptive_sigma_by_hand():
    # On a line at 0, 10, 30, 60 the two nearest are 10, 30 | 10, 20 | 20, 30 | 30, 50 away.
    sigma = adaptive_sigma([[0, 0], [10, 0], [30, 0], [60, 0]], neighbours=2, beta=0.3)
    np.testing.assert_allclose(sigma, [6, 4.5, 7.5, 12])
    assert sigma.dtype == np.float32


def test_adaptive_sigma_equals_sorted_distances():
    points = np.random.default_rng(2).uniform(0, 500, (300, 2))
    distances = np.sort(np.linalg.norm(points[:, None] - points[None], axis=2), axis=1)
    np.testing.assert_allclose(adaptive_sigma(points), 0.3 * distances[:, 1:5].mean(1), rtol=1e-6)


def test_adaptive_sigma_of_few_heads():
    assert adaptive_sigma(np.zeros((0, 2))).shape == (0,)
    np.testing.assert_array_equal(adaptive_sigma([[5, 5]]), [15])  # as CSRNet draws sparse scenes
    np.testing.assert_allclose(adaptive_sigma([[0, 0], [30, 40]]), [15, 15])
    np.testing.assert_array_equal(adaptive_sigma([[5, 5]] * 6), [0.5] * 6)


@pytest.mark.parametrize("arguments", [{"neighbours": 0}, {"beta": 0}, {"beta": np.nan}])
def test_adaptive_sigma_refuses_bad_input(arguments):
    with pytest.raises(ValueError):
        adaptive_sigma([[0, 0], [1, 1]], **arguments)
    with pytest.raises(ValueError):
        adaptive_sigma([[np.nan, 0]])


@pytest.mark.parametrize("sigma", [0.5, 9.0, "each"])
def test_a_map_of_some_points_is_that_of_these_alone(sigma) -> None:
    """To the bit, over several tiles, with points outside the frame and none at all."""
    generator = np.random.default_rng(0)
    points, sigmas = generator.uniform(-5, [155, 105], (80, 2)), generator.uniform(0.3, 12, 80)
    sigmas = sigmas if sigma == "each" else np.full(80, sigma)
    kernels = Kernels(points, (100, 150), sigmas)
    for share in (0.0, 0.1, 0.6, 1.0):
        chosen = generator.random(80) < share
        np.testing.assert_array_equal(kernels.density(chosen), density_map(points[chosen], (100, 150), sigmas[chosen]))
    assert not Kernels([], (4, 5), 1.0).density(np.zeros(0, bool)).any()
