"""The summary of a run at the terminal: the table, the change of the error, and the places of the outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crowddist.config import RunConfig
from crowddist.reports.terminal_summary import closing_lines, round_note, run_note
from crowddist.tracking.choose import make_tracker
from crowddist.tracking.journal import JournalTracker
from crowddist.tracking.tracker import NullTracker


def result(rounds: list[dict[str, Any]], stopped: str = "") -> dict[str, Any]:
    return {
        "run": "first",
        "recipe": "quickstart",
        "method": "self_supervision",
        "rounds": rounds,
        "final": rounds[-1],
        "stopped": stopped,
        "skipped": {},
        "checkpoint": "file:///runs/first/labels-1/checkpoints/step-000120.pt",
    }


def row(number: int, mae: float, **others: float) -> dict[str, Any]:
    return {"round": number, "stage": f"stage-{number}", "target/mae": mae, "target/rmse": mae + 1,
            "target/num_images": 64.0, **others}


def test_the_table_tells_round_by_round(tmp_path: Path) -> None:
    rounds = [
        row(0, 40.0, **{"target/map": 0.1234, "train/seconds": 61.7}),
        row(1, 30.255, **{"target/map": 0.2, "train/seconds": 9.0, "labels/kept_mass": 0.685}),
    ]
    lines = closing_lines(result(rounds), tmp_path.as_uri(), "mlflow ui").splitlines()
    assert lines == [
        "",
        "quickstart, method self_supervision, run first",
        "round                 MAE    rmse   mAP  labels keep  training",
        "                   people  people     %  % of people         s",
        "-----------------  ------  ------  ----  -----------  --------",
        "0 (no adaptation)   40.00   41.00  12.3            -        62",
        "1                   30.25   31.25  20.0         68.5         9",
        "target MAE 40.00 -> 30.25 (-24%) on 64 images held out",
        "",
        f"report    {tmp_path}/report.html",
        f"result    {tmp_path}/result.json",
        f"pictures  {tmp_path}/pictures",
        "counter   file:///runs/first/labels-1/checkpoints/step-000120.pt",
        "MLflow    mlflow ui",
    ]


def test_the_mean_over_scenes_is_in_the_table_where_there_is_one(tmp_path: Path) -> None:
    without, told = (closing_lines(result([row(0, 20.0, **more)]), tmp_path.as_uri(), "")
                     for more in ({}, {"target/mae_by_scene": 12.34}))
    assert "MAE by scene" in told and "12.34" in told and "by scene" not in without


def test_a_loss_is_told_as_one(tmp_path: Path) -> None:
    text = closing_lines(result([row(0, 20.0), row(1, 25.0)]), tmp_path.as_uri(), "")
    assert "target MAE 20.00 -> 25.00 (+25%) on 64 images held out" in text and "MLflow" not in text


def test_from_an_error_of_nothing_there_is_no_percentage(tmp_path: Path) -> None:
    assert "target MAE 0.00 -> 1.00 on 64 images" in closing_lines(result([row(0, 0.0), row(1, 1.0)]),
                                                                   tmp_path.as_uri(), "")


def test_one_round_compares_with_nothing(tmp_path: Path) -> None:
    text = closing_lines(result([row(0, 20.0)]), tmp_path.as_uri(), "")
    assert "->" not in text and "not known" not in text and "20.00" in text


def test_without_an_evaluation_the_error_is_not_known(tmp_path: Path) -> None:
    rounds = [{"round": 0, "train/seconds": 5.0}, {"round": 1, "train/seconds": 6.0, "labels/kept_mass": 0.7}]
    text = closing_lines(result(rounds), tmp_path.as_uri(), "")
    assert "no labelled evaluation data was given, so the error is not known" in text
    assert "MAE" not in text.replace("target MAE", "") and "labels keep" in text


def test_rounds_that_settled_say_so(tmp_path: Path) -> None:
    words = "labels changed by 1.2% before labels, round 2: settled"
    assert words in closing_lines(result([row(0, 2.0), row(1, 1.0)], words), tmp_path.as_uri(), "").splitlines()


def test_tracking_is_beside_the_runs_unless_told_otherwise(tmp_path: Path,
                                                           monkeypatch) -> None:  # type: ignore[no-untyped-def]
    def tracker(**changes: Any):  # type: ignore[no-untyped-def]
        return make_tracker(RunConfig(recipe="a", source="/s", target="/t", storage=str(tmp_path / "runs"), **changes))

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    beside = tracker()
    assert isinstance(beside, JournalTracker) and beside.uri == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert isinstance(tracker(tracking_uri="none"), NullTracker)
    assert tracker(tracking_uri="http://mlflow.example").uri == "http://mlflow.example"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere.example")
    assert tracker().uri == "http://elsewhere.example"
    assert tracker(tracking_uri="http://mlflow.example").uri == "http://mlflow.example"
    assert isinstance(tracker(tracking_uri="none"), NullTracker)


def test_notes_for_the_pages_of_mlflow() -> None:
    ended = result([row(0, 40.0), row(1, 30.0)]) | {"data": {"source": {"name": "renderer-source", "num_images": 1600}}}
    note = run_note(ended).splitlines()
    assert note[:7] == [
        "target MAE 40.00 -> 30.00 (-25%) on 64 images held out",
        "",
        "Recipe `quickstart`, method `self_supervision`: source renderer-source (1,600 images).",
        "",
        "| round | MAE, people | rmse, people |",
        "|---|---:|---:|",
        "| 0  | 40.00 | 41.00 |",
    ]
    assert "- MAE: How far an image's count is off, on average. Lower is better." in note[8:], "what a figure says"
    unknown = run_note(ended | {"rounds": [{"round": 0}], "final": {"round": 0}})
    assert unknown.startswith("no labelled evaluation data was given") and "|" not in unknown
    assert round_note("labels, round 1", row(1, 30.255, **{"target/bias": -2.0}), "first") == (
        "**labels, round 1**, of run `first`: MAE 30.25, rmse 31.25, bias -2.00 people on images of the target "
        "held out."
    )
    assert round_note("labels, round 1", {"train/seconds": 1.0}, "first") == "**labels, round 1**, of run `first`."
