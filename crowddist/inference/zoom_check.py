"""Which round to keep, decided without labels: a counter that a round has spoilt disagrees with itself over zooms.

A crowd is as large at any zoom. So the counts that a counter gives one image at several zooms drift apart where it has
got worse, and come together where it has got better. The images are of the target that the run trains on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from crowddist.ops.agreement import zoom_disagreement

CHECKED_IMAGES = 32
"""Images that a counter is checked on, spread evenly over the target; ours: twice what told good rounds from bad."""


def is_checked(index: int, num_images: int) -> bool:
    """Whether the counter is checked on the image with this index."""
    return index % max(num_images // CHECKED_IMAGES, 1) == 0


def disagreements(zoom_counts: Iterable[Mapping[float, float]]) -> list[float]:
    """See `zoom_disagreement`, of each image that was counted at several zooms."""
    return [zoom_disagreement(counts) for counts in zoom_counts if len(counts) > 1]


def mean_disagreement(units: Iterable[Sequence[float]]) -> float:
    """Of the images of all units; NaN where none was counted at several zooms."""
    values = [value for unit in units for value in unit]
    return float(np.mean(values)) if values else math.nan


class ZoomCheck:
    """The disagreement of a run's counters, round by round.

    Args:
        most_rise: largest rise over the counter before, as a share of that one's disagreement; below 0: the least fall
            that is asked for; 0: all may rise.
    """

    def __init__(self, most_rise: float) -> None:
        self.most_rise = most_rise
        self.before = math.nan
        """Mean disagreement of the newest counter that is kept; NaN: not known."""

    def is_worse(self, now: float) -> bool:
        """Whether a counter disagrees with itself too much more than the one before; else it is the one that the next
        is compared with. NaN, at one zoom, tells nothing.
        """
        if self.most_rise and now > (1 + self.most_rise) * self.before:
            return True
        if not math.isnan(now):
            self.before = now
        return False

    def reason(self, now: float, dropped: str, kept: str) -> str:
        """One line for people on a counter that is worse; both rounds by their titles."""
        asked = f", and must come nearer by {-self.most_rise:.0%}" if self.most_rise < 0 else ""
        return (f"{dropped}: dropped, {kept} is kept: counts of one image at several zooms differ by {now:.1%}, by "
                f"{self.before:.1%} before{asked}")
