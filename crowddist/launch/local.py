"""The launcher without Ray: one worker, in this process."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import torch

from crowddist.config import RunConfig
from crowddist.inference.jobs import Job, JobWorker
from crowddist.launch.base import arithmetic, is_out_of_memory, out_of_memory, train_stages, worker_threads
from crowddist.process.progress_bar import Progress
from crowddist.process.stop_signals import Termination
from crowddist.process.stopwatch import added
from crowddist.run.engine import LocalRuntime, StageData, default_device

logger = logging.getLogger(__name__)


class LocalLauncher:
    """Does everything in this process, one thing after the other."""

    def __init__(self, config: RunConfig, termination: Termination | None = None) -> None:
        self.config, self.termination = config, termination or Termination()
        self.device = default_device()
        threads = worker_threads(config, 1)
        self.arithmetic = arithmetic(self.device, threads)
        torch.set_num_threads(threads)
        self.start_up_s = 0.0
        self._seconds: dict[str, float] = {}

    def train(self, chains: Sequence[Sequence[StageData]]) -> None:
        """See `Launcher.train`; one chain after the other."""
        with self.termination.deferred():
            for stages in chains:
                if not self.termination.requested:
                    train_stages(self.config, stages, LocalRuntime(device=self.device, termination=self.termination))

    def training_arithmetic(self, num_chains: int) -> str:
        """See `Launcher.training_arithmetic`."""
        return f"{self.arithmetic}, 1 worker"

    def run(self, job: Job) -> list[Any]:
        """See `Launcher.run`; once memory has run out, predicts one image at a time."""
        worker = JobWorker(job.checkpoint_url, job.images_url, device=self.device)
        try:
            return self._run(worker, job)
        finally:
            self._seconds = added(self._seconds, worker.watch.take())

    def _run(self, worker: JobWorker, job: Job) -> list[Any]:
        records = []
        with closing(Progress(len(worker.images), "images", title=job.doing)) as progress:
            for unit in worker.units():
                progress.show(unit.start)
                records.append(self._unit(worker, job, unit))
        return records

    @staticmethod
    def _unit(worker: JobWorker, job: Job, unit: range) -> Any:
        """One unit's record."""
        try:
            return worker.run(job, unit)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            images = f"images {unit.start} to {unit.stop - 1} of {job.images_url}"
            if worker.predictor.one_at_a_time:
                raise out_of_memory(f"{images}, also one at a time", "stream.image-size") from error
        logger.warning("out of memory over %s: from now on one at a time", images)
        worker.predictor.one_at_a_time = True
        return LocalLauncher._unit(worker, job, unit)

    def take_times(self) -> dict[str, dict[str, float]]:
        """See `Launcher.take_times`."""
        taken, self._seconds = self._seconds, {}
        return {"worker 0": taken} if taken else {}

    def free_places(self) -> None:
        """Nobody waits."""

    def close(self) -> None:
        """Nothing is held."""
