"""Evaluation: the only place where target labels are opened; every image once, sums rather than averages of averages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from crowddist.data.shards import ShardReader, decode
from crowddist.data.stream import cell_density
from crowddist.data.transforms import resize_points
from crowddist.errors import InputError
from crowddist.ops.localization import mean_average_precision
from crowddist.ops.metrics import count_errors, psnr
from crowddist.predictor import ImagePrediction, Predictor

CHUNK = 16
"""Images decoded at a time."""


@dataclass(frozen=True, kw_only=True)
class ImageResult:
    """One labelled image and what the counter said of it."""

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


def evaluate_unit(predictor: Predictor, data: ShardReader, unit: range) -> list[ImageResult]:
    """Counts every image of a unit of work, in order. Raises: InputError for an image without points."""
    results = []
    for first in range(0, len(unit), CHUNK):
        chunk = [decode(*data.read(index)) for index in unit[first : first + CHUNK]]
        predictions = predictor.predict_many([sample.image for sample in chunk])
        for sample, prediction in zip(chunk, predictions, strict=True):
            if sample.points is None:
                raise InputError(f"sample {sample.key} of {data.url} has no points; an evaluation needs a labelled data set")
            results.append(_compare(sample.key, sample.image, sample.points, prediction, predictor.sigma_px))
    return results


def evaluate_data(predictor: Predictor, data: ShardReader) -> list[ImageResult]:
    """Counts every image of a labelled data set once, in this process, in order."""
    return evaluate_unit(predictor, data, range(len(data)))


def _compare(key: str, image: np.ndarray, points: np.ndarray, prediction: ImagePrediction, sigma_px: float) -> ImageResult:
    from crowddist.ops.ssim import ssim

    scale_y, scale_x = prediction.size[0] / image.shape[0], prediction.size[1] / image.shape[1]
    height, width = prediction.density.shape
    true_density = cell_density(resize_points(points, scale_x, scale_y), (height, width), sigma_px)
    return ImageResult(
        key=key,
        true_count=float(len(points)),
        count=prediction.count,
        uncertainty=prediction.uncertainty,
        psnr_db=psnr(prediction.density, true_density),
        ssim=float(ssim(prediction.density, true_density)),
        points=prediction.points,
        truth=points,
    )


def summarise(results: Sequence[ImageResult]) -> dict[str, float]:
    """The metrics of a data set: `target/mae`, `target/rmse`, `target/map`, `target/psnr`, `target/ssim` and counts.

    PSNR (dB) and SSIM are means over images of the density maps at the network's resolution; `target/bias` is the mean of
    predicted minus true count, which tells over- from under-counting.

    Raises:
        InputError: without any image.
    """
    if not results:
        raise InputError("the evaluation data set holds no image")
    predicted = [result.count for result in results]
    true = [result.true_count for result in results]
    errors = count_errors(predicted, true)
    return {
        "target/mae": errors["mae"],
        "target/rmse": errors["rmse"],
        "target/map": mean_average_precision([r.points for r in results], [r.truth for r in results]),
        "target/psnr": float(np.mean([result.psnr_db for result in results])),
        "target/ssim": float(np.mean([result.ssim for result in results])),
        "target/bias": float(np.mean(np.subtract(predicted, true))),
        "target/mean_count": float(np.mean(predicted)),
        "target/num_images": float(len(results)),
    }


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
