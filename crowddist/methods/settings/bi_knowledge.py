"""Settings of bi-knowledge transfer, and what a run has to know of it."""

from __future__ import annotations

import math
import typing
from dataclasses import dataclass
from typing import Any, Literal

from crowddist.errors import InputError, require_choice, require_not_negative, require_positive
from crowddist.methods.settings.facts import MethodFacts, Parameter

PATCH_RANGE = 0.2
"""Width of the range of ranks that patches are drawn from, of which the search moves the lower end. P (0.5 to 0.7)."""
LOCALISER_THRESHOLD = Parameter(name="bi_knowledge.localiser_threshold", low=0.1, high=0.6)
MERGE_PX = Parameter(name="bi_knowledge.merge_px", low=2, high=16, scale="whole")
WEIGHT_EXPONENT = Parameter(name="bi_knowledge.weight_exponent", low=0.25, high=4.0, scale="log")
DENSITY_RANGE = Parameter(name="bi_knowledge.density_range", low=0.0, high=1 - PATCH_RANGE, selects_only=True)
CONFIDENCE = "bi_knowledge.confidence"
HIGHEST_CONFIDENCE = 0.6
LOWEST_CONFIDENCE = 0.1


@dataclass(frozen=True, kw_only=True)
class BiKnowledgeConfig:
    """Regression-detection bi-knowledge transfer (Liu et al., MM 2020). Defaults are for the compact networks; recipes
    hold what was printed.
    """

    crop_size: int = 224
    """Side of crops and of patches in px, in the place of `stream.crop_size` (P); a multiple of 32."""
    enlarge: float = 1.0
    """Whole images are seen this much larger than `stream.image_size` (ours): a detector tells heads apart that lie a
    few of its cells apart. Crops of the source are cut as ever."""
    scale_jitter: tuple[float, float] = (0.0, 0.0)
    """Range of the source crops' random scale on top of `stream.image_size`, in the place of `stream.scale_jitter`; 0 0
    leaves that as it is."""
    sigma_px: float = 4.0
    """Standard deviation of a head's Gaussian in px, in the place of `stream.sigma_px`: narrower, because heads are
    read from the density."""
    sigma_of_size: float = 0.0
    """Where it is not 0, each head's Gaussian has this times the head's size instead: Eq. 1 (P: proportional to the
    scale map). 0.6 is near 0.3 of the mean distance to 4 neighbours, which is about twice our size of a head (median of
    29 images each: 1.8 on ShanghaiTech A, 2.4 on B)."""
    regressor_steps: int = 1000
    """Steps of the regressor on the source."""
    detector_steps: int = 2000
    """Steps of the detector on the source."""
    boxes_steps: int = 0
    """Steps of the detector on images with boxes (`boxes`, e.g. WiderFace) before the source; 0 leaves them out."""
    localiser_steps: int = 400
    """Steps of the Reg-to-Det transformer on the source's densities."""
    regressor_rate: float = 2e-3
    """Peak learning rate of the regressor on the source (P: 1e-5 from ImageNet weights)."""
    detector_rate: float = 2e-3
    """Peak learning rate of the detector on boxes and on the source."""
    localiser_rate: float = 3e-3
    """Peak learning rate of the transformer (P: 1e-5)."""
    schedule: Literal["one_cycle", "constant"] = "one_cycle"
    """How learning rates run: up to the peak and down again within every stage, or the same throughout (P)."""
    structure_weight: float = 0.1
    """Weight of DMS-SSIM in the regressor's loss (P: 1)."""
    count_weight: float = 1.0
    """Weight of the error of cells of 8x8 px and of their blocks, as `train.cell_error` and `train.block_weight` say
    (ours; P: 0)."""
    localiser_share: float = 1.0
    """Part of the source's images that the transformer learns from, above 0 to 1 (Table 4: 0.3 is enough)."""
    localiser_blur_px: float = 8.0
    """Densities that the transformer learns from are made softer by a Gaussian of at most this sigma in px, as a
    regressor's are (ours; P: 0)."""
    localiser_loss: Literal["mse", "focal_mse", "focal_cross_entropy", "focal_mse_dms_ssim"] = "focal_mse"
    """Loss of the transformer: the last is the published one (Eq. 7), the others are those of Table 4. With DMS-SSIM
    the compact one, from scratch, ends at an empty map: a hundredth of background noise costs half of the similarity,
    and heads are few."""
    confidence: float = 0.3
    """Least confidence of a detection (ours)."""
    sure_confidence: float = 0.38
    """Least confidence of a detection that the detector learns as a head in a cycle; weaker ones are learnt neither as
    heads nor as background, nor are points of the transformer that join no crowd (ours; P: 0, all are learnt). A to B,
    detections from 0.3 to 0.38 were right in 41 % of the cases, those above in 70 to 80 %: learning all confirmed the
    wrong ones."""
    doubtful_confidence: float = 0.25
    """Least confidence of a detection that is not learnt as background in a cycle, where `sure_confidence` is not 0
    (ours). A to B, at 1,024 px, 3 % of the detections from 0.15 to 0.2 were right, 10 % to 0.25, 21 % to 0.3: left
    open, these made the detector surer of everything."""
    localiser_threshold: float = 0.2
    """Least value of a point of the transformer (P)."""
    merge_px: int = 6
    """Points of the transformer within a square of this side are one (P: 10, of larger images), in pixels as the
    networks see them."""
    nms_share: float = 1.0
    """A detection clears the points around it within this share of its size (ours). Sizes are distances to the nearest
    neighbour, so the whole of it takes one of every two that stand closest together: 7 to 8 % of the true heads of
    ShanghaiTech's images. Within 0.7 they all stay, but so do more of the transformer's points that a detection has
    said already: A to B, the merged heads were 13 too many an image, not 1 too few."""
    crowd_heads: int = 8
    """A point of the transformer joins the detections where it has at least this many neighbours, of both kinds, within
    `crowd_px` (ours; P: 0): where people are few, detection alone is nearer to the truth, and a regressor counts some
    that are not there."""
    crowd_share: float = 0.0
    """And where at least this share of these neighbours are detections (ours; P: 0): a regressor that takes ripples or
    leaves for a crowd has none there to agree with."""
    crowd_px: float = 32.0
    """Radius of that neighbourhood, in pixels as the networks see them (ours)."""
    fusion: Literal["heads", "confidence", "none"] = "heads"
    """The density that both agree on, which is counted and which the regressor learns from. heads: that of the merged
    heads, so the count is their number (ours). confidence: the mean of both densities, weighted by the confidence of
    detections (P, Eq. 8); it keeps all that the regressor counts away from detections. none: each learns from itself,
    and the regressor counts (Table 2, w/o fusion)."""
    weight_exponent: float = 1.0
    """Power of the confidence of detections as their weight in that mean (ours; P: 1): below 1 they weigh more, above
    it less."""
    patches: Literal["chosen", "random"] = "chosen"
    """Which patches of the target are learnt from: of medium density and of confident detections, or any (Table 2,
    w/RS)."""
    density_range: tuple[float, float] = (0.5, 0.7)
    """Range of ranks by density, 0 to 1, that the regressor's patches are drawn from (P)."""
    cycles: int = 1
    """Cycles T of labelling the target and fine-tuning on it (P: 4). Every cycle mends what each network says alone;
    but the union of both holds more heads than either, and the next cycle learns that: more than one was too many for
    the merged count on ShanghaiTech (ours)."""
    cycle_steps: int = 200
    """Steps of each network in a cycle."""
    batch_size: int = 8
    """Target patches of a step, over all workers (P: 12 crops for the regressor)."""
    source_batch_size: int = 8
    """Source crops beside them, over all workers, which keep a network's confidence true (P: 0): a detector that learns
    from the surest patches of the target alone soon sees heads everywhere."""
    regressor_cycle_rate: float = 5e-4
    """Peak learning rate of the regressor in a cycle (P: 1e-6)."""
    detector_cycle_rate: float = 1e-4
    """Peak learning rate of the detector in a cycle (P: 1e-5)."""
    stop_change: float = 0.02
    """Cycles stop when labels change less than this from one to the next, relative to their mean; 0 never stops."""

    def __post_init__(self) -> None:
        require_positive(regressor_steps=self.regressor_steps, detector_steps=self.detector_steps,
                         localiser_steps=self.localiser_steps)
        require_positive(regressor_rate=self.regressor_rate, detector_rate=self.detector_rate,
                         localiser_rate=self.localiser_rate)
        require_positive(cycle_steps=self.cycle_steps, batch_size=self.batch_size, merge_px=self.merge_px)
        require_positive(weight_exponent=self.weight_exponent)
        require_positive(regressor_cycle_rate=self.regressor_cycle_rate, detector_cycle_rate=self.detector_cycle_rate)
        require_not_negative(boxes_steps=self.boxes_steps, cycles=self.cycles, source_batch_size=self.source_batch_size)
        require_not_negative(structure_weight=self.structure_weight, count_weight=self.count_weight)
        require_not_negative(crowd_heads=self.crowd_heads, crowd_px=self.crowd_px, crowd_share=self.crowd_share)
        require_not_negative(nms_share=self.nms_share, stop_change=self.stop_change,
                             localiser_blur_px=self.localiser_blur_px)
        for name, choices in typing.get_type_hints(BiKnowledgeConfig).items():
            if typing.get_origin(choices) is Literal:
                require_choice(name, getattr(self, name), typing.get_args(choices))
        if self.crop_size % 32 or self.crop_size < 64:
            raise InputError(f"crop_size must be a multiple of 32 and at least 64, got {self.crop_size}")
        if self.sigma_px <= 0 or self.sigma_of_size < 0:
            raise InputError(f"sigma_px must be positive and sigma_of_size not negative, got {self.sigma_px} and "
                             f"{self.sigma_of_size}")
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
                             f"{self.sure_confidence} and "
                             f"{self.doubtful_confidence}")
        if not (0 < self.confidence < 1 and self.localiser_threshold > 0):
            raise InputError(f"confidence lies in (0, 1) and localiser_threshold above 0, got {self.confidence} and "
                             f"{self.localiser_threshold}")


def confidence(config: Any) -> Parameter:
    """Least confidence of a detection."""
    settings = config.bi_knowledge
    # Weaker detections are what labels leave open.
    lowest = settings.doubtful_confidence if settings.sure_confidence else LOWEST_CONFIDENCE
    return Parameter(name=CONFIDENCE, low=lowest, high=max(HIGHEST_CONFIDENCE, lowest))


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


def _batches(config: Any) -> dict[str, int]:
    settings = config.bi_knowledge
    return {"bi_knowledge.batch_size": settings.batch_size,
            "bi_knowledge.source_batch_size": settings.source_batch_size}


def _takes_boxes(config: Any) -> bool:
    return True


FACTS = MethodFacts(
    line="a regressor and a detector teach each other (Liu et al., MM 2020)",
    module="crowddist.methods.bi_knowledge",
    name="BiKnowledge",
    check=_check,
    batches=_batches,
    thresholds=_thresholds,
    takes_boxes=_takes_boxes,
    networks=("regressor", "detector", "localiser"),
    published={"A->B": (21.65, 13.38), "B->A": (148.94, 112.24)},  # MM 2020, Table 1
)
