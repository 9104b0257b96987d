"""Several labelled data sets as one stream, each with its share of the crops."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from crowddist.data.config import StreamConfig
    from crowddist.data.stream import CropDataset


def mixed_position(position: int, shares: Sequence[Fraction]) -> tuple[int, int]:
    """Which data set the crop at a position of the mixture comes from, and its position in that data set's own plan.

    Data sets take turns as evenly as their shares allow, so every batch holds about its share of each; and each one's own positions follow
    each other without a gap, so each of its samples is seen once in an epoch of its own. Like the plan, a function of the position alone:
    a run resumed on another number of ranks reads exactly what is left.

    Args:
        position: >= 0, of the crop among those of all ranks.
        shares: of the second data set and those after it, each above 0, below 1 together; the first has the rest.

    Returns:
        (0 for the first data set, 1 for the second, ...; position >= 0 in its plan).
    """
    left = Fraction(1)
    for which, share in enumerate(shares, start=1):
        part = share / left
        before, after = int(position * part), int((position + 1) * part)
        if after > before:
            return which, before
        position, left = position - before, left - share
    return 0, position


class MixedDataset(torch.utils.data.Dataset):
    """Crops of several data sets: position -> the crop of the data set whose turn it is.

    Args:
        datasets: the first and the others.
        shares: of the others, as in `mixed_position`.
    """

    def __init__(self, datasets: Sequence[CropDataset], shares: Sequence[Fraction]) -> None:
        self.datasets, self.shares = tuple(datasets), tuple(shares)

    @property
    def config(self) -> StreamConfig:
        """How crops are cut, of all data sets alike."""
        return self.datasets[0].config

    def __getitem__(self, position: int) -> dict[str, Any]:
        which, own = mixed_position(position, self.shares)
        return self.datasets[which][own]
