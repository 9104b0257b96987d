"""Counts over time against all of them at once."""

from __future__ import annotations

import numpy as np
import pytest

from crowddist.video.series import MOST_POINTS, Series


def test_a_few_counts_by_hand() -> None:
    series = Series()
    assert series.mean == 0 and series.line() == []
    for time, count in ((0.0, 2.0), (1.0, 8.0), (2.0, 8.0), (3.0, 0.0)):
        series.add(time, count)
    assert (series.mean, series.peak, series.peak_time_s) == (4.5, 8, 1)
    assert series.line() == [(0, 2), (1, 8), (2, 8), (3, 0)]


@pytest.mark.parametrize("number", [2 * MOST_POINTS, 2 * MOST_POINTS + 1, 9 * MOST_POINTS + 5])
def test_many_counts_are_joined_and_nothing_of_them_is_lost(number: int) -> None:
    times, counts = np.arange(number) / 3, np.random.default_rng(0).random(number) * 50
    series = Series()
    for time, count in zip(times.tolist(), counts.tolist(), strict=True):
        series.add(time, count)
    line = np.array(series.line())
    assert MOST_POINTS <= len(line) <= 2 * MOST_POINTS
    assert series.mean == pytest.approx(counts.mean()) and series.peak == counts.max()
    assert series.peak_time_s == times[counts.argmax()]
    width = -(-number // len(line)) if number > 2 * MOST_POINTS else 1
    width = 2 ** int(np.ceil(np.log2(width)))
    expected = [(times[start : start + width].mean(), counts[start : start + width].mean())
                for start in range(0, number, width)]
    np.testing.assert_allclose(line, expected)
