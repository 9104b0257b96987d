"""Evaluation: the only place where target labels are opened; every image once, sums rather than averages of averages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from crowddist.data.config import StreamConfig
from crowddist.data.sample import Part, Sample, Seen
from crowddist.data.shards import ShardReader, decode
from crowddist.data.stream import cell_density, known_sizes
from crowddist.data.transforms import covered_area, resize_points
from crowddist.errors import InputError
from crowddist.ops.calibration import calibration_error, reliability, sparsification_error
from crowddist.ops.localization import mean_average_precision, precision_recall
from crowddist.ops.metrics import count_errors, count_errors_by_range, psnr
from crowddist.ops.regions import points_inside, polygon_pixels
from crowddist.predictor import ImagePrediction, Predictor

RADII_PX = (4.0, 8.0, 16.0)
"""Distances in px of the image that precision, recall and F1 are given at. ours."""
CHUNK = 16
"""Images decoded at a time."""
WHOLE_IMAGES = "gcc"
"""The converter whose images are counted whole: its regions are where people were placed, who reach beyond them (Wang et al., CVPR 2019)."""


@dataclass(frozen=True, kw_only=True)
class ImageResult:
    """One labelled image and what the counter said of it; where the image has a region of interest, all but the uncertainty is inside it."""

    key: str
    true_count: float
    count: float
    uncertainty: float
    psnr_db: float
    ssim: float
    points: np.ndarray
    """M x 3: x, y, score of the heads found, px of the image."""
    truth: np.ndarray
    """N x 2: x, y of the true heads."""
    parts: Mapping[str, Part] = field(default_factory=dict)
    """What parts of the method would have said alone, without their densities."""
    scene: str = ""
    """The scene it is of; "" where the data set does not tell."""


@dataclass(frozen=True, kw_only=True)
class _Region:
    """The part of an image that counts."""

    polygon: np.ndarray
    """K x 2: x, y of its vertices, px of the image."""
    pixels: np.ndarray
    """(H, W) bool."""


def evaluate_unit(predictor: Predictor, data: ShardReader, unit: Sequence[int]) -> list[ImageResult]:
    """Counts the images of these indexes, in order. Raises: InputError for an image without points, or whose region of interest is none."""
    results = []
    whole_images = _counts_whole(data)
    for first in range(0, len(unit), CHUNK):
        chunk = [decode(*data.read(index)) for index in unit[first : first + CHUNK]]
        predictions = predictor.predict_many([sample.image for sample in chunk])
        for sample, prediction in zip(chunk, predictions, strict=True):
            if sample.points is None:
                raise InputError(f"sample {sample.key} of {data.url} has no points; an evaluation needs a labelled data set")
            region = None if whole_images else _region(sample)
            results.append(_compare(sample, prediction, predictor.method.stream, predictor.stride, region))
    return results


def evaluate_data(predictor: Predictor, data: ShardReader) -> list[ImageResult]:
    """Counts every image of a labelled data set once, in this process, in order."""
    return evaluate_unit(predictor, data, range(len(data)))


def _compare(sample: Sample, prediction: ImagePrediction, config: StreamConfig, stride: int, region: _Region | None = None) -> ImageResult:
    from crowddist.ops.ssim import ssim

    assert sample.points is not None  # checked by the caller
    points, found, count, density = sample.points, prediction.points, prediction.count, prediction.density
    scale_y, scale_x = (seen / given for seen, given in zip(prediction.size, sample.image.shape, strict=False))
    true_density = _true_density(sample, prediction.size, density.shape, config, stride)
    parts, cells = prediction.parts, None
    if region is not None:
        shares = _cell_shares(region.pixels, density.shape, (stride / scale_y, stride / scale_x))
        points, found = points[points_inside(points, region.polygon)], found[points_inside(found, region.polygon)]
        # Persons beyond the outline reach into the true density as they do into the predicted one.
        density, true_density, cells = density * shares, true_density * shares, shares > 0
        count = float(density.sum(dtype=np.float64))
        parts = {name: inside for name, part in parts.items() if (inside := _part_inside(part, region, shares)) is not None}
    compared: Any = ... if cells is None else cells
    return ImageResult(
        key=sample.key,
        true_count=float(len(points)),
        count=count,
        uncertainty=prediction.uncertainty,
        psnr_db=psnr(density[compared], true_density[compared]),
        ssim=float(ssim(density, true_density, cells)),
        points=found,
        truth=points,
        parts={name: replace(part, density=None) for name, part in parts.items()},
        scene=str(sample.scene.get("scene", "")),
    )


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What is true of one image, for a search that is given labelled images."""

    points: np.ndarray
    """N x 2, x, y in px of the image."""
    density: np.ndarray
    """(h, w), persons per cell of what the networks say of it."""


