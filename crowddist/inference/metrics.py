"""The table of metrics: each one's name, how it is shown, and how it is computed from an evaluation's results."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from crowddist.data.sample import Part
from crowddist.errors import InputError
from crowddist.inference.intervals import CountInterval, interval_cells
from crowddist.ops.calibration import calibration_error, reliability, sparsification_error
from crowddist.ops.intervals import coverage_and_width
from crowddist.ops.localization import mean_average_precision, precision_recall
from crowddist.ops.metrics import count_errors, count_errors_by_range

RADII_PX = (4.0, 8.0, 16.0)
"""Distances in px of the image for precision, recall and F1. ours."""


@dataclass(frozen=True, kw_only=True)
class ImageResult:
    """One labelled image and its prediction. All but the uncertainty is limited to the region of interest, if any."""

    key: str
    true_count: float
    count: float
    uncertainty: float
    psnr_db: float
    """Of the cells' densities, each divided by its own maximum."""
    ssim: float
    """Of the cells' densities."""
    psnr_full_db: float
    """Of the densities of the pixels that the network saw, both divided by the truth's maximum."""
    ssim_full: float
    """Of the same densities."""
    points: np.ndarray
    """M x 3: x, y, score of the heads found, px of the image."""
    truth: np.ndarray
    """N x 2: x, y of the true heads."""
    parts: Mapping[str, Part] = field(default_factory=dict)
    """The method's parts alone, without their densities."""
    scene: str = ""
    """The image's scene; "" where the data set does not tell."""
    zoom_counts: Mapping[float, float] = field(default_factory=dict)
    """Zoom -> persons counted at it alone; {} where the image was seen at one, or has a region of interest."""
    interval: CountInterval | None = None
    """Where the true count lies, as predicted; None where the counter has no intervals, or in a region of interest."""
    zones: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Persons in each zone, by its name: predicted and true; {} where none were asked for."""
    whole: bool = True
    """Whether the image counts whole; False: in a region of interest alone."""


Of = Callable[[Sequence[ImageResult]], float | None]
"""Results of all images, at least one -> the metric; None where it does not apply."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A row of the table."""

    key: str
    """In result.json and in MLflow."""
    heading: str
    unit: str = ""
    """Written below the heading."""
    digits: int = 2
    """Digits after the point."""
    scale: float = 1.0
    """Factor for people's eyes, e.g. 100 for a share in per cent."""
    of: Of | None = None
    """Computes it from an evaluation; None: it comes from labels, a search or training."""
    in_notes: bool = False
    """Show it in MLflow's notes."""
    at_terminal: bool = True
    """Show it at the terminal. The report shows all that a run has a value for, these first."""
    meaning: str = ""
    """What it says, for who sees it for the first time: a sentence of the report."""
    better: str = ""
    """Which values are good: "lower", "higher", "near 0"; "" where none is better."""


def counts(results: Sequence[ImageResult]) -> tuple[list[float], list[float]]:
    """Predicted and true counts, persons."""
    return [result.count for result in results], [result.true_count for result in results]


def _mae(results: Sequence[ImageResult]) -> float:
    return count_errors(*counts(results))["mae"]


def _mae_by_scene(results: Sequence[ImageResult]) -> float | None:
    scenes = scene_errors(results)
    return float(np.mean(list(scenes.values()))) if scenes else None


def _calibration_error(results: Sequence[ImageResult]) -> float | None:
    errors, uncertainties = _errors_and_uncertainties(results)
    return calibration_error(reliability(errors, uncertainties)) if any(uncertainties) else None


def _ause(results: Sequence[ImageResult]) -> float | None:
    errors, uncertainties = _errors_and_uncertainties(results)
    return sparsification_error(errors, uncertainties) if any(uncertainties) else None


def _coverage_and_width(results: Sequence[ImageResult]) -> tuple[float, float] | tuple[None, None]:
    """Of the intervals; None where an image has none."""
    intervals = [result.interval for result in results if result.interval is not None]
    if len(intervals) < len(results):
        return None, None
    return coverage_and_width([found.low for found in intervals], [found.high for found in intervals],
                              [result.true_count for result in results])


def _zoom_errors(results: Sequence[ImageResult]) -> dict[str, float]:
    """The error of each zoom alone, and of every image's best zoom: a bound for rules that choose one."""
    if not all(result.zoom_counts for result in results):
        return {}
    zooms = list(results[0].zoom_counts)
    errors = np.array([[abs(result.zoom_counts[zoom] - result.true_count) for zoom in zooms] for result in results])
    return {**{f"target/zoom/{zoom:g}/mae": float(mean) for zoom, mean in zip(zooms, errors.mean(0), strict=True)},
            "target/best_zoom_mae": float(errors.min(1).mean())}


