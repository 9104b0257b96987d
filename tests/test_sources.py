"""A run on several sources trains on all of them and records all of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from crowddist.config import RunConfig
from crowddist.errors import InputError
from tests.test_pipeline import run


def test_more_sources_are_trained_on_and_held_to(tiny_config: RunConfig, make_images: Callable[..., str],
                                                 tmp_path: Path) -> None:
    other = make_images(tmp_path / "other", count=3, seed=8)
    config = replace(tiny_config, method="source_only", more_sources=(f"1/4 {other}",))
    mixed, lines = run(config)
    assert [line for line in lines if line.startswith("source: tiny")] == ["source: tiny, 12 images",
                                                                           "source: tiny, 3 images"]
    assert mixed["data"]["source_2"]["url"] == other and mixed["data"]["source_2"]["num_images"] == 3
    alone, _ = run(replace(config, run_name="alone", more_sources=()))
    assert "source_2" not in alone["data"] and mixed["final"]["target/mae"] != alone["final"]["target/mae"]
    with pytest.raises(InputError, match=r"another configuration \(it differs in more_sources\)"):
        run(replace(config, more_sources=(f"1/2 {other}",)))
    shutil.rmtree(tmp_path / "other")
    make_images(tmp_path / "other", count=3, seed=9)
    with pytest.raises(InputError, match=r"changed since it began \(source_2\)"):
        run(config)
