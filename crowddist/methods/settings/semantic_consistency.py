"""Settings of semantic consistency, and the facts a run needs of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from crowddist.errors import require_choice, require_not_negative, require_positive
from crowddist.methods.settings.facts import MethodFacts


@dataclass(frozen=True, kw_only=True)
class SemanticConsistencyConfig:
    """Semantic consistency (Han et al., ICASSP 2020, SE+FD). The source needs masks of persons (GCC, renderer)."""

    steps: int = 600
    """Steps with all losses (ours), after `train.steps` of the counter alone, which the paper leaves out."""
    learning_rate: float = 1e-4
    """Peak learning rate of encoder, density and semantic head in these steps (P: 1e-5 from ImageNet weights)."""
    target_batch_size: int = 8
    """Target crops per step, over all workers (P)."""
    source_mask_weight: float = 0.01
    """Weight lambda^s of the source's mask loss (P)."""
    target_mask_weight: float = 0.01
    """Weight lambda^t of the target's background loss (P)."""
    adversarial_weight: float = 0.001
    """Weight lambda^d of the adversarial loss (not published; AdaptSegNet's)."""
    target_masks: Literal["made", "given"] = "made"
    """Where persons may be in the target. made: a segmenter decides, trained on masks of the source and of `boxes`.
    given: the target's shards hold masks (their points stay closed)."""
    segmenter_steps: int = 400
    """Steps of the segmenter."""
    segmenter_rate: float = 2e-3
    """Peak learning rate of the segmenter."""

    def __post_init__(self) -> None:
        require_positive(steps=self.steps, learning_rate=self.learning_rate, target_batch_size=self.target_batch_size)
        require_positive(segmenter_steps=self.segmenter_steps, segmenter_rate=self.segmenter_rate)
        require_not_negative(source_mask_weight=self.source_mask_weight, target_mask_weight=self.target_mask_weight)
        require_not_negative(adversarial_weight=self.adversarial_weight)
        require_choice("target_masks", self.target_masks, ("made", "given"))


def target_batch(config: Any) -> dict[str, int]:
    """The batch of target crops."""
    return {"semantic_consistency.target_batch_size": config.semantic_consistency.target_batch_size}


def trains_segmenter(config: Any) -> bool:
    """Whether a segmenter makes the target's masks."""
    return config.semantic_consistency.target_masks == "made"


FACTS = MethodFacts(
    line="features that tell persons from background in both domains (Han et al., ICASSP 2020)",
    module="crowddist.methods.semantic_consistency",
    name="SemanticConsistency",
    settings=("counter", "train", "semantic_consistency"),
    batches=target_batch,
    takes_boxes=trains_segmenter,
    published={"GCC->SHA": (160.0, 129.3), "GCC->SHB": (22.8, 16.9)},  # ICASSP 2020, Table 1
)
