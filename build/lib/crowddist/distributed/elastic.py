"""Size of a training group, and reasons to stop it: to start again elsewhere, or with more workers."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ray

from crowddist.distributed.heartbeat import draining_nodes
from crowddist.distributed.runtime import num_places

if TYPE_CHECKING:
    from crowddist.process.stop_signals import Termination

GROWTH_S = 20.0
"""Room for more workers must last so long before a group stops to start again with them."""


def group_size(sizes: Sequence[int], places: int) -> int:
    """The largest of the ascending sizes that fits into so many places; the smallest if none fits."""
    return max((size for size in sizes if size <= places), default=sizes[0])


@dataclass
class StopReasons:
    """Each call returns why a group of `size` workers should stop at its next step; "" to go on."""

    termination: Termination
    size: int
    sizes: Sequence[int]
    """Allowed sizes, ascending."""
    num_groups: int
    """Groups that share the cluster."""
    use_gpu: bool
    _room_since: float = math.inf

    def __call__(self, nodes: Collection[str]) -> str:
        """`nodes`: Ray's ids of the group's machines."""
        if self.termination.requested:
            return self.termination.signal
        leaving = draining_nodes() & set(nodes)
        if leaving:
            names = sorted(node["NodeManagerHostname"] for node in ray.nodes() if node["NodeID"] in leaving)
            return f"{', '.join(names)} is being drained"
        if self.size == self.sizes[-1]:
            return ""
        larger = group_size(self.sizes, num_places(use_gpu=self.use_gpu) // self.num_groups)
        if larger <= self.size:
            self._room_since = math.inf
            return ""
        self._room_since = min(self._room_since, time.monotonic())
        return f"there is room for {larger} workers now" if time.monotonic() - self._room_since > GROWTH_S else ""
