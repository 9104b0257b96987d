"""Recipes: each function is one experiment; its docstring says what it does, its cost and the results to expect."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from crowddist.config import EngineConfig, RunConfig
from crowddist.data.config import StreamConfig
from crowddist.methods.settings.bi_knowledge import BiKnowledgeConfig
from crowddist.methods.settings.self_supervision import SelfSupervisionConfig
from crowddist.methods.settings.semantic_consistency import SemanticConsistencyConfig
from crowddist.methods.settings.train import TrainConfig
from crowddist.methods.settings.translation import TranslationConfig
from crowddist.models.config import CounterConfig, DetectorConfig, LocaliserConfig, RegressorConfig, TranslatorConfig

FROM_IMAGENET: dict[str, Any] = {"backbone": "efficientnet_lite0", "weights": "imagenet"}
"""Start of the networks in the recipes for a CPU."""
ON_A_CPU: dict[str, Any] = {"counter": CounterConfig(**FROM_IMAGENET), "regressor": RegressorConfig(**FROM_IMAGENET),
                            "detector": DetectorConfig(**FROM_IMAGENET)}
QNRF = ("ucf_qnrf:$CROWDDIST_DATA/ucf_qnrf:all", "ucf_qnrf:$CROWDDIST_DATA/ucf_qnrf:test")
"""UCF-QNRF as target and evaluation."""


def quickstart() -> RunConfig:
    """The demo: rendered source and target, one round; 8 minutes on 2 cores.

    Command: `make demo`, or `python jobs/adapt.py quickstart`. Needs no data. The paper has no such row.
    Tuned on 80 images of another seed (docs/networks.md). Without orientation: in so few steps it only disturbs the
    counter.
    """
    return RunConfig(
        recipe="quickstart", source="renderer:source:160:0:360", target="renderer:target:80:1:360",
        evaluation="renderer:target:80:2:360", num_workers=2,
        **{**ON_A_CPU, "counter": CounterConfig(**FROM_IMAGENET, orientation=False)},
        # The target's cameras are grainy, the source is clean: without noisy crops the error is 61.
        stream=StreamConfig(image_size=512, crop_size=192, scale_jitter=(0.4, 1.25), colour_jitter=0.5, grey_share=0.3,
                            noisy_share=0.5),
        train=TrainConfig(steps=400, learning_rate=1e-3, pretrained_share=0.3),
        # Noisy crops make the counter count too few; views that show people larger correct that. All cells are labels:
        # the uncertain ones are the crowded ones.
        self_supervision=SelfSupervisionConfig(orientation_steps=0, rounds=1, round_steps=160, kept_share=1.0),
        engine=EngineConfig(checkpoint_every=100),
    )


def _shanghaitech(part: str, split: str) -> str:
    return f"shanghaitech:$CROWDDIST_DATA/shanghaitech/part_{part}_final:{split}"


def _real_to_real(recipe: str, source: str, target: str) -> RunConfig:
    return RunConfig(
        recipe=recipe, source=_shanghaitech(source, "train"), target=_shanghaitech(target, "train"),
        evaluation=_shanghaitech(target, "val"), num_workers=2, **ON_A_CPU,
        # More steps fit the source only: from A to B the error is 33 persons after 1,500, 29 after 600.
        train=TrainConfig(steps=600, learning_rate=1e-3, pretrained_share=0.3),
    )


def shb_to_sha() -> RunConfig:
    """ShanghaiTech B to A on a CPU. EfficientNet-Lite0, 9 minutes on one core before adaptation.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py shb_to_sha`. Trains on 80 % of B's training images, adapts to 80 %
    of A's without labels, and is evaluated on the other 20 %, which a hash of the name holds out.
    Unadapted, on one thread: MAE 148.4, 149.4 and 153.6 with seeds 0, 1 and 2 (docs/networks.md).
    Compact networks, 3,000 steps: 166.5 unadapted, 169.8 after orientation, 134.8 and 126.3 after the rounds. With
    `--method bi_knowledge --num-workers 1 --num-labellers 2 --engine.precision bfloat16`, 20 minutes on 2 cores with
    AVX-512 (75 in float32 without it): 198.2 by the unadapted regressor, 201.5 by the detector, 143.2 by both, 124.6
    after a cycle. Paper's setting: MM 2020, Table 1, B->A, 148.9 unadapted, 112.2 adapted (bi-knowledge, ImageNet
    weights, A's test set).
    """
    return _real_to_real("shb_to_sha", "B", "A")


def sha_to_shb() -> RunConfig:
    """ShanghaiTech A to B on a CPU. EfficientNet-Lite0, 9 minutes on one core before adaptation.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py sha_to_shb`. Images held out as in shb_to_sha.
    Unadapted, on one thread: MAE 27.1, 32.6 and 27.6 with seeds 0, 1 and 2 (docs/networks.md).
    Compact networks, 3,000 steps at 512 px, one worker, bfloat16: 45.5 unadapted, 45.0 after orientation, 46.3 and 47.2
    after the rounds. With `--method bi_knowledge --num-workers 1 --num-labellers 2 --engine.precision bfloat16`, 27
    minutes on 2 cores with AVX-512: 57.2 by the unadapted regressor, 33.2 by the detector, 33.9 by both, 31.9 after a
    cycle. Paper's setting: MM 2020, Table 1, A->B, 21.65 unadapted, 13.38 adapted (bi-knowledge, ImageNet weights, B's
    test set).
    """
    return replace(
        _real_to_real("sha_to_shb", "A", "B"),
        # No soft crops: A's heads are small and packed, and the counter judges their size by their sharpness.
        stream=StreamConfig(image_size=640, scale_jitter=(0.5, 1.3), soft_share=0.0),
        self_supervision=SelfSupervisionConfig(label_views=(0.7, 1.0, 1.4)),
        # At 640 px many of B's people are too close for the detector to tell apart, and B's near heads are larger than
        # A's.
        bi_knowledge=BiKnowledgeConfig(enlarge=1.6, scale_jitter=(0.5, 1.8), regressor_steps=1500, detector_steps=3000,
                                       crowd_share=0.6),
    )


def renderer_to_shb() -> RunConfig:
    """Rendered crowds to ShanghaiTech B on a CPU. EfficientNet-Lite0, 9 minutes on one core before adaptation.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py renderer_to_shb`, or with your own `--target` and `--evaluation`.
    Unadapted, on one thread: MAE 33.7 (docs/networks.md). Compact networks, 3,000 steps, one worker, bfloat16: 78.6
    unadapted, 74.9 after orientation, 66.8 and 61.3 after the rounds; 22.8 with the target's labels. README has a table
    of all methods. Nearest published row: GCC->SHB, CVPR 2022: 22.8 unadapted, 11.4 adapted (GCC is richer than our
    renderer).
    """
    return _from_renderer("renderer_to_shb", "B")


def renderer_to_sha() -> RunConfig:
    """Rendered crowds to ShanghaiTech A on a CPU. EfficientNet-Lite0, 9 minutes on one core before adaptation.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py renderer_to_sha`, or with your own `--target` and `--evaluation`.
    Nearest published row: GCC->SHA, CVPR 2022: 160.0 unadapted, 109.2 adapted (GCC is richer than our renderer).
    """
    return _from_renderer("renderer_to_sha", "A")


def _from_renderer(recipe: str, target: str) -> RunConfig:
    return RunConfig(
        recipe=recipe, source="renderer:broad:1000", target=_shanghaitech(target, "train"),
        evaluation=_shanghaitech(target, "val"), num_workers=2, **ON_A_CPU,
        # An encoder learns from rendered people what only rendered images have: at 0.3 of the rate the error is 40, at
        # 0.05 it is 35 (docs/networks.md).
        train=TrainConfig(steps=600, learning_rate=1e-3, pretrained_share=0.05),
        # Rendered people are coarser than photographed ones: the larger a photograph, the more of it looks like people.
        # They are also cleaner: noisy crops take the error on A from 359 to 313.
        stream=StreamConfig(image_size=512, scale_jitter=(0.45, 1.8), colour_jitter=0.4, noisy_share=0.5),
        self_supervision=SelfSupervisionConfig(orientation_steps=600, label_views=(0.7, 1.0)),
    )


def gcc_to_sha() -> RunConfig:
    """GCC to ShanghaiTech A as published; a GPU and half a day. SFCN-style VGG-16 counter, for holders of GCC.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py gcc_to_sha`, with $CROWDDIST_DATA/gcc (and its index files) and
    ImageNet weights. Reads the 2,641 images of GCC that scene regularisation keeps for A.
    Paper's row: CVPR 2022, Table 1: 160.0/216.5 unadapted, 109.2/168.1 adapted. Not run by us: we hold no GCC images.
    With `--method translation`, SE CycleGAN: 123.4/193.4; without structure loss (`--translation.structure-weight 0`),
    CycleGAN: 143.3/204.3.
    """
    return _from_gcc("gcc_to_sha", "A")


def gcc_to_shb() -> RunConfig:
    """GCC to ShanghaiTech B as published; a GPU and half a day. SFCN-style VGG-16 counter, for holders of GCC.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py gcc_to_shb`, with data as for gcc_to_sha. Reads the 3,322 images
    of GCC that scene regularisation keeps for B.
    Paper's row: CVPR 2022, Table 1: 22.8/30.6 unadapted, 11.4/17.3 adapted. Not run by us: we hold no GCC images.
    With `--method translation`, SE CycleGAN: 19.9/28.3; without structure loss: 25.4/39.7.
    """
    return _from_gcc("gcc_to_shb", "B")


def _from_gcc(recipe: str, target: str) -> RunConfig:
    return RunConfig(
        recipe=recipe, source="gcc:$CROWDDIST_DATA/gcc", target=_shanghaitech(target, "train"),
        evaluation=_shanghaitech(target, "test"),
        counter=CounterConfig(backbone="vgg16", weights="imagenet"),
        stream=StreamConfig(image_size=1024, crop_size=480, scale_jitter=(0.8, 1.2), scenes=f"SH{target}"),
        train=TrainConfig(steps=30000, learning_rate=1e-4, block_weight=0.0, cell_error="squared"),
        self_supervision=SelfSupervisionConfig(orientation_steps=30000, round_steps=5000, learning_rate=5e-5),
        # Crops, batch and rates as printed; both numbers of steps are ours.
        translator=TranslatorConfig(backbone="published"),
        translation=TranslationConfig(steps=100000, batch_size=1, crop_size=256, fresh=True, counting_steps=30000,
                                      counting_rate=1e-4),
        engine=EngineConfig(checkpoint_every=1000),
    )


def _ends(source: str, target: str) -> tuple[str, str, str]:
    """Source, target and evaluation of ShanghaiTech's parts, as published."""
    return _shanghaitech(source, "all"), _shanghaitech(target, "all"), _shanghaitech(target, "test")


