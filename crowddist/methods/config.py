"""Configuration of the methods: steps, learning rates and the weights of their losses."""

from __future__ import annotations

import math
import typing
from dataclasses import dataclass
from typing import Literal

from crowddist.errors import InputError

MethodName = Literal["source_only", "self_supervision", "bi_knowledge", "semantic_consistency", "translation",
                     "combined", "supervised"]
METHODS: dict[MethodName, str] = {
    "source_only": "no adaptation; the first row of every other method",
    "self_supervision": "orientation, then the labels an ensemble is certain of (Liu et al., CVPR 2022)",
    "bi_knowledge": "a regressor and a detector teach each other (Liu et al., MM 2020)",
    "semantic_consistency": "persons and background told apart alike, aligned features (Han et al., ICASSP 2020)",
    "translation": "the source shown as the target would show it (SE CycleGAN, Wang et al., CVPR 2019)",
    "combined": "self_supervision, semantic_consistency and a detector in one; no paper has it",
    "supervised": "trains on the target's own labels: the ceiling, no adaptation",
}
"""What each method is, in a line."""


def methods_table() -> str:
    """The methods, a line each, as help shows them."""
    width = max(map(len, METHODS))
    return "\n".join(f"    {name.ljust(width)}  {line}" for name, line in METHODS.items())


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Training on the source, as every method begins. Bi-knowledge transfer has steps and rates of its own, and takes
    the rest from here.
    """

    steps: int = 3000
    """Steps of the first stage."""
    batch_size: int = 8
    """Source crops of a step, over all workers."""
    learning_rate: float = 2e-3
    """Peak of the one-cycle schedule (compact counter: 2e-3; VGG-16 and ResNet: 1e-4)."""
    pretrained_share: float = 1.0
    """What part of the learning rate the layers with pretrained weights learn at, above 0 to 1; of every network of the
    method."""
    frozen_px: int = 8
    """Pretrained layers whose features have at most this stride keep their weights; 0: all are trained. Of
    EfficientNet-Lite alone. What rendered images teach the first layers is no use on photographs, and a step takes
    three quarters of the time (docs/networks.md)."""
    weight_decay: float = 5e-4
    """AdamW's weight decay."""
    cell_error: Literal["poisson", "squared"] = "poisson"
    """Error of a cell of the map: of Poisson counts (ours), or squared (as published)."""
    block_weight: float = 0.1
    """Weight of the error of 8x8-block counts beside the error of cells (ours; 0 = as published)."""
    density_limit: bool = False
    """Density regularisation: a counter's density is nothing where it says more than the densest cell of the source
    holds (Wang et al., CVPR 2019)."""

    def __post_init__(self) -> None:
        _positive(steps=self.steps, batch_size=self.batch_size, learning_rate=self.learning_rate)
        if not 0 < self.pretrained_share <= 1:
            raise InputError(f"pretrained_share lies in (0, 1], got {self.pretrained_share}")
        _not_negative(weight_decay=self.weight_decay, block_weight=self.block_weight, frozen_px=self.frozen_px)


