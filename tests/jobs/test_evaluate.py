"""The job that evaluates: its JSON, its words, and how it exits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from crowddist import storage
from crowddist.data.shards import ShardReader
from crowddist.inference.evaluation import evaluate_data
from crowddist.inference.intervals import Calibration, write_calibration
from crowddist.inference.metrics import image_rows, summarise
from crowddist.inference.predictor import Predictor
from crowddist.ops.intervals import FLOOR_PERSONS, SHARE


def test_help_comes_at_once(helped: Callable) -> None:
    text, heavy, seconds = helped("evaluate")
    assert seconds < 5 and heavy == []
    for word in ("--checkpoint", "--data", "--output", "--image-size", "--radii", "--work"):
        assert word in text


def test_metrics_are_written_as_json(start: Callable, tmp_path: Path, tiny_checkpoint: str,
                                     tiny_evaluation: str) -> None:
    output = tmp_path / "results" / "metrics.json"
    done = start("evaluate", "--checkpoint", tiny_checkpoint, "--data", tiny_evaluation, "--output", output,
                 "--image-size", 64, "--radii", 3, 12)
    assert (done.returncode, done.stderr) == (0, "")
    written = json.loads(output.read_text())
    results = evaluate_data(Predictor.from_checkpoint(tiny_checkpoint, image_size=64), ShardReader(tiny_evaluation))
    metrics = summarise(results, (3, 12))
    assert {"target/recall_3px", "target/recall_12px"} <= metrics.keys() and "target/recall_8px" not in metrics
    assert {name: written[name] for name in metrics} == pytest.approx(metrics, rel=1e-4)
    assert [row["image"] for row in written["images"]] == [row["image"] for row in image_rows(results)]
    assert (written["checkpoint"] == tiny_checkpoint and written["data"]["num_images"] == 5
            and written["data"]["url"] == tiny_evaluation)
    trained = summarise(evaluate_data(Predictor.from_checkpoint(tiny_checkpoint), ShardReader(tiny_evaluation)))
    assert written["target/mae"] != pytest.approx(trained["target/mae"], rel=1e-3)  # the size was really another one
    words = done.stdout.splitlines()
    width = max(map(len, metrics))
    assert f"{'target/mae':{width}} {metrics['target/mae']:.4g}" in words and words[-1] == f"written to {output}"
    assert f"{'target/count/000-009/num_images':{width}} 5" in words


def test_intervals_are_evaluated_at_the_level_that_is_asked_for(start: Callable, tmp_path: Path, tiny_checkpoint: str,
                                                                tiny_evaluation: str) -> None:
    counter = str(shutil.copy(storage.local_file(tiny_checkpoint), tmp_path / "counter.pt"))
    write_calibration(counter, Calibration(scores=tuple(range(9)), image_size=96, zooms=(1.0,), data="streets"))
    output = tmp_path / "metrics.json"
    done = start("evaluate", "--checkpoint", counter, "--data", tiny_evaluation, "--output", output, "--level", 0.6)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("60 % intervals, by the errors on 9 held-out images of streets\n")
    written = json.loads(output.read_text())
    for row in written["images"]:  # ceil(10 x 0.6) = the sixth score, 5
        half = 5 * (FLOOR_PERSONS + SHARE * row["count"] + row["uncertainty"])
        assert row["high"] == pytest.approx(row["count"] + half, abs=0.05)
    assert written["target/interval_coverage"] == sum(row["low"] <= row["true_count"] <= row["high"]
                                                      for row in written["images"]) / 5
    done = start("evaluate", "--checkpoint", counter, "--data", tiny_evaluation, "--output", output, "--level", 1.5)
    assert done.returncode == 2 and done.stderr == ("error: the level of intervals must lie between 0 and 1, e.g. 0.9, "
                                                    "got 1.5\n")


def test_an_unlabelled_set_is_one_line(start: Callable, tmp_path: Path, tiny_checkpoint: str, tiny_target: str) -> None:
    done = start("evaluate", "--checkpoint", tiny_checkpoint, "--data", tiny_target, "--output",
                 tmp_path / "metrics.json")
    assert (done.returncode == 2
            and done.stderr == f"error: the evaluation at {tiny_target} has no labels; give a labelled data set\n")
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.parametrize("radii", [("-1",), ("3", "nan")])
def test_wrong_radii_are_one_line(start: Callable, radii: tuple[str, ...]) -> None:
    done = start("evaluate", "--checkpoint", "missing.pt", "--data", "missing", "--output", "metrics.json", "--radii",
                 *radii)
    assert done.returncode == 2 and done.stderr.startswith("error: radii must be") and done.stderr.count("\n") == 1


def test_an_output_that_is_a_folder_is_told_before_the_work(start: Callable, tmp_path: Path) -> None:
    done = start("evaluate", "--checkpoint", "missing.pt", "--data", "missing", "--output", tmp_path)
    assert done.returncode == 2 and done.stderr == f"error: the output {tmp_path} is a folder; give the file to write\n"


@pytest.mark.parametrize("options", [(), ("--data", "x"), ("--report", "run", "--data", "x")])
def test_it_evaluates_or_reports(start: Callable, options: tuple[str, ...]) -> None:
    done = start("evaluate", *options)
    assert done.returncode == 2 and done.stderr == "error: give --checkpoint, --data and --output, or --report alone\n"


def test_no_report_of_a_run_that_has_not_ended(start: Callable, tmp_path: Path) -> None:
    done = start("evaluate", "--report", tmp_path)
    assert (done.returncode == 2 and done.stderr
            == f"error: no result.json in {tmp_path.as_uri()}: a report needs a run that has ended\n")
