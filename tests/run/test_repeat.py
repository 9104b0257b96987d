"""Repeats a run from its record and lists the differences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from crowddist import storage
from crowddist.config import RunConfig
from crowddist.errors import InputError
from crowddist.launch.local import LocalLauncher
from crowddist.pipeline import adapt
from crowddist.run.record import run_folder
from crowddist.run.repeat import code_versions, differences, recorded_run
from crowddist.tracking.tracker import NullTracker


def run(config: RunConfig) -> str:
    adapt(config, LocalLauncher(config), NullTracker(), say=lambda line: None)
    return run_folder(config)


@pytest.fixture
def config(tiny_config: RunConfig) -> RunConfig:
    return replace(tiny_config, self_supervision=replace(tiny_config.self_supervision, orientation_steps=0, rounds=1))


def test_a_repetition_gives_the_same_figures(config: RunConfig) -> None:
    original = run(replace(config, run_name="first", seed=7))
    again = recorded_run(original)
    assert again == replace(config, storage=storage.normalise(config.storage), run_name="first-again", seed=7)
    assert differences(original, run(again)) == []
    assert storage.read_json(storage.join(original, "result.json"))["code"] == code_versions()


def test_settings_that_only_an_older_version_recorded_do_not_differ(config: RunConfig) -> None:
    original = run(config)
    place = storage.join(original, "config.json")
    record = storage.read_json(place)
    storage.write_json(place, {**record, "counter": {**record["counter"], "mask_scale": 2.0, "mask_seed": 0}})
    assert differences(original, run(recorded_run(original))) == []
    assert run(config) == original, "and the run goes on"


def test_what_differs_is_named(config: RunConfig, tiny_source: str) -> None:
    """A setting, the data, the code, and every figure that moved with them."""
    original = run(config)
    other = replace(recorded_run(original), seed=1, target=tiny_source)
    repeated = run(other)
    place = storage.join(repeated, "result.json")
    result = storage.read_json(place)
    storage.write_json(place, {**result, "code": {**result["code"], "torch": "0.0"}, "rounds": result["rounds"][:1]})
    lines = differences(original, repeated)
    assert "setting seed: 0 -> 1" in lines and sum(line.startswith("setting target: ") for line in lines) == 1
    assert (any(line.startswith("data target: ") for line in lines)
            and f"code torch: {code_versions()['torch']} -> 0.0" in lines)
    assert (any(line.startswith("round 0 target/mae: ") for line in lines)
            and "round 1 is there in the original alone" in lines)
    assert not any("seconds" in line or "checkpoint" in line or "run_name" in line or "storage" in line
                   for line in lines)


def test_a_run_that_never_ended_is_repeated_without_comparison(config: RunConfig) -> None:
    original = run(config)
    storage.remove_file(storage.join(original, "result.json"))
    assert differences(original,
                       run(recorded_run(original))) == ["the run that was repeated has not ended: its figures are not "
                                                        "known"]


def test_where_there_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config.json in .*: give the folder of a run"):
        recorded_run(str(tmp_path))
    with pytest.raises(InputError, match="no run in"):
        differences(tmp_path.as_uri(), tmp_path.as_uri())
