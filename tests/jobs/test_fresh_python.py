"""Jobs import what they use: their work in a Python that has imported nothing, unlike those that tests start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from crowddist import storage


@pytest.mark.slow
def test_jobs_import_what_they_use(start: Callable, tmp_path: Path, tiny_checkpoint: str, tiny_target: str,
                                   tiny_evaluation: str) -> None:
    """Not `adapt` and `convert`, whose own tests do that."""
    result = {"run": "mine", "recipe": "smoke", "method": "source_only", "seed": 1,
              "rounds": [{"round": 0, "stage": "source", "target/mae": 4.0, "target/rmse": 5.0,
                          "target/num_images": 3.0}]}
    storage.write_json(storage.join(tmp_path.as_uri(), "run", "result.json"), result)
    for name, *words in (
        ("compare", tmp_path / "run"),
        ("evaluate", "--checkpoint", tiny_checkpoint, "--data", tiny_evaluation, "--output", tmp_path / "metrics.json"),
        ("tune", "--checkpoint", tiny_checkpoint, "--target", tiny_target, "--output", tmp_path / "tune.json",
         "--trials", 2, "--launcher", "local", "--work", tmp_path),
    ):
        done = start(name, *words, fresh=True)
        assert done.returncode == 0, (name, done.stderr)
    assert storage.read_json(tmp_path / "metrics.json")["target/num_images"] == 5
    assert len(storage.read_json(tmp_path / "tune.json")["trials"]) == 2
