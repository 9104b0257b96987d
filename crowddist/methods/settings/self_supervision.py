"""Settings of self-supervision, and the facts a run needs of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from crowddist.data.config import require_zooms
from crowddist.errors import InputError, require_not_negative, require_positive
from crowddist.methods.settings.facts import MethodFacts, Parameter

MIN_CERTAINTY = Parameter(name="self_supervision.min_certainty", low=0.0, high=0.9, selects_only=True)
LABEL_SCALE_MARGIN = (0.9, 1.1)
"""Random scales of labelled target crops: from 0.9 of the smallest size that images are counted at (`stream.zooms`) to
1.1 of the largest. A count does not change with zoom, so a counter that learns merged labels at all its zooms agrees
with itself over them: from B to A a round brings 148.4 to 103.8 that way, to 121.9 at the middle size alone. At sizes
that it is not used at, labels do harm: a counter that sees half the persons at half the scale, and is taught to count
them all there, counts too many at full scale; and crops twice as large teach the demo little about full scale (40.0 in
the place of 34.5)."""
LARGEST_TEACHER_ZOOM = 4.0
"""Beyond it a view costs sixteen times a crop."""


@dataclass(frozen=True, kw_only=True)
class SelfSupervisionConfig:
    """Self-supervision (Liu et al., CVPR 2022). All values are ours; the paper prints none."""

    orientation_steps: int | None = None
    """Steps of stage 1, from new networks, on source density and the orientation of target images; 0: none; None: as
    many as on the source alone (train.steps), with the same learning rate."""
    orientation_weight: float = 0.2
    """Weight lambda of the orientation's cross-entropy (P: 1, beside another density loss). With it the encoder's
    gradients compare. In the first six steps of new counters, from ShanghaiTech A to B, the density's norm is 0.15 to
    0.29 and the unweighted orientation's 1.4 to 1.6 with EfficientNet-Lite0, 0.41 to 0.87 and 3.6 to 3.8 with the
    compact encoder: a tenth to a quarter."""
    orientation_px: int = 256
    """Width of the whole target images of stage 1, px; a multiple of 32. All are resized to it and to three quarters of
    it in height."""
    orientation_on_source: bool = False
    """Teach the orientation of source images, too. The paper found no obvious gain in it: the densities already teach
    the source's perspective."""
    rounds: int = 2
    """Rounds of labelling the target and training on both. K of stage 2."""
    round_steps: int = 300
    """Training steps per round."""
    target_batch_size: int = 8
    """Target crops, or whole images of stage 1, per step, over all workers."""
    target_weight: float = 1.0
    """Weight mu of the target's pseudo-labels."""
    min_certainty: float = 0.7
    """Least certainty of a place whose density becomes a label, 0 to below 1, see `ops.views.certainty`; 0: all. It is
    one threshold for the whole target: 1 where the ensemble and all zooms agree, 0.5 where they differ by as much as
    they see."""
    label_views: tuple[float, ...] = ()
    """Sizes to label each target image at, relative to `stream.image_size`, 0.1 to 4; none given: `stream.zooms`. Each
    place weighs them by the ensemble's certainty there. With one size, rounds only repeat what the counter already
    predicts."""
    second_counter: str = ""
    """Another counter, whose labels are averaged with those of the newest one: `rendered`, or a run's folder or
    checkpoint, path or URL; none given: the newest alone. It sees an image at its own sizes. A counter that learnt
    elsewhere errs elsewhere, so a round teaches what the newest one does not say already (docs/adaptation.md). A search
    of thresholds judges the newest counter's own labels."""
    teacher_share: float = 0.0
    """Share of a mean teacher in the labels of target crops, 0 to 1. The moving average of the counter's weights labels
    each crop of a step without its random colours, blur, noise and erased patch (Tarvainen and Valpola, NeurIPS 2017).
    0: the round's labels alone; 1: the teacher's alone, in the cells that the round keeps."""
    teacher_decay: float = 0.99
    """Share that a step keeps of the teacher, 0 to below 1. `engine.average_decay` decides which weights count."""
    teacher_zoom: float = 2.0
    """Largest factor between the sizes at which the teacher and the counter see a crop, 1 to 4. 1: one size. The
    teacher's lies between the counter's and those that labels are made at: a count does not change with zoom."""
    erased_share: float = 0.0
    """Share of labelled target crops of the counter with an erased patch, 0 to 1 (random erasing: Zhong et al., AAAI
    2020). The cells under it are not trained on."""
    learning_rate: float = 1e-4
    """Peak learning rate of each round."""
    stop_change: float = 0.02
    """Rounds stop when labels change by less than this share of their mean; 0: never."""
    drop_rise: float = 0.03
    """A round is dropped, and ends the rounds, when a target image's counts at several zooms (label_views) then differ
    more than before by this share; below 0, above -1: when they do not differ less by so much; 0: never. Of 17 rounds
    on rendered crowds none that lowered the error rose by more than 0.012, and both that doubled it rose by 0.08 and
    more. On photographs rounds that helped fell by 0.05 and more but for one (docs/adaptation.md)."""

    def __post_init__(self) -> None:
        require_positive(round_steps=self.round_steps, target_batch_size=self.target_batch_size,
                         learning_rate=self.learning_rate)
        require_not_negative(orientation_steps=self.orientation_steps or 0, rounds=self.rounds,
                             stop_change=self.stop_change)
        require_not_negative(orientation_weight=self.orientation_weight, target_weight=self.target_weight)
        if self.orientation_px < 32 or self.orientation_px % 32:
            raise InputError(f"orientation_px is a multiple of 32, got {self.orientation_px}")
        if not -1 < self.drop_rise < math.inf:
            raise InputError(f"drop_rise lies above -1, got {self.drop_rise}")
        if not 0 <= self.min_certainty < 1:
            raise InputError(f"min_certainty lies in [0, 1), got {self.min_certainty}")
        for name in ("teacher_share", "erased_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} lies in [0, 1], got {getattr(self, name)}")
        if not 0 <= self.teacher_decay < 1:
            raise InputError(f"teacher_decay lies in [0, 1), got {self.teacher_decay}")
        if not 1 <= self.teacher_zoom <= LARGEST_TEACHER_ZOOM:
            raise InputError(f"teacher_zoom lies in [1, {LARGEST_TEACHER_ZOOM:g}], got {self.teacher_zoom}")
        if self.label_views:
            require_zooms("label_views", self.label_views)