def read_truth(data: ShardReader, key: str, seen: Seen, config: StreamConfig, stride: int) -> Truth:
    """What the labels of the image `key` say, in the cells of a prediction of it. Raises: InputError where there is no such image, or it has no points."""
    sample = decode(*data.read(data.index_of(key)))
    if sample.points is None:
        raise InputError(f"sample {key} of {data.url} has no points; give a labelled data set")
    if sample.scene.get("roi") and not _counts_whole(data):
        raise InputError(f"sample {key} of {data.url} has a region of interest, which a search cannot judge by; give images that count whole")
    return Truth(points=sample.points, density=_true_density(sample, seen.size, seen.density.shape, config, stride))


def _true_density(sample: Sample, size: tuple[int, int], cells: tuple[int, ...], config: StreamConfig, stride: int) -> np.ndarray:
    """(h, w) persons per cell of an image that was seen at `size` (height, width) px."""
    assert sample.points is not None  # checked by the caller
    scale_y, scale_x = (seen / given for seen, given in zip(size, sample.image.shape, strict=False))
    heads = resize_points(sample.points, scale_x, scale_y)
    if config.sigma_of_size:
        heads = np.column_stack([heads, known_sizes(sample) * np.sqrt(scale_y * scale_x)])
    return cell_density(heads, (cells[0], cells[1]), config, stride)


def _counts_whole(data: ShardReader) -> bool:
    """Whether a data set's images count whole, whatever region they tell."""
    return data.manifest.converter.partition(" ")[0] == WHOLE_IMAGES


def _region(sample: Sample) -> _Region | None:
    polygon = sample.scene.get("roi")
    if not polygon:
        return None
    try:
        pixels = polygon_pixels(polygon, sample.image.shape[:2])
    except (TypeError, ValueError) as error:
        raise InputError(f"sample {sample.key}: no region of interest: {' '.join(str(error).split())}; convert the data set again") from None
    if not pixels.any():
        raise InputError(f"sample {sample.key}: its region of interest {polygon} lies outside the image; convert the data set again")
    return _Region(polygon=np.asarray(polygon, np.float64), pixels=pixels)


def _cell_shares(pixels: np.ndarray, cells: tuple[int, int], cell: tuple[float, float]) -> np.ndarray:
    """(h, w), the share of each cell's part of the image that lies in the region, 0 to 1; a cell is `cell` (height, width) px of the image."""
    window = (0.0, 0.0, cells[0] * cell[0], cells[1] * cell[1])
    return covered_area(pixels, window, cells) / covered_area(np.ones_like(pixels), window, cells)


def _part_inside(part: Part, region: _Region, shares: np.ndarray) -> Part | None:
    """What a part says of the region: its points there, or its density; None of a part that gives nothing but a count."""
    if part.points is not None:
        points = part.points[points_inside(part.points, region.polygon)]
        return Part(count=float(len(points)), points=points)
    return None if part.density is None else Part(count=float((part.density * shares).sum(dtype=np.float64)))


