"""The facts a run needs of the combined method; its settings are those of the methods it combines."""

from __future__ import annotations

from crowddist.methods.settings import self_supervision, semantic_consistency
from crowddist.methods.settings.bi_knowledge import WEIGHT_EXPONENT, confidence
from crowddist.methods.settings.facts import MethodFacts

FACTS = MethodFacts(
    line="self_supervision, semantic_consistency and a detector in one; no paper has it",
    module="crowddist.methods.combined",
    name="Combined",
    settings=("counter", "detector", "train", "self_supervision", "semantic_consistency", "bi_knowledge"),
    check=self_supervision.require_orientation,
    batches=lambda config: {**self_supervision.target_batch(config), **semantic_consistency.target_batch(config)},
    thresholds=lambda config: (self_supervision.MIN_CERTAINTY, confidence(config), WEIGHT_EXPONENT),
    takes_boxes=semantic_consistency.trains_segmenter,
    networks=("counter", "detector"),
)