def _published(recipe: str, source: str, target: str, evaluation: str, *, image_size: int = 1024,
               source_scale: float = 1.0, **settings: Any) -> RunConfig:
    """Bi-knowledge transfer as printed: DSSINet and the transformer on VGG-16, CSP on ResNet-50, ImageNet weights,
    WiderFace before the source.

    Not printed, so ours: steps and their batches, and kernels of 0.6 of the head's size in all densities (the paper's
    are fixed in sparse scenes, 0.3 of the mean distance to the neighbours in dense ones).
    """
    printed: dict[str, Any] = {
        "nms_share": 0.7, "union_share": 0.7, "boxes_crop_size": 704, "update_sizes": True, "detector_average": 0.999,
        "regressor_noise": 0.03,
        "sigma_of_size": 0.6, "regressor_steps": 100000, "boxes_steps": 100000, "detector_steps": 30000,
        "localiser_steps": 30000, "regressor_rate": 1e-5, "detector_rate": 1e-4, "localiser_rate": 1e-5,
        "structure_weight": 1.0, "localiser_loss": "focal_mse_dms_ssim", "localiser_blur_px": 0.0, "merge_px": 10,
        "schedule": "constant", "fusion": "confidence", "crowd_heads": 0, "sure_confidence": 0.0,
        "source_batch_size": 0, "cycles": 4, "count_weight": 0.0, "cycle_steps": 1000, "batch_size": 12,
        "regressor_cycle_rate": 1e-6, "detector_cycle_rate": 1e-5,
    }
    return RunConfig(
        recipe=recipe, method="bi_knowledge", source=source, target=target, evaluation=evaluation,
        boxes="wider_face:$CROWDDIST_DATA/wider_face:train",
        regressor=RegressorConfig(backbone="vgg16", weights="imagenet"),
        detector=DetectorConfig(backbone="resnet50", weights="imagenet"),
        localiser=LocaliserConfig(backbone="vgg16", weights="imagenet"),
        stream=StreamConfig(image_size=image_size, scale_jitter=(source_scale, source_scale), colour_jitter=0.0,
                            grey_share=0.0, soft_share=0.0),
        train=TrainConfig(batch_size=12, weight_decay=0.0),
        bi_knowledge=BiKnowledgeConfig(**{**printed, **settings}),
        engine=EngineConfig(checkpoint_every=1000),
    )


