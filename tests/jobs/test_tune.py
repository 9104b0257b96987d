"""The job that searches thresholds: its help, and how it refuses; its work is tried where Ray is, in tests/distributed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


def test_help_comes_at_once(helped: Callable) -> None:
    text, heavy, seconds = helped("tune")
    assert seconds < 5 and heavy == []
    for word in ("--checkpoint", "--target", "--output", "--objective", "--labelled", "--trials", "--num-workers", "--work"):
        assert word in text


@pytest.mark.parametrize(("options", "words"), [
    ((), "no file at"),
    (("--trials", "1"), "trials must be at least 2"),
    (("--num-workers", "0"), "num_workers at least 1"),
    (("--objective", "proxy"), "the objective proxy needs labelled images: give --labelled"),
    (("--objective", "labelled"), "the objective labelled needs labelled images: give --labelled"),
    (("--labelled", "folder"), "the objective agreement reads no labels: leave --labelled out"),
])
def test_what_it_cannot_do_is_one_line(start: Callable, tmp_path: Path, tiny_target: str, options: tuple[str, ...], words: str) -> None:
    done = start("tune", "--checkpoint", tmp_path / "nothing.pt", "--target", tiny_target, "--output", tmp_path / "tune.json", *options)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and words in done.stderr
    assert not (tmp_path / "tune.json").exists()
