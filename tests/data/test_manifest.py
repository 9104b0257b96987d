"""The manifest: strict reading, the digest, publishing."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import replace

import pytest

from crowddist import storage
from crowddist.data.manifest import Manifest, ShardInfo, publish_manifest, read_manifest
from crowddist.errors import InputError

SHARDS = (ShardInfo(name="a-000000.tar", num_samples=3, num_bytes=10240, sha256="0" * 64, persons=5.5),
          ShardInfo(name="a-000001.tar", num_samples=4, num_bytes=20480, sha256="f" * 64, persons=None))
MANIFEST = Manifest(name="a", split="train", kind="images", labelled=True, shards=SHARDS,
                    statistics={"x": [1, 2.5, "ü"]}, converter="test 1")


def test_round_trip_through_storage(tmp_path):
    publish_manifest(tmp_path / "set", MANIFEST)
    assert read_manifest(tmp_path / "set") == MANIFEST
    assert MANIFEST.num_samples == 7


def test_digest_is_the_hash_of_the_canonical_json():
    text = json.dumps(json.loads(json.dumps(MANIFEST.to_json())), sort_keys=True, separators=(",", ":"),
                      ensure_ascii=False)
    assert MANIFEST.digest == hashlib.sha256(text.encode()).hexdigest()
    assert replace(MANIFEST, split="val").digest != MANIFEST.digest


def test_a_missing_data_set_is_one_clear_line(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no data set at file://.*: manifest.json is missing"):
        read_manifest(tmp_path)
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "manifest.json").write_text("{}")
    publish_manifest(tmp_path / "mine", MANIFEST)
    with pytest.raises(FileNotFoundError, match="one is in mine, give that folder"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("path", "value"),
    [(("format",), "web app"), (("version",), 2), (("version",), True), (("name",), ""), (("name",), 3),
     (("kind",), "videos"), (("labelled",), 1), (("statistics",), []), (("converter",), None), (("shards",), []),
     (("shards",), {}), (("shards", 0), "a.tar"), (("extra",), 1), (("shards", 0, "extra"), 1),
     (("shards", 0, "name"), "../a"), (("shards", 0, "name"), "a-000001.tar"), (("shards", 0, "num_samples"), 0),
     (("shards", 0, "num_samples"), 2.0), (("shards", 0, "num_bytes"), "1"), (("shards", 0, "sha256"), "F" * 64),
     (("shards", 0, "sha256"), "0" * 63), (("shards", 0, "persons"), -1), (("shards", 0, "persons"), float("inf")),
     (("shards", 0, "persons"), "5")],
)
def test_impossible_entries_are_refused(tmp_path, path, value):
    broken = copy.deepcopy(MANIFEST.to_json())
    place = broken
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(InputError, match=r"manifest\.json"):
        Manifest.from_json(broken)


@pytest.mark.parametrize("entry", ["format", "name", "shards", "statistics"])
def test_missing_entries_are_refused(entry):
    broken = MANIFEST.to_json()
    del broken[entry]
    with pytest.raises(InputError):
        Manifest.from_json(broken)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"name": "web app"}'])
def test_foreign_and_damaged_files_name_the_place(tmp_path, text):
    storage.write_bytes(tmp_path / "manifest.json", text.encode())
    with pytest.raises(InputError, match=f"bad data set at file://{tmp_path}"):
        read_manifest(tmp_path)
