"""What a service tells Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

import crowddist

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
# ours: a small image on a GPU takes 10 ms; the longest request is by default given up after 60 s.
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60)


class Metrics:
    """The figures of one service. None of them tells what was counted.

    Args:
        waiting: gives the number of images whose count has not begun.
    """

    def __init__(self, waiting: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        Info("crowddist", "The version.", registry=self._registry).info({"version": crowddist.__version__})
        self._requests = Counter("crowddist_requests", "Requests, by path and by status of the answer.",
                                 ["path", "status"], registry=self._registry)
        self._seconds = Histogram("crowddist_request_seconds", "From a request's begin to its answer.", ["path"],
                                  buckets=_SECONDS, registry=self._registry)
        self._images = Histogram("crowddist_batch_images", "Images that were counted together.",
                                 buckets=(1, 2, 4, 8, 16, 32), registry=self._registry)
        self._counting = Histogram("crowddist_batch_seconds", "Counting of a batch.", buckets=_SECONDS,
                                   registry=self._registry)
        Gauge("crowddist_waiting_images", "Images whose count has not begun.",
              registry=self._registry).set_function(waiting)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Adds a request.

        Args:
            path: of the route; requests choose it, so there must be few.
        """
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def counted(self, images: int, seconds: float) -> None:
        """Adds a batch."""
        self._images.observe(images)
        self._counting.observe(seconds)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)
