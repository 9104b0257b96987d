"""The job that searches thresholds: its help, and how it refuses; its work is tried where Ray is, in
tests/distributed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from crowddist import storage


def test_help_comes_at_once(helped: Callable) -> None:
    text, heavy, seconds = helped("tune")
    assert seconds < 5 and heavy == []
    for word in ("--checkpoint", "--target", "--output", "--objective", "--labelled", "--trials", "--num-workers",
                 "--work"):
        assert word in text


@pytest.mark.parametrize(("options", "words"), [
    ((), "no file at"),
    (("--trials", "1"), "trials must be at least 2"),
    (("--num-workers", "0"), "num_workers at least 1"),
    (("--objective", "proxy"), "the objective proxy needs labelled images: give --labelled"),
    (("--objective", "labelled"), "the objective labelled needs labelled images: give --labelled"),
    (("--labelled", "folder"), "the objective agreement reads no labels: leave --labelled out"),
    (("--output", "tests"), "the output tests is a folder; give the file to write"),
])
def test_what_it_cannot_do_is_one_line(start: Callable, tmp_path: Path, tiny_target: str, options: tuple[str, ...],
                                       words: str) -> None:
    done = start("tune", "--checkpoint", tmp_path / "nothing.pt", "--target", tiny_target, "--output",
                 tmp_path / "tune.json", *options)
    assert (done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
            and words in done.stderr)
    assert not (tmp_path / "tune.json").exists()


def test_it_says_how_well_its_objective_ranks(
    start: Callable, tmp_path: Path, tiny_checkpoint: str, tiny_target: str, tiny_source: str, tiny_evaluation: str
) -> None:
    """Without Ray: by labelled images in the target's style; the evaluation is opened when all is decided."""
    done = start("tune", "--checkpoint", tiny_checkpoint, "--target", tiny_target, "--output", tmp_path / "tune.json",
                 "--objective", "proxy",
                 "--labelled", tiny_source, "--evaluation", tiny_evaluation, "--trials", "3", "--launcher", "local",
                 "--work", tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    shown, opened = (next(number for number, line in enumerate(lines) if words in line)
                     for words in ("showing 12 labelled images in the style of the target", "predicting 5 images"))
    assert shown < next(number for number, line in enumerate(lines) if line == "3 trials") < opened
    assert sum(line.startswith(("rank correlation", "regret", "own regret", "mae", "own mae", "best mae"))
               for line in lines) == 6
    found = storage.read_json(tmp_path / "tune.json")
    assert (len(found["trials"]) == len(found["truth"]) == 3 and found["ranking"]["mae"] > 0
            and set(found["data"]) == {"target", "labelled", "evaluation"})
