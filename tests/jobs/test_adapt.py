"""The main job: help at once, one line for every mistake, and a whole adaptation in MLflow and on storage."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from crowddist.cli.adapt import read_config
from crowddist.config import RunConfig, flat
from crowddist.launch.local import LocalLauncher
from crowddist.methods.table import METHODS
from crowddist.pipeline import adapt
from crowddist.recipes import RECIPES, quickstart
from crowddist.run import checkpoint
from crowddist.tracking.tracker import NullTracker
from tests.warm_start import ROOT, Started

ROUNDS = 4  # of the smoke recipe: source, orientation and two rounds of labels


def tiny(source: str, target: str, evaluation: str, storage: Path) -> list[object]:
    """Arguments of an adaptation of seconds on the tests' own data."""
    data = ["--source", source, "--target", target, "--evaluation", evaluation]
    return ["smoke", "--storage", storage, "--stream.image-size", 96, "--threads", 1, "--method", "source_only",
            "--calibration", "", *data]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_help_comes_at_once_and_names_the_recipes(helped: Callable) -> None:
    text, heavy, seconds = helped("adapt")
    assert seconds < 5 and heavy == []
    assert all(recipe.__name__ in text for recipe in RECIPES)
    assert (METHODS.keys() == set(METHODS) and all(name in text for name in METHODS)
            and "ICASSP 2020" in text)


def test_help_of_a_recipe_names_its_options(start: Callable) -> None:
    done = start("adapt", "quickstart", "--help")
    assert done.returncode == 0 and done.stderr == ""
    for option in ("--storage", "--run-name", "--target", "--evaluation", "--num-workers", "--seed",
                   "--self-supervision.rounds"):
        assert option in done.stdout
    assert "\n  --train.steps                   Steps of the first stage [440]\n" in done.stdout
    assert "\n  --fresh  Train every stage; else those that another run in the storage has finished are " in done.stdout
    assert "75 stopped after a checkpoint" in done.stdout and done.stdout.endswith("--help-all shows all options.\n")
    assert start("adapt", "quickstart", "--seed", "3", "-h").stdout == done.stdout


def test_the_short_help_fits_on_a_screen(start: Callable) -> None:
    for arguments in ((), ("quickstart",), ("shb_to_sha",), ("sha_to_ucf_cc_50",)):
        lines = start("adapt", *arguments, "--help").stdout.splitlines()
        assert 30 < len(lines) <= 45
    assert max(map(len, lines)) <= 100


def test_the_long_help_names_all_options(start: Callable) -> None:
    done = start("adapt", "quickstart", "--help-all", COLUMNS="100")
    assert done.returncode == 0 and done.stderr == "" and "75 stopped after a checkpoint" in done.stdout
    assert "--fresh  Train every stage" in done.stdout
    shown = set(re.findall(r"^│ (--[^\s,]+)", done.stdout, re.MULTILINE))
    assert shown == {f"--{name.replace('_', '-')}" for name in flat(asdict(quickstart()))}


