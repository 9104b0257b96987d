"""Supervised: the only method that opens labels of the target, and it says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crowddist.config import RunConfig
from crowddist.errors import InputError
from crowddist.launch.local import LocalLauncher
from crowddist.methods.build import build_method
from crowddist.methods.table import METHODS
from crowddist.pipeline import adapt
from crowddist.tracking.tracker import NullTracker


def run(config: RunConfig) -> dict[str, Any]:
    return adapt(config, LocalLauncher(config), NullTracker(), say=lambda line: None)


def test_it_learns_the_targets_labels_and_never_reads_the_source(tiny_config: RunConfig, tiny_evaluation: str,
                                                                 tmp_path: Path) -> None:
    nowhere = (tmp_path / "nowhere").as_uri()
    result = run(replace(tiny_config, method="supervised", source=nowhere, target=tiny_evaluation))
    assert [row["title"] for row in result["rounds"]] == ["supervised (the target's labels)"]
    assert set(result["data"]) == {"labelled_target", "evaluation"}


def test_a_target_without_labels_is_refused(tiny_config: RunConfig) -> None:
    with pytest.raises(InputError, match=r"the labelled_target at .* has no labels"):
        run(replace(tiny_config, method="supervised"))


def test_no_other_method_asks_for_them(tiny_config: RunConfig) -> None:
    asked = {
        method
        for method in METHODS
        for stage in build_method(replace(tiny_config, method=method)).plan()
        for stream in stage.streams.values()
        if stream.data == "labelled_target"
    }
    assert asked == {"supervised"}
