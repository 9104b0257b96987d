"""Bi-knowledge transfer as published (Liu et al., MM 2020): five pairs of real data sets, and its ablations.

Where every value comes from: `printed` in the paper, `code` of the authors of DSSINet or CSP, whose training the paper
takes over, `ours` where neither says anything.

    setting                              value              whence
    source                               by recipe          printed   all training images
    target                               by recipe          printed   all training images, without labels
    evaluation                           by recipe          printed   the test set
    boxes                                wider_face:$CROWDDIST_DATA/wider_face:train  printed
    regressor.backbone                   vgg16              printed   DSSINet
    regressor.weights                    imagenet           printed
    detector.backbone                    resnet50           printed   CSP
    detector.weights                     imagenet           printed
    localiser.backbone                   vgg16              printed   nested U-Net, dilated VGG-16
    localiser.weights                    imagenet           printed   the first ten convolutions
    stream.image_size                    by recipe          ours      1,024 px, QNRF 2,048
    stream.scale_jitter                  by recipe          ours      1 1, from ShanghaiTech to QNRF 0.5 0.5
    stream.colour_jitter                 0                  code      of DSSINet: a flip alone
    stream.grey_share                    0                  code
    stream.soft_share                    0                  code
    train.batch_size                     12                 code
    train.weight_decay                   0                  code
    bi_knowledge.crop_size               224                printed
    bi_knowledge.boxes_crop_size         704                code      of CSP
    bi_knowledge.regressor_noise         0.03               code      of DSSINet, on normalised images
    bi_knowledge.update_sizes            on                 printed   boxes of points as PSDDN
    bi_knowledge.detector_average        0.999              code      of CSP, its mean teacher
    bi_knowledge.nms_share               0.7                ours
    bi_knowledge.union_share             0.7                ours
    bi_knowledge.sigma_of_size           0.6                ours      printed: fixed if sparse, 0.3 of the neighbours'
                                                                      distance if dense, which is near 0.6 of the size
    bi_knowledge.regressor_steps         100000             ours
    bi_knowledge.boxes_steps             100000             ours
    bi_knowledge.detector_steps          30000              ours
    bi_knowledge.localiser_steps         30000              ours
    bi_knowledge.regressor_rate          1e-5               code
    bi_knowledge.detector_rate           1e-4               code
    bi_knowledge.localiser_rate          1e-5               printed
    bi_knowledge.schedule                constant           printed
    bi_knowledge.structure_weight        1                  code
    bi_knowledge.count_weight            0                  code
    bi_knowledge.localiser_loss          focal_mse_dms_ssim printed   Eq. 7
    bi_knowledge.localiser_blur_px       0                  printed
    bi_knowledge.localiser_threshold     0.2                printed
    bi_knowledge.merge_px                10                 printed
    bi_knowledge.fusion                  confidence         printed   Eq. 8
    bi_knowledge.weight_exponent         1                  printed
    bi_knowledge.confidence              0.3                ours
    bi_knowledge.crowd_heads             0                  printed   all localiser points count
    bi_knowledge.sure_confidence         0                  printed   all detections are taught
    bi_knowledge.patches                 chosen             printed
    bi_knowledge.density_range           0.5 0.7            printed
    bi_knowledge.source_batch_size       0                  printed   cycles train on the target alone
    bi_knowledge.cycles                  4                  printed
    bi_knowledge.cycle_steps             1000               ours
    bi_knowledge.batch_size              12                 ours      the regressor's on the source
    bi_knowledge.regressor_cycle_rate    1e-6               printed   the last two layers
    bi_knowledge.detector_cycle_rate     1e-5               printed
    bi_knowledge.stop_change             0.02               ours      "until their convergence"

"""

from __future__ import annotations

from typing import Any

from crowddist.config import EngineConfig, RunConfig
from crowddist.data.config import StreamConfig
from crowddist.methods.settings.bi_knowledge import BiKnowledgeConfig
from crowddist.methods.settings.train import TrainConfig
from crowddist.models.config import DetectorConfig, LocaliserConfig, RegressorConfig
from crowddist.recipes.places import QNRF, UCF_CC_50, shanghaitech


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
    """ShanghaiTech A to UCF_CC_50 by bi-knowledge as printed; a GPU and days. Alone, this is fold 1 of 5.

    Command: `CROWDDIST_DATA=... python jobs/folds.py sha_to_ucf_cc_50` for all folds and their mean, which is the row;
    `python jobs/adapt.py sha_to_ucf_cc_50` for the first. The folds are ours: the published ones were random. Not run
    by us.
    Paper's row: MM 2020, Table 1, A->C: RegNet 419.53/588.90, DetNet 703.72/941.43 (mAP .258), ours 368.01/518.92 (mAP
    .518).
    """
    return _published("sha_to_ucf_cc_50", shanghaitech("A", "all"), *UCF_CC_50)


def sha_to_qnrf() -> RunConfig:
    """ShanghaiTech A to UCF-QNRF by bi-knowledge as printed; a GPU and days.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py sha_to_qnrf`. QNRF's images have 2,048 px, the source's 1,024
    (ours). Paper's row: MM 2020, Table 1, A->Q: RegNet 198.71/329.40, DetNet 411.72/731.37 (mAP .404), ours
    175.02/294.76 (mAP .546). Not run by us.
    """
    return _published("sha_to_qnrf", shanghaitech("A", "all"), *QNRF, image_size=2048, source_scale=0.5)


def shb_to_qnrf() -> RunConfig:
    """ShanghaiTech B to UCF-QNRF by bi-knowledge as printed; a GPU and days.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py shb_to_qnrf`. QNRF's images have 2,048 px, the source's 1,024
    (ours). Paper's row: MM 2020, Table 1, B->Q: RegNet 267.26/477.61, DetNet 411.72/731.37 (as A->Q in print),
    ours 211.30/381.92 (mAP .535). Not run by us.
    """
    return _published("shb_to_qnrf", shanghaitech("B", "all"), *QNRF, image_size=2048, source_scale=0.5)


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
    """Table 4: heads read from the density before any cycle; a GPU and days. A to B (`bi_knowledge.cycles` 0).

    Command: `CROWDDIST_DATA=... python jobs/adapt.py mm2020_transformer`, and again with `--run-name` and
    `--bi-knowledge.localiser-loss` mse, focal_mse, focal_cross_entropy, and with `--bi-knowledge.localiser-share 0.3`;
    A to Q with its `--target` and `--evaluation`. The figure is `target/transformed_map` of round 0.
    Paper's rows: A->B (A->Q): MSE .482 (.347), focal MSE .599 (.423), focal CE .554 (.399; the text swaps the two),
    focal MSE and DMS-SSIM .613 (.448), with 30 % of the data .610 (.406).
    """
    return _published("mm2020_transformer", *_ends("A", "B"), cycles=0)


def _ends(source: str, target: str) -> tuple[str, str, str]:
    """Source, target and evaluation of ShanghaiTech's parts, as published."""
    return shanghaitech(source, "all"), shanghaitech(target, "all"), shanghaitech(target, "test")


def _published(recipe: str, source: str, target: str, evaluation: str, *, image_size: int = 1024,
               source_scale: float = 1.0, **settings: Any) -> RunConfig:
    """The module's table. Args: `settings`, of `BiKnowledgeConfig`, that an ablation changes."""
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