def mm2020_sha_to_shb() -> RunConfig:
    """ShanghaiTech A to B by bi-knowledge as printed; a GPU and days.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py mm2020_sha_to_shb`, with ImageNet weights and
    $CROWDDIST_DATA/wider_face; on a CPU: `sha_to_shb --method bi_knowledge`. Not run by us. Paper's row: MM 2020,
    Table 1, A->B: RegNet 21.65/37.56, DetNet 55.49/90.03 (mAP .571), ours 13.38/29.25 (mAP .757).
    """
    return _published("mm2020_sha_to_shb", *_ends("A", "B"))


def mm2020_shb_to_sha() -> RunConfig:
    """ShanghaiTech B to A by bi-knowledge as printed; a GPU and days.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py mm2020_shb_to_sha`; on a CPU: `shb_to_sha --method
    bi_knowledge`. Not run by us. Paper's row: MM 2020, Table 1, B->A: RegNet 148.94/273.86, DetNet 242.76/400.89 (mAP
    .489), ours 112.24/218.18 (mAP .661).
    """
    return _published("mm2020_shb_to_sha", *_ends("B", "A"))


def sha_to_ucf_cc_50() -> RunConfig:
    """ShanghaiTech A to UCF_CC_50 by bi-knowledge as printed; a GPU and days. Fold 1 of 5.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py sha_to_ucf_cc_50`; for the other folds with `--target` and
    `--evaluation` (`ucf_cc_50:PATH:fold-2-train` and `-test`, ...). The mean over folds is the row. Not run by us.
    Paper's row: MM 2020, Table 1, A->C: RegNet 419.53/588.90, DetNet 703.72/941.43 (mAP .258), ours 368.01/518.92 (mAP
    .518).
    """
    target = "ucf_cc_50:$CROWDDIST_DATA/ucf_cc_50:fold-1"
    return _published("sha_to_ucf_cc_50", _shanghaitech("A", "all"), f"{target}-train", f"{target}-test")


