"""Intervals by split conformal prediction: by hand, against a naive reference, and the promised coverage."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from crowddist.ops.intervals import (
    conformal_quantile,
    conformal_scores,
    coverage_and_width,
    error_scale,
    fewest_scores,
)


def naive_quantile(scores: list[float], level: Fraction) -> float:
    """The smallest score that at least (n + 1) level of n + 1 scores do not exceed, one of which is infinite."""
    candidates = [*sorted(scores), math.inf]
    return next(score for score in candidates
                if sum(other <= score for other in candidates) >= (len(scores) + 1) * level)


def test_the_scale_by_hand() -> None:
    scale = error_scale([0, 100, 40], [0, 12, 5], floor_persons=2, share=0.1)
    assert scale.tolist() == pytest.approx([2, 2 + 10 + 12, 2 + 4 + 5])
    assert error_scale([100], [3]).tolist() == pytest.approx([1 + 2 + 3]), "as it comes"
    assert error_scale([100], [3], share=0).tolist() == [4]
    assert (error_scale([50], [10]) > error_scale([50], [4])).all(), "views that disagree widen it"


def test_scores_by_hand_and_by_a_loop() -> None:
    assert conformal_scores([10, 20, 30], [16, 20, 27], [2, 5, 6]).tolist() == pytest.approx([0, 0.5, 3])
    rng = np.random.default_rng(0)
    count, truth, scale = rng.uniform(0, 100, 50), rng.uniform(0, 100, 50), rng.uniform(1, 9, 50)
    naive = sorted(abs(t - c) / s for c, t, s in zip(count, truth, scale, strict=True))
    assert conformal_scores(count, truth, scale).tolist() == pytest.approx(naive)


def test_the_quantile_by_hand() -> None:
    # ceil(10 x 0.9) = 9 of 9; ceil(10 x 0.5) = 5; 8 scores are too few for 0.9: ceil(9 x 0.9) = 9.
    scores = [9, 1, 2, 3, 4, 5, 6, 7, 8]
    assert conformal_quantile(scores, 0.9) == 9 and conformal_quantile(scores, 0.5) == 5
    assert conformal_quantile(scores[1:], 0.9) == math.inf and conformal_quantile([], 0.5) == math.inf
    assert [fewest_scores(level) for level in (0.5, 0.8, 0.9, 0.95, 0.99)] == [1, 4, 9, 19, 99]


@pytest.mark.parametrize("percent", [1, 50, 55, 57, 70, 90, 95, 99])
def test_the_quantile_against_a_naive_one(percent: int) -> None:
    """Also where (n + 1) level is a whole number that floating point misses, e.g. 100 x 0.55."""
    for number in (1, 4, 9, 19, 60, 79, 99, 199):
        scores = np.random.default_rng(number).uniform(0, 5, number).tolist()
        assert conformal_quantile(scores, percent / 100) == naive_quantile(scores, Fraction(percent, 100))
        assert math.isfinite(conformal_quantile(scores, percent / 100)) == (number >= fewest_scores(percent / 100))


def test_every_order_of_exchangeable_images_together_has_the_promised_coverage() -> None:
    """Of n + 1 images in all orders, the last lies inside the interval of the n before it in ceil((n + 1) level) / (n +
    1) of them: at least the level, and not more than it takes.
    """
    scores = [0.2, 0.5, 1.1, 1.3, 4.0, 7.5]
    inside = [last <= conformal_quantile(before, 0.7) for *before, last in itertools.permutations(scores)]
    assert np.mean(inside) == pytest.approx(math.ceil(6 * 0.7) / 6)


def test_coverage_and_width_by_hand() -> None:
    coverage, width = coverage_and_width([0, 10, 5, 7], [4, 20, 6, 9], [4, 21, 5, 8])
    assert (coverage, width) == (0.75, (4 + 10 + 1 + 2) / 4)


@pytest.mark.parametrize(("wrong", "words"), [
    (lambda: error_scale([1, 2], [1]), "equally many, got 2 and 1"),
    (lambda: error_scale([-1], [1]), "must not be negative"),
    (lambda: error_scale([1], [math.nan]), "uncertainties must be a list of finite numbers"),
    (lambda: error_scale([1], [1], floor_persons=0), "the floor must be positive"),
    (lambda: error_scale([1], [1], share=-0.1), "the share not negative"),
    (lambda: error_scale([1], [1], floor_persons=math.inf), "the floor must be positive"),
    (lambda: conformal_scores([1], [1], [0]), "scales must be positive"),
    (lambda: conformal_scores([1, 2], [1], [1]), "equally many, got 2, 1 and 1"),
    (lambda: conformal_quantile([1], 1.0), "between 0 and 1, got 1"),
    (lambda: coverage_and_width([], [], []), "at least one"),
    (lambda: coverage_and_width([2], [1], [1]), "ends before it begins"),
])
def test_wrong_values_are_refused(wrong, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=words):
        wrong()
