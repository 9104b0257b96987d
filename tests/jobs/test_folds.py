"""The job that runs all folds: its help, its five runs and their mean, and its one-line errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.data.convert.conftest import Pairs


def test_help_comes_at_once(helped: Callable) -> None:
    text, heavy, seconds = helped("folds")
    assert seconds < 5 and heavy == [] and "python jobs/folds.py sha_to_ucf_cc_50" in text


def test_what_has_no_folds_is_one_line(start: Callable) -> None:
    for words, message in ((("nowhere",), "no recipe is called 'nowhere'"), (("smoke",), "are the first fold"),
                           (("gcc_to_ucf_cc_50", "--train.steps", "-1"), "steps must be positive")):
        done = start("folds", *words)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
        assert message in done.stderr, done.stderr


@pytest.mark.slow
def test_one_command_runs_five_folds_and_prints_their_mean(start: Callable, tmp_path: Path, tiny_source: str) -> None:
    rng = np.random.default_rng(0)
    for number in range(1, 51):
        Pairs(tmp_path / "data" / "ucf_cc_50").add(str(number), rng.uniform(0, 30, (number, 2)))
    options = ["--source", tiny_source, "--stream.scenes", "", "--storage", tmp_path / "runs", "--run-name", "c50",
               "--method", "source_only", "--launcher", "local", "--tracking-uri", "none", "--counter.backbone",
               "compact", "--counter.weights", "none", "--train.steps", "1", "--train.batch-size", "2",
               "--stream.image-size", "64", "--stream.crop-size", "32"]
    done = start("folds", "gcc_to_ucf_cc_50", *options, CROWDDIST_DATA=str(tmp_path / "data"), timeout=1500,
                 fresh=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.rstrip().splitlines()
    rows = [line for line in lines if line.startswith("c50-fold-") and "gcc_to_ucf_cc_50" in line]
    assert [row.split()[:5] for row in rows] == [[f"c50-fold-{fold}", "gcc_to_ucf_cc_50", "source_only", "0", "10"]
                                                 for fold in range(1, 6)]
    errors = [float(row.split()[6]) for row in rows]
    assert len(set(errors)) == 5 and lines[-1].startswith("mean of 5 runs, MAE / rmse: ")
    assert float(lines[-1].split()[7]) == pytest.approx(np.mean(errors), abs=0.1)
    failed = start("folds", "gcc_to_ucf_cc_50", *options, "--seed", "1", CROWDDIST_DATA=str(tmp_path / "data"))
    assert failed.returncode == 2 and "exists with another configuration" in failed.stderr
    assert "mean of" not in failed.stdout, "the first fold that fails ends the series"
