"""Whose turn it is among several labelled data sets that are one stream, each with its share of the crops."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction


def mixed_position(position: int, shares: Sequence[Fraction]) -> tuple[int, int]:
    """Which data set the crop at a position of the mixture comes from, and its position in that data set's own plan.

    Data sets take turns as evenly as their shares allow, so every batch holds about its share of each; and each one's
    own positions follow each other without a gap, so each of its samples is seen once in an epoch of its own. Like the
    plan, a function of the position alone: a run resumed on another number of ranks reads exactly what is left.

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
