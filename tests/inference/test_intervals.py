"""Intervals of counts: what lies beside a checkpoint, and what predictions, evaluations and predictors make of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crowddist import storage
from crowddist.config import from_json
from crowddist.data.shards import ShardReader
from crowddist.errors import InputError
from crowddist.inference.calibrate import calibrate, scores_of
from crowddist.inference.evaluation import evaluate_data
from crowddist.inference.intervals import (
    LEVEL,
    Calibration,
    CountInterval,
    find_intervals,
    read_calibration,
    write_calibration,
)
from crowddist.inference.jobs import Job, JobWorker
from crowddist.inference.metrics import image_rows, summarise
from crowddist.inference.predictor import Predictor
from crowddist.run import checkpoint
from crowddist.storage.run_folder import intervals_url

SOME = Calibration(scores=tuple(range(1, 20)), image_size=96, zooms=(1.0,), data="tiny", digest="d",
                   floor_persons=2.0, share=0.1)


@pytest.fixture
def counter(tiny_checkpoint: str, tmp_path: Path) -> str:
    """A checkpoint with nothing beside it."""
    return str(shutil.copy(storage.local_file(tiny_checkpoint), tmp_path / "step-000001.pt"))


def beside(counter: str) -> Path:
    """The file of a local checkpoint's intervals."""
    return Path(counter.removesuffix(".pt") + ".intervals.json")


def here(job: Job) -> list:  # type: ignore[type-arg]
    worker = JobWorker(job.checkpoint_url, job.images_url)
    return [worker.run(job, unit) for unit in worker.units()]


def test_an_interval_by_hand() -> None:
    # ceil(20 x 0.9) = the 18th of 19 scores; the scale is 2 + 0.1 x 50 + 3 = 10 persons.
    assert SOME.around(50, 3, 0.9) == CountInterval(low=0, high=50 + 18 * 10, level=0.9)
    assert SOME.around(50, 3, 0.1) == CountInterval(low=50 - 2 * 10, high=50 + 2 * 10, level=0.1)
    assert str(SOME.around(50, 3, 0.1)) == "10 % interval 30 to 70"
    assert str(CountInterval(low=1.4, high=8.6, level=0.975)) == "97.5 % interval 1 to 9"


def test_what_is_written_is_read_back(counter: str) -> None:
    assert read_calibration(counter) is None
    write_calibration(counter, SOME)
    assert read_calibration(counter) == SOME and intervals_url(counter).endswith("/step-000001.intervals.json")


@pytest.mark.parametrize("content", ["[]", "{}", "3", '{"scores": [1], "image_size": 96, "zooms": [1], "more": 1}',
                                     '{"scores": [-1], "image_size": 96, "zooms": [1]}',
                                     '{"scores": "no", "image_size": 96, "zooms": [1]}',
                                     '{"scores": [1], "image_size": 96, "zooms": [1], "floor_persons": 0}'])
def test_a_damaged_file_is_one_line(counter: str, content: str) -> None:
    beside(counter).write_text(content)
    with pytest.raises(InputError, match=r"intervals\.json is not what a run keeps for intervals; remove it"):
        Predictor.from_checkpoint(counter)


def test_why_there_is_no_interval(counter: str) -> None:
    def told(level: float = LEVEL, size: int = 96, zooms: tuple[float, ...] = (1.0,), one_pass: bool = False) -> str:
        found = find_intervals(counter, level, image_size=size, zooms=zooms, one_pass=one_pass)
        assert (found.around(10, 1) is None) == found.told.startswith("no intervals: ")
        return found.told

    assert told() == "no intervals: the run had no held-out images of the source (--calibration)"
    write_calibration(counter, SOME)
    assert told() == "90 % intervals, by the errors on 19 held-out images of tiny"
    assert told(level=0.96).startswith("no intervals: 96 % takes 24 held-out images of the source that count whole, ")
    for other in (told(size=128), told(zooms=(0.5, 1.0)), told(one_pass=True)):
        assert other == "no intervals: they hold for counts by all masks at image size 96, zooms 1"
    for level in (0, 1, -0.1, float("nan")):
        with pytest.raises(InputError, match="the level of intervals must lie between 0 and 1"):
            told(level=level)


