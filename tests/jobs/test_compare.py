"""The job that compares runs: its help, its table of a run, and its one-line errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from crowddist import storage


def test_help_comes_at_once(helped: Callable) -> None:
    text, heavy, seconds = helped("compare")
    assert seconds < 5 and heavy == [] and "RUN ..." in text


def test_a_table_or_a_line(start: Callable, tmp_path: Path) -> None:
    rounds = [{"round": 0, "target/mae": 4.0, "target/rmse": 5.0, "target/num_images": 3.0}]
    storage.write_json(
        storage.join(tmp_path.as_uri(), "result.json"), {"run": "mine", "recipe": "smoke", "method": "source_only", "seed": 1, "rounds": rounds}
    )
    done = start("compare", tmp_path)
    assert done.returncode == 0 and "4.0 / 5.0" in done.stdout.splitlines()[2]
    for runs, words in (((tmp_path / "nowhere",), "no result.json in"), ((), "no run is given")):
        done = start("compare", *runs)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and words in done.stderr
