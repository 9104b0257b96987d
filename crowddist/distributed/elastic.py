"""How many workers a training group has, and when it should stop to start again elsewhere, or with more."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import ray

from crowddist.distributed.heartbeat import draining_nodes
from crowddist.distributed.runtime import num_places

if TYPE_CHECKING:
    from crowddist.process.stop_signals import Termination

GROWTH_S = 20.0
"""How long there must be room for more workers before a group is stopped to start again with them."""


def group_size(sizes: Sequence[int], places: int) -> int:
    """The largest of the sizes (rising) that fits into so many places; the smallest where none does."""
    return max((size for size in sizes if size <= places), default=sizes[0])


class StopReasons:
    """Why a group should stop at its next step, looked for anew at every call.

    Args:
        termination: of this process.
        size: workers of the group.
        sizes: that it may have.
        num_groups: that share the cluster.
    """

    def __init__(self, termination: Termination, *, size: int, sizes: Sequence[int], num_groups: int,
                 use_gpu: bool) -> None:
        self._termination, self._size, self._sizes, self._num_groups, self._use_gpu = (
            termination, size, sizes, num_groups, use_gpu)
        self._room_since = math.inf

    def __call__(self, nodes: Collection[str]) -> str:
        """In words; "" where it should go on. `nodes`: Ray's ids of its machines."""
        if self._termination.requested:
            return self._termination.signal
        leaving = draining_nodes() & set(nodes)
        if leaving:
            names = sorted(node["NodeManagerHostname"] for node in ray.nodes() if node["NodeID"] in leaving)
            return f"{', '.join(names)} is being drained"
        if self._size == self._sizes[-1]:
            return ""
        larger = group_size(self._sizes, num_places(use_gpu=self._use_gpu) // self._num_groups)
        if larger <= self._size:
            self._room_since = math.inf
            return ""
        self._room_since = min(self._room_since, time.monotonic())
        return f"there is room for {larger} workers now" if time.monotonic() - self._room_since > GROWTH_S else ""