def sha_to_qnrf() -> RunConfig:
    """ShanghaiTech A to UCF-QNRF by bi-knowledge as printed; a GPU and days.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py sha_to_qnrf`. QNRF's images have 2,048 px, the source's 1,024
    (ours). Paper's row: MM 2020, Table 1, A->Q: RegNet 198.71/329.40, DetNet 411.72/731.37 (mAP .404), ours
    175.02/294.76 (mAP .546). Not run by us.
    """
    return _published("sha_to_qnrf", _shanghaitech("A", "all"), *QNRF, image_size=2048, source_scale=0.5)


def shb_to_qnrf() -> RunConfig:
    """ShanghaiTech B to UCF-QNRF by bi-knowledge as printed; a GPU and days.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py shb_to_qnrf`. QNRF's images have 2,048 px, the source's 1,024
    (ours). Paper's row: MM 2020, Table 1, B->Q: RegNet 267.26/477.61, DetNet 411.72/731.37 (as A->Q in print),
    ours 211.30/381.92 (mAP .535). Not run by us.
    """
    return _published("shb_to_qnrf", _shanghaitech("B", "all"), *QNRF, image_size=2048, source_scale=0.5)


def mm2020_without_fusion() -> RunConfig:
    """Table 2, "w/o fusion": each network learns from itself; a GPU and days. B to A.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py mm2020_without_fusion`; on a CPU: `shb_to_sha --method
    bi_knowledge --bi-knowledge.fusion none`. Paper's row: R 146.78/275.35, D 251.75/407.04 (mAP .467), against
    112.24/218.18 and 124.12/222.42 (.661).
    """
    return _published("mm2020_without_fusion", *_ends("B", "A"), fusion="none")


