"""Regions of interest against a naive test of every pixel."""

from __future__ import annotations

import numpy as np
import pytest

from crowddist.ops.regions import FARTHEST_PX, points_inside, polygon_pixels


def test_pixels_by_hand():
    # A right triangle, whose outline runs through the pixels of its diagonal.
    expected = np.array([[0, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 1, 1, 1, 0]], bool)
    np.testing.assert_array_equal(polygon_pixels([[1, 1], [3, 3], [1, 3]], (4, 5)), expected)
    np.testing.assert_array_equal(polygon_pixels([[1, 3], [3, 3], [1, 1]], (4, 5)), expected)


def test_the_frame_is_the_whole_image():
    assert polygon_pixels([[0, 0], [8, 0], [8, 5], [0, 5]], (6, 9)).all()
    assert polygon_pixels([[-40, -40], [80, -40], [80, 50], [-40, 50]], (6, 9)).all()
    assert not polygon_pixels([[20, 20], [30, 20], [30, 30]], (6, 9)).any()


def is_inside(x, y, polygon):
    """Even-odd rule: how many edges a ray to the right crosses."""
    crossings = 0
    for (x1, y1), (x2, y2) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if (y1 > y) != (y2 > y) and x < x1 + (y - y1) / (y2 - y1) * (x2 - x1):
            crossings += 1
    return crossings % 2 == 1


def distance(x, y, polygon):
    """To the nearest point of the outline."""
    nearest = np.inf
    for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        along = np.clip(np.dot([x, y] - a, b - a) / np.dot(b - a, b - a), 0, 1)
        nearest = min(nearest, np.hypot(*(a + along * (b - a) - [x, y])))
    return nearest


@pytest.mark.parametrize(("seed", "reach", "error_px"),
                         [(seed, reach, error) for seed in range(3) for reach, error in ((0, 0.5), (12, 1.5))])
def test_pixels_are_those_inside_or_by_the_outline(seed, reach, error_px):
    """Where the frame cuts the polygon off, OpenCV is a pixel off."""
    polygon = np.floor(np.random.default_rng(seed).uniform(-reach, 29 + reach, (5, 2)))
    pixels = polygon_pixels(polygon + 0.3, (30, 36))
    for y in range(30):
        for x in range(36):
            assert pixels[y, x] == is_inside(x, y, polygon) or distance(x, y, polygon) <= error_px
            assert pixels[y, x] or reach or not is_inside(x, y, polygon)


@pytest.mark.parametrize("seed", range(3))
def test_points_inside_are_those_of_the_even_odd_rule(seed):
    rng = np.random.default_rng(seed)
    polygon, points = rng.uniform(0, 40, (6, 2)), rng.uniform(0, 40, (400, 3))
    expected = [is_inside(x, y, polygon) for x, y, _ in points]
    assert points_inside(points, polygon).tolist() == expected and any(expected) and not all(expected)


def test_points_on_the_outline_are_inside():
    triangle = [[1, 1], [3, 3], [1, 3]]
    points = np.array([[1, 1, 0.9], [2, 2, 0.8], [1, 2.5, 0.7], [2.1, 2, 0.6], [0.9, 2, 0.5], [1.5, 2.5, 0.4],
                       [3, 3, 0.3]])
    assert points_inside(points, triangle).tolist() == [True, True, True, False, False, True, True]
    assert points_inside(points[:0], triangle).shape == (0,)


@pytest.mark.parametrize("polygon", [[], [[1, 1], [2, 2]], [[1, 1, 1]] * 3, [[1, 1], [2, np.nan], [3, 3]],
                                     [[1, 1], [2, 2], [3, 2 * FARTHEST_PX]]])
def test_what_is_no_polygon_is_refused(polygon):
    with pytest.raises(ValueError):
        polygon_pixels(polygon, (4, 5))
    with pytest.raises(ValueError):
        points_inside(np.zeros((1, 2)), polygon)


def test_the_farthest_vertices_are_counted_right():
    far = FARTHEST_PX
    assert polygon_pixels([[-far, -far], [far, -far], [far, far], [-far, far]], (6, 9)).all()
    assert polygon_pixels([[4, -far], [far, -far], [far, far], [4, far]],
                          (6, 9)).tolist() == [[False] * 4 + [True] * 5] * 6
