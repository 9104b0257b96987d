"""Intervals of counts: what is kept beside a checkpoint for them, and the interval of one count."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from numbers import Real
from typing import Any

from crowddist import storage
from crowddist.errors import InputError
from crowddist.ops.intervals import FLOOR_PERSONS, SHARE, conformal_quantile, error_scale, fewest_scores
from crowddist.process.typed_record import of_record
from crowddist.storage.run_folder import intervals_url

LEVEL = 0.9
"""The share of images like those of the calibration whose true count lies in its interval, unless the user says
otherwise. ours."""


@dataclass(frozen=True, kw_only=True)
class CountInterval:
    """Where the true count of an image lies, at a level of confidence."""

    low: float
    """Persons, >= 0."""
    high: float
    level: float

    def __str__(self) -> str:
        return f"{_percent(self.level)} interval {self.low:.0f} to {self.high:.0f}"


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How far off a counter was on images of the source that it never saw, see `ops.intervals`."""

    scores: tuple[float, ...]
    """Of `conformal_scores`, rising; gives the factor of the scale at every level."""
    image_size: int
    zooms: tuple[float, ...]
    """The sizes that the images were counted at; intervals hold for these alone."""
    floor_persons: float = FLOOR_PERSONS
    share: float = SHARE
    """Of `error_scale`."""
    data: str = ""
    """Name of the data set."""
    digest: str = ""
    """Its manifest's digest."""
    skipped: tuple[str, ...] = ()
    """Keys of its images that were skipped, because workers died over them."""

    def is_enough(self, level: float) -> bool:
        """Whether there are scores enough for this level."""
        return len(self.scores) >= fewest_scores(level)

    def factor(self, level: float) -> float:
        """The half width of an interval in units of the scale; infinite where there are too few scores."""
        return conformal_quantile(self.scores, level)

    def around(self, count: float, uncertainty: float, level: float) -> CountInterval:
        """The interval of a count, cut off at 0; infinite where there are too few scores for the level."""
        scale = error_scale([max(count, 0.0)], [uncertainty], floor_persons=self.floor_persons, share=self.share)
        half = self.factor(level) * float(scale[0])
        return CountInterval(low=max(count - half, 0.0), high=max(count + half, 0.0), level=level)


def write_calibration(checkpoint_url: str, calibration: Calibration) -> None:
    """Keeps a calibration beside its counter's checkpoint; whole or not at all."""
    storage.write_json(intervals_url(checkpoint_url), asdict(calibration))


def read_calibration(checkpoint_url: str) -> Calibration | None:
    """The calibration beside a checkpoint; None if there is none. Raises: InputError where the file is damaged."""
    url = intervals_url(checkpoint_url)
    return calibration_of(storage.read_json(url), url) if storage.exists(url) else None


def calibration_of(record: Any, place: str) -> Calibration:
    """The calibration in a record of `write_calibration`. Raises: InputError, with `place`, if it is none."""
    try:
        found = of_record(Calibration, record)
        numbers = (*found.scores, *found.zooms, found.image_size, found.floor_persons, found.share)
        if found.floor_persons > 0 and all(0 <= number < math.inf for number in numbers):
            return found
    except TypeError:
        pass
    raise InputError(f"{place} is not what a run keeps for intervals; remove it to count without them")


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """A counter's intervals at one level, or the reason why there are none."""

    level: float
    calibration: Calibration | None
    """None: there are none."""
    told: str
    """For people: one line."""

    def around(self, count: float, uncertainty: float) -> CountInterval | None:
        """The interval of a count; None where there are none."""
        return None if self.calibration is None else self.calibration.around(count, uncertainty, self.level)


def find_intervals(checkpoint_url: str, level: float, *, image_size: int, zooms: Sequence[float],
                   one_pass: bool = False) -> Intervals:
    """The intervals of the counts that a checkpoint's counter gives.

    Args:
        level: above 0 and below 1.
        image_size, zooms, one_pass: how it will count.

    Raises:
        InputError: the level is out of its range, or the file beside the checkpoint is damaged.
    """
    return intervals_of(read_calibration(checkpoint_url), level, image_size=image_size, zooms=zooms, one_pass=one_pass)


def intervals_of(found: Calibration | None, level: float, *, image_size: int, zooms: Sequence[float],
                 one_pass: bool = False) -> Intervals:
    """The intervals that a calibration gives, if there is one; otherwise as `find_intervals`."""
    if not (isinstance(level, Real) and 0 < level < 1):
        raise InputError(f"the level of intervals must lie between 0 and 1, e.g. 0.9, got {level!r:.80}")
    reason = _reason(found, level, image_size, tuple(zooms), one_pass)
    told = (f"no intervals: {reason}" if found is None or reason else
            f"{_percent(level)} intervals, by the errors on {len(found.scores)} held-out images of {found.data}")
    return Intervals(level=level, calibration=None if reason else found, told=told)


def _reason(found: Calibration | None, level: float, image_size: int, zooms: tuple[float, ...], one_pass: bool) -> str:
    """Why a calibration gives no interval; "" if it gives some."""
    if found is None:
        return "the run had no held-out images of the source (--calibration)"
    if not found.is_enough(level):
        return (f"{_percent(level)} takes {fewest_scores(level)} held-out images of the source that count whole, the "
                f"run had {len(found.scores)}")
    if one_pass or (found.image_size, found.zooms) != (image_size, zooms):
        return (f"they hold for counts by all masks at image size {found.image_size}, zooms "
                f"{' '.join(f'{zoom:g}' for zoom in found.zooms)}")
    return ""


def interval_cells(interval: CountInterval | None) -> dict[str, float]:
    """`low` and `high` for a row of a table, persons; {} without an interval."""
    return {} if interval is None else {"low": round(interval.low, 2), "high": round(interval.high, 2)}


def _percent(level: float) -> str:
    return f"{100 * level:.4g} %"
