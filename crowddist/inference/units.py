"""Units of work: an image read without its labels, and the set that is made of all units' records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from crowddist.data.sample import Sample
from crowddist.data.shards import ShardInfo, ShardReader, decode
from crowddist.data.stream import pixels_only

CHUNK = 16
"""Images decoded at a time."""


def open_pixels(images: ShardReader, index: int) -> Sample:
    """An image without its labels, should there be any."""
    key, members = images.read(index)
    return decode(key, pixels_only(members))


def whole_set(url: str, images: ShardReader, records: Iterable[Mapping[str, Any]],
              what: str) -> tuple[tuple[ShardInfo, ...], list[str]]:
    """The shards of a set that was made unit by unit, and the keys of the images that were skipped.

    Args:
        records: of the units, each with `shard`, as a manifest tells of it or None, and `skipped`.
        what: the set holds one of for each image.

    Raises:
        ValueError: there are not as many as images.
    """
    records = list(records)
    shards = tuple(ShardInfo(**record["shard"]) for record in records if record["shard"])
    skipped = skipped_in(records)
    number = sum(shard.num_samples for shard in shards)
    if number + len(skipped) != len(images):
        raise ValueError(f"{number} {what} in {url} for {len(images)} images, {len(skipped)} of them skipped")
    return shards, skipped


def skipped_in(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Keys of the images that units of work skipped because workers died over them."""
    return [key for record in records for key in record.get("skipped", ())]
