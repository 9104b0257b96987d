"""Charts of calibration, and of a search; those of curves and rounds are tested with the report."""

from __future__ import annotations

import numpy as np
import pytest

from crowddist.reports.charts import calibration_chart, trials_chart

TRIALS = [{"a.kept_share": 0.1 * number, "b.merge_px": float(number), "score": (number % 3) / 3}
          for number in range(1, 7)]
TRUTHS = [{"score": trial["score"] / 2} for trial in TRIALS]


def test_calibration() -> None:
    rng = np.random.default_rng(0)
    errors, uncertainties = rng.normal(size=40).tolist(), rng.random(40).tolist()
    picture = calibration_chart({"a": (errors, uncertainties)})
    assert picture.ndim == 3 and picture.shape[2] == 3 and picture.dtype == np.uint8 and picture.shape[1] == 1320
    assert (picture != calibration_chart({"a": (errors, uncertainties[::-1])})).any()
    assert calibration_chart({"a": ([1.0], [0.0])}).shape == picture.shape, "one image of a counter without an ensemble"
    both = calibration_chart({"a": (errors, uncertainties), "b": (errors, uncertainties[::-1])})
    assert both.shape == picture.shape and (both != picture).any()
    for nothing in ({}, {"a": ([], [])}):
        with pytest.raises(ValueError):
            calibration_chart(nothing)


def test_trials() -> None:
    one = trials_chart([{"a.kept_share": trial["a.kept_share"], "score": trial["score"]} for trial in TRIALS])
    two, with_truth = trials_chart(TRIALS), trials_chart(TRIALS, TRUTHS)
    assert one.shape[1] == 1056 and two.shape[1] == with_truth.shape[1] == 1320
    assert (with_truth.mean() != two.mean()) and (one < 255).any()
    four = trials_chart([{**trial, "c.d": 1.0, "e.f": 2.0} for trial in TRIALS])
    assert four.shape[0] == 2 * two.shape[0], "three panels in a row"
    with pytest.raises(ValueError, match="no trial"):
        trials_chart([])
