"""What a run has to know of the combined method, whose settings are those of the methods it combines."""

from __future__ import annotations

from typing import Any

from crowddist.methods.settings import self_supervision, semantic_consistency
from crowddist.methods.settings.bi_knowledge import WEIGHT_EXPONENT, confidence
from crowddist.methods.settings.facts import MethodFacts, Parameter


def _batches(config: Any) -> dict[str, int]:
    return {**self_supervision.target_batch(config), **semantic_consistency.target_batch(config)}


def _thresholds(config: Any) -> tuple[Parameter, ...]:
    return (self_supervision.KEPT_SHARE, confidence(config), WEIGHT_EXPONENT)


FACTS = MethodFacts(
    line="self_supervision, semantic_consistency and a detector in one; no paper has it",
    module="crowddist.methods.combined",
    name="Combined",
    check=self_supervision.require_orientation,
    batches=_batches,
    thresholds=_thresholds,
    takes_boxes=semantic_consistency.trains_segmenter,
    networks=("counter", "detector"),
)
