"""The global sample order as a function of (manifest, seed, epoch), and each rank's part of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from crowddist.randomness import hash_order

WINDOW_SHARDS = 16
"""Shards whose samples are shuffled together (ours): enough to mix well, few enough for a node's cache."""


class Plan:
    """An endless sequence of samples; each epoch has every sample exactly once.

    Position p of the sequence is the p-th sample that training sees, over all ranks. A rank reads a slice of positions.
    So a checkpoint stores a single number, the samples seen, and a run resumed on another number of ranks reads exactly
    the remaining samples. Raises ValueError if there is no sample.

    Args:
        shard_sizes: samples in each shard, in the manifest's order.
        seed: seed of the order.
        name: name of data set and stage; streams with different names have different orders.
    """

    def __init__(self, shard_sizes: Sequence[int], *, seed: int, name: str) -> None:
        self.shard_sizes = tuple(shard_sizes)
        self.num_samples = sum(self.shard_sizes)
        if self.num_samples < 1:
            raise ValueError(f"the plan of {name} needs at least one sample")
        self.seed, self.name = seed, name
        self._starts = np.concatenate([[0], np.cumsum(self.shard_sizes)]).astype(np.int64)
        self._epochs: dict[int, Epoch] = {}

    def epoch(self, epoch: int) -> Epoch:
        """The order of one epoch."""
        if epoch not in self._epochs:
            # Keep two: a batch may reach from one epoch into the next.
            self._epochs = {**dict(list(self._epochs.items())[-1:]), epoch: self._make_epoch(epoch)}
        return self._epochs[epoch]

    def _make_epoch(self, epoch: int) -> Epoch:
        shards = hash_order(len(self.shard_sizes), self.seed, self.name, epoch, "shards")
        windows, parts = [], []
        for first in range(0, len(shards), WINDOW_SHARDS):
            window = shards[first : first + WINDOW_SHARDS]
            samples = np.concatenate([np.arange(self._starts[s], self._starts[s + 1]) for s in window])
            parts.append(samples[hash_order(len(samples), self.seed, self.name, epoch, first)])
            windows.append([int(shard) for shard in window if self.shard_sizes[shard]])
        order = np.concatenate(parts)
        order.setflags(write=False)
        return Epoch(order=order, windows=windows, ends=np.cumsum([len(part) for part in parts]))

    def sample_at(self, position: int) -> int:
        """Index of the sample at a global position >= 0."""
        epoch, offset = divmod(position, self.num_samples)
        return int(self.epoch(epoch).order[offset])

    def window_at(self, position: int) -> tuple[int, int]:
        """(epoch, number of the window of shards in the epoch) of a global position >= 0."""
        epoch, offset = divmod(position, self.num_samples)
        return epoch, int(np.searchsorted(self.epoch(epoch).ends, offset, side="right"))

    def window_shards(self, epoch: int, number: int) -> list[int]:
        """The shards of a window that have samples; after an epoch's last window comes the first of the next epoch."""
        windows = self.epoch(epoch).windows
        return windows[number] if number < len(windows) else self.epoch(epoch + 1).windows[0]


class Epoch(NamedTuple):
    order: np.ndarray
    """(num_samples,) int64, each index of the data set exactly once."""
    windows: list[list[int]]
    """Shards of each window."""
    ends: np.ndarray
    """Samples of the epoch up to the end of each window."""


def rank_positions(samples_seen: int, global_batch: int, rank: int, world_size: int) -> range:
    """The positions that one rank reads for the next step, after all ranks have seen `samples_seen` samples.

    Raises ValueError if the ranks cannot share the batch equally, or the rank does not exist.
    """
    if global_batch % world_size:
        raise ValueError(f"a global batch of {global_batch} cannot be shared equally by {world_size} workers")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} does not exist among {world_size}")
    share = global_batch // world_size
    first = samples_seen + rank * share
    return range(first, first + share)


MOST_UNIT_SAMPLES = 64
"""Most images in one call to a labelling or evaluating actor: enough to outweigh the cost of the call."""
LEAST_UNITS = 16
"""Fewest units of a data set with enough images, so that several actors end at about the same time."""


def work_units(num_samples: int) -> list[range]:
    """Cuts the samples of a data set into units of work, in order; the units are the same on any cluster."""
    length = min(MOST_UNIT_SAMPLES, -(-num_samples // LEAST_UNITS)) or 1
    return [range(first, min(first + length, num_samples)) for first in range(0, num_samples, length)]
