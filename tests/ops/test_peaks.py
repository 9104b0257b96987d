"""Head points from localisation maps and from density maps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from crowddist.ops import peaks
from crowddist.ops.density import density_map
from crowddist.ops.localization import mean_average_precision
from crowddist.ops.peaks import density_points, local_maxima, read_detections, read_points


def read_by_loop(values, threshold, merge_px):
    """Every pixel against its neighbours, then greedy clearing of squares."""
    height, width = values.shape
    found = []
    for y in range(height):
        for x in range(width):
            around = values[max(y - 1, 0):y + 2, max(x - 1, 0):x + 2]
            if values[y, x] >= threshold and values[y, x] >= around.max():
                found.append((x, y, values[y, x]))
    kept = []
    for x, y, score in sorted(found, key=lambda p: -p[2]):
        if all(max(abs(x - k[0]), abs(y - k[1])) > merge_px // 2 for k in kept):
            kept.append((x, y, score))
    return np.array(kept, np.float32).reshape(-1, 3)


def test_by_hand():
    values = np.zeros((30, 40))
    values[3, 2], values[3, 7], values[3, 8], values[20, 30], values[10, 10] = 0.9, 0.8, 0.7, 0.2, 0.19
    # (7, 3) is 5 from (2, 3) and goes; (8, 3) is no local maximum beside (7, 3).
    np.testing.assert_allclose(read_points(values), [[2, 3, 0.9], [30, 20, 0.2]], rtol=1e-6)
    np.testing.assert_allclose(read_points(values, merge_px=4)[:, :2], [[2, 3], [7, 3], [30, 20]])
    assert read_points(torch.tensor(values)).dtype == np.float32


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("levels", [4, 1000])
def test_equals_the_loop(quantile, levels):
    values = np.round(np.random.default_rng(0).random((37, 53)) * levels) / levels
    threshold = np.quantile(values, quantile)
    np.testing.assert_array_equal(read_points(values, threshold, 6), read_by_loop(values, threshold, 6))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_both_ways_to_local_maxima_agree_up_to_the_border(monkeypatch, dtype):
    values = np.round(np.random.default_rng(0).random((40, 31)) * 20).astype(dtype)
    answers = []
    for share in (0, 1):
        monkeypatch.setattr(peaks, "DENSE_SHARE", share)
        answers.append(np.stack(local_maxima(values, 12)))
    np.testing.assert_array_equal(*answers)
    assert {0, 39} <= set(answers[0][0].tolist()) and {0, 30} <= set(answers[0][1].tolist())


def test_a_plateau_is_one_point_and_an_empty_map_none():
    values = np.zeros((30, 30), bool)
    values[10:14, 10:14] = True
    assert read_points(values).shape == (1, 3)
    assert read_points(np.zeros((5, 5))).shape == (0, 3)
    assert len(read_points(np.ones((60, 60)))) == 100


@pytest.mark.parametrize("values, arguments", [
    (np.zeros(4), {}),
    (np.zeros((0, 4)), {}),
    (np.full((4, 4), np.nan), {}),
    (np.zeros((4, 4)), {"threshold": 0}),
    (np.zeros((4, 4)), {"merge_px": 0}),
])
def test_read_points_refuses_bad_input(values, arguments):
    with pytest.raises(ValueError):
        read_points(values, **arguments)


def detections_by_loop(confidence, log_size, offset, stride, threshold):
    """Every cell against its neighbours."""
    height, width = confidence.shape
    found = []
    for row in range(height):
        for column in range(width):
            around = confidence[max(row - 1, 0):row + 2, max(column - 1, 0):column + 2]
            if confidence[row, column] >= threshold and confidence[row, column] >= around.max():
                down, across = (min(max(float(shift), -0.5), 0.5) for shift in offset[:, row, column])
                found.append(((column + 0.5 + across) * stride - 0.5, (row + 0.5 + down) * stride - 0.5,
                              np.exp(log_size[row, column]),
                              confidence[row, column]))
    return np.array(sorted(found, key=lambda head: -head[3]), np.float32).reshape(-1, 4)


def test_detections_by_hand():
    confidence, log_size, offset = np.zeros((5, 6)), np.full((5, 6), np.log(16.0)), np.zeros((2, 5, 6))
    confidence[1, 2], confidence[1, 3], confidence[4, 5], confidence[4, 0] = 0.6, 0.5, 0.9, 0.3
    log_size[1, 2], offset[:, 1, 2], offset[:, 4, 5] = np.log(7.0), (0.25, -0.5), (9.0, -9.0)
    # Centres of cells of 4 px: row 4 and column 5 at 17.5 and 21.5, row 1 and column 2 at 5.5 and 9.5; offsets of at
    # most half a cell.
    expected = [[19.5, 19.5, 16, 0.9], [7.5, 6.5, 7, 0.6]]
    np.testing.assert_allclose(read_detections(confidence, log_size, offset, 4, 0.4), expected, rtol=1e-6)
    np.testing.assert_allclose(read_detections(confidence, log_size, offset, 4, 0.3)[2], [1.5, 17.5, 16, 0.3],
                               rtol=1e-6)
    nobody = read_detections(confidence, log_size, offset, 4, 0.91)
    assert nobody.shape == (0, 4) and nobody.dtype == np.float32


@pytest.mark.parametrize("threshold", [0.05, 0.9, 0.99])
@pytest.mark.parametrize("as_tensors", [False, True])
def test_detections_equal_the_loop(threshold, as_tensors):
    generator = np.random.default_rng(0)
    confidence, log_size = np.round(generator.random((23, 31)), 2), generator.uniform(1, 4, (23, 31))
    maps = [confidence, log_size, generator.normal(0, 0.4, (2, 23, 31))]
    found = read_detections(*(torch.tensor(part, requires_grad=True) for part in maps) if as_tensors else maps, 4,
                            threshold)
    assert found.dtype == np.float32 and len(found) > 1
    np.testing.assert_allclose(found, detections_by_loop(*maps, 4, threshold), rtol=1e-6)


def test_detections_of_true_maps_are_the_heads():
    from crowddist.losses.detection import detection_targets

    generator = np.random.default_rng(0)
    x, y = (part.ravel() for part in np.meshgrid(np.arange(4, 124, 20), np.arange(4, 90, 20)))
    heads = np.column_stack([x + generator.uniform(-4, 8, x.size), y + generator.uniform(-4, 8, y.size),
                             generator.uniform(4, 60, x.size)])
    targets = detection_targets([torch.tensor(heads)], (24, 32), 4)
    found = read_detections(targets.centres[0, 0], targets.log_size[0, 0], targets.offset[0], 4, 0.5)
    np.testing.assert_allclose(sorted(found.tolist()), sorted([*head, 1.0] for head in heads.tolist()), rtol=1e-4,
                               atol=1e-4)


@pytest.mark.parametrize("arguments", [
    {"confidence": np.zeros((4, 5, 1))},
    {"confidence": np.full((4, 5), np.nan)},
    {"log_size": np.zeros((4, 4))},
    {"log_size": np.full((4, 5), np.inf)},
    {"offset": np.zeros((2, 5, 4))},
    {"offset": np.zeros((3, 4, 5))},
    {"offset": np.zeros((4, 5))},
    {"offset": np.full((2, 4, 5), np.nan)},
    {"stride_px": 0},
    {"threshold": 0},
    {"threshold": np.nan},
])
def test_read_detections_refuses_bad_input(arguments):
    whole = {"confidence": np.zeros((4, 5)), "log_size": np.zeros((4, 5)), "offset": np.zeros((2, 4, 5)),
             "stride_px": 4, "threshold": 0.5}
    read_detections(**whole)
    with pytest.raises(ValueError):
        read_detections(**{**whole, **arguments})


def test_a_head_alone_is_found_at_its_cell():
    # The centre of cell (row 3, column 5) of 8 px lies at x = 5.5 * 8 - 0.5 = 43.5, y = 27.5.
    points = density_points(density_map([[5, 3]], (10, 12), 0.75))
    np.testing.assert_allclose(points, [[43.5, 27.5, 1.0]], atol=1e-4)


def test_two_heads_in_neighbouring_cells_are_told_apart():
    density = density_map([[5, 3], [7, 3], [2, 8]], (12, 12), 0.75)
    found = density_points(density)
    expected = {(43.5, 27.5), (59.5, 27.5), (19.5, 67.5)}
    assert {tuple(p) for p in found[:, :2].tolist()} == expected


@pytest.mark.parametrize("num_heads", [0, 1, 7, 150, 2000])
def test_there_are_as_many_points_as_the_count_in_distinct_places(num_heads):
    heads = np.random.default_rng(0).uniform(0, [40, 30], (num_heads, 2))
    found = density_points(torch.tensor(density_map(heads, (30, 40), 0.75)))
    assert found.shape == (num_heads, 3) and found.dtype == np.float32
    assert len(np.unique(found[:, :2], axis=0)) == num_heads
    assert (found[:, 2] > 0).all() and (found[:, 2] <= 1).all()
    assert (found[:, 0] >= 0).all() and (found[:, 0] < 320).all() and (found[:, 1]
                                                                       >= 0).all() and (found[:, 1] < 240).all()


def points_by_loop(density, stride, sigma):
    """Cell by cell: the highest place of the smoothed map, less one smoothed head around it, and so on."""
    cells, side, count = density.astype(np.float64), float(stride), round(float(density.sum()))
    while 2 * count > cells.size and side > 1:
        cells, side = np.kron(cells, np.full((2, 2), 0.25)), side / 2

    def gaussian(deviation):
        radius = math.ceil(4 * deviation)
        weights = {d: math.exp(-d * d / (2 * deviation**2)) for d in range(-radius, radius + 1)}
        return {d: weight / sum(weights.values()) for d, weight in weights.items()}

    smoothing, drawn = gaussian(2 / 3 * sigma / side), gaussian(sigma / side)
    head: dict[int, float] = {}
    for i, first in smoothing.items():
        for j, second in drawn.items():
            head[i + j] = head.get(i + j, 0.0) + first * second
    strength = {(row, column): sum(a * b * cells[row + i, column + j] for i, a in smoothing.items()
                                   for j, b in smoothing.items()
                                   if 0 <= row + i < cells.shape[0] and 0 <= column + j < cells.shape[1])
                for row in range(cells.shape[0]) for column in range(cells.shape[1])}
    points = []
    for _ in range(count):
        row, column = max(strength, key=lambda place: strength[place])
        left = strength.pop((row, column)) / head[0]**2
        points.append(((column + 0.5) * side - 0.5, (row + 0.5) * side - 0.5, min(max(left, 1e-6), 1)))
        for i, j in strength:
            strength[i, j] -= head.get(i - row, 0.0) * head.get(j - column, 0.0)
    return points


@pytest.mark.parametrize(("heads", "size", "stride", "sigma"), [(7, (9, 11), 8, 6.0), (12, (4, 5), 4, 3.0),
                                                               (45, (4, 5), 4, 2.0)])
def test_points_equal_the_loop(heads, size, stride, sigma):
    """Also where more heads than half the cells make it cut them once and twice."""
    density = np.random.default_rng(0).random(size)
    density *= heads / density.sum()
    np.testing.assert_allclose(density_points(density, stride, sigma), points_by_loop(density, stride, sigma),
                               rtol=1e-5, atol=1e-6)


def test_points_lie_near_the_heads_they_came_from():
    heads = np.random.default_rng(0).uniform(0, [640, 480], (120, 2))
    density = density_map(np.clip((heads + 0.5) / 8 - 0.5, 0, [79, 59]), (60, 80), 0.75)
    assert mean_average_precision([density_points(density)], [heads]) > 0.9
    noisy = density * np.random.default_rng(1).uniform(0.7, 1.3, density.shape)
    assert mean_average_precision([density_points(noisy)], [heads]) > 0.85


def test_a_map_fuller_than_its_pixels_ends():
    assert density_points(np.full((2, 2), 1e6), stride_px=4).shape == (64, 3)
    assert density_points(np.full((3, 3), -1.0)).shape == (0, 3)


@pytest.mark.parametrize("values, arguments", [
    (np.zeros((1, 4, 4)), {}),
    (np.zeros(4), {}),
    (np.full((4, 4), np.inf), {}),
    (np.zeros((4, 4)), {"stride_px": 0}),
    (np.zeros((4, 4)), {"sigma_px": 0}),
])
def test_density_points_refuses_bad_input(values, arguments):
    with pytest.raises(ValueError):
        density_points(values, **arguments)
