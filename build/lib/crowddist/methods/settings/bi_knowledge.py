"""Settings of bi-knowledge transfer, and the facts a run needs of it."""

from __future__ import annotations

import math
import typing
from dataclasses import dataclass
from typing import Any, Literal

from crowddist.errors import InputError, require_choice, require_not_negative, require_positive
from crowddist.methods.settings.facts import MethodFacts, Parameter

PATCH_RANGE = 0.2
"""Width of the range of ranks that patches are drawn from; a search moves its lower end. P (0.5 to 0.7)."""
LOCALISER_THRESHOLD = Parameter(name="bi_knowledge.localiser_threshold", low=0.1, high=0.6)
MERGE_PX = Parameter(name="bi_knowledge.merge_px", low=2, high=16, scale="whole")
WEIGHT_EXPONENT = Parameter(name="bi_knowledge.weight_exponent", low=0.25, high=4.0, scale="log")
DENSITY_RANGE = Parameter(name="bi_knowledge.density_range", low=0.0, high=1 - PATCH_RANGE, selects_only=True)
CONFIDENCE = "bi_knowledge.confidence"


@dataclass(frozen=True, kw_only=True)
class BiKnowledgeConfig:
    """Regression-detection bi-knowledge transfer (Liu et al., MM 2020). Defaults suit the compact networks; recipes
    have the printed values.
    """

    crop_size: int = 224
    """Side of crops and patches in px, a multiple of 32 (P); replaces `stream.crop_size`."""
    boxes_crop_size: int = 0
    """Side of the crops of images with boxes in px, a multiple of 32; 0: `crop_size` (C: 704, CSP on WiderFace)."""
    enlarge: float = 1.0
    """Factor on `stream.image_size` for whole images, 0.25 to 4 (ours), so that the detector can separate heads that
    lie close together. Source crops are not enlarged."""
    scale_jitter: tuple[float, float] = (0.0, 0.0)
    """Range of the source crops' random scale on top of `stream.image_size`, in the place of `stream.scale_jitter`; 0 0
    keeps that."""
    sigma_px: float = 4.0
    """Standard deviation of a head's Gaussian in px; replaces `stream.sigma_px`. Narrower, because heads are read from
    the density."""
    sigma_of_size: float = 0.0
    """If above 0, sigma is this times the head's size instead (Eq. 1, P). 0.6 is near 0.3 of the mean distance to 4
    neighbours, which is about twice the head's size (median: 1.8 on ShanghaiTech A, 2.4 on B)."""
    regressor_steps: int = 1000
    """Steps of the regressor on the source."""
    detector_steps: int = 2000
    """Steps of the detector on the source."""
    boxes_steps: int = 0
    """Steps of the detector on images with boxes (`boxes`, e.g. WiderFace) before the source; 0: none."""
    localiser_steps: int = 400
    """Steps of the localiser (Reg-to-Det transformer) on the source's densities."""
    regressor_rate: float = 2e-3
    """Peak learning rate of the regressor on the source (P: 1e-5 from ImageNet weights)."""
    detector_rate: float = 2e-3
    """Peak learning rate of the detector on boxes and on the source."""
    localiser_rate: float = 3e-3
    """Peak learning rate of the localiser (P: 1e-5)."""
    schedule: Literal["one_cycle", "constant"] = "one_cycle"
    """Learning rates within a stage: up to the peak and down again, or constant (P)."""
    structure_weight: float = 0.1
    """Weight of DMS-SSIM in the regressor's loss (P: 1)."""
    count_weight: float = 1.0
    """Weight of the count error of 8x8 px cells and of their blocks, see `train.cell_error` and `train.block_weight`
    (ours; P: 0)."""
    regressor_noise: float = 0.0
    """Largest uniform noise on the regressor's training crops, in standard deviations of natural images (C: 0.03, about
    1.7 of 255 grey levels, DSSINet). Other than `stream.noisy_share`, all crops of the regressor alone have it."""
    update_sizes: bool = False
    """Update the heads' sizes while the detector trains: the smaller one of the neighbours' distance and the detector's
    own prediction, where its confidence is at least `confidence` (P, after PSDDN). Distances are far larger than heads
    in sparse crowds and overwrite what the detector has learnt of boxes. Sizes of boxes and pseudo-labels stay."""
    detector_average: float = 0.0
    """Share that a step keeps of the moving average of the detector's weights, which detects and starts the next stage;
    0: `engine.average_decay` (C: 0.999, CSP's teacher)."""
    localiser_share: float = 1.0
    """Share of the source's images that the localiser learns from, above 0 to 1 (Table 4: 0.3 is enough)."""
    localiser_blur_px: float = 8.0
    """Largest sigma in px of the random blur of the localiser's training densities (ours; P: 0)."""
    localiser_loss: Literal["mse", "focal_mse", "focal_cross_entropy", "focal_mse_dms_ssim"] = "focal_mse"
    """Loss of the localiser: focal_mse_dms_ssim (P, Eq. 7) or another of Table 4. With DMS-SSIM the compact localiser
    predicts an empty map, because 0.01 of background noise costs half of the similarity."""
    confidence: float = 0.3
    """Least confidence of a detection, between 0 and 1 (ours)."""
    sure_confidence: float = 0.38
    """Least confidence, 0 to below 1, of a detection that a cycle teaches as a head. The loss ignores weaker ones and
    localiser points outside crowds (ours; P: 0, all are taught). A to B, 41 % of the detections from 0.3 to 0.38 were
    right, 70 to 80 % of those above."""
    doubtful_confidence: float = 0.25
    """Least confidence, above 0 to 1, of a detection that the loss ignores; weaker ones are background. Only with
    `sure_confidence` above 0 (ours). A to B at 1,024 px, 3 % of the detections from 0.15 to 0.2 were right, 10 % to
    0.25, 21 % to 0.3; a detector whose loss ignored these became surer of everything."""
    localiser_threshold: float = 0.2
    """Least value of a localiser point, above 0 (P)."""
    merge_px: int = 6
    """Localiser points within a square of this side are one, in px as the networks see them (P: 10, larger images)."""
    nms_share: float = 0.7
    """A detection suppresses weaker ones within this share of its size (ours). Sizes are distances to the nearest
    neighbour: 1 loses 7 to 8 % of ShanghaiTech's true heads, one of each closest pair; 0.7 loses 0.3 % of them."""
    union_share: float = 1.0
    """A detection suppresses localiser points within this share of its size (ours). 1 also loses points of heads that
    are not detected but close to one that is. A smaller share keeps points of detected heads, which the localiser puts
    beside them: from A to B, with 0.7 for both shares the merged heads were 13 per image too many, with 1 they were 1
    too few."""
    crowd_heads: int = 8
    """A localiser point counts only with at least this many neighbours, of both kinds, within `crowd_px` (ours; P: 0).
    Where people are few, detection alone is more exact; the regressor sees some who are not there."""
    crowd_share: float = 0.0
    """Least share of detections among a localiser point's neighbours, 0 to 1 (ours; P: 0); rejects false crowds
    (ripples, leaves) that no detection supports."""
    crowd_px: float = 32.0
    """Radius of a localiser point's neighbourhood, in px as the networks see them (ours)."""
    fusion: Literal["heads", "confidence", "none"] = "heads"
    """The density that is counted and that teaches the regressor. heads: drawn from the merged heads, so the count is
    their number (ours). confidence: mean of both densities, weighted by the confidence of detections (P, Eq. 8); it
    keeps the regressor's count away from detections. none: each network learns from itself, and the regressor counts
    (Table 2, w/o fusion)."""
    weight_exponent: float = 1.0
    """Power of the confidence that weighs detections in `fusion` confidence, above 0 (ours; P: 1); below 1 they weigh
    more, above 1 less."""
    patches: Literal["chosen", "random"] = "chosen"
    """Target patches to learn from: of medium density and of confident detections (P), or random (Table 2, w/RS)."""
    density_range: tuple[float, float] = (0.5, 0.7)
    """Range of density ranks, 0 to 1, of the regressor's patches (P)."""
    cycles: int = 1
    """Cycles T of labelling the target and fine-tuning on it (P: 4). The union of both networks' heads grows with every
    cycle: on ShanghaiTech, more than one made the merged count too high (ours)."""
    cycle_steps: int = 200
    """Steps of each network in a cycle."""
    batch_size: int = 8
    """Target patches per step of a cycle, over all workers (P: 12 crops for the regressor)."""
    source_batch_size: int = 8
    """Source crops per step of a cycle, over all workers (P: 0). They keep confidences true: a detector that learns
    only from the surest target patches soon sees heads everywhere."""
    regressor_cycle_rate: float = 5e-4
    """Peak learning rate of the regressor in a cycle (P: 1e-6)."""
    detector_cycle_rate: float = 1e-4
    """Peak learning rate of the detector in a cycle (P: 1e-5)."""
    stop_change: float = 0.02
    """Cycles stop when labels change by less than this share of their mean; 0: never."""

    def __post_init__(self) -> None:
        require_positive(regressor_steps=self.regressor_steps, detector_steps=self.detector_steps,
                         localiser_steps=self.localiser_steps, regressor_rate=self.regressor_rate,
                         detector_rate=self.detector_rate, localiser_rate=self.localiser_rate,
                         cycle_steps=self.cycle_steps, batch_size=self.batch_size,
                         merge_px=self.merge_px, weight_exponent=self.weight_exponent, sigma_px=self.sigma_px,
                         regressor_cycle_rate=self.regressor_cycle_rate, detector_cycle_rate=self.detector_cycle_rate)
        require_not_negative(boxes_steps=self.boxes_steps, cycles=self.cycles, source_batch_size=self.source_batch_size,
                             structure_weight=self.structure_weight, count_weight=self.count_weight,
                             crowd_heads=self.crowd_heads, crowd_px=self.crowd_px, crowd_share=self.crowd_share,
                             nms_share=self.nms_share, union_share=self.union_share, stop_change=self.stop_change,
                             sigma_of_size=self.sigma_of_size, localiser_blur_px=self.localiser_blur_px,
                             regressor_noise=self.regressor_noise)
        for name, choices in typing.get_type_hints(BiKnowledgeConfig).items():
            if typing.get_origin(choices) is Literal:
                require_choice(name, getattr(self, name), typing.get_args(choices))
        if self.crop_size % 32 or self.crop_size < 64:
            raise InputError(f"crop_size must be a multiple of 32 and at least 64, got {self.crop_size}")
        if self.boxes_crop_size and (self.boxes_crop_size % 32 or self.boxes_crop_size < 64):
            raise InputError("boxes_crop_size must be 0, or a multiple of 32 and at least 64, got "
                             f"{self.boxes_crop_size}")
        if not 0 <= self.detector_average < 1:
            raise InputError(f"detector_average lies in [0, 1), got {self.detector_average}")
        if self.scale_jitter != (0.0, 0.0) and not 0 < self.scale_jitter[0] <= self.scale_jitter[1] < math.inf:
            raise InputError("scale_jitter must be two positive numbers, the smaller first, or 0 0, got "
                             f"{self.scale_jitter}")
        if not 0 <= self.density_range[0] < self.density_range[1] <= 1:
            raise InputError(f"density_range must be two ranks in [0, 1], the smaller first, got {self.density_range}")
        if not 0.25 <= self.enlarge <= 4:
            raise InputError(f"enlarge lies in [0.25, 4], got {self.enlarge}")
        if not 0 < self.localiser_share <= 1:
            raise InputError(f"localiser_share lies in (0, 1], got {self.localiser_share}")
        if not self.structure_weight + self.count_weight > 0:
            raise InputError("structure_weight and count_weight are both 0: the regressor has no loss")
        if not (0 <= self.sure_confidence < 1 and 0 < self.doubtful_confidence <= 1):
            raise InputError("sure_confidence lies in [0, 1) and doubtful_confidence in (0, 1], got "
                             f"{self.sure_confidence} and {self.doubtful_confidence}")
        if not (0 < self.confidence < 1 and self.localiser_threshold > 0):
            raise InputError("confidence lies in (0, 1) and localiser_threshold above 0, got "
                             f"{self.confidence} and {self.localiser_threshold}")


