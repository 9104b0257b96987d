"""Greedy suppression of points against a loop over all pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowddist.ops.nms import suppress_points


def suppress_by_loop(points, radius):
    kept = []
    each = np.broadcast_to(radius, len(points))
    for index in sorted(range(len(points)), key=lambda i: -points[i][2]):
        if all(np.hypot(points[index][0] - points[k][0], points[index][1] - points[k][1]) > each[k] for k in kept):
            kept.append(index)
    return kept


def test_by_hand():
    # The best (2) removes 1 at distance 5; 0, which only 1 would have removed, stays.
    points = [[0, 0, 0.1], [4, 0, 0.5], [7, 4, 0.9], [50, 50, 0.3]]
    np.testing.assert_array_equal(suppress_points(points, 5), [2, 3, 0])
    np.testing.assert_array_equal(suppress_points(points, 4.9), [2, 1, 3])


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 5)), max_size=40), st.integers(0, 12))
@settings(max_examples=100, deadline=None)
def test_equals_the_loop_with_ties(points, radius):
    np.testing.assert_array_equal(suppress_points(np.array(points, float).reshape(-1, 3), radius),
                                  suppress_by_loop(points, radius))


def test_large_radius_keeps_one_and_none_keeps_all():
    points = np.random.default_rng(0).random((50, 3))
    np.testing.assert_array_equal(suppress_points(points, 10), [points[:, 2].argmax()])
    np.testing.assert_array_equal(suppress_points(points, 0), np.argsort(-points[:, 2]))
    assert suppress_points(np.zeros((0, 3)), 3).shape == (0,)


def test_a_radius_for_each_point_by_hand():
    points = [[0, 0, 0.9], [4, 0, 0.8], [8, 0, 0.7]]
    # A point clears what lies within its own radius, so the weak one's does not reach the strong one.
    np.testing.assert_array_equal(suppress_points(points, [3, 4, 100]), [0, 1])
    np.testing.assert_array_equal(suppress_points(points, [4, 100, 100]), [0, 2])
    np.testing.assert_array_equal(suppress_points(points, [3, 3, 3]), [0, 1, 2])
    np.testing.assert_array_equal(suppress_points(points, np.float32([8, 0, 0])), [0])


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 5), st.integers(0, 12)), max_size=40))
@settings(max_examples=100, deadline=None)
def test_a_radius_for_each_point_equals_the_loop_with_ties(points):
    values = np.array(points, float).reshape(-1, 4)
    np.testing.assert_array_equal(suppress_points(values[:, :3], values[:, 3]),
                                  suppress_by_loop(values[:, :3], values[:, 3]))


@pytest.mark.parametrize("number", [0, 1, 2, 300])
@pytest.mark.parametrize("radius", [0.0, 2.5, 40.0])
def test_equal_radii_are_one_radius(number, radius):
    points = np.random.default_rng(0).uniform(0, 60, (number, 3))
    np.testing.assert_array_equal(suppress_points(points, np.full(number, radius)), suppress_points(points, radius))


@pytest.mark.parametrize("points, radius", [
    ([[1, 2]], 1),
    ([[1, 2, np.nan]], 1),
    ([[1, 2, 3]], -1),
    ([[1, 2, 3]], np.nan),
    ([[1, 2, 3], [4, 5, 6]], [1, -1]),
    ([[1, 2, 3], [4, 5, 6]], [1, np.inf]),
    ([[1, 2, 3], [4, 5, 6]], [1]),
    ([[1, 2, 3], [4, 5, 6]], [[1, 1]]),
    (np.zeros((0, 3)), [1]),
])
def test_bad_input_is_refused(points, radius):
    with pytest.raises(ValueError):
        suppress_points(points, radius)


def test_a_few_radii_far_larger_than_the_others_equal_the_loop():
    rng = np.random.default_rng(0)
    points = np.c_[rng.uniform(0, 300, (400, 2)), rng.random(400)]
    radius = rng.uniform(0, 6, 400)
    radius[rng.choice(400, 5, replace=False)] = 90.0
    radius[rng.choice(400, 40, replace=False)] = 0.0
    kept = suppress_points(points, radius)
    np.testing.assert_array_equal(kept, suppress_by_loop(points, radius))
    assert 50 < len(kept) < 390