def require_orientation(config: Any) -> None:
    """Raises InputError if the counter has no orientation head to train."""
    if config.self_supervision.orientation_steps != 0 and not config.counter.orientation:
        raise InputError("the orientation stage needs a counter with the head: leave counter.orientation on, or set "
                         "orientation_steps to 0")


def target_batch(config: Any) -> dict[str, int]:
    """The batch of target crops."""
    return {"self_supervision.target_batch_size": config.self_supervision.target_batch_size}


FACTS = MethodFacts(
    line="orientation, then the ensemble's most certain labels (Liu et al., CVPR 2022)",
    module="crowddist.methods.self_supervision",
    name="SelfSupervision",
    settings=("counter", "train", "self_supervision.orientation_weight", "self_supervision.orientation_on_source",
              "self_supervision.target_weight", "self_supervision.learning_rate", "self_supervision.teacher_share",
              "self_supervision.teacher_decay"),
    check=require_orientation,
    batches=target_batch,
    thresholds=lambda config: (MIN_CERTAINTY,),
    # CVPR 2022, Table 1
    published={"GCC->SHA": (160.0, 109.2), "GCC->SHB": (22.8, 11.4), "GCC->UCF_CC_50": (487.2, 336.5),
               "GCC->QNRF": (275.5, 198.3)},
)
