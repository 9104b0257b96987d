"""Regions of interest: the part of an image in which people are annotated and counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from crowddist.data.transforms import covered_area
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
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"sample {sample.key}: no region of interest: {' '.join(str(error).split())}; convert the "
                         "data set again") from None
    if not pixels.any():
        raise InputError(f"sample {sample.key}: its region of interest {polygon} lies outside the image; convert the "
                         "data set again")
    return Region(polygon=np.asarray(polygon, np.float64), pixels=pixels)


def cell_shares(pixels: np.ndarray, seen: tuple[int, int], cells: tuple[int, ...], stride: int) -> np.ndarray:
    """The share of each cell of a density map that lies in a region: (h, w) float32, 0 to 1.

    Of a cell that reaches beyond the image only the part inside counts. A density, times these shares, sums to the
    persons in the region, as if those of a cell were spread evenly over it.

    Args:
        pixels: (H, W) bool, the region's pixels of the image as given.
        seen: (height, width) of the image as the network saw it, px.
        cells: (h, w) of the density map.
        stride: side of a cell, px of the image as the network saw it.
    """
    scale_y, scale_x = (side / given for side, given in zip(seen, pixels.shape, strict=True))
    window = (0.0, 0.0, cells[0] * (stride / scale_y), cells[1] * (stride / scale_x))
    size = (cells[0], cells[1])
    return covered_area(pixels, window, size) / covered_area(np.ones_like(pixels), window, size)
