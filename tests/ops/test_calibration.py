"""Calibration of an uncertainty: the reliability curve, and what leaving out the most uncertain predictions does."""

from __future__ import annotations

import numpy as np
import pytest

from crowddist.ops.calibration import calibration_error, reliability, sparsification, sparsification_error


def test_a_reliability_curve_by_hand() -> None:
    """Spreads 1, 2, 3, 4 in two parts: of the first the errors are 1 and -1, of the second 3 and 5."""
    curve = reliability([5, 1, 3, -1], [4, 1, 3, 2], 2)
    np.testing.assert_allclose(curve, [[np.sqrt(2.5), 1, 2], [np.sqrt(12.5), np.sqrt(17), 2]])
    gaps = [abs(np.sqrt(2.5) - 1), abs(np.sqrt(12.5) - np.sqrt(17))]
    assert calibration_error(curve) == pytest.approx(sum(gaps) / (1 + np.sqrt(17)))


def test_what_is_calibrated_and_what_is_not() -> None:
    generator = np.random.default_rng(0)
    spread = generator.uniform(1, 10, 20_000)
    errors = generator.normal(0, spread)
    assert calibration_error(reliability(errors, spread)) < 0.03
    assert calibration_error(reliability(errors,
                                         spread / 4)) == pytest.approx(0.75, abs=0.02), "four times too sure of itself"
    assert (calibration_error(reliability(errors, 0 * spread)) == 1
            and calibration_error(reliability([0, 0], [0, 0])) == 0)
    assert len(reliability([1, 2, 3], [1, 2, 3], 10)) == 3 and len(reliability(errors, spread)) == 10


def naive_curve(errors: np.ndarray, rank_by: np.ndarray) -> list[float]:
    order = sorted(range(len(errors)), key=lambda index: rank_by[index])
    return [float(np.mean([abs(errors[index]) for index in order[: len(order) - out]])) / float(np.abs(errors).mean())
            for out in range(len(order))]


def test_sparsification_by_hand_and_naively() -> None:
    left_out, by_spread, oracle = sparsification([4, -2, 3, 1], [9, 1, 2, 3])
    np.testing.assert_allclose(left_out, [0, 0.25, 0.5, 0.75])
    np.testing.assert_allclose(by_spread, [1, 0.8, 1, 0.8])  # of 10 / 4; then of 2, 3, 1; of 2, 3; of 2
    np.testing.assert_allclose(oracle, [1, 0.8, 0.6, 0.4])
    assert sparsification_error([4, -2, 3, 1], [9, 1, 2, 3]) == pytest.approx((0 + 0 + 0.4 + 0.4) / 4)
    generator = np.random.default_rng(1)
    errors, spreads = generator.normal(size=50), generator.random(50)
    _, by_spread, oracle = sparsification(errors, spreads)
    np.testing.assert_allclose(by_spread, naive_curve(errors, spreads))
    np.testing.assert_allclose(oracle, naive_curve(errors, np.abs(errors)))


def test_the_area_tells_a_good_order_from_none() -> None:
    errors = np.random.default_rng(2).normal(size=4000)
    noise = np.random.default_rng(3).random(4000)
    assert sparsification_error(errors, np.abs(errors)) == pytest.approx(0, abs=1e-12)
    nothing, wrong = sparsification_error(errors, noise), sparsification_error(errors, 9 - np.abs(errors))
    assert 0.4 < nothing < 0.6 < wrong
    assert sparsification_error(errors, np.ones(4000)) == pytest.approx(nothing,
                                                                        abs=0.02), "all alike say as little as noise"
    order = np.random.default_rng(4).permutation(4000)
    assert sparsification_error(errors[order],
                                np.ones(4000)) == pytest.approx(
                                    sparsification_error(errors, np.ones(4000))), "in whatever order they come"
    assert sparsification_error([0, 0], [1, 2]) == 0
    assert [curve.tolist() for curve in sparsification([0, 0], [1, 2])[1:]] == [[1, 1]] * 2, "no error at all"
    assert [curve.tolist() for curve in sparsification([0, 3], [1, 2])[1:]] == [[1, 0]] * 2, "one error, and doubted"


@pytest.mark.parametrize(("errors", "spreads"),
                         [([], []), ([1, 2], [1]), ([1], [-1]), ([np.nan], [1]), ([1, 1], [1, np.inf]), ([[1]], [[1]])])
def test_bad_input_is_refused(errors: list, spreads: list) -> None:
    for function in (reliability, sparsification):
        with pytest.raises(ValueError):
            function(errors, spreads)
    with pytest.raises(ValueError, match="num_bins"):
        reliability([1], [1], 0)
