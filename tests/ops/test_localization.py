"""Average precision of points against a walk through the definition; precision and recall against the assignment
problem.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from crowddist.ops.localization import average_precisions, mean_average_precision, precision_recall


def precision_by_walk(predictions, truths, distance):
    """One distance: predictions in score order, nearest truth, free or not; then the envelope, step by step of
    recall.
    """
    rows = [(-p[2], image, p) for image, points in enumerate(predictions) for p in points]
    rows.sort(key=lambda row: row[0])
    taken, hits = set(), []
    for _, image, point in rows:
        gaps = [float(np.hypot(t[0] - point[0], t[1] - point[1])) for t in truths[image]]
        nearest = int(np.argmin(gaps)) if gaps else -1
        hit = bool(gaps) and gaps[nearest] <= distance and (image, nearest) not in taken
        if hit:
            taken.add((image, nearest))
        hits.append(hit)
    total = sum(len(t) for t in truths)
    precision = [sum(hits[:k + 1]) / (k + 1) for k in range(len(hits))]
    return sum(max(precision[k:]) / total for k, hit in enumerate(hits) if hit)


def by_walk(predictions, truths, max_distance):
    return [precision_by_walk(predictions, truths, c) for c in range(1, max_distance + 1)]


def test_by_hand():
    truths = [[[0, 0], [10, 0]]]
    # Scores in order: 3 px from the first head; 1 px from it, but taken once c reaches 3; far off; 0.5 px from the
    # second.
    predictions = [[[3, 0, 0.9], [1, 0, 0.8], [100, 100, 0.7], [10.5, 0, 0.6]]]
    # c = 1, 2: false, true, false, true: 1/2 and 2/4 -> (1/2 + 1/2) / 2. From 3 on: true, false, false, true -> (1 +
    # 2/4) / 2.
    np.testing.assert_allclose(average_precisions(predictions, truths, 4), [0.5, 0.5, 0.75, 0.75])
    assert mean_average_precision(predictions, truths, 4) == pytest.approx(0.625)


def test_nearest_and_not_nearest_free():
    # Both predictions are nearest to the head at 0, so the head at 5 stays unfound although it is near enough.
    assert average_precisions([[[0, 0, 0.9], [2, 0, 0.8]]], [[[0, 0], [5, 0]]], 10)[9] == 0.5


def test_perfect_and_useless():
    truths = [np.random.default_rng(0).uniform(0, 1000, (50, 2)) for _ in range(3)]
    exact = [np.c_[t, np.linspace(1, 0.1, 50)] for t in truths]
    assert mean_average_precision(exact, truths) == 1
    assert mean_average_precision([p + np.array([5000, 0, 0]) for p in exact], truths) == 0


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_equals_the_walk_on_grids_full_of_ties(data):
    coordinate = st.integers(0, 12)
    truth = st.lists(st.tuples(coordinate, coordinate), max_size=8)
    prediction = st.lists(st.tuples(coordinate, coordinate, st.integers(0, 3)), max_size=8)
    images = data.draw(st.lists(st.tuples(prediction, truth), min_size=1, max_size=3))
    predictions, truths = [p for p, _ in images], [t for _, t in images]
    result = average_precisions(predictions, truths, 12)
    if any(truths):
        np.testing.assert_allclose(result, by_walk(predictions, truths, 12), atol=1e-12, rtol=0)
    else:
        np.testing.assert_array_equal(result, float(not any(predictions)))


def test_equals_the_walk_on_real_numbers():
    generator = np.random.default_rng(3)
    truths = [generator.uniform(0, 200, (n, 2)) for n in (40, 0, 25)]
    predictions = [np.c_[generator.uniform(0, 200, (n, 2)), generator.random(n)] for n in (50, 6, 0)]
    predictions[0][:30, :2] = truths[0][:30] + generator.normal(0, 8, (30, 2))
    np.testing.assert_allclose(average_precisions(predictions, truths), by_walk(predictions, truths, 100), atol=1e-12,
                               rtol=0)


def test_order_of_images_and_points_does_not_matter_without_ties():
    generator = np.random.default_rng(4)
    truths = [generator.uniform(0, 100, (20, 2)) for _ in range(3)]
    predictions = [np.c_[t + generator.normal(0, 9, t.shape), generator.random(20)] for t in truths]
    shuffled = [p[generator.permutation(20)] for p in predictions[::-1]]
    assert mean_average_precision(shuffled, truths[::-1]) == pytest.approx(mean_average_precision(predictions, truths),
                                                                           abs=1e-12)


def test_empty_sides():
    none, points, heads = np.zeros((0, 3)), np.array([[1.0, 1, 0.5]]), np.array([[1.0, 1]])
    assert mean_average_precision([none], [heads]) == 0
    assert mean_average_precision([points], [np.zeros((0, 2))]) == 0
    assert mean_average_precision([[], none], [[], []]) == 1
    assert mean_average_precision([], []) == 1


@pytest.mark.parametrize("predictions, truths, distance", [
    ([np.zeros((1, 3))], [], 5),
    ([np.zeros((1, 2))], [np.zeros((1, 2))], 5),
    ([np.zeros((1, 3))], [np.zeros((1, 3))], 5),
    ([np.full((1, 3), np.nan)], [np.zeros((1, 2))], 5),
    ([np.zeros((1, 3))], [np.full((1, 2), np.inf)], 5),
    ([np.zeros((1, 3))], [np.zeros((1, 2))], 0),
])
def test_bad_input_is_refused(predictions, truths, distance):
    with pytest.raises(ValueError):
        average_precisions(predictions, truths, distance)


def pairs_by_assignment(points, heads, radius):
    """The largest number of pairs at most the radius apart, as an assignment that costs nothing but for pairs farther
    apart.
    """
    if len(points) == 0 or len(heads) == 0:
        return 0
    far = np.array([[float(np.hypot(t[0] - p[0], t[1] - p[1])) > radius for t in heads] for p in points])
    return int((~far[linear_sum_assignment(far)]).sum())


def test_precision_and_recall_by_hand():
    # The first prediction may take either head within 5 px, the second only the head at 0: the largest match gives both
    # their own.
    predictions = [[[3, 0, 0.9], [-4, 0, 0.8], [50, 50, 0.7]], []]
    truths = [[[0, 0], [8, 0]], [[1, 1]]]
    result = precision_recall(predictions, truths, [2.9, 3, 4.9, 5, 1000])
    # Up to 4.9 px the head at 8 is out of reach and only the one at 0 can be matched. The head of the second image has
    # no prediction.
    expected = {2.9: 0, 3: 1, 4.9: 1, 5: 2, 1000: 2}
    assert list(result) == list(expected)
    for radius, pairs in expected.items():
        assert result[radius] == pytest.approx({"precision": pairs / 3, "recall": pairs / 3, "f1": 2 * pairs / 6})


def test_two_predictions_of_one_head_are_one_hit():
    assert precision_recall([[[0, 0], [1, 0], [0, 1]]], [[[0, 0], [90, 0]]],
                            [5])[5] == pytest.approx({"precision": 1 / 3, "recall": 0.5, "f1": 0.4})


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_pairs_are_as_many_as_the_assignment_finds(data):
    point = st.tuples(st.integers(0, 12), st.integers(0, 12))
    images = data.draw(st.lists(st.tuples(st.lists(point, max_size=8), st.lists(point, max_size=8)), min_size=1,
                                max_size=3))
    radii = [0, 1, 1.5, 5, 20]
    predictions, truths = [p for p, _ in images], [t for _, t in images]
    for radius, found in precision_recall(predictions, truths, radii).items():
        pairs = sum(pairs_by_assignment(p, t, radius) for p, t in images)
        num_predictions, num_truths = (sum(map(len, side)) for side in (predictions, truths))
        if num_predictions and num_truths:
            assert found == pytest.approx({
                "precision": pairs / num_predictions, "recall": pairs / num_truths,
                "f1": 2 * pairs / (num_predictions + num_truths),
            })


def test_pairs_of_real_numbers_are_as_many_as_the_assignment_finds():
    generator = np.random.default_rng(5)
    truths = [generator.uniform(0, 100, (n, 2)) for n in (40, 25)]
    predictions = [np.c_[generator.uniform(0, 100, (n, 2)), generator.random(n)] for n in (50, 20)]
    for radius, found in precision_recall(predictions, truths, (2.0, 7.0, 13.0)).items():
        assert found["recall"] == sum(pairs_by_assignment(p, t, radius)
                                      for p, t in zip(predictions, truths, strict=True)) / 65


def test_a_wider_radius_finds_no_less_and_nothing_depends_on_order_score_or_place():
    generator = np.random.default_rng(6)
    truths = [generator.uniform(0, 100, (30, 2)) for _ in range(2)]
    predictions = [t + generator.normal(0, 6, t.shape) for t in truths]
    radii = np.arange(0, 30, 2.5)
    result = precision_recall(predictions, truths, radii)
    recalls = [found["recall"] for found in result.values()]
    assert recalls == sorted(recalls) and recalls[0] == 0 and recalls[-1] == 1
    moved = np.array([1024, -64])
    shuffled = [np.c_[p[generator.permutation(30)] + moved, generator.random(30)] for p in predictions[::-1]]
    assert precision_recall(shuffled, [t + moved for t in truths[::-1]], radii) == result
    swapped = precision_recall(truths, predictions, radii)
    assert all(swapped[radius]["precision"] == found["recall"] for radius, found in result.items())


def test_precision_and_recall_of_empty_sides():
    head, nothing = [[1.0, 1]], np.zeros((0, 2))
    ones, zeros = ({name: value for name in ("precision", "recall", "f1")} for value in (1.0, 0.0))
    assert precision_recall([], [], [5])[5] == precision_recall([nothing, []], [[], nothing], [5])[5] == ones
    assert precision_recall([head], [nothing], [5])[5] == precision_recall([nothing], [head], [5])[5] == zeros
    # Sums over images, not a mean of their ratios: an empty image neither helps nor harms.
    assert precision_recall([head, nothing], [head, nothing], [5])[5] == ones
    assert precision_recall([head, nothing], [head, head],
                            [5])[5] == pytest.approx({"precision": 1, "recall": 0.5, "f1": 2 / 3})


@pytest.mark.parametrize("predictions, truths, radii", [
    ([np.zeros((1, 2))], [], [5]),
    ([np.zeros((1, 4))], [np.zeros((1, 2))], [5]),
    ([np.zeros((1, 3))], [np.zeros((1, 3))], [5]),
    ([np.full((1, 2), np.nan)], [np.zeros((1, 2))], [5]),
    ([np.zeros((1, 2))], [np.zeros((1, 2))], []),
    ([], [], []),
    ([np.zeros((1, 2))], [np.zeros((1, 2))], [5, -1]),
    ([np.zeros((1, 2))], [np.zeros((1, 2))], [np.inf]),
])
def test_precision_and_recall_refuse_bad_input(predictions, truths, radii):
    with pytest.raises(ValueError):
        precision_recall(predictions, truths, radii)
