"""Scene rules: published ones on the real metadata, the user's own from a file, and the errors of bad ones."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crowddist.data.scenes import SCENE_RULES, SceneRule, find_rule, keep_scene, kept_samples
from crowddist.data.shards import ShardReader, ShardWriter
from crowddist.errors import InputError

DAY = {"level": 4, "hour": 12, "weather": 0, "count": 150}


def write_facts(folder: Path, facts: list[dict[str, Any]], *, padding: int = 10) -> ShardReader:
    """A data set with these facts and padding instead of images."""
    with ShardWriter(folder, name="facts", split="all", labelled=True, converter="test",
                     max_shard_bytes=2**20) as writer:
        for index, told in enumerate(facts):
            writer.add(f"image-{index:05d}",
                       {"jpg": b"x" * padding, "json": told, "points.npy": np.zeros((0, 2), np.float32)})
    return ShardReader(folder)


@pytest.mark.parametrize("text, name", [("SHA", "SHA"), ("shb", "SHB"), ("worldexpo10", "WorldExpo'10"),
                                        ("UCF_QNRF", "UCF-QNRF"), ("ucf-cc-50", "UCF_CC_50")])
def test_published_rules_are_found_by_their_names(text: str, name: str) -> None:
    assert find_rule(text) is SCENE_RULES[name] and find_rule(text).name == name


def test_a_rule_of_ones_own_by_hand(tmp_path: Path) -> None:
    (tmp_path / "evenings.json").write_text('{"hours": [17, 21], "weathers": [3, 2], "ratios": [0, 0.5]}')
    for text in (str(tmp_path / "evenings.json"), (tmp_path / "evenings.json").as_uri()):
        rule = find_rule(text)
        assert rule == SceneRule(name=text, hours=(17, 21), weathers=(3, 2), ratios=(0, 0.5))
    row = {"level": 4, "hour": 17, "weather": 2, "count": 150}  # half of level 4's 300
    assert rule.keeps(row) is True
    for change in ({"hour": 16}, {"hour": 22}, {"weather": 0}, {"count": 151}, {"level": 3}):
        assert rule.keeps({**row, **change}) is False


def test_only_what_is_bounded_must_be_told() -> None:
    assert (SceneRule(name="all").keeps({})
            and SceneRule(name="few", counts=(0, 9)).keeps({"count": 9, "level": 77, "hour": "?"}))
    assert SceneRule(name="noon", hours=(12, 12)).keeps({"hour": 12})
    needy = {"level": {"levels": (0, 1)}, "hour": {"hours": (0, 1)}, "weather": {"weathers": (0,)},
             "count": {"counts": (0, 1)}}
    for noun, bounds in needy.items():
        rule = SceneRule(name="needy", **bounds)
        with pytest.raises(InputError,
                           match=f"scene regularisation needs the {noun} of every image, one has none; add GCC's index "
                                 "files"):
            rule.keeps({})
    with pytest.raises(InputError, match="needs the level"):
        SceneRule(name="ratio", ratios=(0, 1)).keeps({"count": 3})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", r"must be a JSON object of levels, hours, weathers, counts, ratios, got list"),
        ('{"level": [1, 2]}', r"must be a JSON object of levels, hours, weathers, counts, ratios, got 'level'"),
        ('{"name": "mine"}', "got 'name'"),
        ("{levels: [1, 2]}", "write a JSON object of levels, hours, weathers, counts, ratios"),
        ("\xff", "write a JSON object"),
        ('{"levels": [5, 1]}',
         r"levels must be the lowest and the highest, two whole numbers from 0 to 8, got \[5, 1\]"),
        ('{"levels": [1, 9]}', r"levels must be .* from 0 to 8, got \[1, 9\]"),
        ('{"levels": [1.0, 2.0]}', "levels must be .* whole numbers"),
        ('{"hours": [true, 2]}', r"hours must be .* from 0 to 23, got \[True, 2\]"),
        ('{"hours": 6}', "hours must be .*, got 6"),
        ('{"hours": null}', "hours must be .*, got None"),
        ('{"hours": [6, 12, 19]}', "hours must be the lowest and the highest"),
        ('{"weathers": []}', r"weathers must be a list of whole numbers from 0 to 6, got \[\]"),
        ('{"weathers": ["rain"]}', r"weathers must be .*, got \['rain'\]"),
        ('{"counts": [-1, 4]}',
         r"counts must be the lowest and the highest, two whole numbers from 0 on, got \[-1, 4\]"),
        ('{"ratios": [0, NaN]}', r"ratios must be the lowest and the highest, two numbers from 0 on, got \[0, nan\]"),
    ],
)
def test_a_file_that_is_no_rule_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "rule.json").write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match=message) as caught:
        find_rule(str(tmp_path / "rule.json"))
    assert str(tmp_path / "rule.json") in str(caught.value) and "\n" not in str(caught.value)


def test_neither_a_name_nor_a_file(tmp_path: Path) -> None:
    for text in ("SHC", str(tmp_path), str(tmp_path / "missing.json")):
        with pytest.raises(InputError,
                           match=r"no scene rule .*: give one of SHA, SHB, UCF_CC_50, UCF-QNRF, WorldExpo'10, or a "
                                 r"JSON file that can be read"):
            find_rule(text)


@pytest.mark.parametrize("name", list(SCENE_RULES))
def test_kept_samples_are_those_that_the_rule_keeps(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(0)
    facts = [{"level": int(rng.integers(9)), "hour": int(rng.integers(24)), "weather": int(rng.integers(7))}
             for _ in range(1500)]
    facts = [{**told, "count": int((10, 25, 50, 100, 300, 600, 1000, 2000, 4000)[told["level"]] * rng.uniform(0, 1))}
             for told in facts]
    kept = kept_samples(write_facts(tmp_path, facts), SCENE_RULES[name])
    assert kept.dtype == np.int64 and 0 < len(kept) < 1500
    assert kept.tolist() == [index for index, told in enumerate(facts) if keep_scene(told, name)]


def test_of_each_sample_only_the_json_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = write_facts(tmp_path, [{**DAY, "hour": hour} for hour in range(24)], padding=100_000)
    images.keys()  # indexed
    read, real = [], os.pread

    def counted(place: int, num_bytes: int, offset: int) -> bytes:
        read.append(num_bytes)
        return real(place, num_bytes, offset)

    monkeypatch.setattr(os, "pread", counted)
    assert kept_samples(images, SCENE_RULES["SHB"]).tolist() == list(range(6, 20))
    assert len(read) == 24 and sum(read) == sum(len(json.dumps({**DAY, "hour": hour})) for hour in range(24))


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"hour": 12, "weather": 0, "count": 150},
         "needs the level of every image, one has none; add GCC's index files and convert again"),
        ({**DAY, "level": 9}, "a level lies in 0 to 8, got 9"),
        ({**DAY, "hour": "noon"}, "needs a number as the hour of every image, got 'noon'"),
    ],
)
def test_a_sample_that_cannot_be_judged_is_named(tmp_path: Path, told: dict[str, Any], message: str) -> None:
    images = write_facts(tmp_path, [DAY, told])
    whole = (rf"scene rule SHB cannot judge sample image-00001 of file://.*: .*{message}.*, or leave --stream\.scenes "
             r"empty")
    with pytest.raises(InputError, match=whole) as caught:
        kept_samples(images, SCENE_RULES["SHB"])
    assert "\n" not in str(caught.value)


def test_a_rule_that_keeps_nothing_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError,
                       match=r"scene rule SHA keeps none of the 2 images of file://.*; give another rule, or leave "
                             r"--stream\.scenes empty"):
        kept_samples(write_facts(tmp_path, [{**DAY, "hour": 3}] * 2), SCENE_RULES["SHA"])


def test_the_published_rules_on_the_real_metadata(tmp_path: Path, real_data: Path) -> None:
    facts = []
    for line in (real_data / "gcc_index" / "all.txt").read_text().splitlines():
        level, hour, weather, _, _, count = line.split()
        facts.append({"level": int(level), "hour": int(hour), "weather": int(weather), "count": int(count)})
    images = write_facts(tmp_path, facts)
    assert len(images) == 15_212 and len(images.manifest.shards) > 20
    assert (len(kept_samples(images, find_rule("SHA"))), len(kept_samples(images, find_rule("SHB")))) == (2_641, 3_322)
