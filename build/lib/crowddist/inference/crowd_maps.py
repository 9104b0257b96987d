"""Where a counter finds people in images, seen at several sizes: composites put people where it finds nobody."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from crowddist.data.shards import ShardReader, decode
from crowddist.inference.predictor import Predictor
from crowddist.run.engine import default_device

VIEWS = (0.7, 1.0, 1.4)
"""Sizes, relative to the counter's image size (ours): what one view overlooks, another may see."""


def crowd_maps(checkpoint: str, images: ShardReader, indexes: Sequence[int]) -> Iterator[np.ndarray]:
    """For each index (views, h, w) float32 persons a cell. Opens pixels alone.

    Raises FileNotFoundError or InputError for a checkpoint without a counter.
    """
    predictor = Predictor.from_checkpoint(checkpoint, device=default_device(), one_pass=True)
    for index in indexes:
        image = decode(*images.read(index, ("jpg", "png"))).image
        yield np.stack([next(iter(predictor.see([image], (zoom,)))).density for zoom in VIEWS])