def test_an_option_that_the_short_help_hides_is_read(start: Callable) -> None:
    done = start("adapt", "quickstart", "--bi-knowledge.crop-size", "100")
    assert "--bi-knowledge.crop-size" not in start("adapt", "quickstart", "--help").stdout
    assert done.returncode == 2 and "crop_size must be a multiple of 32 and at least 64, got 100" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nosuch",), "no recipe is called 'nosuch'; choose quickstart, "),
        (("smokes",), "no recipe is called 'smokes', perhaps you meant smoke; choose quickstart, "),
        (("--seed", "1", "smoke"), "the recipe comes first, before --seed; choose quickstart, "),
        (("smoke", "--target", "renderer:moon:3"),
         "not a rendered data set: 'renderer:moon:3'; give renderer:LOOK:NUM_IMAGES"),
        (("smoke", "--target", ""), "names no place"),
        (("smoke", "--train.batch-size", "0"), "batch_size must be positive, got 0"),
        (("quickstart", "--train.batch-size", "7"), "train.batch_size 7 cannot be shared equally by 2 workers"),
        (("smoke", "--num-workers", "2"), "the local launcher has one worker, got num_workers 2; use --launcher ray"),
        (("smoke", "--min-workers", "2"), "min_workers must be 0 to num_workers (1), got 2"),
        (("smoke", "--run-name", "a/b"), "run_name must be a plain name"),
        (("smoke", "--counter.backbone", "vgg16", "--counter.num-masks", "0"), "num_masks is 0"),
        (("smoke", "--stream.crop-size", "100"), "crop_size must be a multiple of 8"),
    ],
)
def test_settings_that_cannot_be_are_one_line(start: Callable, tmp_path: Path, arguments: tuple[str, ...],
                                              message: str) -> None:
    recipes = {recipe.__name__ for recipe in RECIPES}
    done = start("adapt", *arguments, *(("--storage", tmp_path / "runs") if arguments[0] in recipes else ()))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and message in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_target_of_ones_own_has_no_evaluation_but_one_that_is_given() -> None:
    """The recipe's shows other cameras."""
    start = RECIPES[0]()
    for words, evaluation in ((["--target", "photos"], ""), (["--target=photos", "--evaluation=csv:a"], "csv:a"),
                              (["--target", "photos", "--evaluation", start.evaluation], start.evaluation),
                              (["--target", start.target], start.evaluation), (["--seed", "1"], start.evaluation)):
        assert start.evaluation and read_config(start, "crowddist adapt", "", words).evaluation == evaluation


@pytest.mark.parametrize("arguments",
                         [("smoke", "--speed", "9"), ("smoke", "--seed", "many"), ("smoke", "--method", "magic"), ()])
def test_what_is_no_option_is_explained(start: Callable, arguments: tuple[str, ...]) -> None:
    done = start("adapt", *arguments)
    assert (done.returncode, done.stdout) == (2, "") and "Traceback" not in done.stderr
    assert (arguments[-1] if arguments else "quickstart") in done.stderr


def test_bad_places_are_one_line_and_the_name_stays_free(
    start: Callable, tmp_path: Path, tiny_source: str, tiny_target: str, tiny_evaluation: str
) -> None:
    """A mistaken path, then the same command put right: nothing of the first stands in the way of the second."""
    runs = tmp_path / "runs"
    for place, message in ((tmp_path / "missing", "no data set at"), ("$NOWHERE/a", "$NOWHERE is not set")):
        done = start("adapt", *tiny(str(place), tiny_target, tiny_evaluation, runs))
        assert (done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
                and message in done.stderr)
        assert set(files(runs)) <= {".crowddist", "smoke/.crowddist"}, "marks alone, neither a run nor a database"
    done = start("adapt", *tiny(tiny_source, tiny_target, tiny_evaluation, runs), "--tracking-uri", "none")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((runs / "smoke" / "result.json").read_text())["model"] == ""
    before = files(runs)
    done = start("adapt", *tiny(tiny_source, tiny_target, tiny_evaluation, runs), "--seed", 5, "--stream.crop-size", 32)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.count("\n") == 1 and files(runs) == before
    assert (done.stderr.startswith("error: run smoke exists with another configuration (it differs in seed, stream): "
                                   "choose another --run-name, or remove"))


def test_a_training_that_diverges_is_one_line(start: Callable, tmp_path: Path, tiny_source: str,
                                              tiny_target: str) -> None:
    done = start("adapt", *tiny(tiny_source, tiny_target, "", tmp_path), "--tracking-uri", "none",
                 "--train.learning-rate", 1e18)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: loss of stage source is nan at step ") and "; samples: image-" in done.stderr
    assert (not (tmp_path / "smoke" / "result.json").exists()
            and not (tmp_path / "smoke" / "source" / "DONE.json").exists())