def mm2020_random_patches() -> RunConfig:
    """Table 2, "w/ RS": B to A, random patches of the target; a GPU and days.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py mm2020_random_patches`; on a CPU: `shb_to_sha --method
    bi_knowledge --bi-knowledge.patches random`. Paper's row: R 152.19/281.05, D 165.80/302.90 (mAP .609).
    """
    return _published("mm2020_random_patches", *_ends("B", "A"), patches="random")


def mm2020_five_cycles() -> RunConfig:
    """Table 3: B to A with five cycles, a row each; a GPU and days.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py mm2020_five_cycles`; on a CPU, without Eq. 8:
    `shb_to_sha --method bi_knowledge --bi-knowledge.cycles 5 --bi-knowledge.stop-change 0`.
    Paper's rows: R by cycle 148.94, 136.81, 125.86, 114.06, 112.24, 113.06; D: 242.76, 172.36, 138.18, 126.86, 124.12,
    125.12, its mAP .489, .598, .621, .658, .661, .665.
    """
    # The table has all rows, settled or not.
    return _published("mm2020_five_cycles", *_ends("B", "A"), cycles=5, stop_change=0.0)


def mm2020_transformer() -> RunConfig:
    """Table 4: heads read from the density before any cycle; a GPU and days. A to B.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py mm2020_transformer`, and again with `--run-name` and
    `--bi-knowledge.localiser-loss` mse, focal_mse, focal_cross_entropy, and with `--bi-knowledge.localiser-share 0.3`;
    A to Q with its `--target` and `--evaluation`. The figure is `target/transformed_map` of round 0.
    Paper's rows: A->B (A->Q): MSE .482 (.347), focal MSE .599 (.423), focal CE .554 (.399; the text swaps the two),
    focal MSE and DMS-SSIM .613 (.448), with 30 % of the data .610 (.406).
    """
    return _published("mm2020_transformer", *_ends("A", "B"), cycles=0)


def _icassp(recipe: str, target: str, evaluation: str, rule: str) -> RunConfig:
    """Semantic consistency as printed: VGG-16 with batch normalisation and a chain of upsamplings, ImageNet weights,
    scene regularisation.

    Ours: the numbers of steps; square crops of 512 px, the paper's are 480 x 640; the counter alone is trained first,
    which gives a row without adaptation; target masks come from a segmenter trained on the source's masks and, with
    `--boxes crowd_human:PATH`, on CrowdHuman's boxes, as the paper's.
    """
    return RunConfig(
        recipe=recipe, method="semantic_consistency", source="gcc:$CROWDDIST_DATA/gcc", target=target,
        evaluation=evaluation,
        counter=CounterConfig(backbone="vgg16_bn", decoder="upsampling", weights="imagenet", ensemble="none",
                              orientation=False),
        stream=StreamConfig(image_size=1024, crop_size=512, scale_jitter=(1.0, 1.0), colour_jitter=0.0, grey_share=0.0,
                            soft_share=0.0, scenes=rule),
        train=TrainConfig(steps=30000, learning_rate=1e-5, weight_decay=0.0, block_weight=0.0, cell_error="squared"),
        semantic_consistency=SemanticConsistencyConfig(steps=30000, learning_rate=1e-5, segmenter_steps=10000,
                                                       segmenter_rate=1e-5),
        engine=EngineConfig(checkpoint_every=1000),
    )


