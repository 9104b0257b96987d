"""Greedy suppression of points against a loop over all pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowddist.ops.nms import suppress_points


def suppress_by_loop(points, radius):
    kept = []
    for index in sorted(range(len(points)), key=lambda i: -points[i][2]):
        if all(np.hypot(points[index][0] - points[k][0], points[index][1] - points[k][1]) > radius for k in kept):
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
    np.testing.assert_array_equal(suppress_points(np.array(points, float).reshape(-1, 3), radius), suppress_by_loop(points, radius))


def test_large_radius_keeps_one_and_none_keeps_all():
    points = np.random.default_rng(0).random((50, 3))
    np.testing.assert_array_equal(suppress_points(points, 10), [points[:, 2].argmax()])
    np.testing.assert_array_equal(suppress_points(points, 0), np.argsort(-points[:, 2]))
    assert suppress_points(np.zeros((0, 3)), 3).shape == (0,)


@pytest.mark.parametrize("points, radius", [([[1, 2]], 1), ([[1, 2, np.nan]], 1), ([[1, 2, 3]], -1), ([[1, 2, 3]], np.nan)])
def test_bad_input_is_refused(points, radius):
    with pytest.raises(ValueError):
        suppress_points(points, radius)