@dataclass(frozen=True, kw_only=True)
class SelfSupervisionConfig:
    """Self-supervision (Liu et al., CVPR 2022). The paper prints none of these numbers: all are ours."""

    orientation_steps: int = 100
    """Steps of stage 1: source density plus the orientation of target images."""
    orientation_weight: float = 0.005
    """Weight lambda of the orientation's cross-entropy. The head learns as fast whatever it is; the shared encoder
    moves less."""
    rounds: int = 2
    """Rounds K of stage 2: labels on the target, then training on both."""
    round_steps: int = 300
    """Steps of a round."""
    target_batch_size: int = 8
    """Target crops of a step, over all workers."""
    target_weight: float = 1.0
    """Weight mu of the target's pseudo-labels."""
    kept_share: float = 0.7
    """Share of each image's cells that become labels, 0 to 1."""
    label_views: tuple[float, ...] = (1.0, 1.4, 2.0)
    """Sizes, relative to the usual one, that every target image is labelled at; each place weighs them by how certain
    the ensemble is of them there. One size labels at what the counter already says, and the rounds can only repeat
    it."""
    label_scale_jitter: tuple[float, float] = (0.9, 1.1)
    """Range of the random scale of labelled target crops. Labels hold at the scale they were made at: a counter that
    sees half the persons at half the scale, and is taught to count them all there, counts too many at full scale."""
    learning_rate: float = 1e-4
    """Peak learning rate of stage 1 and of each round."""
    stop_change: float = 0.02
    """Rounds stop when labels change less than this from round to round, relative to their mean; 0 never stops."""

    def __post_init__(self) -> None:
        _positive(round_steps=self.round_steps, target_batch_size=self.target_batch_size,
                  learning_rate=self.learning_rate)
        _not_negative(orientation_steps=self.orientation_steps, rounds=self.rounds, stop_change=self.stop_change)
        _not_negative(orientation_weight=self.orientation_weight, target_weight=self.target_weight)
        if not 0 < self.kept_share <= 1:
            raise InputError(f"kept_share lies in (0, 1], got {self.kept_share}")
        if not self.label_views or min(self.label_views) < 0.25 or max(self.label_views) > 4:
            raise InputError(f"label_views must be sizes from 0.25 to 4, at least one, got {self.label_views}")
        low, high = self.label_scale_jitter
        if not 0 < low <= high:
            raise InputError("label_scale_jitter must be two positive numbers, the smaller first, got "
                             f"{self.label_scale_jitter}")


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
    num_patches: int = 2
    """Patches of each image (P)."""
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
    regressor_tuned: Literal["last_two_layers", "all"] = "last_two_layers"
    """What of the regressor a cycle changes (P: its last two layers)."""
    regressor_cycle_rate: float = 5e-4
    """Peak learning rate of the regressor in a cycle (P: 1e-6)."""
    detector_cycle_rate: float = 1e-4
    """Peak learning rate of the detector in a cycle (P: 1e-5)."""
    stop_change: float = 0.02
    """Cycles stop when labels change less than this from one to the next, relative to their mean; 0 never stops."""

    def __post_init__(self) -> None:
        _positive(regressor_steps=self.regressor_steps, detector_steps=self.detector_steps,
                  localiser_steps=self.localiser_steps)
        _positive(regressor_rate=self.regressor_rate, detector_rate=self.detector_rate,
                  localiser_rate=self.localiser_rate)
        _positive(cycle_steps=self.cycle_steps, batch_size=self.batch_size, num_patches=self.num_patches,
                  merge_px=self.merge_px)
        _positive(weight_exponent=self.weight_exponent)
        _positive(regressor_cycle_rate=self.regressor_cycle_rate, detector_cycle_rate=self.detector_cycle_rate)
        _not_negative(boxes_steps=self.boxes_steps, cycles=self.cycles, source_batch_size=self.source_batch_size)
        _not_negative(structure_weight=self.structure_weight, count_weight=self.count_weight)
        _not_negative(crowd_heads=self.crowd_heads, crowd_px=self.crowd_px, crowd_share=self.crowd_share)
        _not_negative(nms_share=self.nms_share, stop_change=self.stop_change, localiser_blur_px=self.localiser_blur_px)
        for name, choices in typing.get_type_hints(BiKnowledgeConfig).items():
            if typing.get_origin(choices) is Literal:
                _choice(name, getattr(self, name), typing.get_args(choices))
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


@dataclass(frozen=True, kw_only=True)
class SemanticConsistencyConfig:
    """Semantic consistency (Han et al., ICASSP 2020, SE+FD). The source needs masks of persons: GCC and the renderer
    have them.
    """

    steps: int = 600
    """Steps of all losses together, behind `train.steps` of the counter alone (ours; the paper has the former only)."""
    learning_rate: float = 1e-4
    """Peak learning rate of encoder, density and semantic head there (P: 1e-5, from ImageNet weights)."""
    target_batch_size: int = 8
    """Target crops of a step, over all workers (P)."""
    source_mask_weight: float = 0.01
    """Weight lambda^s of the source's masks (P)."""
    target_mask_weight: float = 0.01
    """Weight lambda^t of the target's background (P)."""
    adversarial_weight: float = 0.001
    """Weight lambda^d of deceiving the discriminator (ours, never published; AdaptSegNet's)."""
    discriminator_rate: float = 1e-4
    """Learning rate of the discriminator (of AdaptSegNet's code)."""
    target_masks: Literal["made", "given"] = "made"
    """made: a segmenter of persons, trained on the source's masks and, with `boxes`, on theirs, says where persons may
    be in the target. given: the target's shards hold masks (never points: those stay closed)."""
    segmenter_steps: int = 400
    """Steps of the segmenter."""
    segmenter_rate: float = 2e-3
    """Peak learning rate of the segmenter."""
    person_threshold: float = 0.3
    """Probability from which the segmenter's cells may hold persons, so that they are not taught as background
    (ours)."""

    def __post_init__(self) -> None:
        _positive(steps=self.steps, learning_rate=self.learning_rate, target_batch_size=self.target_batch_size)
        _positive(discriminator_rate=self.discriminator_rate, segmenter_steps=self.segmenter_steps,
                  segmenter_rate=self.segmenter_rate)
        _not_negative(source_mask_weight=self.source_mask_weight, target_mask_weight=self.target_mask_weight)
        _not_negative(adversarial_weight=self.adversarial_weight)
        _choice("target_masks", self.target_masks, ("made", "given"))
        if not 0 < self.person_threshold < 1:
            raise InputError(f"person_threshold lies in (0, 1), got {self.person_threshold}")


