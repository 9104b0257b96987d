"""The queue of a job's units of work; decides what happens when actors die over a unit or memory runs out."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from crowddist.launch.base import out_of_memory

MAX_TRIES = 3
"""Actors that may die over a unit before its images are tried one by one."""
NUM_PROBES = 2
"""Actors that an image must then kill alone to be skipped: one may have died of something else."""
MOST_SKIPPED = 0.05
"""Largest part of a data set that is skipped, one image at least: if more kill actors, it is not the images."""

logger = logging.getLogger(__name__)


@dataclass
class Unit:
    """A unit of work and its state."""

    number: int
    images: range
    """Indexes of the unit's images."""
    skip: tuple[int, ...] = ()
    """Images that are skipped because actors died over them."""
    one_at_a_time: bool = False
    """Predict one image at a time, because memory ran out."""
    num_lost: int = 0
    num_probes: int = 0
    """Images that are still to be tried alone."""
    probed: bool = False


@dataclass
class Probe:
    """One image of a unit, to be tried alone."""

    unit: Unit
    image: int
    num_lost: int = 0


class Work:
    """All units of a data set. Take one from `waiting`; report a death, a lack of memory or a probe that went well.
    `data` names the data set in messages; `key` returns the name of an image.
    """

    def __init__(self, units: Sequence[range], *, data: str, key: Callable[[int], str]) -> None:
        self.units = [Unit(number, images) for number, images in enumerate(units)]
        self.waiting: deque[Unit | Probe] = deque(self.units)
        self._data, self._key = data, key
        self._num_images = sum(map(len, units))

    def probed(self, probe: Probe) -> None:
        """The image did no harm, or is skipped; after its unit's last probe the unit waits again."""
        probe.unit.num_probes -= 1
        if not probe.unit.num_probes:
            self.waiting.appendleft(probe.unit)

    def lost(self, work: Unit | Probe, error: Exception) -> None:
        """Raises RuntimeError if actors die over too many images, or over a unit whose images do no harm alone."""
        work.num_lost += 1
        if isinstance(work, Probe):
            if work.num_lost < NUM_PROBES:
                self.waiting.appendleft(work)
            else:
                self._skip_image(work, error)
        elif work.num_lost < MAX_TRIES:
            self.waiting.appendleft(work)
        elif work.probed:
            raise RuntimeError(
                f"{work.num_lost} actors died over {self._named(work)}, over none of them alone: {error}") from error
        else:
            logger.warning("%d actors died over %s: they are tried one by one", work.num_lost, self._named(work))
            work.num_lost, work.probed, work.num_probes = 0, True, len(work.images)
            self.waiting.extendleft(Probe(work, image) for image in reversed(work.images))

    def out_of_memory(self, work: Unit | Probe, error: Exception) -> None:
        """Memory ran out: does a unit again, one image at a time; raises InputError if that was so already."""
        if isinstance(work, Probe) or work.one_at_a_time:
            unit = work.unit if isinstance(work, Probe) else work
            raise out_of_memory(f"{self._named(unit)}, also one at a time", "stream.image-size") from error
        logger.warning("out of memory over %s: once more, one at a time", self._named(work))
        work.one_at_a_time = True
        self.waiting.appendleft(work)

    def _skip_image(self, probe: Probe, error: Exception) -> None:
        probe.unit.skip = tuple(sorted((*probe.unit.skip, probe.image)))
        key, num_skipped = self._key(probe.image), sum(len(unit.skip) for unit in self.units)
        if num_skipped > max(1, MOST_SKIPPED * self._num_images):
            raise RuntimeError(f"actors die over {num_skipped} images of {self._data}, the last of them {key}: "
                               f"{error}") from error
        logger.warning("image %s of %s is skipped: actors die over it", key, self._data)
        self.probed(probe)

    def _named(self, unit: Unit) -> str:
        return f"images {unit.images.start} to {unit.images.stop - 1} of {self._data}"
