"""Mixes several labelled data sets into one stream, each with its share of the crops."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction


def mixed_position(position: int, shares: Sequence[Fraction]) -> tuple[int, int]:
    """Finds the data set of the crop at a position of the mixture, and the crop's position in that data set's plan.

    Data sets take turns as evenly as their shares allow, so every batch has about the right share of each. The
    positions in each data set's plan have no gaps, so each of its epochs has every sample once. The result depends on
    the position alone: a run resumed on another number of ranks reads exactly the remaining crops.

    Args:
        position: position of the crop over all ranks, >= 0.
        shares: shares of the second and later data sets, each above 0, with a sum below 1; the first gets the rest.

    Returns:
        Number of the data set (0 is the first), and position in its plan, >= 0.
    """
    left = Fraction(1)
    for which, share in enumerate(shares, start=1):
        part = share / left
        before, after = int(position * part), int((position + 1) * part)
        if after > before:
            return which, before
        position, left = position - before, left - share
    return 0, position
