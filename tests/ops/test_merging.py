"""The weight of detections in the fusion, and the union of points."""

from __future__ import annotations

import numpy as np
import pytest

from crowddist.ops.merging import clearing_scores, near_points, strongest


def confidence_map(detections, size, reach):
    """W of Eq. 8: the score of the strongest detection, 0 where there is none."""
    scores = [*(score for _, _, score in np.reshape(detections, (-1, 3))), 0]
    return np.array(scores, np.float32)[strongest(detections, size, reach)]


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
        strongest(detections, (4, 4), reach)


def clearing_by_loop(detections, points, radius):
    """Pair by pair: the best score of the detections within their radius."""
    radius = np.broadcast_to(radius, len(detections))
    return [max([found[2] for found, reach in zip(detections, radius, strict=True)
                 if np.hypot(*np.subtract(point, found[:2])) <= reach], default=0) for point in points]


def test_what_clears_points_by_hand():
    detections, points = [[10, 10, 0.9], [50, 50, 0.3]], [[13, 14], [50, 52], [80, 80]]
    # The first point is 5 from the first detection, the second one 2 from the second.
    np.testing.assert_array_equal(clearing_scores(detections, points, 5), [0.9, 0.3, 0])
    np.testing.assert_array_equal(clearing_scores(detections, points, 1), [0, 0, 0])
    np.testing.assert_array_equal(clearing_scores(detections, points, [4.9, 2]), [0, 0.3, 0])


@pytest.mark.parametrize("radius", [8, "each"])
def test_what_clears_points_equals_the_loop(radius):
    generator = np.random.default_rng(0)
    detections, points = np.column_stack([generator.uniform(0, 60, (30, 2)),
                                          generator.random(30)]), generator.uniform(0, 60, (50, 2))
    radius = generator.uniform(0, 12, 30) if isinstance(radius, str) else radius
    scores = clearing_scores(detections, points, radius)
    assert 5 < (scores > 0).sum() < 50
    np.testing.assert_array_equal(scores, clearing_by_loop(detections, points, radius))


def test_nothing_clears_nothing():
    np.testing.assert_array_equal(clearing_scores([], [[1, 1], [40, 1]], np.zeros(0)), [0, 0])
    assert clearing_scores([[1, 1, 0.5]], [], 3).shape == clearing_scores([], [], 3).shape == (0,)


@pytest.mark.parametrize("detections, points, radius",
                         [([[1, 2]], [], 1), ([], [[1, np.nan]], 1), ([[1, 2, 3]], [[1, 2]], [1, 1]),
                          ([[1, 2, 3]], [[1, 2]], -1), ([[1, 2, 3]], [], np.inf)])
def test_clearing_of_bad_input_is_refused(detections, points, radius):
    with pytest.raises(ValueError):
        clearing_scores(detections, points, radius)


def test_near_points_by_hand_and_against_a_loop() -> None:
    index, bounds = near_points([[0, 0], [30, 0], [3, 4]], 5, of=[[3, 4], [0, 5], [20, 0]])
    assert bounds.tolist() == [0, 2, 2, 4] and sorted(index[:2].tolist()) == sorted(index[2:].tolist()) == [0, 1]
    points = np.random.default_rng(0).integers(0, 40, (60, 2))  # whole numbers: some lie exactly on the circle
    others = np.random.default_rng(1).integers(0, 40, (30, 2))
    index, bounds = near_points(points, 5, of=others)
    for place, (x, y) in enumerate(points.tolist()):
        naive = [number for number, (u, v) in enumerate(others.tolist()) if (x - u) ** 2 + (y - v) ** 2 <= 25]
        assert sorted(index[bounds[place]:bounds[place + 1]].tolist()) == naive
    assert [part.tolist() for part in near_points([[1, 2]], 5, of=np.zeros((0, 2)))] == [[], [0, 0]]
    with pytest.raises(ValueError, match="points must be finite"):
        near_points([[np.nan, 0]], 5, of=[[0, 0]])