def summarise(results: Sequence[ImageResult], radii_px: Sequence[float] = RADII_PX) -> dict[str, float]:
    """The metrics of a data set: `target/mae`, `target/rmse`, `target/map`, `target/psnr`, `target/ssim`, counts, and those of the parts.

    PSNR (dB) and SSIM are means over images of the density maps at the network's resolution; `target/bias` is the mean of
    predicted minus true count, which tells over- from under-counting. `target/precision_8px` and its kin are of the head points within
    8 px, one of `radii_px`, one truth to a point. `target/points_mae` is of the number of head points; `target/NAME_mae`, `_rmse`, `_bias` and, where it
    gives points, `_map` are what a part of the method (`regression`, `detection`) would have got alone.

    `target/calibration_error` and `target/ause` say how well the uncertainty of the count knows its error, see `ops.calibration`; where there is one.

    `target/count/010-049/mae`, `/bias` and `/num_images` are of the images that truly show 10 to 49 persons, and so on. Where all images tell
    their scene, `target/scene/NAME/mae` is that scene's, and `target/mae_by_scene` the mean over scenes, as WorldExpo'10 is reported.

    Raises:
        InputError: without any image.
    """
    if not results:
        raise InputError("the evaluation data set holds no image")
    true = [result.true_count for result in results]
    truths = [result.truth for result in results]
    points = [result.points for result in results]
    metrics = {
        **_errors("target/", [result.count for result in results], true),
        "target/map": mean_average_precision(points, truths),
        "target/psnr": float(np.mean([result.psnr_db for result in results])),
        "target/ssim": float(np.mean([result.ssim for result in results])),
        "target/mean_count": float(np.mean([result.count for result in results])),
        "target/num_images": float(len(results)),
        **_errors("target/points_", [len(found) for found in points], true),
    }
    uncertainties = [result.uncertainty for result in results]
    if any(uncertainties):
        errors = np.subtract([result.count for result in results], true)
        metrics["target/calibration_error"] = calibration_error(reliability(errors, uncertainties))
        metrics["target/ause"] = sparsification_error(errors, uncertainties)
    for radius, rates in precision_recall(points, truths, radii_px).items():
        metrics |= {f"target/{name}_{radius:g}px": rate for name, rate in rates.items()}
    for name in results[0].parts:
        parts = [result.parts[name] for result in results if name in result.parts]
        if len(parts) < len(results):
            continue
        metrics |= _errors(f"target/{name}_", [part.count for part in parts], true)
        found = [part.points for part in parts if part.points is not None]
        if len(found) == len(parts):
            metrics[f"target/{name}_map"] = mean_average_precision(found, truths)
    for name, errors in count_errors_by_range([result.count for result in results], true).items():
        metrics |= {f"target/count/{name}/{noun}": value for noun, value in errors.items()}
    return metrics | _scene_errors(results)


def _scene_errors(results: Sequence[ImageResult]) -> dict[str, float]:
    scenes = sorted({result.scene for result in results})
    if "" in scenes:
        return {}
    metrics, errors = {}, []
    for scene in scenes:
        shown = [result for result in results if result.scene == scene]
        errors.append(count_errors([result.count for result in shown], [result.true_count for result in shown])["mae"])
        # MLflow takes no other characters in the names of metrics.
        metrics[f"target/scene/{re.sub(r'[^A-Za-z0-9_-]', '_', scene)}/mae"] = errors[-1]
    return {**metrics, "target/mae_by_scene": float(np.mean(errors))}


def _errors(prefix: str, predicted: Sequence[float], true: Sequence[float]) -> dict[str, float]:
    errors = count_errors(predicted, true)
    return {f"{prefix}mae": errors["mae"], f"{prefix}rmse": errors["rmse"], f"{prefix}bias": float(np.mean(np.subtract(predicted, true)))}


def image_rows(results: Sequence[ImageResult]) -> list[dict[str, float | str]]:
    """One plain row an image, the largest error first."""
    rows = [
        {
            "image": result.key,
            "true_count": result.true_count,
            "count": round(result.count, 2),
            "error": round(result.count - result.true_count, 2),
            "uncertainty": round(result.uncertainty, 3),
            "psnr_db": round(result.psnr_db, 2),
            "ssim": round(result.ssim, 4),
        }
        for result in results
    ]
    return sorted(rows, key=lambda row: -abs(row["error"]))  # type: ignore[arg-type]
