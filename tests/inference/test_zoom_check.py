"""The check of a round: the disagreement over zooms by hand, and the same from labels, cached predictions and a job."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from crowddist.data.shards import ShardReader, decode
from crowddist.inference.jobs import ZoomJob
from crowddist.inference.prediction_cache import predict_unit, publish_predictions
from crowddist.inference.predictor import Predictor
from crowddist.inference.pseudo_labels import label_unit, publish_labels
from crowddist.inference.zoom_check import ZoomCheck, disagreements, is_checked, mean_disagreement
from crowddist.ops.agreement import zoom_disagreement


def test_disagreement_by_hand() -> None:
    # Mean 12, deviations 2, 0 and -2: standard deviation sqrt(8 / 3).
    assert zoom_disagreement({0.7: 14.0, 1.0: 12.0, 1.4: 10.0}) == pytest.approx(math.sqrt(8 / 3) / 12)
    assert zoom_disagreement({0.7: 5.0, 1.0: 5.0}) == 0
    assert zoom_disagreement({0.7: 0.0, 1.0: 0.2}) == pytest.approx(0.1), "less than one person is no crowd to share"
    assert disagreements([{1.0: 3.0}, {}, {1.0: 1.0, 2.0: 3.0}]) == [0.5], "one zoom tells nothing"
    assert mean_disagreement([[0.5, 0.1], [], [0.3]]) == pytest.approx(0.3)
    assert math.isnan(mean_disagreement([[], []]))


def test_checked_images_are_spread_over_the_set() -> None:
    assert [index for index in range(20) if is_checked(index, 20)] == list(range(20))
    checked = [index for index in range(1000) if is_checked(index, 1000)]
    assert 32 <= len(checked) <= 34 and set(np.diff(checked)) == {31}


def test_a_counter_is_worse_by_more_than_the_share_alone() -> None:
    check = ZoomCheck(0.03)
    assert not check.is_worse(0.200), "the first has none before it"
    assert not check.is_worse(0.206) and check.before == 0.206
    assert check.is_worse(0.2123) and check.before == 0.206, "the next is compared with the one that is kept"
    assert not check.is_worse(math.nan) and check.before == 0.206, "of no image it is not known"
    assert check.reason(0.25, "labels, round 2", "labels, round 1") == (
        "labels, round 2: dropped, labels, round 1 is kept: counts of one image at several zooms differ by 25.0%, by "
        "20.6% before")
    must_fall = ZoomCheck(-0.05)
    assert not must_fall.is_worse(0.200) and must_fall.is_worse(0.191)
    assert must_fall.reason(0.191, "labels, round 1", "no adaptation").endswith(
        "differ by 19.1%, by 20.0% before, and must come nearer by 5%")
    assert not must_fall.is_worse(0.189) and must_fall.before == 0.189
    never = ZoomCheck(0.0)
    assert not never.is_worse(0.1) and not never.is_worse(9.0)


def test_labels_predictions_and_the_job_agree_with_a_loop(tiny_checkpoint: str, tiny_target: str,
                                                          tmp_path: Path) -> None:
    counter, images = Predictor.from_checkpoint(tiny_checkpoint), ShardReader(tiny_target)
    views, unit = counter.method.label_views(), range(len(images))
    expected = []
    for index in unit:
        (seen,) = counter.see([decode(*images.read(index)).image], views)
        counts = np.array(list(seen.zoom_counts.values()))
        expected.append(np.sqrt(np.mean((counts - counts.mean()) ** 2)) / max(counts.mean(), 1.0))
    assert len(views) == 3 and min(expected) > 0.01
    job = ZoomJob(checkpoint_url=tiny_checkpoint, images_url=tiny_target)
    assert job.run(counter, images, unit) == pytest.approx(expected)
    assert job.run(counter, images, unit, skip={2}) == pytest.approx(expected[:2] + expected[3:])
    cache, labels = (tmp_path / "predictions").as_uri(), (tmp_path / "labels").as_uri()
    records = [predict_unit(counter, images, unit, cache, counter.method.config)]
    publish_predictions(cache, images, records, "cached")
    for known in (None, ShardReader(cache)):
        made = label_unit(counter, images, unit, f"{labels}/{known is None}", known=known)
        assert made["disagreements"] == pytest.approx(expected)
    metrics = publish_labels(f"{labels}/False", images, [made], name="labels")
    assert metrics["labels/zoom_disagreement"] == pytest.approx(np.mean(expected))
