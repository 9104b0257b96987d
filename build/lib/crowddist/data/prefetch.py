"""Downloads the shards that training reads next, in the background."""

from __future__ import annotations

import contextlib
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING

from crowddist.errors import InputError

if TYPE_CHECKING:
    from crowddist.data.plan import Plan
    from crowddist.data.shards import ShardReader


class Prefetcher:
    """While a window of shards is read, a thread fetches the rest of that window and the next one."""

    def __init__(self, images: ShardReader, plan: Plan) -> None:
        self.images, self.plan = images, plan
        self._reached = (-1, -1)
        self._wanted: SimpleQueue[int] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def reach(self, position: int) -> None:
        """Call it before the sample at this position of the plan is read."""
        epoch, number = self.plan.window_at(position)
        if (epoch, number) <= self._reached:
            return
        self._reached = (epoch, number)
        wanted = self.plan.window_shards(epoch, number + 1)
        if self._thread is None:
            wanted = self.plan.window_shards(epoch, number) + wanted
            self._thread = threading.Thread(target=self._fetch, name="prefetcher", daemon=True)
            self._thread.start()
        for shard in wanted:
            self._wanted.put(shard)

    def _fetch(self) -> None:
        while True:
            shard = self._wanted.get()
            # The reader of the shard meets the same error and reports it.
            with contextlib.suppress(InputError, OSError):
                self.images.fetch(shard)