@dataclass(frozen=True, kw_only=True)
class TranslationConfig:
    """Image translation: CycleGAN (Zhu et al., ICCV 2017), SE CycleGAN (Wang et al., CVPR 2019). Defaults are for the
    compact networks.
    """

    steps: int = 1500
    """Steps of the four networks that translate (P: 200 epochs)."""
    batch_size: int = 4
    """Source crops of a step, and as many target crops, over all workers (P: 1)."""
    crop_size: int = 128
    """Side of their crops in px, a multiple of 8 (P: 256)."""
    scale_jitter: tuple[float, float] = (0.8, 1.25)
    """Range of their random scale (ours), on top of `stream.image_size`: images are translated at the size that they
    are counted at."""
    learning_rate: float = 2e-4
    """Adam's rate in the first half of the steps; it falls to zero in the second (P)."""
    cycle_weight: float = 10.0
    """Weight lambda of the cycle's L1 error (P)."""
    structure_weight: float = 1.0
    """Weight of 1 - SSIM of the cycle: SE CycleGAN (ours); 0 is CycleGAN."""
    identity_weight: float = 0.0
    """Weight of the L1 error of target images that are shown as target images, and of the source likewise (P: 0; 5 for
    paintings, whose colours it keeps)."""
    counting_steps: int = 1000
    """Steps of the counter on the translated source."""
    counting_rate: float = 5e-4
    """Its peak learning rate (ours); one that is to begin anew wants that of `train.learning_rate`."""
    joint: bool = False
    """Whether it learns from the source too, half and half."""
    fresh: bool = False
    """Whether it begins anew, rather than with the counter of the source, which needs fewer steps (ours)."""

    def __post_init__(self) -> None:
        _positive(steps=self.steps, batch_size=self.batch_size, learning_rate=self.learning_rate,
                  cycle_weight=self.cycle_weight)
        _positive(counting_steps=self.counting_steps, counting_rate=self.counting_rate)
        _not_negative(structure_weight=self.structure_weight, identity_weight=self.identity_weight)
        if self.crop_size % 8 or self.crop_size < 32:
            raise InputError(f"crop_size must be a multiple of 8 and at least 32, got {self.crop_size}")
        low, high = self.scale_jitter
        if not 0 < low <= high:
            raise InputError(f"scale_jitter must be two positive numbers, the smaller first, got {self.scale_jitter}")


Objective = Literal["agreement", "proxy", "labelled"]
"""What a trial of thresholds is judged by; `SearchConfig.objective` says what each is."""

Algorithm = Literal["even", "optuna"]
"""What chooses the values of the trials; `SearchConfig.algorithm` says what each does."""


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Search of thresholds before each round of labels, on what the networks say of the images; the target's own labels
    stay closed.
    """

    objective: Literal["none", "agreement", "proxy", "labelled"] = "none"
    """What a trial is judged by. none: no search. agreement: how far the ensemble, and regression and detection, agree
    on the target. proxy: the errors on labelled images of the source that it is not trained on, shown in the target's
    style. labelled: the errors on labelled images of the target."""
    labelled: str = ""
    """Those labelled images, for proxy and labelled: shards, or FORMAT:PATH:SPLIT, or renderer:LOOK:NUM_IMAGES:SEED."""
    trials: int = 32
    """Sets of thresholds to try in each round, first those of this configuration."""
    algorithm: Algorithm = "even"
    """What chooses the others. even: they fill the space evenly. optuna: its tree-structured Parzen estimators, which
    after 10 trials look near those that were good (install crowddist[optuna])."""

    def __post_init__(self) -> None:
        _choice("objective", self.objective, ("none", *typing.get_args(Objective)))
        _choice("algorithm", self.algorithm, typing.get_args(Algorithm))
        if self.trials < 2:
            raise InputError(f"trials must be at least 2, got {self.trials}")
        require_labelled(self.objective, self.labelled, option="search.labelled")


def require_labelled(objective: str, labelled: str, *, option: str) -> None:
    """Raises InputError where labelled images are missing that an objective needs, or are given to one that reads
    none.
    """
    if bool(labelled) != (objective in ("proxy", "labelled")):
        needs = f"reads no labels: leave --{option} out" if labelled else f"needs labelled images: give --{option}"
        raise InputError(f"the objective {objective} {needs}")


def _choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name} is {value!r}; choose one of {', '.join(choices)}")


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise InputError(f"{name} must be positive, got {value}")


def _not_negative(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise InputError(f"{name} must be a number that is not negative, got {value}")
