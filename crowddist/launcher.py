"""Launchers: where training, labelling, translation and evaluation run; this one runs them in the process, Ray's is in `distributed`."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch

from crowddist.config import RunConfig, from_json, to_json
from crowddist.engine import LocalRuntime, StageData, default_device, fit_stages, is_begun
from crowddist.errors import InputError
from crowddist.process import keep_freed_memory
from crowddist.search_space import with_values
from crowddist.termination import Termination

if TYPE_CHECKING:
    from crowddist.evaluate import ImageResult
    from crowddist.trial_plan import Plan
    from crowddist.tuning import Search

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LabelSource:
    """What labels are made with, beside a checkpoint."""

    thresholds: Mapping[str, float] = field(default_factory=dict)
    """Name -> value, in the place of the checkpoint's own, see `search_space`."""
    predictions_url: str = ""
    """What the checkpoint says of the images, where that is known already; "": the networks are asked."""


AS_TRAINED = LabelSource()
"""The thresholds that the checkpoint was made with."""


class Launcher(Protocol):
    """The four kinds of work of an adaptation."""

    arithmetic: str
    """What the last bits of its predictions depend on, see `arithmetic`."""

    def train(self, chains: Sequence[Sequence[StageData]]) -> None:
        """Fits chains of consecutive stages, which do not wait for each other; stages that are done are skipped, one under way is resumed.

        Raises:
            SystemExit: the process was asked to stop; a checkpoint is written.
        """

    def label(self, checkpoint_url: str, images_url: str, labels_url: str, source: LabelSource = AS_TRAINED) -> list[dict[str, Any]]:
        """Labels every image of a data set once. Returns: the records of its units, in order."""

    def predict(self, checkpoint_url: str, images_url: str, predictions_url: str, config_json: str) -> list[dict[str, Any]]:
        """Keeps what the networks say of every image of a data set, see `predictions.predict_unit`. Returns: the records of its units, in order."""

    def try_values(self, search: Search, plan: Plan) -> None:
        """Runs the trials of a plan that have no row yet; each leaves its own, see `tuning.Trials.run`."""

    def translate(self, checkpoint_url: str, images_url: str, translated_url: str) -> list[dict[str, Any]]:
        """Translates every image of a data set once. Returns: the records of its units, in order."""

    def evaluate(self, checkpoint_url: str, data_url: str) -> list[ImageResult]:
        """Counts every image of a labelled data set once, in order."""

    def close(self) -> None:
        """Gives back what the launcher holds."""


class LocalLauncher:
    """Everything in this process, with one worker; needs no Ray."""

    def __init__(self, config: RunConfig, termination: Termination | None = None) -> None:
        self.config, self.termination = config, termination or Termination()
        self.device = default_device()
        threads = worker_threads(config, 1)
        self.arithmetic = arithmetic(self.device, threads)
        torch.set_num_threads(threads)

    def train(self, chains: Sequence[Sequence[StageData]]) -> None:
        """See `Launcher.train`; one chain after the other."""
        with self.termination.deferred():
            for stages in chains:
                if not self.termination.requested:
                    train_stages(self.config, stages, LocalRuntime(device=self.device, termination=self.termination))

    def label(self, checkpoint_url: str, images_url: str, labels_url: str, source: LabelSource = AS_TRAINED) -> list[dict[str, Any]]:
        """See `Launcher.label`."""
        return self._each_unit("label", checkpoint_url, images_url, labels_url, source)

    def try_values(self, search: Search, plan: Plan) -> None:
        """See `Launcher.try_values`."""
        from crowddist.data.convert.progress import watched
        from crowddist.trial_plan import tried
        from crowddist.tuning import Trials

        trials, num_left = Trials(search), plan.number - len(tried(plan, search.row))
        left = (point for batch in plan.batches(search.row) for point in batch if search.row(point) is None)
        for point in watched(left, "trials", number=num_left):
            trials.run(point)

    def predict(self, checkpoint_url: str, images_url: str, predictions_url: str, config_json: str) -> list[dict[str, Any]]:
        """See `Launcher.predict`."""
        return self._each_unit("predict", checkpoint_url, images_url, predictions_url, config_json)

    def translate(self, checkpoint_url: str, images_url: str, translated_url: str) -> list[dict[str, Any]]:
        """See `Launcher.translate`."""
        return self._each_unit("translate", checkpoint_url, images_url, translated_url)

    def evaluate(self, checkpoint_url: str, data_url: str) -> list[ImageResult]:
        """See `Launcher.evaluate`."""
        return [result for results in self._each_unit("evaluate", checkpoint_url, data_url) for result in results]

    def _each_unit(self, call: str, checkpoint_url: str, data_url: str, *arguments: Any) -> list[Any]:
        """`UnitWorker.<call>(unit, *arguments)` for each unit; once memory has run out, with one image at a time."""
        worker = UnitWorker(checkpoint_url, data_url, device=self.device)
        results = []
        for unit in worker.units():
            for one_at_a_time in (worker.predictor.one_at_a_time, True):
                worker.predictor.one_at_a_time = one_at_a_time
                try:
                    results.append(getattr(worker, call)(unit, *arguments))
                    break
                except (MemoryError, RuntimeError) as error:
                    if not is_out_of_memory(error):
                        raise
                    if one_at_a_time:
                        raise out_of_memory(f"images {unit.start} to {unit.stop - 1} of {data_url}, also one at a time", "stream.image-size") from error
                    logger.warning("out of memory over images %d to %d of %s: from now on one at a time", unit.start, unit.stop - 1, data_url)
        return results

    def close(self) -> None:
        """Nothing is held."""


