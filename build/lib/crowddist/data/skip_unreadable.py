"""Finds samples that cannot be decoded before a run begins, and copies the data set without them."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from crowddist import storage
from crowddist.data.convert.base import SKIPPED
from crowddist.data.manifest import FILE_NAME
from crowddist.data.shard_codec import LABEL_FACTS, Member, decode, decode_scene
from crowddist.data.shards import ShardReader, ShardWriter
from crowddist.errors import InputError


def readable(url: str, folder: str, *, closed: bool, say: Callable[[str], None]) -> str:
    """URL of a data set whose samples can all be decoded: the given one, or a copy without the bad samples, which
    `skipped.json` beside the copy lists.

    Decodes every sample once and keeps the list of bad ones in `folder`, which all runs share, under the set's digest.
    `closed` neither opens nor copies any labels. Raises InputError if no sample can be decoded.
    """
    reader = ShardReader(url)
    manifest = reader.manifest
    name = f"{manifest.name}-{manifest.split}-{'unlabelled' if closed else 'labelled'}-readable-{manifest.digest[:12]}"
    copy = storage.join(folder, "".join(char if char.isalnum() or char in "-_" else "-" for char in name))
    found = f"{copy}.json"
    kinds = ("jpg", "png", "json") if closed else None
    if not storage.exists(found):
        say(f"looking for samples that cannot be read in {url}")
        storage.write_json(found, _undecodable(reader, kinds))
    bad = storage.read_json(found)
    if not bad:
        return url
    say(f"{len(bad)} of {len(reader)} samples cannot be read and are left out, listed in {storage.join(copy, SKIPPED)}")
    if len(bad) == len(reader):
        raise InputError(f"none of the {len(bad)} samples of {url} can be read; the last: {bad[-1]['reason']}")
    if not storage.exists(storage.join(copy, FILE_NAME)):
        _copy(reader, copy, bad, closed=closed, kinds=kinds)
    return copy


def _undecodable(reader: ShardReader, kinds: tuple[str, ...] | None) -> list[dict[str, str]]:
    """{"sample", "reason"} of each sample that cannot be decoded, in order."""

    def look(index: int) -> dict[str, str] | None:
        key, members = reader.read(index, kinds)
        try:
            decode(key, members)
        except InputError as error:
            return {"sample": key, "reason": str(error)}
        return None

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return [found for found in pool.map(look, range(len(reader))) if found is not None]


def _copy(reader: ShardReader, url: str, bad: list[dict[str, str]], *, closed: bool,
          kinds: tuple[str, ...] | None) -> None:
    manifest, skipped = reader.manifest, {entry["sample"] for entry in bad}
    with storage.staged_folder(url) as staging, ShardWriter(
        staging, name=manifest.name, split=manifest.split, labelled=manifest.labelled and not closed,
        statistics={"num_skipped": len(bad)}, converter=manifest.converter,  # the evaluation depends on it
    ) as writer:
        for index in range(len(reader)):
            key, members = reader.read(index, kinds)
            if key not in skipped:
                copied: dict[str, Member] = {**members}
                if closed and "json" in members:
                    scene = decode_scene(key, {"json": members["json"]})
                    copied["json"] = {name: value for name, value in scene.items() if name not in LABEL_FACTS}
                writer.add(key, copied)
        storage.write_json(storage.join(staging, SKIPPED), bad)
