"""Regions of interest against a naive test of every pixel."""

from __future__ import annotations

import numpy as np
import pytest

from crowddist.ops.regions import FARTHEST_PX, centred_pixels, points_inside, polygon_pixels, self_crossing


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


def test_centred_pixels_by_hand():
    # The diagonal runs through the centres of the pixels (j, j), which belong to the polygon on its right alone.
    expected = np.array([[0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 1, 1, 0, 0]], bool)
    np.testing.assert_array_equal(centred_pixels([[1, 1], [4, 4], [1, 4]], (4, 5)), expected)
    assert centred_pixels([[0, 0], [5, 0], [5, 4], [0, 4]], (4, 5)).all()
    assert centred_pixels([[1.4, 0], [2.6, 0], [2.6, 1], [1.4, 1]], (1, 4)).tolist() == [[False, True, True, False]]


@pytest.mark.parametrize("seed", range(4))
def test_centred_pixels_are_those_of_the_even_odd_rule(seed):
    """Also where sides cross, and where the frame cuts the polygon off."""
    polygon = np.random.default_rng(seed).uniform(-9, 40, (7, 2))
    expected = [[is_inside(x + 0.5, y + 0.5, polygon) for x in range(36)] for y in range(30)]
    assert centred_pixels(polygon, (30, 36)).tolist() == expected and 0 < np.sum(expected) < 30 * 36


@pytest.mark.parametrize("seed", range(4))
def test_polygons_that_part_an_image_cover_each_pixel_once(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(5, 40, 2)
    middle = rng.integers(1, 2 * np.array([width, height])) / 2
    # Corners and the middles of pixels on the sides too.
    border = np.array([[0, 0], [width / 2, 0], [width, 0], [width, height], [width / 3, height], [0, height]])
    parts = [centred_pixels([middle, start, end], (height, width))
             for start, end in zip(border, np.roll(border, -1, axis=0), strict=True)]
    assert (np.sum(parts, axis=0) == 1).all()


@pytest.mark.parametrize(("polygon", "expected"), [
    ([[0, 0], [4, 4], [4, 0], [0, 4]], (0, 2, (2.0, 2.0))),
    ([[0, 0], [6, 0], [6, 6], [3, 0], [0, 6]], (0, 2, (3.0, 0.0))),  # a corner on another side
    ([[0, 0], [8, 0], [8, 4], [6, 0], [2, 0], [0, 4]], (0, 2, (6.0, 0.0))),
    ([[0, 0], [4, 0], [4, 4], [0, 4]], None),
    ([[0, 0], [9, 0], [9, 9], [5, 2], [0, 9]], None),  # not convex
    ([[0, 0], [4, 0], [2, 3]], None),
])
def test_crossing_sides_by_hand(polygon, expected):
    assert self_crossing(polygon) == expected


@pytest.mark.parametrize("seed", range(40))
def test_crossing_sides_are_those_found_by_parameters(seed):
    """Solves for the place on both sides, for each pair."""
    polygon = np.random.default_rng(seed).uniform(0, 30, (4 + seed % 3, 2))
    ends, expected = np.roll(polygon, -1, axis=0), None
    for i in range(len(polygon)):
        for j in range(i + 2, len(polygon) - (i == 0)):
            along = np.column_stack([ends[i] - polygon[i], polygon[j] - ends[j]])
            shares = np.linalg.solve(along, polygon[j] - polygon[i])
            if expected is None and ((shares >= 0) & (shares <= 1)).all():
                expected = (i, j, tuple(polygon[i] + shares[0] * (ends[i] - polygon[i])))
    found = self_crossing(polygon)
    assert (found is None) == (expected is None)
    if found and expected:
        assert found[:2] == expected[:2] and found[2] == pytest.approx(expected[2])