def _errors_and_uncertainties(results: Sequence[ImageResult]) -> tuple[np.ndarray, list[float]]:
    return np.subtract(*counts(results)), [result.uncertainty for result in results]


def scene_errors(results: Sequence[ImageResult]) -> dict[str, float]:
    """Mean absolute error of each scene, by its name; {} where an image does not tell its scene."""
    scenes = sorted({result.scene for result in results})
    return ({} if "" in scenes
            else {scene: _mae([result for result in results if result.scene == scene]) for scene in scenes})


METRICS: tuple[Metric, ...] = (
    Metric(key="target/mae", heading="MAE", unit="people", of=_mae, in_notes=True,
           meaning="How far an image's count is off, on average.", better="lower"),
    Metric(key="target/mae_by_scene", heading="MAE by scene", unit="people", of=_mae_by_scene,
           meaning="The mean over scenes of each scene's MAE.", better="lower"),
    Metric(key="target/rmse", heading="rmse", unit="people", in_notes=True,
           of=lambda results: count_errors(*counts(results))["rmse"],
           meaning="The root of the mean squared error: large errors weigh more.", better="lower"),
    Metric(key="target/bias", heading="bias", unit="people", in_notes=True,
           of=lambda results: float(np.mean(np.subtract(*counts(results)))),
           meaning="Predicted minus true count, on average: below 0, people are missed.", better="near 0"),
    Metric(key="target/map", heading="mAP", unit="%", digits=1, scale=100, in_notes=True,
           of=lambda results: mean_average_precision([result.points for result in results],
                                                     [result.truth for result in results]),
           meaning="How well heads are found at their places: mean average precision over 100 distances.",
           better="higher"),
    Metric(key="target/psnr_full", heading="PSNR of pixels", unit="dB",
           of=lambda results: float(np.mean([result.psnr_full_db for result in results])),
           meaning="How alike predicted and true density are at each pixel.", better="higher"),
    Metric(key="target/ssim_full", heading="SSIM of pixels", digits=3,
           of=lambda results: float(np.mean([result.ssim_full for result in results])),
           meaning="The same by local structure; 1 is equal.", better="higher"),
    Metric(key="target/psnr", heading="PSNR of cells", unit="dB, each by its own peak", at_terminal=False,
           of=lambda results: float(np.mean([result.psnr_db for result in results])),
           meaning="How alike both are in the network's cells.", better="higher"),
    Metric(key="target/ssim", heading="SSIM of cells", digits=3, at_terminal=False,
           of=lambda results: float(np.mean([result.ssim for result in results])),
           meaning="The same by local structure; 1 is equal.", better="higher"),
    Metric(key="target/calibration_error", heading="calibration error", unit="of the error", of=_calibration_error,
           at_terminal=False,
           meaning="Difference between uncertainty and error, divided by the error: 0 is best, 1 is without any "
                   "uncertainty.", better="lower"),
    Metric(key="target/ause", heading="AUSE", digits=3, of=_ause, at_terminal=False,
           meaning="0 where the uncertainty ranks images by their error, about 0.5 at random.", better="lower"),
    Metric(key="target/interval_coverage", heading="in interval", unit="% of images", digits=1, scale=100,
           of=lambda results: _coverage_and_width(results)[0],
           meaning="True counts that lie in the 90 % interval of their count. For images like the source's nine in "
                   "ten do; on the target that is only measured.", better="near 90"),
    Metric(key="target/interval_width", heading="interval's width", unit="people",
           of=lambda results: _coverage_and_width(results)[1], at_terminal=False,
           meaning="From the low to the high end of an interval, on average.", better="lower"),
    Metric(key="labels/kept_mass", heading="labels keep", unit="% of people", digits=1, scale=100,
           meaning="How many of the people predicted on the target become labels."),
    Metric(key="labels/certainty", heading="labels certain", unit="% at a person", digits=1, scale=100,
           at_terminal=False,
           meaning="How far members and zooms agree, on average over the people predicted."),
    Metric(key="labels/mean_count", heading="labels count", unit="people an image", digits=1, at_terminal=False,
           meaning="People an image by the counter that makes the labels, kept as labels or not."),
    Metric(key="labels/zoom_disagreement", heading="zooms differ", unit="% of the count", digits=1, scale=100,
           at_terminal=False,
           meaning="How far counts of an image at several zooms differ. A round after which it rises is dropped.",
           better="lower"),
    Metric(key="labels/change", heading="labels change", unit="%", digits=1, scale=100,
           meaning="How far labels differ from those of the round before."),
    Metric(key="search/rank_correlation", heading="search ranks", unit="correlation with the truth", at_terminal=False,
           meaning="Whether the search ranks its trials as the true labels do; 1 is the same order.",
           better="higher"),
    Metric(key="train/seconds", heading="training", unit="s", digits=0,
           meaning="Seconds of this round's training."),
)
"""In the order of display."""


