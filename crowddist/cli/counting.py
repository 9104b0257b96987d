"""The options of all commands that count: where and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from crowddist.inference.intervals import LEVEL

if TYPE_CHECKING:
    from crowddist.inference.base_predictor import BasePredictor


@dataclass(frozen=True, kw_only=True)
class Counting:
    """Where and how images are counted."""

    device: str = "auto"
    """Where to count: cpu, cuda, cuda:1 or mps; auto: on the GPU where there is one."""
    image_size: Annotated[int, tyro.conf.arg(metavar="PX")] = -1
    """Longest side that images are resized to; -1: the one the counter was trained with; 0: as they are, in tiles where
    large."""
    zooms: Annotated[tuple[float, ...], tyro.conf.arg(metavar="SIZE ...")] = ()
    """Sizes, relative to the image size, at which an image is counted; they are merged place by place by the ensemble's
    certainty. None given: those that the run evaluated at; 1: one size, which is fastest."""
    one_pass: bool = False
    """Count by the mean of the ensemble's masks, in one pass: faster, without an uncertainty and an interval."""
    level: float = LEVEL
    """Share of images like the source's whose true count lies between low and high, above 0 and below 1."""

    def open(self, counter: str) -> BasePredictor:
        """The counter of this place or name, see `open_counter`; this process is its own from now on."""
        from crowddist.inference.open_counter import open_counter
        from crowddist.process.host import keep_freed_memory

        keep_freed_memory()
        return open_counter(counter, device=self.device, image_size=None if self.image_size == -1 else self.image_size,
                            zooms=self.zooms or None, one_pass=self.one_pass, level=self.level)


Options = Annotated[Counting, tyro.conf.arg(name="")]
"""`Counting` among a command's own options."""