class UnitWorker:
    """Labels, translates and evaluates units of one data set with one checkpoint, which it loads once; Ray's actors are this class."""

    def __init__(self, checkpoint_url: str, data_url: str, *, device: str = "cpu", threads: int = 0) -> None:
        import torch

        from crowddist.data.shards import ShardReader
        from crowddist.predictor import Predictor

        keep_freed_memory()
        if threads:
            torch.set_num_threads(threads)
        self.predictor = Predictor.from_checkpoint(checkpoint_url, device=device)
        self.data = ShardReader(data_url)
        self._known: ShardReader | None = None  # what the networks have said of the data, once labels are made of it

    def units(self) -> list[range]:
        """All units of work of the data set."""
        from crowddist.data.plan import work_units

        return work_units(len(self.data))

    def label(self, unit: range, labels_url: str, source: LabelSource = AS_TRAINED, skip: Collection[int] = ()) -> dict[str, Any]:
        """See `labels.label_unit`."""
        from crowddist.data.shards import ShardReader
        from crowddist.labels import label_unit

        predictor = self.predictor.with_config(with_values(self.predictor.method.config, source.thresholds)) if source.thresholds else self.predictor
        if source.predictions_url and self._known is None:
            self._known = ShardReader(source.predictions_url)
        return label_unit(predictor, self.data, unit, labels_url, skip, known=self._known)

    def predict(self, unit: range, predictions_url: str, config_json: str, skip: Collection[int] = ()) -> dict[str, Any]:
        """See `predictions.predict_unit`."""
        from crowddist.predictions import predict_unit

        return predict_unit(self.predictor, self.data, unit, predictions_url, from_json(config_json), skip)

    def translate(self, unit: range, translated_url: str, skip: Collection[int] = ()) -> dict[str, Any]:
        """See `translate.translate_unit`."""
        from crowddist.translate import translate_unit

        return translate_unit(self.predictor, self.data, unit, translated_url, skip)

    def evaluate(self, unit: range, skip: Collection[int] = ()) -> list[ImageResult]:
        """See `evaluate.evaluate_unit`."""
        from crowddist.evaluate import evaluate_unit

        return evaluate_unit(self.predictor, self.data, [index for index in unit if index not in skip])

    def probe(self, call: str, index: int) -> None:
        """Reads one image and shows it to the networks, as `call` (label, predict, translate or evaluate) does, and leaves nothing."""
        from crowddist.data.shards import decode
        from crowddist.data.stream import pixels_only
        from crowddist.translate import translate_image

        key, members = self.data.read(index)
        image = decode(key, pixels_only(members)).image
        if call == "translate":
            translate_image(self.predictor, image)
        else:
            list(self.predictor.predict_views([image], self.predictor.method.label_views() if call in ("label", "predict") else (1.0,)))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of the machine or of its GPU."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


def out_of_memory(what: str, option: str) -> InputError:
    """What to say of work that there is too little memory for."""
    return InputError(f"out of memory over {what}: give a smaller --{option}, fewer workers a machine (--num-workers, --num-labellers), or more memory")


def arithmetic(device: str, threads: int) -> str:
    """What the last bits of a prediction depend on, beside the networks and the image: in words."""
    return f"torch {torch.__version__}, {device}, {threads} threads"


def worker_threads(config: RunConfig, num_workers: int, machines: Sequence[int] = ()) -> int:
    """CPU threads of one of `num_workers` workers: as configured, or an equal share of the cores.

    Args:
        machines: cores of each machine that the workers are spread over; none: they are on this one.
    """
    cores = machines or (os.cpu_count() or 1,)
    return config.threads or max(min(cores) // math.ceil(num_workers / len(cores)), 1)


def train_stages(config: RunConfig, stages: Sequence[StageData], runtime: Any) -> None:
    """Fits stages on one worker of any launcher: the function that all of them call."""
    from crowddist.methods.table import build_method

    config = with_values(config, stages[0].thresholds)
    keep_freed_memory()
    begun = stages[0].initial or is_begun(stages[0].folder)
    try:
        fit_stages(
            lambda: build_method(config, weights="none" if begun else "all"),
            stages,
            runtime,
            engine=config.engine,
            seed=config.seed,
            record=to_json(config),
        )
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory(f"a step of {' and '.join(data.stage.name for data in stages)}", "train.batch-size or --stream.crop-size") from error
