"""Counts over time: their mean, their peak and a line for the chart, in memory that does not grow with the video."""

from __future__ import annotations

from dataclasses import dataclass

MOST_POINTS = 2000
"""ours: twice the pixels that a chart has across; a line has up to twice as many."""


@dataclass
class _Bin:
    """Counts that stand side by side."""

    number: int
    time_sum: float
    count_sum: float


class Series:
    """Counts of one place, in the order of their times."""

    def __init__(self) -> None:
        self.number = 0
        self.total = 0.0
        self.peak = 0.0
        """The largest count, persons; at `peak_time_s` it came first."""
        self.peak_time_s = 0.0
        self._bins: list[_Bin] = []
        self._width = 1
        """Counts a bin."""

    def add(self, time_s: float, count: float) -> None:
        """Adds a count; times rise."""
        if not self.number or count > self.peak:
            self.peak, self.peak_time_s = count, time_s
        self.number += 1
        self.total += count
        if self._bins and self._bins[-1].number < self._width:
            last = self._bins[-1]
            last.number, last.time_sum, last.count_sum = (last.number + 1, last.time_sum + time_s,
                                                          last.count_sum + count)
            return
        if len(self._bins) == 2 * MOST_POINTS:
            self._bins = [_Bin(one.number + two.number, one.time_sum + two.time_sum, one.count_sum + two.count_sum)
                          for one, two in zip(self._bins[::2], self._bins[1::2], strict=True)]
            self._width *= 2
        self._bins.append(_Bin(1, time_s, count))

    @property
    def mean(self) -> float:
        """Of all counts; 0 without one."""
        return self.total / self.number if self.number else 0.0

    def line(self) -> list[tuple[float, float]]:
        """Time in s and count, each the mean of neighbours where there are many."""
        return [(each.time_sum / each.number, each.count_sum / each.number) for each in self._bins]
