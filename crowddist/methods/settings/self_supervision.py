"""Settings of self-supervision, and the facts a run needs of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from crowddist.errors import InputError, require_not_negative, require_positive
from crowddist.methods.settings.facts import MethodFacts, Parameter

KEPT_SHARE = Parameter(name="self_supervision.kept_share", low=0.1, high=1.0, selects_only=True)
LABEL_SCALE_JITTER = (0.9, 1.1)
"""Range of the random scale of labelled target crops. Labels hold at the scale they were made at: a counter that sees
half the persons at half the scale, and is taught to count them all there, counts too many at full scale."""


@dataclass(frozen=True, kw_only=True)
class SelfSupervisionConfig:
    """Self-supervision (Liu et al., CVPR 2022). All values are ours; the paper prints none."""

    orientation_steps: int = 100
    """Steps of stage 1, on source density and the orientation of target images; 0: none."""
    orientation_weight: float = 0.005
    """Weight lambda of the orientation's cross-entropy. A smaller one moves the shared encoder less; the head learns as
    fast."""
    rounds: int = 2
    """Rounds of labelling the target and training on both. K of stage 2."""
    round_steps: int = 300
    """Training steps per round."""
    target_batch_size: int = 8
    """Target crops per step, over all workers."""
    target_weight: float = 1.0
    """Weight mu of the target's pseudo-labels."""
    kept_share: float = 0.7
    """Share of each image's cells that become labels, above 0 to 1."""
    label_views: tuple[float, ...] = (1.0, 1.4, 2.0)
    """Relative sizes to label each target image at, 0.25 to 4. Each place weighs them by the ensemble's certainty
    there. With one size, rounds only repeat what the counter already predicts."""
    learning_rate: float = 1e-4
    """Peak learning rate of stage 1 and of each round."""
    stop_change: float = 0.02
    """Rounds stop when labels change by less than this share of their mean; 0: never."""

    def __post_init__(self) -> None:
        require_positive(round_steps=self.round_steps, target_batch_size=self.target_batch_size,
                         learning_rate=self.learning_rate)
        require_not_negative(orientation_steps=self.orientation_steps, rounds=self.rounds, stop_change=self.stop_change)
        require_not_negative(orientation_weight=self.orientation_weight, target_weight=self.target_weight)
        if not 0 < self.kept_share <= 1:
            raise InputError(f"kept_share lies in (0, 1], got {self.kept_share}")
        if not self.label_views or min(self.label_views) < 0.25 or max(self.label_views) > 4:
            raise InputError(f"label_views must be sizes from 0.25 to 4, at least one, got {self.label_views}")


def _check(config: Any) -> None:
    if config.self_supervision.orientation_steps:
        require_orientation(config)


def require_orientation(config: Any) -> None:
    """Raises InputError if the counter has no orientation head to train."""
    if not config.counter.orientation:
        raise InputError("the orientation stage needs a counter with the head: leave counter.orientation on, or set "
                         "orientation_steps to 0")


def target_batch(config: Any) -> dict[str, int]:
    """The batch of target crops."""
    return {"self_supervision.target_batch_size": config.self_supervision.target_batch_size}


FACTS = MethodFacts(
    line="orientation, then the ensemble's most certain labels (Liu et al., CVPR 2022)",
    module="crowddist.methods.self_supervision",
    name="SelfSupervision",
    settings=("counter", "train", "self_supervision.orientation_weight", "self_supervision.target_weight",
              "self_supervision.learning_rate"),
    check=_check,
    batches=target_batch,
    thresholds=lambda config: (KEPT_SHARE,),
    published={"GCC->SHA": (160.0, 109.2), "GCC->SHB": (22.8, 11.4)},  # CVPR 2022, Table 1
)
