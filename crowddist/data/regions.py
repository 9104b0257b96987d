"""Regions of interest: the part of an image in which people are annotated and counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from crowddist.errors import InputError
from crowddist.ops.regions import polygon_pixels

if TYPE_CHECKING:
    from crowddist.data.manifest import Manifest
    from crowddist.data.sample import Sample

WHOLE_IMAGES = "gcc"
"""The converter whose images count whole: its regions say where people were placed, but they reach beyond (Wang et al.,
CVPR 2019)."""


@dataclass(frozen=True, kw_only=True)
class Region:
    """An image's region of interest."""

    polygon: np.ndarray
    """K x 2: x, y of its vertices, px of the image."""
    pixels: np.ndarray
    """(H, W) bool."""


def counts_whole(manifest: Manifest) -> bool:
    """True where a data set's images count whole, whatever their regions."""
    return manifest.converter.partition(" ")[0] == WHOLE_IMAGES


def find_region(sample: Sample) -> Region | None:
    """A sample's region; None without one. Raises InputError for one that cannot be."""
    polygon = sample.scene.get("roi")
    if not polygon:
        return None
    try:
        pixels = polygon_pixels(polygon, sample.frame or sample.image.shape[:2])
    except (TypeError, ValueError) as error:
        raise InputError(f"sample {sample.key}: no region of interest: {' '.join(str(error).split())}; convert the "
                         "data set again") from None
    if not pixels.any():
        raise InputError(f"sample {sample.key}: its region of interest {polygon} lies outside the image; convert the "
                         "data set again")
    return Region(polygon=np.asarray(polygon, np.float64), pixels=pixels)
