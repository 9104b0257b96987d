"""Images that wait to be counted, and the one thread that counts them, several at a time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from crowddist.inference.base_predictor import BasePredictor, ImagePrediction

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Job:
    pixels: np.ndarray
    answer: Future[ImagePrediction] = field(default_factory=Future)


class CountingQueue:
    """Counts images in the order they come. What waits when the thread is free is counted as one batch; nobody waits
    for a batch to become full.

    Args:
        predictor: used by the thread alone.
        batch: most images of a batch.
        counted: told after each batch its number of images and seconds.
    """

    def __init__(self, predictor: BasePredictor, *, batch: int, counted: Callable[[int, float], None]) -> None:
        self._predictor, self._batch, self._counted = predictor, batch, counted
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        # A daemon: a second Ctrl-C must not wait for it.
        self._thread = threading.Thread(target=self._run, name="counting", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Images whose count has not begun."""
        return self._jobs.qsize()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, pixels: np.ndarray) -> Future[ImagePrediction]:
        """Puts an image, as of `Predictor.checked`, at the end. It is not counted if the future is cancelled before
        its turn.
        """
        job = _Job(pixels)
        self._jobs.put(job)
        return job.answer

    def close(self) -> None:
        """Ends the thread once all that waits is counted."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._jobs.get()) is not None:
            jobs, ended = [first], False
            while len(jobs) < self._batch and not ended:
                try:
                    job = self._jobs.get_nowait()
                except Empty:
                    break
                if job is None:
                    ended = True
                else:
                    jobs.append(job)
            jobs = [job for job in jobs if job.answer.set_running_or_notify_cancel()]
            if jobs:
                began = time.perf_counter()
                self._count(jobs)
                self._counted(len(jobs), time.perf_counter() - began)
            if ended:
                return

    def _count(self, jobs: list[_Job]) -> None:
        """Answers all jobs. After an error those without an answer are counted one by one, so that one image cannot
        spoil the others'.
        """
        try:
            self._answer(iter(jobs), self._predictor.predict_views([job.pixels for job in jobs]))
        except Exception as error:
            left = [job for job in jobs if not job.answer.done()]
            if len(left) > 1:
                logger.warning("a batch of %d images failed (%s); they are counted one by one", len(jobs), error)
                for job in left:
                    self._count([job])
            else:
                left[0].answer.set_exception(error)

    @staticmethod
    def _answer(jobs: Iterator[_Job], found: Iterator[ImagePrediction]) -> None:
        for job, one in zip(jobs, found, strict=True):
            job.answer.set_result(one)
