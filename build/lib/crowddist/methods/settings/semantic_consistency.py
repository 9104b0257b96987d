"""Settings of semantic consistency, and the facts a run needs of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from crowddist.errors import require_choice, require_not_negative, require_positive
from crowddist.methods.settings.facts import MethodFacts


@dataclass(frozen=True, kw_only=True)
class SemanticConsistencyConfig:
    """Semantic consistency (Han et al., ICASSP 2020, SE+FD). The source needs masks of persons (GCC, renderer).

    The weights suit the recipes for a CPU, whose density loss is a mean over cells; the printed ones go with Eq. 6
    (`recipes.icassp2020` has norms for it). Norms of the encoder's gradients, EfficientNet-Lite0 after 100 steps on
    rendered crowds, 4 crops of 160 px, each term unweighted at steps 0, 5, 10, 20 and 40 of the stage with the printed
    weights and 0.001:

        density      0.15   0.17   0.12   1.12   0.66
        source mask  3.1    2.2    2.9    3.2    2.2
        target mask  4.2    3.5    2.5    2.2    2.7
        adversary    0.2    285    84     233    143

    So 0.03 for the masks gives 0.07 to 0.13, and 0.0003 for the adversary at most 0.09: none drowns the density. With
    0.01 and 0.001 the adversary had up to 0.29, the masks 0.02 to 0.04. A compact encoder (density 0.4 to 1.6, source
    mask 0.1, adversary 5 to 9) is moved by its density above all.
    """

    steps: int = 600
    """Steps with all losses (ours), after `train.steps` of the counter alone, which the paper leaves out."""
    learning_rate: float = 1e-4
    """Peak learning rate of encoder, density and semantic head in these steps (P: 1e-5 from ImageNet weights)."""
    target_batch_size: int = 8
    """Target crops per step, over all workers (P)."""
    source_mask_weight: float = 0.03
    """Weight lambda^s of the source's mask loss (ours; P: 0.01)."""
    target_mask_weight: float = 0.03
    """Weight lambda^t of the target's background loss (ours; P: 0.01)."""
    adversarial_weight: float = 3e-4
    """Weight lambda^d of the adversarial loss (ours; not published, AdaptSegNet's is 0.001)."""
    adversarial_patches: Literal["mean", "sum"] = "mean"
    """Adversarial loss of an image's patches: their mean (ours), or their sum (P, Eq. 10)."""
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
        require_choice("adversarial_patches", self.adversarial_patches, ("mean", "sum"))


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
    # ICASSP 2020, Table 1; unadapted its own counter, not SFCN, which it also lists.
    published={"GCC->SHA": (190.8, 129.3), "GCC->SHB": (24.6, 16.9), "GCC->QNRF": (296.1, 221.2)},
)