def tracked(storage: Path) -> tuple[Any, list[Any]]:
    """The parent run and its rounds, in order, of the only adaptation in a storage's MLflow."""
    from crowddist.tracking import mlflow_store

    store = mlflow_store.Store(f"sqlite:///{storage}/mlflow.db", "smoke")
    runs = store.client.search_runs([store._experiment_id], order_by=["attributes.start_time ASC"])
    (parent,) = [run for run in runs if run.data.tags["kind"] == "adaptation"]
    rounds = [run for run in runs if run.data.tags["kind"] == "round"]
    assert len(runs) == 1 + len(rounds)
    return parent, rounds


@pytest.mark.slow
def test_a_whole_adaptation(start: Callable, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    runs = tmp_path / "my runs"
    command = ("smoke", "--launcher", "local", "--storage", runs, "--threads", 1)
    done = start("adapt", *command, fresh=True)
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads((runs / "smoke" / "result.json").read_text())
    assert [row["round"] for row in result["rounds"]] == list(range(ROUNDS)) and result["final"] == result["rounds"][-1]
    assert (result["run"], result["recipe"], result["model"]) == ("smoke", "smoke", "models:/crowd-counter/1")
    assert (runs / "smoke" / "pictures" / "curves.png").exists() and (runs / "smoke" / "pictures"
                                                                      / "rounds.png").exists()
    for words in ("0 (no adaptation)", "target MAE ", f"{runs}/smoke/result.json", f"{runs}/smoke/pictures",
                  "mlflow ui --backend-store-uri"):
        assert words in done.stdout

    parent, rounds = tracked(runs)
    assert ([run.info.status for run in (parent, *rounds)] == ["FINISHED"] * (1 + ROUNDS)
            and parent.info.run_name == "smoke")
    assert [run.data.tags["round"] for run in rounds] == [str(number) for number in range(ROUNDS)]
    targets = {name for name in parent.data.metrics if name.startswith("target/")}
    assert {"target/mae", "target/rmse", "target/map", "target/psnr", "target/ssim", "target/bias"} <= targets
    client = MlflowClient(f"sqlite:///{runs}/mlflow.db")
    for number, (run, row) in enumerate(zip(rounds, result["rounds"], strict=True)):
        assert {name for name in run.data.metrics if name.startswith("target/")} == targets
        assert run.data.metrics["target/mae"] == row["target/mae"] and "train/loss" in run.data.metrics
        assert ("labels/kept_mass" in run.data.metrics) == (number >= 2)
        assert any(entry.path == "tables/images.json" for entry in client.list_artifacts(run.info.run_id, "tables"))
    history = sorted((metric.step, metric.value)
                     for metric in client.get_metric_history(parent.info.run_id, "target/mae"))
    assert history == [(row["round"], row["target/mae"]) for row in result["rounds"]]
    assert {"config.json", "result.json"} <= {entry.path for entry in client.list_artifacts(parent.info.run_id)}
    shown = [{re.split("[+%]step", entry.path)[0] for entry in client.list_artifacts(run.info.run_id, "images")}
             for run in rounds]
    assert shown[0] == shown[1] == shown[2] < shown[3] and len(shown[0]) == 4, "the same few pictures each round"
    assert sorted(name.rpartition("summary")[2][1:]
                  for name in shown[3] - shown[0]) == ["accuracies", "curves", "rounds"]

    again = start("adapt", *command)
    assert (again.returncode, again.stderr) == (0, "") and "orientation: done before" in again.stdout
    second_parent, second_rounds = tracked(runs)
    assert [run.info.run_id for run in (second_parent, *second_rounds)] == [run.info.run_id
                                                                            for run in (parent, *rounds)]
    assert [run.info.status for run in (second_parent, *second_rounds)] == ["FINISHED"] * (1 + ROUNDS)
    repeated = json.loads((runs / "smoke" / "result.json").read_text())
    assert {**repeated, "seconds_this_start": 0} == {**result, "seconds_this_start": 0}

    wrong = start("adapt", *command, "--seed", 1)
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1 and "it differs in seed" in wrong.stderr
    parent, rounds = tracked(runs)
    assert (parent.info.status == "FINISHED" and len(rounds) == ROUNDS
            and parent.data.tags["attempt"] == "2"), "a mistake leaves no trace"


@pytest.mark.slow
def test_asked_to_stop_it_leaves_a_checkpoint_and_code_75(tmp_path: Path, tiny_source: str, tiny_target: str,
                                                          tiny_evaluation: str) -> None:
    """And the same command ends with the bits of a run that nobody stopped."""
    arguments = tiny(tiny_source, tiny_target, tiny_evaluation, tmp_path / "runs")
    options = [*arguments, "--train.steps", 200, "--engine.checkpoint-every", 1000, "--tracking-uri", "none", "--fresh"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}

    def begin(name: str) -> Started:
        return Started("jobs/adapt.py", *options, "--run-name", name, cwd=ROOT, env=environment)

    unbroken, stopped = begin("unbroken"), begin("stopped")
    curve = tmp_path / "runs" / "stopped" / "source" / "curve.jsonl"
    while not curve.exists() and stopped.poll() is None:
        time.sleep(0.02)
    stopped.send_signal(signal.SIGTERM)
    _, said = stopped.communicate(timeout=300)
    assert (stopped.returncode,
            said.splitlines()[-1]) == (75, "stopped by SIGTERM; the same command takes the run up again")
    latest = json.loads((tmp_path / "runs" / "stopped" / "source" / "checkpoints" / "latest.json").read_text())
    assert 2 <= latest["checkpoints"][-1]["step"] < 200
    again = begin("stopped")
    for job in (unbroken, again):
        _, said = job.communicate(timeout=300)
        assert job.returncode == 0, said
    ends = [checkpoint.load((tmp_path / "runs" / name / "source" / "checkpoints" / "step-000200.pt").as_uri())
            for name in ("unbroken", "stopped")]
    weights = [end["method"]["networks"] for end in ends]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.mark.slow
def test_a_stage_of_another_run_is_taken_over_unless_fresh(start: Callable, tmp_path: Path, tiny_source: str,
                                                           tiny_target: str) -> None:
    command = [*tiny(tiny_source, tiny_target, "", tmp_path), "--tracking-uri", "none"]
    taken = "source: taken over from run smoke (same settings, data and code)"
    for words, told in (((), False), (("--run-name", "second"), True), (("--run-name", "third", "--fresh"), False)):
        done = start("adapt", *command, *words)
        assert (done.returncode, done.stderr) == (0, "") and (taken in done.stdout.splitlines()) == told
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("smoke", "second", "third")]
    ends = [checkpoint.load(result["checkpoint"])["method"]["networks"] for result in results]
    assert all(torch.equal(value, end[name]) for end in ends[1:] for name, value in ends[0].items())
    done = start("adapt", "--from-run", tmp_path / "smoke")
    assert done.returncode == 0 and "taken over" not in done.stdout
    assert "settings, data, code and all figures are those of" in done.stdout


@pytest.mark.slow
def test_a_run_is_repeated_beside_itself(start: Callable, tiny_config: RunConfig) -> None:
    """From the command line, with a setting changed on the way."""
    config = replace(tiny_config, self_supervision=replace(tiny_config.self_supervision, orientation_steps=0, rounds=1),
                     run_name="first")
    adapt(config, LocalLauncher(config), NullTracker(), say=lambda line: None)
    folder = Path(config.storage) / "first"
    done = start("adapt", "--from-run", folder, "--seed", "1")
    assert done.returncode == 0, done.stderr
    told = done.stdout.partition(f"what differs from {folder}:\n")[2].splitlines()
    assert told[0] == "setting seed: 0 -> 1" and all(line.startswith("round ") for line in told[1:]) and len(told) > 2
    assert (folder.with_name("first-again") / "report.html").exists()


@pytest.mark.parametrize("place", [(), ("--seed",), ("nothing",)])
def test_what_is_no_run_cannot_be_repeated(start: Callable, place: tuple[str, ...]) -> None:
    done = start("adapt", "--from-run", *place)
    assert (done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
            and "the folder of a run" in done.stderr)