def test_a_counter_is_calibrated_once_and_its_predictions_have_intervals(counter: str, tiny_source: str) -> None:
    before = Predictor.from_checkpoint(counter)
    results = evaluate_data(before, ShardReader(tiny_source))
    stream = before.method.stream
    lines: list[str] = []
    assert calibrate(here, counter, "", stream, say=lines.append) == [] and read_calibration(counter) is None
    assert calibrate(here, counter, tiny_source, stream, say=lines.append) == []
    assert lines == ["90 % intervals, by the errors on 12 held-out images of tiny"]
    found = read_calibration(counter)
    assert found is not None and found.scores == pytest.approx(scores_of(results), rel=1e-4)
    assert len(found.scores) == 12
    assert (found.image_size, found.zooms, found.digest) == (96, (1.0,), ShardReader(tiny_source).manifest.digest)
    written = beside(counter).read_bytes()
    calibrate(lambda job: pytest.fail("calibrated again"), counter, tiny_source, stream, say=lines.append)
    assert beside(counter).read_bytes() == written and len(lines) == 1

    after = Predictor.from_checkpoint(counter, level=0.5)
    image = np.random.default_rng(0).integers(0, 255, (72, 96, 3), dtype=np.uint8)
    one, other = before.predict(image), after.predict(image)
    assert one.interval is None and other.count == one.count, "the count is the same to the last bit"
    scale = 1 + 0.02 * one.count + one.uncertainty
    half = sorted(found.scores)[6] * scale  # ceil(13 x 0.5) = 7
    assert other.interval == CountInterval(low=pytest.approx(max(one.count - half, 0)),
                                           high=pytest.approx(one.count + half), level=0.5)
    # Other sizes, as labels may be made at, and other thresholds are other counts.
    assert next(after.predict_views([image], (1.0, 1.4))).interval is None
    assert after.with_config(after.method.config).predict(image).interval is None
    assert Predictor.from_checkpoint(counter, image_size=64).predict(image).interval is None
    assert Predictor.from_checkpoint(counter, one_pass=True).predict(image).interval is None


def test_an_evaluation_says_how_many_truths_lie_inside(counter: str, tiny_source: str, tiny_evaluation: str) -> None:
    without = summarise(evaluate_data(Predictor.from_checkpoint(counter), ShardReader(tiny_evaluation)))
    assert not any("interval" in name for name in without)
    calibrate(here, counter, tiny_source, Predictor.from_checkpoint(counter).method.stream, say=lambda line: None)
    results = evaluate_data(Predictor.from_checkpoint(counter), ShardReader(tiny_evaluation))
    metrics, rows = summarise(results), image_rows(results)
    inside = [row["low"] <= row["true_count"] <= row["high"] for row in rows]  # type: ignore[operator]
    assert metrics["target/interval_coverage"] == pytest.approx(np.mean(inside))
    widths = [row["high"] - row["low"] for row in rows]  # type: ignore[operator]
    assert metrics["target/interval_width"] == pytest.approx(np.mean(widths), abs=0.01)
    assert {name: value for name, value in metrics.items() if "interval" not in name} == without
    # One image without an interval, e.g. in a region of interest: the others alone would be another data set.
    assert not any("interval" in name for name in summarise([*results[1:], replace(results[0], interval=None)]))


def test_images_with_a_region_of_interest_calibrate_nothing(counter: str, tmp_path: Path,
                                                            make_images: Callable[..., str]) -> None:
    inside = {"roi": [[0, 0], [90, 0], [90, 70], [0, 70]]}
    place = make_images(tmp_path / "regions", count=12, facts=[inside] * 2 + [{}] * 10)
    calibrate(here, counter, place, Predictor.from_checkpoint(counter).method.stream, say=lambda line: None)
    found = read_calibration(counter)
    assert found is not None and len(found.scores) == 10
    results = evaluate_data(Predictor.from_checkpoint(counter), ShardReader(place))
    assert [result.interval is None for result in results] == [True] * 2 + [False] * 10


def test_several_zooms_widen_an_interval_where_they_disagree(counter: str) -> None:
    zooms = (0.6, 1.0, 1.5)
    write_calibration(counter, replace(SOME, zooms=zooms))
    predictor = Predictor.from_checkpoint(counter, zooms=zooms, level=0.05)
    image = np.random.default_rng(1).integers(0, 255, (72, 96, 3), dtype=np.uint8)
    found = predictor.predict(image)
    disagreement = float(np.std(list(found.zoom_counts.values())))
    assert found.interval is not None and found.uncertainty >= disagreement > 0
    assert found.interval.high - found.count >= 2 + 0.1 * found.count + disagreement  # times the first score, 1


def test_the_checkpoint_of_an_older_version_counts_without_intervals(counter: str) -> None:
    content = checkpoint.load(counter)
    record = json.loads(content["config"])
    record.pop("calibration")
    assert from_json(json.dumps(record)).calibration == ""
    found = Predictor.from_checkpoint(counter).intervals
    assert found is not None and found.told.startswith("no intervals")
