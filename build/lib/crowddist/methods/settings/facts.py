"""MethodFacts: what a run needs to know of a method before its networks are built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A threshold that labels depend on, and the range in which a search looks for it."""

    name: str
    """Place in the configuration, e.g. "bi_knowledge.confidence"."""
    low: float
    high: float
    """Ends of the searched range, both included."""
    scale: str = "even"
    """even, log, or whole (numbers)."""
    selects_only: bool = False
    """The threshold only chooses which labels are used; it does not change them."""

    def at(self, share: float) -> float:
        """The value at a share of the range, 0 to 1."""
        if self.scale == "log":
            return self.low * (self.high / self.low) ** share
        value = self.low + (self.high - self.low) * share
        return float(round(value)) if self.scale == "whole" else value


@dataclass(frozen=True, kw_only=True)
class MethodFacts:
    """A row of the table of methods. All functions take the `RunConfig` of a run."""

    line: str
    """Description in one line."""
    module: str
    """Module of the class, e.g. "crowddist.methods.self_supervision"."""
    name: str
    """Name of the class."""
    check: Callable[[Any], None] = lambda config: None
    """Raises InputError for settings that contradict each other."""
    batches: Callable[[Any], Mapping[str, int]] = lambda config: {}
    """Name -> size of each batch, beside the source's, that workers must share equally."""
    thresholds: Callable[[Any], tuple[Parameter, ...]] = lambda config: ()
    """Thresholds that labels depend on."""
    takes_boxes: Callable[[Any], bool] = lambda config: False
    """Whether the method trains on images with boxes, if the run has some."""
    settings: tuple[str, ...] = ()
    """Settings, or groups of them, that its stages depend on beside the crops, unless they name their own; (): all."""
    learns_from_target: bool = False
    """The method trains on the target's own labels, and on no source."""
    networks: tuple[str, ...] = ("counter",)
    """Networks that may start from weights."""
    published: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Pair of data sets -> MAE without and with adaptation, on the whole test set, by networks with ImageNet weights
    (P). Supervised does not adapt: its second MAE is for comparison."""