def confidence(config: Any) -> Parameter:
    """Least confidence of a detection. Predictions hold none below `doubtful_confidence`, where that is in use."""
    settings = config.bi_knowledge
    lowest = settings.doubtful_confidence if settings.sure_confidence else 0.1
    return Parameter(name=CONFIDENCE, low=lowest, high=max(0.6, lowest))


def _thresholds(config: Any) -> tuple[Parameter, ...]:
    settings = config.bi_knowledge
    fused = (WEIGHT_EXPONENT,) if settings.fusion == "confidence" else ()
    patches = (DENSITY_RANGE,) if settings.patches == "chosen" else ()
    points = (LOCALISER_THRESHOLD, MERGE_PX) if settings.fusion != "none" else ()
    return (confidence(config), *points, *fused, *patches)


def _check(config: Any) -> None:
    if bool(config.boxes) != bool(config.bi_knowledge.boxes_steps):
        raise InputError("the detector's pre-training needs both: images with boxes (--boxes) and "
                         'bi_knowledge.boxes_steps; give both, or neither (--boxes "" --bi-knowledge.boxes-steps 0)')
    if config.train.density_limit:
        raise InputError("train.density_limit is for counters that learn from the source, not for bi_knowledge: leave "
                         "it out")


FACTS = MethodFacts(
    line="a regressor and a detector teach each other (Liu et al., MM 2020)",
    module="crowddist.methods.bi_knowledge",
    name="BiKnowledge",
    settings=("regressor", "detector", "localiser", "train", "bi_knowledge"),
    check=_check,
    batches=lambda config: {"bi_knowledge.batch_size": config.bi_knowledge.batch_size,
                            "bi_knowledge.source_batch_size": config.bi_knowledge.source_batch_size},
    thresholds=_thresholds,
    takes_boxes=lambda config: True,
    networks=("regressor", "detector", "localiser"),
    # MM 2020, Table 1
    published={"A->B": (21.65, 13.38), "B->A": (148.94, 112.24), "A->UCF_CC_50": (419.53, 368.01),
               "A->QNRF": (198.71, 175.02), "B->QNRF": (267.26, 211.30)},
)
