"""MethodFacts: what a run has to know of a method before its networks are built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A threshold that labels depend on, and the range in which a search looks for it."""

    name: str
    """Where it stands in the configuration, e.g. "bi_knowledge.confidence"."""
    low: float
    high: float
    """The range that is searched, both ends included."""
    scale: str = "even"
    """even, log, or whole (numbers)."""
    selects_only: bool = False
    """Whether it decides only which part of the labels is learnt from, not what they say."""

    def at(self, share: float) -> float:
        """The value at a share of the range, 0 to 1."""
        if self.scale == "log":
            return self.low * (self.high / self.low) ** share
        value = self.low + (self.high - self.low) * share
        return float(round(value)) if self.scale == "whole" else value


def _nothing(config: Any) -> tuple[()]:
    return ()


def _no_batches(config: Any) -> dict[str, int]:
    return {}


def _fine(config: Any) -> None:
    return None


def _no_boxes(config: Any) -> bool:
    return False


@dataclass(frozen=True, kw_only=True)
class MethodFacts:
    """A row of the table of methods. Functions take the whole configuration of a run, a `RunConfig`."""

    line: str
    """What it is, in a line."""
    module: str
    """Where its class is, e.g. "crowddist.methods.self_supervision"."""
    name: str
    """Of the class."""
    check: Callable[[Any], None] = _fine
    """Raises InputError where settings do not go together."""
    batches: Callable[[Any], Mapping[str, int]] = _no_batches
    """Name and size of the batches, beside the source's, that workers share equally."""
    thresholds: Callable[[Any], tuple[Parameter, ...]] = _nothing
    """What its labels depend on; none where no threshold decides them."""
    takes_boxes: Callable[[Any], bool] = _no_boxes
    """Whether it learns from images with boxes, where there are some."""
    learns_from_target: bool = False
    """Whether it trains on the target's own labels, and on no source."""
    networks: tuple[str, ...] = ("counter",)
    """Those that may start from weights."""
    published: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Pair of data sets -> MAE without and with adaptation, on the whole test set, by networks with ImageNet weights
    (P). Supervised has no adaptation: both numbers stand side by side."""
