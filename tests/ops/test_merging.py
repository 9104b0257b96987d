"""The weight of detections in the fusion, and the union of points."""

from __future__ import annotations

import numpy as np
import pytest

from crowddist.ops.merging import confidence_map, merge_points, num_near


def weight_by_loop(detections, size, reach):
    """Cell by cell: the best score of those whose square holds the cell."""
    weight = np.zeros(size, np.float32)
    for row in range(size[0]):
        for column in range(size[1]):
            for index, (x, y, score) in enumerate(detections):
                half = round(float(reach if np.ndim(reach) == 0 else reach[index]))
                if abs(round(float(x)) - column) <= half and abs(round(float(y)) - row) <= half:
                    weight[row, column] = max(weight[row, column], np.float32(score))
    return weight


def test_a_weight_by_hand():
    detections = [[1.2, 0.9, 0.8], [3, 2, 0.5], [5, 0, 0.9]]
    expected = [[0.8, 0.8, 0.8, 0, 0, 0.9],
                [0.8, 0.8, 0.8, 0.5, 0.5, 0],
                [0.8, 0.8, 0.8, 0.5, 0.5, 0],
                [0, 0, 0.5, 0.5, 0.5, 0]]
    weight = confidence_map(detections, (4, 6), [1, 1, 0])
    assert weight.dtype == np.float32
    np.testing.assert_array_equal(weight, np.float32(expected))


@pytest.mark.parametrize("reach", [0, 0.4, 2, 30, "each"])
def test_the_weight_equals_the_loop_up_to_and_beyond_the_border(reach):
    generator = np.random.default_rng(0)
    detections = np.column_stack([generator.uniform(-4, 24, 40), generator.uniform(-4, 17, 40), generator.random(40)])
    reach = generator.uniform(0, 5, 40) if reach == "each" else reach
    weight = confidence_map(detections, (14, 20), reach)
    np.testing.assert_array_equal(weight, weight_by_loop(detections, (14, 20), reach))
    assert weight.any()


def test_the_order_of_detections_does_not_matter_and_every_cell_of_a_square_is_equal():
    generator = np.random.default_rng(1)
    detections, reach = np.column_stack([generator.uniform(0, 20, (30, 2)),
                                         generator.random(30)]), generator.uniform(0, 6, 30)
    order = generator.permutation(30)
    np.testing.assert_array_equal(confidence_map(detections, (20, 20), reach),
                                  confidence_map(detections[order], (20, 20), reach[order]))
    alone = confidence_map([[10, 10, 0.7]], (20, 20), 3)
    assert np.count_nonzero(alone == np.float32(0.7)) == np.count_nonzero(alone) == 7 * 7


@pytest.mark.parametrize("nobody", [[], np.zeros((0, 3))])
def test_without_detections_there_is_no_weight(nobody):
    for reach in (3, np.zeros(0)):
        np.testing.assert_array_equal(confidence_map(nobody, (3, 4), reach), np.zeros((3, 4)))
    np.testing.assert_array_equal(confidence_map([[50, 50, 0.9], [-9, 1, 0.9]], (3, 4), 3), np.zeros((3, 4)))


@pytest.mark.parametrize("detections, reach", [
    ([[1, 2, 1.1]], 1),
    ([[1, 2, -0.1]], 1),
    ([[1, 2, 0.5], [1, 2, np.nan]], 1),
    ([[1, np.inf, 0.5]], 1),
    ([[1, 2]], 1),
    ([1, 2, 0.5], 1),
    ([[1, 2, 0.5]], -1),
    ([[1, 2, 0.5]], np.nan),
    ([[1, 2, 0.5]], np.inf),
    ([[1, 2, 0.5], [3, 4, 0.5]], [1, -1]),
    ([[1, 2, 0.5], [3, 4, 0.5]], [1, 1, 1]),
])
def test_a_weight_of_bad_input_is_refused(detections, reach):
    with pytest.raises(ValueError):
        confidence_map(detections, (4, 4), reach)


