"""Repeats a run from its record and lists the differences."""

from __future__ import annotations

import shutil
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


@pytest.fixture(scope="module")
def config(tiny_settings: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return replace(tiny_settings, storage=str(tmp_path_factory.mktemp("repeat") / "runs"), run_name="first", seed=7,
                   self_supervision=replace(tiny_settings.self_supervision, orientation_steps=0, rounds=1))


@pytest.fixture(scope="module")
def original(config: RunConfig, little_drawn: None) -> str:
    return run(config)


@pytest.fixture(scope="module")
def again(original: str) -> str:
    """Its repetition."""
    return run(recorded_run(original))


@pytest.fixture
def copied(original: str, tmp_path: Path) -> str:
    """A copy of the original's folder, under its name in a storage of its own."""
    shutil.copytree(storage.local_folder(original), tmp_path / "first")
    return storage.normalise(str(tmp_path / "first"))


def test_a_repetition_gives_the_same_figures(config: RunConfig, original: str, again: str) -> None:
    assert recorded_run(original) == replace(config, storage=storage.normalise(config.storage), run_name="first-again")
    assert differences(original, again) == []
    assert storage.read_json(storage.join(original, "result.json"))["code"] == code_versions()


def test_settings_that_only_an_older_version_recorded_do_not_differ(config: RunConfig, original: str, again: str,
                                                                    copied: str, tmp_path: Path) -> None:
    place = storage.join(copied, "config.json")
    record = storage.read_json(place)
    storage.write_json(place, {**record, "counter": {**record["counter"], "mask_scale": 2.0, "mask_seed": 0}})
    assert recorded_run(copied) == replace(recorded_run(original), storage=storage.normalise(str(tmp_path)))
    assert differences(copied, again) == []
    assert run(replace(config, storage=str(tmp_path))) == copied, "and the run goes on"


def test_what_differs_is_named(original: str, tiny_config: RunConfig, tiny_source: str, tmp_path: Path) -> None:
    """A setting, the data, the code, and every figure that moved with them."""
    repeated = run(replace(recorded_run(original), storage=str(tmp_path), seed=1, target=tiny_source))
    place = storage.join(repeated, "result.json")
    result = storage.read_json(place)
    storage.write_json(place, {**result, "code": {**result["code"], "torch": "0.0"}, "rounds": result["rounds"][:1]})
    lines = differences(original, repeated)
    assert "setting seed: 7 -> 1" in lines and sum(line.startswith("setting target: ") for line in lines) == 1
    assert (any(line.startswith("data target: ") for line in lines)
            and f"code torch: {code_versions()['torch']} -> 0.0" in lines)
    assert (any(line.startswith("round 0 target/mae: ") for line in lines)
            and "round 1 is there in the original alone" in lines)
    assert not any("seconds" in line or "checkpoint" in line or "run_name" in line or "storage" in line
                   for line in lines)


def test_a_run_that_never_ended_is_repeated_without_comparison(original: str, again: str, copied: str) -> None:
    storage.remove_file(storage.join(copied, "result.json"))
    assert recorded_run(copied).seed == recorded_run(original).seed == 7
    assert differences(copied, again) == ["the run that was repeated has not ended: its figures are not known"]


def test_where_there_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config.json in .*: give the folder of a run"):
        recorded_run(str(tmp_path))
    for damaged in (b"\xff\xfe\x00", b"[]", b"{", b'{"recipe": "a", "source": "/s", "target": "/t", "seed": 1e40}'):
        (tmp_path / "config.json").write_bytes(damaged)
        with pytest.raises(InputError, match=rf"{tmp_path}/config\.json: ") as error:
            recorded_run(str(tmp_path))
        assert "\n" not in str(error.value), damaged
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match="no run in"):
        differences(tmp_path.as_uri(), tmp_path.as_uri())
