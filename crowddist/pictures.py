"""The few pictures of every round: the same images each time, so that rounds compare at a glance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crowddist import storage
from crowddist.data.shards import ShardReader, decode
from crowddist.data.stream import pixels_only
from crowddist.predictor import Predictor

if TYPE_CHECKING:
    from crowddist.methods.base import Stage

NUM_PICTURES = 6


def chosen_images(data: ShardReader) -> list[int]:
    """Indexes of the images shown: spread evenly over the data set; no label is looked at."""
    return sorted({round(place) for place in np.linspace(0, len(data) - 1, NUM_PICTURES)})


def round_pictures(checkpoint_url: str, data_url: str, run_folder: str, stage: Stage, *, show_truth: bool) -> dict[str, np.ndarray]:
    """Draws the chosen images as a stage's counter sees them, and keeps them as PNG below the run's `pictures`.

    Args:
        show_truth: whether the data set is the evaluation's, whose points may be drawn.

    Returns:
        Name -> (H, W, 3) uint8; the names are equal in every round.
    """
    import cv2

    from crowddist.report import round_sheet

    predictor, data = Predictor.from_checkpoint(checkpoint_url), ShardReader(data_url)
    pictures = {}
    for index in chosen_images(data):
        key, members = data.read(index)
        if not show_truth:
            members = pixels_only(members)
        sample = decode(key, members)
        found = predictor.predict(sample.image)
        sheet = round_sheet(
            sample.image,
            density=found.density,
            spread=found.spread,
            keep=found.keep,
            points=found.points,
            count=found.count,
            uncertainty=found.uncertainty,
            true_points=sample.points,
            title=f"{key}, {stage.title}",
        )
        _, png = cv2.imencode(".png", sheet[:, :, ::-1])
        storage.write_bytes(storage.join(run_folder, "pictures", key, f"round-{stage.num_round}.png"), png.tobytes())
        pictures[key] = sheet
    return pictures