def union_by_loop(detections, transformed, radius):
    """All detections, and the transformed points that no detection clears; all by score."""
    radius = np.broadcast_to(radius, len(detections))
    free = [j for j, point in enumerate(transformed)
            if all(np.hypot(*np.subtract(point[:2], found[:2])) > reach
                   for found, reach in zip(detections, radius, strict=True))]
    points = [*detections, *transformed]
    return sorted([*range(len(detections)), *(len(detections) + j for j in free)], key=lambda i: -points[i][2])


def test_a_union_by_hand():
    detections, transformed = [[10, 10, 0.9], [50, 50, 0.3]], [[13, 14, 0.8], [50, 52, 0.4], [80, 80, 0.2]]
    # The first transformed point is 5 from the first detection, the second one 2 from the second, whatever their
    # scores.
    np.testing.assert_array_equal(merge_points(detections, transformed, 5), [0, 1, 4])
    np.testing.assert_array_equal(merge_points(detections, transformed, 1), [0, 2, 3, 1, 4])
    np.testing.assert_array_equal(merge_points(detections, transformed, [5, 1]), [0, 3, 1, 4])


@pytest.mark.parametrize("radius", [8, "each"])
def test_the_union_equals_the_loop(radius):
    generator = np.random.default_rng(0)
    detections, transformed = (np.column_stack([generator.uniform(0, 60, (number, 2)), generator.random(number)])
                               for number in (30, 50))
    radius = generator.uniform(0, 12, 30) if isinstance(radius, str) else radius
    merged = merge_points(detections, transformed, radius)
    assert merged.dtype == np.int64 and 5 < len(merged) < 75
    np.testing.assert_array_equal(merged, union_by_loop(detections, transformed, radius))


def test_detections_do_not_clear_each_other():
    """Two detections 4 px apart, of the closest pair of a crowd: a radius of 5 px is for the points of the density."""
    np.testing.assert_array_equal(merge_points([[10, 10, 0.9], [14, 10, 0.8]], [[12, 10, 0.7]], 5), [0, 1])


def test_a_union_with_nothing_is_the_other_one():
    points = [[1, 1, 0.2], [40, 1, 0.9]]
    np.testing.assert_array_equal(merge_points(points, [], 3), [1, 0])
    np.testing.assert_array_equal(merge_points(np.zeros((0, 3)), points, 3), [1, 0])
    assert merge_points([], [], 3).shape == (0,)
    assert merge_points([], [], np.zeros(0)).shape == (0,)


@pytest.mark.parametrize("detections, transformed, radius",
                         [([[1, 2]], [], 1), ([], [[1, 2, np.nan]], 1), ([[1, 2, 3]], [[1, 2, 3]], [1, 1]),
                          ([[1, 2, 3]], [[1, 2, 3]], -1), ([[1, 2, 3]], [], np.inf)])
def test_a_union_of_bad_input_is_refused(detections, transformed, radius):
    with pytest.raises(ValueError):
        merge_points(detections, transformed, radius)


def test_num_near_by_hand_and_against_a_loop() -> None:
    assert num_near([[0, 0], [3, 4], [0, 5], [7, 4], [20, 0]], 5).tolist() == [2, 3, 2, 1, 0]
    assert num_near(np.zeros((0, 2)), 5).tolist() == [] and num_near([[1, 2]], 5).tolist() == [0]
    points = np.random.default_rng(0).integers(0, 40, (60, 2))  # whole numbers: some lie exactly on the circle
    naive = [sum((x - u) ** 2 + (y - v) ** 2 <= 25 for u, v in points.tolist()) - 1 for x, y in points.tolist()]
    assert num_near(points, 5).tolist() == naive and max(naive) > 2
    others = np.random.default_rng(1).integers(0, 40, (30, 2))
    assert num_near(points, 5, of=others).tolist() == [sum((x - u) ** 2 + (y - v) ** 2 <= 25
                                                           for u, v in others.tolist()) for x, y in points.tolist()]
    assert num_near([[1, 2]], 5, of=np.zeros((0, 2))).tolist() == [0]
    with pytest.raises(ValueError, match="points must be finite"):
        num_near([[np.nan, 0]], 5)
