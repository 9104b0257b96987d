"""Jobs: what is done with every image of a data set and one checkpoint, unit by unit, wherever that happens."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from crowddist.config import from_json
from crowddist.data.plan import work_units
from crowddist.data.shards import ShardReader
from crowddist.inference.evaluation import evaluate_unit
from crowddist.inference.metrics import ImageResult
from crowddist.inference.prediction_cache import predict_unit
from crowddist.inference.predictor import Predictor
from crowddist.inference.pseudo_labels import label_unit
from crowddist.inference.translated_set import translate_image, translate_unit
from crowddist.inference.units import open_pixels
from crowddist.methods.thresholds import with_values
from crowddist.process.host import keep_freed_memory


class Job(Protocol):
    """Work on all images of a data set. It holds names and numbers alone, so that it can be sent to other processes."""

    @property
    def checkpoint_url(self) -> str:
        """The counter that is asked."""

    @property
    def images_url(self) -> str:
        """The data set."""

    def run(self, predictor: Predictor, images: ShardReader, unit: range, skip: Collection[int] = ()) -> Any:
        """Does one unit of images, but for those in `skip`. Returns: its record; a unit that was done before is not
        done again.
        """

    def show(self, predictor: Predictor, image: np.ndarray) -> None:
        """Shows one image to the networks, as `run` does, and leaves nothing: whoever dies of it alone, dies of the
        image.
        """


def _see_for_labels(predictor: Predictor, image: np.ndarray) -> None:
    list(predictor.predict_views([image], predictor.method.label_views()))


@dataclass(frozen=True, kw_only=True)
class LabelJob:
    """Pseudo-labels of every image, see `label_unit`."""

    checkpoint_url: str
    images_url: str
    labels_url: str
    """Where the labels go."""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """Name -> value, in the place of the checkpoint's own, see `methods.thresholds`."""
    predictions_url: str = ""
    """What the checkpoint says of the images, where that is known already; "": the networks are asked."""

    def run(self, predictor: Predictor, images: ShardReader, unit: range, skip: Collection[int] = ()) -> dict[str, Any]:
        """See `Job.run`."""
        labeller = (predictor.with_config(with_values(predictor.method.config, self.thresholds)) if self.thresholds
                    else predictor)
        known = ShardReader(self.predictions_url) if self.predictions_url else None
        return label_unit(labeller, images, unit, self.labels_url, skip, known=known)

    def show(self, predictor: Predictor, image: np.ndarray) -> None:
        """See `Job.show`."""
        _see_for_labels(predictor, image)


@dataclass(frozen=True, kw_only=True)
class PredictJob:
    """What the networks say of every image, kept, see `predict_unit`."""

    checkpoint_url: str
    images_url: str
    predictions_url: str
    """Where the predictions go."""
    config_json: str
    """The configuration with the lowest thresholds: what lies below them is not kept."""

    def run(self, predictor: Predictor, images: ShardReader, unit: range, skip: Collection[int] = ()) -> dict[str, Any]:
        """See `Job.run`."""
        return predict_unit(predictor, images, unit, self.predictions_url, from_json(self.config_json), skip)

    def show(self, predictor: Predictor, image: np.ndarray) -> None:
        """See `Job.show`."""
        _see_for_labels(predictor, image)


@dataclass(frozen=True, kw_only=True)
class TranslateJob:
    """Every image as another camera would show it, see `translate_unit`."""

    checkpoint_url: str
    images_url: str
    translated_url: str
    """Where the translated images go."""

    def run(self, predictor: Predictor, images: ShardReader, unit: range, skip: Collection[int] = ()) -> dict[str, Any]:
        """See `Job.run`."""
        return translate_unit(predictor, images, unit, self.translated_url, skip)

    def show(self, predictor: Predictor, image: np.ndarray) -> None:
        """See `Job.show`."""
        translate_image(predictor, image)


@dataclass(frozen=True, kw_only=True)
class EvaluateJob:
    """Every labelled image counted, see `evaluate_unit`; a unit's record are its results."""

    checkpoint_url: str
    images_url: str

    def run(self, predictor: Predictor, images: ShardReader, unit: range,
            skip: Collection[int] = ()) -> list[ImageResult]:
        """See `Job.run`."""
        return evaluate_unit(predictor, images, [index for index in unit if index not in skip])

    def show(self, predictor: Predictor, image: np.ndarray) -> None:
        """See `Job.show`."""
        list(predictor.predict_views([image], (1.0,)))


class JobWorker:
    """Does units of jobs on one data set with one checkpoint, which it loads once; Ray's actors hold one each."""

    def __init__(self, checkpoint_url: str, images_url: str, *, device: str = "cpu", threads: int = 0) -> None:
        import torch

        keep_freed_memory()
        if threads:
            torch.set_num_threads(threads)
        self.predictor = Predictor.from_checkpoint(checkpoint_url, device=device)
        self.images = ShardReader(images_url)

    def units(self) -> list[range]:
        """All units of work of the data set."""
        return work_units(len(self.images))

    def run(self, job: Job, unit: range, skip: Collection[int] = ()) -> Any:
        """See `Job.run`."""
        return job.run(self.predictor, self.images, unit, skip)

    def probe(self, job: Job, index: int) -> None:
        """Reads one image and shows it to the networks, see `Job.show`."""
        job.show(self.predictor, open_pixels(self.images, index).image)
