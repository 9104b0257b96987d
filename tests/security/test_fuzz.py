"""Files that are damaged at random: each is read, or refused in one line that names it.

The tests try few, and always the same. `make test-fuzz MINUTES=30` goes on for so many minutes of a processor's time
for each reader, with other damage each time.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from PIL import Image

from crowddist.config import from_json
from crowddist.data.manifest import Manifest
from crowddist.data.shard_codec import decode, encode
from crowddist.errors import InputError
from tests.security.damage import REFUSED, VALUES, one_line, places
from tests.security.readers import ANNOTATIONS, READERS, reading
from tests.security.seeds import CONFIG, RECORDS, encoded, manifest

MINUTES = float(os.environ.get("CROWDDIST_FUZZ_MINUTES", "0"))
"""Of processor time, for each reader; 0: few files, and always the same."""
NUM_FILES, BATCH = 100, 2000
FOUND = Path(__file__).with_name("found")
"""Files that found something, in a folder for each reader."""


@pytest.mark.parametrize("kind", READERS)
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    tried, newest = 0, tmp_path / "damaged"
    (tmp_path / "read").mkdir()

    def attempt(data: bytes) -> None:
        nonlocal tried
        tried += 1
        newest.write_bytes(data)  # before it is read: a native crash would leave nothing else
        READERS[kind].read(tmp_path / "read", data)

    quiet = settings(max_examples=BATCH if MINUTES else NUM_FILES, derandomize=not MINUTES, deadline=None,
                     database=None, suppress_health_check=list(HealthCheck))
    walk, started = quiet(given(data=READERS[kind].files)(attempt)), time.process_time()
    try:
        walk()
        while time.process_time() - started < 60 * MINUTES:
            walk()
    except BaseException:
        print(f"\n{kind}: file {tried} found something. It is {newest}; as a test: "
              f"mkdir -p {FOUND / kind}; cp {newest} {FOUND / kind}/WHAT-IS-WRONG-WITH-IT")
        raise
    if MINUTES:
        print(f"\n{kind}: {tried} files in {(time.process_time() - started) / 60:.0f} minutes of processor time")


@pytest.mark.parametrize("place", sorted(FOUND.glob("*/*")), ids=lambda place: f"{place.parent.name}-{place.name}")
def test_files_that_found_something(tmp_path: Path, place: Path) -> None:
    READERS[place.parent.name].read(tmp_path, place.read_bytes())


def test_whole_files_are_read(tmp_path: Path) -> None:
    """Else damage would be refused for another reason than itself."""
    REFUSED.clear()
    for kind, reader in READERS.items():
        for data in reader.whole():
            reader.read(tmp_path, data)
            assert not REFUSED, kind
    for kind, (files, reads) in ANNOTATIONS.items():
        unread = list(reads)
        for data in files:
            (tmp_path / f"a.{kind}").write_bytes(data)
            for read in tuple(unread):
                with suppress(InputError, OSError):
                    read(tmp_path / f"a.{kind}")
                    unread.remove(read)
        assert not unread, kind


def test_any_value_in_the_place_of_another(tmp_path: Path) -> None:
    read = reading("json", *ANNOTATIONS["json"][1])
    for seed in RECORDS:
        for number, path in enumerate(places(seed)):
            for value in VALUES[number % 3 :: 3]:
                record = json.loads(json.dumps(seed))
                node = record
                for step in path[:-1]:
                    node = node[step]
                node[path[-1]] = value
                read(tmp_path, json.dumps(record).encode())


def test_records_with_a_wrong_value_are_read_or_refused() -> None:
    for change in VALUES:
        for name in manifest():
            with pytest.raises(InputError) if name == "shards" else one_line():
                Manifest.from_json(manifest() | {name: change})
        for name in ("name", "num_samples", "num_bytes", "sha256", "persons"):
            with one_line():
                Manifest.from_json(manifest() | {"shards": [{**manifest()["shards"][0], name: change}]})
    for number, path in enumerate(places(json.loads(CONFIG))):
        record = json.loads(CONFIG)
        node = record
        for step in path[:-1]:
            node = node[step]
        node[path[-1]] = VALUES[number % len(VALUES)]
        with one_line():
            from_json(json.dumps(record))


def test_an_arrays_torn_head_is_damage() -> None:
    """NumPy reads it as Python, and tries again word by word where that fails."""
    data = encode("points.npy", np.zeros((4, 2), np.float32)).replace(b"False, 's", b"False( 's")
    good = encoded("PNG", Image.new("RGB", (9, 9)))
    with pytest.raises(InputError, match=r"points\.npy is damaged"):
        decode("a", {"png": good, "points.npy": data})
