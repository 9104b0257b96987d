"""Evaluation: the only place that opens the target's labels. Every image counts once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from crowddist.data.config import StreamConfig
from crowddist.data.regions import Region, cell_shares, counts_whole, find_region
from crowddist.data.sample import Part, Sample, Seen
from crowddist.data.shards import ShardReader, decode
from crowddist.data.stream import cell_density, known_sizes
from crowddist.data.transforms import resize_points
from crowddist.data.zones.zone import ZoneSet
from crowddist.errors import InputError
from crowddist.inference.metrics import ImageResult
from crowddist.inference.predictor import ImagePrediction, Predictor
from crowddist.inference.units import CHUNK
from crowddist.ops.metrics import pixel_density, psnr
from crowddist.ops.regions import points_inside, polygon_pixels
from crowddist.ops.scales import LONE_SIZE_PX
from crowddist.ops.ssim import ssim


def evaluate_unit(predictor: Predictor, data: ShardReader, unit: Sequence[int],
                  zones: ZoneSet | None = None) -> list[ImageResult]:
    """Counts the images with these indexes, in order, also by zones. Raises: InputError for an image without points,
    with a region of interest that cannot be, or that the zones do not fit.
    """
    results = []
    for first in range(0, len(unit), CHUNK):
        chunk = [decode(*data.read(index)) for index in unit[first : first + CHUNK]]
        predictions = predictor.predict_views([sample.image for sample in chunk])
        for sample, prediction in zip(chunk, predictions, strict=True):
            if sample.points is None:
                raise InputError(f"sample {sample.key} of {data.url} has no points; an evaluation needs a labelled "
                                 "data set")
            region = None if counts_whole(data.manifest) else find_region(sample)
            results.append(_compare(sample, prediction, predictor.method.stream, predictor.stride, region, zones))
    return results


def evaluate_data(predictor: Predictor, data: ShardReader, zones: ZoneSet | None = None) -> list[ImageResult]:
    """Counts all images of a labelled data set, in order; as `evaluate_unit`."""
    return evaluate_unit(predictor, data, range(len(data)), zones)


def _compare(sample: Sample, prediction: ImagePrediction, config: StreamConfig, stride: int,
             region: Region | None, zones: ZoneSet | None = None) -> ImageResult:
    assert sample.points is not None  # checked by the caller
    points, found, count, density = sample.points, prediction.points, prediction.count, prediction.density
    true_density = _true_density(sample, prediction.size, density.shape, config, stride)
    full_psnr_db, full_ssim = _compare_pixels(sample, prediction, config, stride, region)
    parts, cells = prediction.parts, None
    if region is not None:
        shares = cell_shares(region.pixels, prediction.size, density.shape, stride)
        points, found = points[points_inside(points, region.polygon)], found[points_inside(found, region.polygon)]
        # Persons just outside the region reach into both densities alike.
        density, true_density, cells = density * shares, true_density * shares, shares > 0
        count = float(density.sum(dtype=np.float64))
        inside = {name: _part_inside(part, region, shares) for name, part in parts.items()}
        parts = {name: part for name, part in inside.items() if part is not None}
    compared: Any = ... if cells is None else cells
    return ImageResult(
        key=sample.key, true_count=float(len(points)), count=count, uncertainty=prediction.uncertainty,
        psnr_db=psnr(density[compared], true_density[compared]), ssim=float(ssim(density, true_density, cells)),
        psnr_full_db=full_psnr_db, ssim_full=full_ssim,
        points=found, truth=points,
        parts={name: replace(part, density=None) for name, part in parts.items()},
        scene=str(sample.scene.get("scene", "")),
        zoom_counts=prediction.zoom_counts if region is None else {},
        interval=prediction.interval if region is None else None, whole=region is None,
        zones={} if zones is None else _count_zones(zones, sample, prediction.size, density, points, stride),
    )


def _count_zones(zones: ZoneSet, sample: Sample, seen: tuple[int, int], density: np.ndarray, points: np.ndarray,
                 stride: int) -> dict[str, tuple[float, float]]:
    """Predicted and true persons in each zone."""
    size = (sample.image.shape[0], sample.image.shape[1])
    try:
        placed = zones.on(size, seen=seen, cells=density.shape, stride=stride)
    except InputError as error:
        raise InputError(f"sample {sample.key}: {error}") from None
    true = zones.num_inside(points, size)
    return {name: (count, float(true[name])) for name, count in placed.counts(density).items()}


def _compare_pixels(sample: Sample, prediction: ImagePrediction, config: StreamConfig, stride: int,
                    region: Region | None) -> tuple[float, float]:
    """PSNR in dB and SSIM of the densities at the pixels that the network saw, in units of the truth's maximum."""
    size = prediction.size
    density = pixel_density(prediction.density, size, stride)
    truth, inside = _true_density(sample, size, size, config, 1), None
    if region is not None:
        scale_y, scale_x = (seen / given for seen, given in zip(size, sample.image.shape, strict=False))
        inside = polygon_pixels(resize_points(region.polygon, scale_x, scale_y), size)
        density, truth = density * inside, truth * inside
    sigma = config.sigma_of_size * LONE_SIZE_PX if config.sigma_of_size else config.sigma_px
    peak = float(truth.max()) or 1 / (2 * math.pi * sigma**2)  # of one head, where there is nobody
    compared: Any = ... if inside is None else inside
    return psnr(density[compared], truth[compared], peak), float(ssim(density, truth, inside, peak))


@dataclass(frozen=True, kw_only=True)
class Truth:
    """The truth about one image, for a search with labelled images."""

    points: np.ndarray
    """N x 2, x, y in px of the image."""
    density: np.ndarray
    """(h, w) persons per cell of the prediction."""


def read_truth(data: ShardReader, key: str, seen: Seen, config: StreamConfig, stride: int) -> Truth:
    """The labels of the image `key`, in the cells of its prediction. Raises: InputError for an unknown key, an image
    without points, or one with a region of interest.
    """
    sample = decode(*data.read(data.index_of(key)))
    if sample.points is None:
        raise InputError(f"sample {key} of {data.url} has no points; give a labelled data set")
    if sample.scene.get("roi") and not counts_whole(data.manifest):
        raise InputError(f"sample {key} of {data.url} has a region of interest, which a search cannot judge by; give "
                         "images that count whole")
    return Truth(points=sample.points, density=_true_density(sample, seen.size, seen.density.shape, config, stride))


def _true_density(sample: Sample, size: tuple[int, int], cells: tuple[int, ...], config: StreamConfig,
                  stride: int) -> np.ndarray:
    """(h, w) persons per cell of an image resized to `size` (height, width) px."""
    assert sample.points is not None  # checked by the caller
    scale_y, scale_x = (seen / given for seen, given in zip(size, sample.image.shape, strict=False))
    heads = resize_points(sample.points, scale_x, scale_y)
    if config.sigma_of_size:
        heads = np.column_stack([heads, known_sizes(sample) * np.sqrt(scale_y * scale_x)])
    return cell_density(heads, (cells[0], cells[1]), config, stride)


def _part_inside(part: Part, region: Region, shares: np.ndarray) -> Part | None:
    """A part's count and points in the region; None for a part that has neither points nor density."""
    if part.points is not None:
        points = part.points[points_inside(part.points, region.polygon)]
        return Part(count=float(len(points)), points=points)
    return None if part.density is None else Part(count=float((part.density * shares).sum(dtype=np.float64)))
