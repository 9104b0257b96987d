"""Composites as shards: made in parallel; their bytes depend on the target's images, the options and the seed alone."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from typing import Any

import cv2
import numpy as np

import crowddist
from crowddist import storage
from crowddist.data.composite.backgrounds import (
    MAX_FRAMES,
    MAX_MEDIANS,
    Background,
    camera_backgrounds,
    chosen_images,
    counted_backgrounds,
)
from crowddist.data.composite.image import COUNTS, compose
from crowddist.data.config import DataSpec
from crowddist.data.convert.base import ITEMS_AHEAD
from crowddist.data.manifest import FILE_NAME
from crowddist.data.shard_codec import Member
from crowddist.data.shards import ShardReader, ShardWriter
from crowddist.errors import InputError
from crowddist.process.pool import process_pool
from crowddist.randomness import hash_order

CrowdMaps = Callable[[str, ShardReader, Sequence[int]], Iterable[np.ndarray]]
"""(checkpoint, images, indexes) -> for each index (views, h, w) persons a cell, by views of the image."""
MOST_BACKGROUNDS = 1000
"""Images that a counter looks at (ours): it takes a second for some of them, and more bring little."""
TRIES = 8
"""Backgrounds that a composite tries before it is left out (ours)."""
_backgrounds: list[Background] = []
"""Of this worker."""


def find_backgrounds(images: ShardReader, spec: DataSpec, checkpoint: str, crowd_maps: CrowdMaps | None,
                     watch: Callable[[Sequence[int]], Iterable[int]] = iter) -> list[Background]:
    """The target's empty places, by a counter or as medians of one camera. Raises InputError where there are none.

    Args:
        watch: wraps the indexes of the images that a counter looks at, to show progress.
    """
    if not checkpoint:
        return camera_backgrounds(images, chosen_images(images, MAX_FRAMES * MAX_MEDIANS, spec.seed))
    indexes = chosen_images(images, min(spec.num_images, MOST_BACKGROUNDS), spec.seed)
    if crowd_maps is None:
        raise InputError("composites with a counter are made by crowddist adapt alone; give shards, or another source")
    maps = iter(crowd_maps(checkpoint, images, indexes))
    return counted_backgrounds(images, indexes, (next(maps) for _ in watch(indexes)))


def write_composites(url: str, backgrounds: Sequence[Background], spec: DataSpec, *, name: str, num_workers: int = 1,
                     watch: Callable[[Sequence[int]], Iterable[int]] = iter) -> None:
    """Writes `spec.num_images` composites as a labelled data set at `url`, which appears whole or not at all.

    Masks are written where all people of all images are known: on medians of one camera. After a kill, the same call
    resumes behind the last whole shard.

    Args:
        num_workers: processes; with more than one the caller's main module must be importable.
        watch: wraps the indexes, to show progress.

    Raises:
        InputError: no background has room for people.
    """
    masked = not any(background.crowded.any() for background in backgrounds)
    facts = {"num_backgrounds": len(backgrounds), "asked_persons": list(COUNTS), "seed": spec.seed}
    done = [0]
    with ExitStack() as stack:
        staging = stack.enter_context(storage.staged_folder(url, job=storage.fingerprint(url)[:16]))
        storage.remove_file(storage.join(staging, FILE_NAME))  # of a process killed after its last write
        writer = stack.enter_context(ShardWriter(
            staging, name=name, split="all", labelled=True, converter=f"composite {crowddist.__version__}",
            statistics=facts, journal=lambda: {"num_done": done[0]}))
        if writer.resumed:
            done[0] = writer.resumed["num_done"]
        tally: Counter[str] = Counter()
        left = range(done[0], spec.num_images)
        make = partial(_make, spec.seed, spec.heads, masked)
        for index, members in _in_order(watch(left), make, backgrounds, num_workers):
            if members is not None:
                writer.add(f"composite_{index:06d}", members)
                tally["made"] += 1
            done[0] = index + 1
        if not tally and not writer.resumed:
            raise InputError(f"none of {len(backgrounds)} backgrounds of {name} has room for {COUNTS[0]} people; give "
                             "smaller heads (heads=LOW-HIGH), or images with more empty ground")


def _make(seed: int, heads: tuple[float, float] | None, masked: bool, index: int) -> dict[str, Member] | None:
    """The members of a composite; None where no background of several has room."""
    order = hash_order(len(_backgrounds), seed, "background", index // len(_backgrounds))
    for attempt in range(min(TRIES, len(order))):
        background = _backgrounds[order[(index + attempt) % len(order)]]
        composite = compose(background, seed=seed, index=index, heads=heads)
        if composite is not None:
            break
    else:
        return None
    height, width = composite.image.shape[:2]
    corners = composite.points + 0.5 - composite.sizes[:, None] / 2
    members: dict[str, Member] = {
        "jpg": composite.encode(background.tables), "points.npy": composite.points,
        "boxes.npy": np.column_stack([corners, composite.sizes, composite.sizes]).astype(np.float32),
        "json": {**composite.scene, "id": f"composite_{index:06d}", "height": height, "width": width,
                 "count": len(composite.points)}}
    if not composite.region.all():
        members["region.png"] = composite.region
    if masked:
        members["mask.png"] = composite.mask
    return members


def _in_order(indexes: Iterable[int], make: Callable[[int], Any], backgrounds: Sequence[Background],
              num_workers: int) -> Iterator[tuple[int, Any]]:
    """Each index with what `make` returns for it, in order; processes work ahead."""
    if num_workers == 1:
        threads = cv2.getNumThreads()
        try:
            _start(backgrounds)
            yield from ((index, make(index)) for index in indexes)
        finally:
            cv2.setNumThreads(threads)
        return
    with process_pool(num_workers, _start, list(backgrounds)) as pool:
        ahead: deque[tuple[int, Future[Any]]] = deque()
        for index in indexes:
            ahead.append((index, pool.submit(make, index)))
            if len(ahead) > ITEMS_AHEAD * num_workers:
                number, future = ahead.popleft()
                yield number, future.result()
        while ahead:
            number, future = ahead.popleft()
            yield number, future.result()


def _start(backgrounds: Sequence[Background]) -> None:
    """Gives a worker its backgrounds; its numbers depend on no threads, and it leaves the cores to the others."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    cv2.setNumThreads(1)
    _backgrounds[:] = backgrounds
