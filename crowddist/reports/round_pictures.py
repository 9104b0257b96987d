"""The few pictures of every round: the same images each time, so that rounds compare at a glance."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from crowddist import storage
from crowddist.data.safe_decode import encode_png
from crowddist.data.shards import ShardReader, decode
from crowddist.data.stream import pixels_only
from crowddist.inference.predictor import Predictor
from crowddist.run.engine import read_curve
from crowddist.storage.run_folder import CURVE, PICTURES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from crowddist.inference.metrics import ImageResult
    from crowddist.methods.base import Stage

NUM_PICTURES = 6
NUM_TRANSLATED = 4
"""Number of translated images shown, one per row of the picture."""


def chosen_images(data: ShardReader, number: int) -> list[int]:
    """Indexes of the images shown: evenly spread over the data set, chosen without labels."""
    return sorted({round(place) for place in np.linspace(0, len(data) - 1, number)})


def round_pictures(
    checkpoint_url: str, data_url: str, run_folder: str, stage: Stage, results: Mapping[str, ImageResult], *,
    skip: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """Draws the chosen images with the predictions of a stage's counter, and keeps them in the run's `pictures`.
    Returns name -> (H, W, 3) uint8, with the same names in every round.

    Args:
        results: key -> result of the evaluation; its count and true heads may be those of a region of interest. The
            labels themselves are not read.
        skip: keys of images that workers died over.
    """
    from crowddist.reports.sheets import round_sheet

    predictor, data = Predictor.from_checkpoint(checkpoint_url), ShardReader(data_url)
    pictures = {}
    for index in chosen_images(data, NUM_PICTURES):
        key, members = data.read(index)
        if key in skip:
            continue
        sample = decode(key, pixels_only(members))
        found, result = predictor.predict(sample.image), results.get(key)
        assert found.keep is not None  # it is only for trials of thresholds
        sheet = round_sheet(
            sample.image, density=found.density, spread=found.spread, keep=found.keep, points=found.points,
            sizes=found.sizes, count=found.count if result is None else result.count, uncertainty=found.uncertainty,
            interval=found.interval if result is None else result.interval,
            true_points=None if result is None else result.truth, title=f"{key}, {stage.title}")
        _keep(sheet, run_folder, key, f"round-{stage.num_round}.png")
        pictures[key] = sheet
    return pictures


def translation_picture(urls: Mapping[str, str], run_folder: str, *, skip: Collection[str] = ()) -> np.ndarray:
    """Draws a few images of the source beside their translation and some of the target; keeps the picture in the run's
    `pictures`.

    Args:
        urls: of the data sets `source`, `translated` and `target`.
        skip: keys of images of the source that workers died over.
    """
    from crowddist.reports.sheets import translation_sheet

    source, translated, target = (ShardReader(urls[name]) for name in ("source", "translated", "target"))
    keys = [key for index in chosen_images(source, NUM_TRANSLATED) if (key := source.read(index, ())[0]) not in skip]
    beside = [target.read(index, ())[0] for index in chosen_images(target, NUM_TRANSLATED)]
    picture = translation_sheet(*([_image(data, key) for key in shown]
                                  for data, shown in ((source, keys), (translated, keys), (target, beside))))
    _keep(picture, run_folder, "translation.png")
    return picture


def summary_pictures(rows: Sequence[Mapping[str, Any]], run_folder: str) -> dict[str, np.ndarray]:
    """Draws the charts of `summary_charts`, and keeps them in the run's `pictures`. Returns (H, W, 3) uint8 of each."""
    from crowddist.reports.charts import pixels

    pictures = {name: pixels(chart) for name, chart in summary_charts(rows, run_folder).items()}
    for name, picture in pictures.items():
        _keep(picture, run_folder, f"{name}.png")
    return pictures


def summary_charts(rows: Sequence[Mapping[str, Any]], run_folder: str) -> dict[str, Figure]:
    """Charts of the error by round and of the learning curves of all stages.

    Returns `rounds`, `curves` and, if a stage had a classifier (orientation, discriminators), `accuracies`, without
    those that have no data. `rows`: as in result.json.
    """
    from crowddist.reports.charts import curves, rounds_chart

    points = {}
    for row in rows:
        for name in row["stages"]:
            title = row["title"] if len(row["stages"]) == 1 else f"{row['title']}, {name.rpartition('/')[2]}"
            points[title] = read_curve(storage.join(run_folder, name, CURVE))
    losses = {title: _values(curve, "loss") for title, curve in points.items()}
    names = sorted({name for curve in points.values() for point in curve for name in point
                    if name.endswith("_accuracy")})
    accuracies = {f"{title}: {name.removesuffix('_accuracy')}": _values(curve, name)
                  for title, curve in points.items() for name in names}
    charts = {}
    if any("target/mae" in row for row in rows):
        charts["rounds"] = rounds_chart(rows)
    if any(losses.values()):
        charts["curves"] = curves(losses, title="Learning curves", label="loss")
    if any(accuracies.values()):
        charts["accuracies"] = curves(accuracies, title="Accuracy of classifiers (1/2 is chance)", label="accuracy")
    return charts


def _values(curve: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    return [(point["step"], point[name]) for point in curve if name in point]


def _image(data: ShardReader, key: str) -> np.ndarray:
    _, members = data.read(data.index_of(key))
    return decode(key, pixels_only(members)).image


def _keep(picture: np.ndarray, run_folder: str, *name: str) -> None:
    storage.write_bytes(storage.join(run_folder, PICTURES, *name), encode_png(picture))
