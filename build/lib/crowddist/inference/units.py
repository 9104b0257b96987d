"""Units of work: reads images without their labels, writes a unit's shard once, and joins all units to a set."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from crowddist import storage
from crowddist.data.images import JPEG_QUALITY
from crowddist.data.sample import Sample
from crowddist.data.shards import ShardInfo, ShardReader, decode, write_shard
from crowddist.data.stream import pixels_only

CHUNK = 16
"""Images decoded at a time."""


def open_pixels(images: ShardReader, index: int) -> Sample:
    """An image without its labels."""
    key, members = images.read(index)
    return decode(key, pixels_only(members))


def with_image(members: Mapping[str, Any], image: np.ndarray) -> dict[str, Any]:
    """A sample's members with another image in the place of its own: a JPEG of (H, W, 3) uint8 RGB in full colour."""
    import simplejpeg

    data = simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=JPEG_QUALITY, colorspace="RGB",
                                  colorsubsampling="444")
    return {"jpg": data, **{name: member for name, member in members.items() if name not in ("jpg", "png")}}


def write_unit(
    url: str, noun: str, images: ShardReader, unit: range, skip: Collection[int],
    samples: Callable[[Sequence[int]], Iterator[tuple[str, dict[str, Any]]]],
    facts: Callable[[ShardInfo | None], dict[str, Any]]
) -> dict[str, Any]:
    """Writes one shard of a unit's samples, then its record; an existing record is returned as it is.

    Args:
        url, noun: folder and begin of the names of both files.
        unit: indexes of the images, consecutive.
        skip: those of them that are skipped.
        samples: makes the samples of the images with these indexes.
        facts: makes the record, once the shard is written; None: all images were skipped. `skipped`, the keys of the
            skipped images, is added.
    """
    name = f"{noun}-{unit.start:06d}-{unit.stop:06d}"
    record_url = storage.join(url, f"{name}.done.json")
    if storage.exists(record_url):
        return storage.read_json(record_url)
    shown = [index for index in unit if index not in skip]
    info = write_shard(url, f"{name}.tar", samples(shown)) if shown else None
    record = {**facts(info), "skipped": [images.read(index, ())[0] for index in skip]}
    storage.write_json(record_url, record)
    return record


def whole_set(url: str, images: ShardReader, records: Iterable[Mapping[str, Any]],
              what: str) -> tuple[tuple[ShardInfo, ...], list[str]]:
    """The shards of a set that was made unit by unit, and the keys of the skipped images.

    Args:
        records: the units' records, each with `shard`, the fields of a `ShardInfo` or None, and `skipped`.
        what: plural noun for the set's samples.

    Raises:
        ValueError: the samples are not as many as the images.
    """
    records = list(records)
    shards = tuple(ShardInfo(**record["shard"]) for record in records if record["shard"])
    skipped, number = skipped_keys(records), sum(shard.num_samples for shard in shards)
    if number + len(skipped) != len(images):
        raise ValueError(f"{number} {what} in {url} for {len(images)} images, {len(skipped)} of them skipped")
    return shards, skipped


def skipped_keys(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Keys of the images that were skipped, because workers died over them."""
    return [key for record in records for key in record.get("skipped", ())]
