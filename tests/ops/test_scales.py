"""Sizes of heads from their neighbours."""

from __future__ import annotations

import numpy as np
import pytest

from crowddist.ops.scales import (
    LARGEST_SIZE_PX,
    NUM_PEERS,
    SMALLEST_SIZE_PX,
    head_sizes,
    neighbour_distances,
    transformed_sizes,
)


def crowd(number, seed=0, side=400):
    return np.random.default_rng(seed).uniform(0, side, (number, 2))


def distances_by_loop(points, neighbours):
    result = []
    for index, (x, y) in enumerate(points):
        others = sorted(float(np.hypot(x - a, y - b)) for other, (a, b) in enumerate(points) if other != index)
        result.append(np.mean(others[:neighbours]))
    return np.array(result)


def sizes_by_loop(points):
    """Head by head: its own distance, or the first quartile of those of the 15 about its place from the top."""
    nearest = distances_by_loop(points, 1)
    from_the_top = sorted(range(len(points)), key=lambda i: points[i][1])
    result = np.empty(len(points))
    for place, index in enumerate(from_the_top):
        first = min(max(place - 7, 0), max(len(points) - 15, 0))
        peers = sorted(nearest[i] for i in from_the_top[first:first + 15])
        below, share = divmod(0.25 * (len(peers) - 1), 1)
        quartile = peers[int(below)] + share * (peers[min(int(below) + 1, len(peers) - 1)] - peers[int(below)])
        result[index] = min(max(min(nearest[index], quartile), SMALLEST_SIZE_PX), LARGEST_SIZE_PX)
    return result


def test_sizes_by_hand():
    np.testing.assert_array_equal(head_sizes([[0, 0], [3, 4]]), [5, 5])
    # Distances 10, 10 and 30, of which the first quartile is 10: the head apart is as large as the two together.
    np.testing.assert_array_equal(head_sizes([[0, 0], [10, 0], [40, 0]]), [10, 10, 10])
    # Distances 4, 4, 20 and 24: the quartile is 4, and no head is smaller than its row.
    np.testing.assert_array_equal(head_sizes([[0, 0], [4, 0], [24, 0], [48, 0]]), [4, 4, 4, 4])


def test_sizes_are_kept_in_their_range():
    np.testing.assert_array_equal(head_sizes([[5, 5], [5, 6]]), [3] * 2)
    np.testing.assert_array_equal(head_sizes([[0, 0], [1000, 0]]), [200] * 2)


def test_a_point_that_is_annotated_twice_is_no_neighbour_of_itself():
    np.testing.assert_array_equal(head_sizes([[5, 5], [5, 5]]), [30] * 2)
    np.testing.assert_array_equal(head_sizes([[100, 100], [130, 100], [100, 100]]), [30] * 3)


def test_a_head_alone_and_none():
    np.testing.assert_array_equal(head_sizes([[7, 9]]), [30])
    for nobody in ([], np.zeros((0, 2))):
        assert head_sizes(nobody).shape == (0,) and head_sizes(nobody).dtype == np.float32


@pytest.mark.parametrize("number", [2, 3, 14, NUM_PEERS, 16, 80])
def test_sizes_equal_the_loop(number):
    points = crowd(number)
    sizes = head_sizes(points)
    assert sizes.dtype == np.float32
    np.testing.assert_allclose(sizes, sizes_by_loop(points), rtol=1e-6)


def test_sizes_know_neither_the_order_nor_the_place_nor_left_from_right():
    points, order = crowd(40), np.random.default_rng(1).permutation(40)
    sizes = head_sizes(points)
    np.testing.assert_array_equal(head_sizes(points[order]), sizes[order])
    np.testing.assert_allclose(head_sizes(points * [-1, 1] + [17, 5]), sizes, rtol=1e-6)
    np.testing.assert_allclose(head_sizes(points * 2), 2 * sizes, rtol=1e-6)


def test_rows_of_a_crowd_in_perspective_have_sizes_of_their_own():
    rows = [[[spacing * place, 30 * spacing] for place in range(NUM_PEERS)] for spacing in (5, 10, 20)]
    sizes = head_sizes(np.concatenate(rows)).reshape(3, NUM_PEERS)
    assert (sizes[0] == 5).all() and (sizes[1, 7] == 10) and (sizes[2, 7:] == 20).all()


@pytest.mark.parametrize("neighbours", [1, 3, 100])
def test_neighbour_distances_equal_the_loop(neighbours):
    points = np.round(crowd(30, side=8))  # some of them coincide
    np.testing.assert_allclose(neighbour_distances(points, neighbours), distances_by_loop(points, neighbours),
                               atol=1e-9)


def test_transformed_sizes_by_hand():
    # The middle of 100 px: from 50 on it is the detector's size, above that of the neighbours, of all heads.
    points = [[0, 49], [0, 50], [0, 99]]
    np.testing.assert_array_equal(transformed_sizes(points, [11, 12, 13], 100), [3, 12, 13])
    np.testing.assert_array_equal(transformed_sizes(points, [11, 12, 13], 300), head_sizes(points))
    nobody = transformed_sizes(np.zeros((0, 2)), [], 100)
    assert nobody.shape == (0,) and nobody.dtype == np.float32


@pytest.mark.parametrize("points", [[1, 2], [[1, 2, 3]], [[1, np.nan]], [[np.inf, 1], [1, 1]]])
def test_bad_points_are_refused(points):
    for function in (head_sizes, lambda xy: neighbour_distances(xy, 1), lambda xy: transformed_sizes(xy, [1], 10)):
        with pytest.raises(ValueError, match="points must be"):
            function(points)
