"""Jobs: work on all images of a data set with one checkpoint, unit by unit, on any launcher."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch

from crowddist.config import from_json
from crowddist.data.plan import work_units
from crowddist.data.shards import ShardReader
from crowddist.inference.evaluation import evaluate_unit
from crowddist.inference.metrics import ImageResult
from crowddist.inference.prediction_cache import predict_unit
from crowddist.inference.predictor import Predictor
from crowddist.inference.pseudo_labels import label_unit
from crowddist.inference.second_counter import SecondOpinions
from crowddist.inference.translated_set import translate_image, translate_unit
from crowddist.inference.units import open_pixels
from crowddist.inference.zoom_check import disagreements, is_checked
from crowddist.methods.thresholds import with_values
from crowddist.process.host import keep_freed_memory
from crowddist.process.stopwatch import Stopwatch


@dataclass(frozen=True, kw_only=True)
class Job(ABC):
    """Work on all images of a data set. Holds only names and numbers, so that it can be sent to other processes."""

    doing: ClassVar[str]
    """The work in a word, for its progress."""
    checkpoint_url: str
    images_url: str

    @abstractmethod
    def run(self, predictor: Predictor, images: ShardReader, unit: range, skip: Collection[int] = ()) -> Any:
        """Does one unit of images, without those in `skip`. Returns: its record; a unit with a record is not done
        again.
        """

    def show(self, predictor: Predictor, image: np.ndarray) -> None:
        """Runs the networks on one image, as `run` does, and writes nothing: finds out whether this image kills
        workers.
        """
        list(predictor.predict_views([image], predictor.method.label_views()))


@dataclass(frozen=True, kw_only=True)
class LabelJob(Job):
    """Pseudo-labels of every image, see `label_unit`."""

    doing = "labelling"
    labels_url: str
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """Name -> value, instead of the checkpoint's own, see `methods.thresholds`."""
    predictions_url: str = ""
    """The checkpoint's cached predictions; "": run the networks."""
    second_url: str = ""
    """A second counter's cached predictions, see `second_counter`; "": there is none."""

    def run(self, predictor: Predictor, images: ShardReader, unit: range, skip: Collection[int] = ()) -> dict[str, Any]:
        """See `Job.run`."""
        labeller = (predictor.with_config(with_values(predictor.method.config, self.thresholds)) if self.thresholds
                    else predictor)
        known = ShardReader(self.predictions_url) if self.predictions_url else None
        second = SecondOpinions(self.second_url) if self.second_url else None
        return label_unit(labeller, images, unit, self.labels_url, skip, known=known, second=second)


@dataclass(frozen=True, kw_only=True)
class PredictJob(Job):
    """Cached predictions of every image, see `predict_unit`."""

    doing = "predicting"
    predictions_url: str
    config_json: str
    """The configuration with the lowest thresholds; detections below them are dropped."""

    def run(self, predictor: Predictor, images: ShardReader, unit: range, skip: Collection[int] = ()) -> dict[str, Any]:
        """See `Job.run`."""
        return predict_unit(predictor, images, unit, self.predictions_url, from_json(self.config_json), skip)


@dataclass(frozen=True, kw_only=True)
class TranslateJob(Job):
    """Every image in the target's style, see `translate_unit`."""

    doing = "translating"
    translated_url: str

    def run(self, predictor: Predictor, images: ShardReader, unit: range, skip: Collection[int] = ()) -> dict[str, Any]:
        """See `Job.run`."""
        return translate_unit(predictor, images, unit, self.translated_url, skip)

    def show(self, predictor: Predictor, image: np.ndarray) -> None:
        """See `Job.show`."""
        translate_image(predictor, image)


class EvaluateJob(Job):
    """Counts of all labelled images, see `evaluate_unit`; a unit's record is the list of its results."""

    doing = "counting"

    def run(self, predictor: Predictor, images: ShardReader, unit: range,
            skip: Collection[int] = ()) -> list[ImageResult]:
        """See `Job.run`."""
        return evaluate_unit(predictor, images, [index for index in unit if index not in skip])

    def show(self, predictor: Predictor, image: np.ndarray) -> None:
        """See `Job.show`."""
        predictor.predict(image)


class ZoomJob(Job):
    """Counts the images that a counter is checked on at the sizes that labels are made at; a unit's record is the list
    of their disagreements, see `zoom_check`.
    """

    doing = "comparing zooms"

    def run(self, predictor: Predictor, images: ShardReader, unit: range, skip: Collection[int] = ()) -> list[float]:
        """See `Job.run`."""
        pixels = (open_pixels(images, index).image for index in unit
                  if is_checked(index, len(images)) and index not in skip)
        views = predictor.method.label_views()
        return disagreements(found.zoom_counts for image in pixels for found in predictor.see([image], views))


class JobWorker:
    """Does units of jobs on one data set with one checkpoint, loaded once; each of Ray's actors holds one."""

    def __init__(self, checkpoint_url: str, images_url: str, *, device: str = "cpu", threads: int = 0) -> None:
        self.watch = Stopwatch("start_up")
        keep_freed_memory()
        if threads:
            torch.set_num_threads(threads)
        self.predictor = Predictor.from_checkpoint(checkpoint_url, device=device)
        self.images = ShardReader(images_url)
        self.watch.at("idle")

    def units(self) -> list[range]:
        """All units of work of the data set."""
        return work_units(len(self.images))

    def run(self, job: Job, unit: range, skip: Collection[int] = ()) -> Any:
        """See `Job.run`."""
        with self.watch.during("predict"):
            return job.run(self.predictor, self.images, unit, skip)

    def probe(self, job: Job, index: int) -> None:
        """Reads one image and runs the networks on it, see `Job.show`."""
        job.show(self.predictor, open_pixels(self.images, index).image)