def summarise(results: Sequence[ImageResult], radii_px: Sequence[float] = RADII_PX) -> dict[str, float]:
    """The metrics of a data set: those of the table that an evaluation computes, and families of metrics.

    PSNR (dB) and SSIM are means over images. `target/psnr_full` and `target/ssim_full` are of density maps at every
    pixel of the image as the network sees it, in units of the truth's maximum: these are for the papers' columns.
    `target/psnr` and `target/ssim` are of the network's cells, PSNR after dividing each map by its own maximum, as in
    older runs. `target/bias` is the mean of predicted minus true count. `target/calibration_error` and `target/ause`
    tell how well the uncertainty of the count predicts its error, see `ops.calibration`. `target/interval_coverage` is
    the share of images whose true count lies in its interval, `target/interval_width` the mean width, persons.

    Families: `target/precision_8px`, `recall` and `f1` match each head point to one true head within 8 px, one of
    `radii_px`. `target/points_mae` is of the number of head points; `target/NAME_mae`, `_rmse`, `_bias` and, where it
    has points, `_map` are of a part of the method (`regression`, `detection`) alone. `target/count/010-049/mae`,
    `/bias` and `/num_images` are of the images with 10 to 49 true persons, and so on. Where images were seen at several
    zooms, `target/zoom/0.75/mae` is of the counts at that zoom alone, and `target/best_zoom_mae` of every image's best
    zoom, a bound that no rule without labels reaches. Where all images tell their
    scene, `target/scene/NAME/mae` is that scene's, and `target/mae_by_scene` the mean over scenes, as in WorldExpo'10.

    Raises:
        InputError: there is no image.
    """
    if not results:
        raise InputError("the evaluation data set holds no image")
    predicted, true = counts(results)
    metrics = {metric.key: value
               for metric in METRICS if metric.of is not None and (value := metric.of(results)) is not None}
    metrics |= {"target/mean_count": float(np.mean(predicted)), "target/num_images": float(len(results))}
    points, truths = [result.points for result in results], [result.truth for result in results]
    metrics |= _zoom_errors(results)
    metrics |= _errors("target/points_", [len(found) for found in points], true)
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
    for name, errors in count_errors_by_range(predicted, true).items():
        metrics |= {f"target/count/{name}/{noun}": value for noun, value in errors.items()}
    # MLflow allows no other characters in names of metrics.
    return metrics | {f"target/scene/{re.sub(r'[^A-Za-z0-9_-]', '_', scene)}/mae": error
                      for scene, error in scene_errors(results).items()}


def _errors(prefix: str, predicted: Sequence[float], true: Sequence[float]) -> dict[str, float]:
    errors = count_errors(predicted, true)
    return {f"{prefix}mae": errors["mae"], f"{prefix}rmse": errors["rmse"],
            f"{prefix}bias": float(np.mean(np.subtract(predicted, true)))}


def zone_errors(results: Sequence[ImageResult]) -> dict[str, dict[str, float]]:
    """For each zone, by its name: mae, rmse, bias and mean_true_count, in persons an image; {} without zones."""
    found = {}
    for name in results[0].zones if results else ():
        predicted, true = ([result.zones[name][place] for result in results] for place in (0, 1))
        found[name] = _errors("", predicted, true) | {"mean_true_count": float(np.mean(true))}
    return found


def image_rows(results: Sequence[ImageResult]) -> list[dict[str, float | str]]:
    """One plain row per image, the largest error first."""
    rows = [
        {"image": result.key, "true_count": result.true_count, "count": round(result.count, 2),
         "error": round(result.count - result.true_count, 2), "uncertainty": round(result.uncertainty, 3),
         **interval_cells(result.interval),
         "psnr_full_db": round(result.psnr_full_db, 2), "ssim_full": round(result.ssim_full, 4),
         "psnr_db": round(result.psnr_db, 2), "ssim": round(result.ssim, 4)}
        for result in results
    ]
    return sorted(rows, key=lambda row: -abs(row["error"]))  # type: ignore[arg-type]
