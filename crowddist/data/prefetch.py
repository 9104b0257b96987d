"""Shards that training comes to next, downloaded in the background."""

from __future__ import annotations

import contextlib
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING

from crowddist.errors import InputError

if TYPE_CHECKING:
    from crowddist.data.plan import Plan
    from crowddist.data.shards import ShardReader


class Ahead:
    """Keeps a window of shards ahead of a reader: while one is read, a thread fetches what is left of it and the next.

    Args:
        images: whose shards are fetched.
        plan: of the order.
    """

    def __init__(self, images: ShardReader, plan: Plan) -> None:
        self.images, self.plan = images, plan
        self._reached = (-1, -1)
        self._wanted: SimpleQueue[int] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def reach(self, position: int) -> None:
        """Says that the sample at this position of the plan is about to be read."""
        epoch, number = self.plan.window_at(position)
        if (epoch, number) <= self._reached:
            return
        self._reached = (epoch, number)
        if self._thread is None:
            for shard in self.plan.window_shards(epoch, number):
                self._wanted.put(shard)
            self._thread = threading.Thread(target=self._fetch, name="shards ahead", daemon=True)
            self._thread.start()
        for shard in self.plan.window_shards(epoch, number + 1):
            self._wanted.put(shard)

    def _fetch(self) -> None:
        while True:
            shard = self._wanted.get()
            # Whoever reads the shard meets the same error, and can say it.
            with contextlib.suppress(InputError, OSError):
                self.images.fetch(shard)
