"""Launchers: where training, labelling, translation and evaluation run; this one runs them in the process, Ray's is in `distributed`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch

from crowddist.config import RunConfig, to_json, without_weights
from crowddist.engine import LocalRuntime, StageData, default_device, fit_stages, is_begun
from crowddist.process import keep_freed_memory

if TYPE_CHECKING:
    from crowddist.evaluate import ImageResult


class Launcher(Protocol):
    """The four kinds of work of an adaptation."""

    def train(self, chains: Sequence[Sequence[StageData]]) -> None:
        """Fits chains of consecutive stages, which do not wait for each other; stages that are done are skipped, one under way is resumed."""

    def label(self, checkpoint_url: str, images_url: str, labels_url: str) -> list[dict[str, Any]]:
        """Labels every image of a data set once. Returns: the records of its units, in order."""

    def translate(self, checkpoint_url: str, images_url: str, translated_url: str) -> list[dict[str, Any]]:
        """Translates every image of a data set once. Returns: the records of its units, in order."""

    def evaluate(self, checkpoint_url: str, data_url: str) -> list[ImageResult]:
        """Counts every image of a labelled data set once, in order."""

    def close(self) -> None:
        """Gives back what the launcher holds."""


class LocalLauncher:
    """Everything in this process, with one worker; needs no Ray."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.device = default_device()
        torch.set_num_threads(worker_threads(config, 1))

    def train(self, chains: Sequence[Sequence[StageData]]) -> None:
        """See `Launcher.train`; one chain after the other."""
        for stages in chains:
            train_stages(self.config, stages, LocalRuntime(device=self.device))

    def label(self, checkpoint_url: str, images_url: str, labels_url: str) -> list[dict[str, Any]]:
        """See `Launcher.label`."""
        worker = UnitWorker(checkpoint_url, images_url, device=self.device)
        return [worker.label(unit, labels_url) for unit in worker.units()]

    def translate(self, checkpoint_url: str, images_url: str, translated_url: str) -> list[dict[str, Any]]:
        """See `Launcher.translate`."""
        worker = UnitWorker(checkpoint_url, images_url, device=self.device)
        return [worker.translate(unit, translated_url) for unit in worker.units()]

    def evaluate(self, checkpoint_url: str, data_url: str) -> list[ImageResult]:
        """See `Launcher.evaluate`."""
        worker = UnitWorker(checkpoint_url, data_url, device=self.device)
        return [result for unit in worker.units() for result in worker.evaluate(unit)]

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

    def units(self) -> list[range]:
        """All units of work of the data set."""
        from crowddist.data.plan import work_units

        return work_units(len(self.data))

    def label(self, unit: range, labels_url: str) -> dict[str, Any]:
        """See `labels.label_unit`."""
        from crowddist.labels import label_unit

        return label_unit(self.predictor, self.data, unit, labels_url)

    def translate(self, unit: range, translated_url: str) -> dict[str, Any]:
        """See `translate.translate_unit`."""
        from crowddist.translate import translate_unit

        return translate_unit(self.predictor, self.data, unit, translated_url)

    def evaluate(self, unit: range) -> list[ImageResult]:
        """See `evaluate.evaluate_unit`."""
        from crowddist.evaluate import evaluate_unit

        return evaluate_unit(self.predictor, self.data, unit)


def worker_threads(config: RunConfig, num_workers: int) -> int:
    """CPU threads of one of `num_workers` workers: as configured, or an equal share of this machine's cores."""
    return config.threads or max((os.cpu_count() or 1) // num_workers, 1)


def train_stages(config: RunConfig, stages: Sequence[StageData], runtime: Any) -> None:
    """Fits stages on one worker of any launcher: the function that all of them call."""
    from crowddist.methods.table import build_method

    keep_freed_memory()
    begun = stages[0].initial or is_begun(stages[0].folder)
    fit_stages(
        lambda: build_method(without_weights(config) if begun else config),
        stages,
        runtime,
        engine=config.engine,
        seed=config.seed,
        record=to_json(config),
    )
