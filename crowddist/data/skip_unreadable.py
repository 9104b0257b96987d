"""Samples of a data set that cannot be decoded: found before a run begins, and left out by a copy of the set."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from crowddist import storage
from crowddist.data.convert.base import SKIPPED
from crowddist.data.manifest import FILE_NAME
from crowddist.data.shard_codec import LABEL_FACTS, Member, decode, decode_scene
from crowddist.data.shards import ShardReader, ShardWriter
from crowddist.errors import InputError


def readable(url: str, folder: str, *, closed: bool, say: Callable[[str], None]) -> str:
    """URL of a data set whose samples can all be decoded: this one, or a copy without those that cannot, which are
    listed in `skipped.json` beside it.

    Every sample is decoded once; what was found is kept in `folder`, by the set's digest.

    Args:
        url: of image shards that are whole.
        folder: for copies, of all runs.
        closed: whether labels, should there be any, are neither opened nor copied.

    Raises:
        InputError: no sample can be decoded.
    """
    reader = ShardReader(url)
    manifest = reader.manifest
    name = f"{manifest.name}-{manifest.split}-{'unlabelled' if closed else 'labelled'}-readable-{manifest.digest[:12]}"
    copy = storage.join(folder, "".join(char if char.isalnum() or char in "-_" else "-" for char in name))
    found = f"{copy}.json"
    if not storage.exists(found):
        say(f"looking for samples that cannot be read in {url}")
        storage.write_json(found, _undecodable(reader, closed=closed))
    bad = storage.read_json(found)
    if not bad:
        return url
    say(f"{len(bad)} of {len(reader)} samples cannot be read and are left out, listed in {storage.join(copy, SKIPPED)}")
    if len(bad) == len(reader):
        raise InputError(f"none of the {len(bad)} samples of {url} can be read; the last: {bad[-1]['reason']}")
    if not storage.exists(storage.join(copy, FILE_NAME)):
        _copy(reader, copy, bad, closed=closed)
    return copy


def _undecodable(reader: ShardReader, *, closed: bool) -> list[dict[str, str]]:
    """{"sample", "reason"} of each sample that cannot be decoded, in order."""

    def look(index: int) -> dict[str, str] | None:
        key, members = _read(reader, index, closed=closed)
        try:
            decode(key, members)
        except InputError as error:
            return {"sample": key, "reason": str(error)}
        return None

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return [found for found in pool.map(look, range(len(reader))) if found is not None]


def _copy(reader: ShardReader, url: str, bad: list[dict[str, str]], *, closed: bool) -> None:
    manifest, left_out = reader.manifest, {entry["sample"] for entry in bad}
    labelled = manifest.labelled and not closed
    with storage.staged_folder(url) as staging, ShardWriter(
        staging, name=manifest.name, split=manifest.split, labelled=labelled, statistics={"num_skipped": len(bad)},
        converter=manifest.converter,  # which says whether images count whole
    ) as writer:
        for index in range(len(reader)):
            key, members = _read(reader, index, closed=closed)
            if key not in left_out:
                copied: dict[str, Member] = {**members}
                if closed and "json" in members:
                    copied["json"] = {name: value
                                      for name, value in decode_scene(key, {"json": members["json"]}).items()
                                      if name not in LABEL_FACTS}
                writer.add(key, copied)
        storage.write_json(storage.join(staging, SKIPPED), bad)


def _read(reader: ShardReader, index: int, *, closed: bool) -> tuple[str, dict[str, Any]]:
    return reader.read(index, ("jpg", "png", "json") if closed else None)
