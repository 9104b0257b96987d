"""Shards ahead: training on object storage finds the next ones in the cache, and an error there comes out where it is
met.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from crowddist import storage
from crowddist.data.config import StreamConfig
from crowddist.data.manifest import read_manifest
from crowddist.data.stream import CropDataset
from crowddist.storage.cache import Cache

CONFIG = StreamConfig(image_size=96, crop_size=64)


@pytest.fixture
def shards(place: str, make_images: Callable[..., str], tmp_path: Path) -> str:
    """Twelve images in object storage, one a shard."""
    make_images(tmp_path / "set", count=12, max_shard_bytes=1)
    for path in sorted((tmp_path / "set").iterdir()):
        storage.write_bytes(storage.join(place, "set", path.name), path.read_bytes())
    return storage.join(place, "set")


def cached(url: str) -> list[bool]:
    return [Cache.from_environment().find(shard.sha256) is not None for shard in read_manifest(url).shards]


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_comes_next_is_fetched_while_a_sample_is_read(shards: str) -> None:
    dataset = CropDataset(shards, CONFIG, plan_seed=0, name="a")
    assert not any(cached(shards))
    first = dataset[0]
    wait_for(lambda: all(cached(shards)))
    copied = pickle.loads(pickle.dumps(dataset))  # as a reader process gets it
    assert (copied[0]["image"] == first["image"]).all() and copied._prefetcher is not dataset._prefetcher


def test_an_error_ahead_comes_out_where_it_is_met(shards: str) -> None:
    dataset = CropDataset(shards, CONFIG, plan_seed=0, name="a")
    missing = dataset.plan.sample_at(7)  # one a shard
    storage.remove_file(storage.join(shards, read_manifest(shards).shards[missing].name))
    dataset[0]
    wait_for(lambda: sum(cached(shards)) == 11)
    for position in range(1, 7):
        dataset[position]
    with pytest.raises(FileNotFoundError):
        dataset[7]


def test_local_data_is_not_fetched(tiny_source: str) -> None:
    assert CropDataset(tiny_source, CONFIG, plan_seed=0, name="a")._prefetcher is None
