"""Charts of calibration, and of a search; those of curves and rounds are tested with the report."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from crowddist.reports.charts import (
    calibration_chart,
    counts_chart,
    curves,
    pixels,
    rounds_chart,
    runs_chart,
    svg,
    trials_chart,
)

TRIALS = [{"a.kept_share": 0.1 * number, "b.merge_px": float(number), "score": (number % 3) / 3}
          for number in range(1, 7)]
TRUTHS = [{"score": trial["score"] / 2} for trial in TRIALS]


def test_calibration() -> None:
    rng = np.random.default_rng(0)
    errors, uncertainties = rng.normal(size=40).tolist(), rng.random(40).tolist()
    picture = pixels(calibration_chart({"a": (errors, uncertainties)}))
    assert picture.ndim == 3 and picture.shape[2] == 3 and picture.dtype == np.uint8 and picture.shape[1] == 1320
    assert (picture != pixels(calibration_chart({"a": (errors, uncertainties[::-1])}))).any()
    alone = pixels(calibration_chart({"a": ([1.0], [0.0])}))
    assert alone.shape == picture.shape, "one image of a counter without an ensemble"
    both = pixels(calibration_chart({"a": (errors, uncertainties), "b": (errors, uncertainties[::-1])}))
    assert both.shape == picture.shape and (both != picture).any()
    for nothing in ({}, {"a": ([], [])}):
        with pytest.raises(ValueError):
            calibration_chart(nothing)


def test_trials() -> None:
    one = pixels(trials_chart([{"a.kept_share": trial["a.kept_share"], "score": trial["score"]} for trial in TRIALS]))
    two, with_truth = pixels(trials_chart(TRIALS)), pixels(trials_chart(TRIALS, TRUTHS))
    assert one.shape[1] == 1056 and two.shape[1] == with_truth.shape[1] == 1320
    assert (with_truth.mean() != two.mean()) and (one < 255).any()
    four = pixels(trials_chart([{**trial, "c.d": 1.0, "e.f": 2.0} for trial in TRIALS]))
    assert four.shape[0] == 2 * two.shape[0], "three panels in a row"
    with pytest.raises(ValueError, match="no trial"):
        trials_chart([])


def test_charts_of_a_page_have_its_colours() -> None:
    chart = svg(runs_chart({"a<b": (20.0, 10.5), "alone": (None, 7.25)}), 'errors of "a" & b')
    root = ElementTree.fromstring(chart)  # well-formed, and none of it is markup of a name
    assert (root.attrib["role"], root.attrib["aria-label"]) == ("img", 'errors of "a" & b')
    assert "width" not in root.attrib, "as wide as the page has room"
    words = {"".join(part.itertext()).strip() for part in root.iter("text")}
    assert {"a<b", "alone", "20.0", "10.5", "7.2", "without adaptation", "at the end"} <= words
    assert "var(--line-1)" in chart and "var(--ink)" in chart and "#000000" not in chart and "<style" not in chart
    assert chart == svg(runs_chart({"a<b": (20.0, 10.5), "alone": (None, 7.25)}), 'errors of "a" & b')
    with pytest.raises(ValueError, match="no run"):
        runs_chart({})


@pytest.mark.filterwarnings("error")
def test_names_are_no_formulas_and_may_have_any_letters() -> None:
    name = r"$\x$ 漢"  # matplotlib's reader of formulas refuses it, and its font lacks the last letter
    for chart in (runs_chart({name: (None, 1.0)}), calibration_chart({name: ([1.0, 2.0], [1.0, 3.0])}),
                  counts_chart({"all": [(0.0, 1.0)], name: [(0.0, 2.0)]}, title=name, peak=(0.0, 1.0)),
                  curves({name: [(1, 1.0)]}, title=name, label="loss"),
                  rounds_chart([{"round": 0, "title": name, "target/mae": 1.0}])):
        assert name in svg(chart, name) and pixels(chart).size