def icassp2020_gcc_to_sha() -> RunConfig:
    """GCC to ShanghaiTech A by semantic consistency as printed; a GPU and days.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py icassp2020_gcc_to_sha`, with $CROWDDIST_DATA/gcc and ImageNet
    weights; on a CPU: `renderer_to_sha --method semantic_consistency`.
    Paper's row: ICASSP 2020, Table 1: 160.0/216.5 unadapted, 129.3/187.6 adapted. Not run by us: we hold no GCC images.
    """
    return _icassp("icassp2020_gcc_to_sha", _shanghaitech("A", "all"), _shanghaitech("A", "test"), "SHA")


def icassp2020_gcc_to_shb() -> RunConfig:
    """GCC to ShanghaiTech B by semantic consistency as printed; a GPU and days.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py icassp2020_gcc_to_shb`; on a CPU: `renderer_to_shb --method
    semantic_consistency`. Not run by us. Paper's row: ICASSP 2020, Table 1: 22.8/30.6 unadapted, 16.9/24.7 adapted.
    """
    return _icassp("icassp2020_gcc_to_shb", _shanghaitech("B", "all"), _shanghaitech("B", "test"), "SHB")


def icassp2020_gcc_to_qnrf() -> RunConfig:
    """GCC to UCF-QNRF by semantic consistency as printed; a GPU and days.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py icassp2020_gcc_to_qnrf`.
    Paper's row: ICASSP 2020, Table 1: 275.5/458.5 unadapted, 221.2/390.2 adapted. Not run by us: we hold neither set.
    """
    return _icassp("icassp2020_gcc_to_qnrf", *QNRF, "UCF-QNRF")


def smoke() -> RunConfig:
    """Checks in a minute that everything runs here; says nothing of accuracy. A few steps on a few rendered images, in
    this process.

    Command: `python jobs/adapt.py smoke`; about a minute on one core. The paper has no such row.
    """
    return RunConfig(
        recipe="smoke", source="renderer:source:8:0:96", target="renderer:target:6:1:96",
        evaluation="renderer:target:4:2:96", launcher="local",
        stream=StreamConfig(image_size=128, crop_size=64),
        train=TrainConfig(steps=6, batch_size=4),
        self_supervision=SelfSupervisionConfig(orientation_steps=4, orientation_px=64, rounds=2, round_steps=4,
                                               target_batch_size=4, stop_change=0.0),
        bi_knowledge=BiKnowledgeConfig(crop_size=64, regressor_steps=6, detector_steps=6, localiser_steps=4, cycles=2,
                                       cycle_steps=4, batch_size=4, confidence=0.02, sure_confidence=0.02,
                                       stop_change=0.0),
        semantic_consistency=SemanticConsistencyConfig(steps=4, target_batch_size=4, segmenter_steps=4),
        translation=TranslationConfig(steps=4, batch_size=2, crop_size=64, counting_steps=4),
        engine=EngineConfig(checkpoint_every=2, log_every=2),
    )


RECIPES: tuple[Callable[[], RunConfig], ...] = (
    quickstart, shb_to_sha, sha_to_shb, renderer_to_shb, renderer_to_sha, gcc_to_sha, gcc_to_shb, mm2020_sha_to_shb,
    mm2020_shb_to_sha, sha_to_ucf_cc_50, sha_to_qnrf, shb_to_qnrf, mm2020_without_fusion, mm2020_random_patches,
    mm2020_five_cycles, mm2020_transformer, icassp2020_gcc_to_sha, icassp2020_gcc_to_shb, icassp2020_gcc_to_qnrf, smoke,
)


def summary(recipe: Callable[[], RunConfig]) -> str:
    """The first paragraph of a recipe's docstring, in a line."""
    return " ".join((inspect.getdoc(recipe) or "").split("\n\n")[0].split())
