"""Semantic consistency (SE+FD) as published (Han et al., ICASSP 2020): from GCC to three data sets.

Where every value comes from: `printed` in the paper, `code` of the authors (their later code, or AdaptSegNet, which the
paper names for the discriminator), `ours` where neither says anything.

    setting                                    value       whence
    source                                     by recipe   printed   GCC, with its masks of persons
    target                                     by recipe   printed   all training images, without labels
    evaluation                                 by recipe   printed   the test set
    boxes                                      crowd_human:$CROWDDIST_DATA/crowd_human:train  printed
    stream.scenes                              by recipe   printed   GCC's own rule for each target
    counter.backbone                           vgg16_bn    printed
    counter.weights                            imagenet    printed
    counter.decoder                            upsampling  printed   3x3 convolutions, each before an upsampling
    counter.decoder_norm                       off         printed   no normalisation is named; the later code has some
    counter.density_factor                     1           printed   the later code: 100; see below
    counter.ensemble                           none        printed
    counter.orientation                        off         printed
    stream.image_size                          1024        ours
    stream.crop_size                           480         printed
    stream.crop_width                          640         printed
    stream.scale_jitter                        1 1         printed   random crops are all that is named
    stream.colour_jitter                       0           printed   likewise
    stream.grey_share                          0           printed   likewise
    stream.soft_share                          0           printed   likewise
    stream.sigma_px                            6           ours
    train.cell_error                           squared_sum printed   Eq. 6
    train.block_weight                         0           printed
    train.batch_size                           8           printed
    train.learning_rate                        1e-5        printed   "initialization learning rate"
    train.schedule                             constant    printed   no change of the rate is named
    train.weight_decay                         0           ours      none is named
    train.steps                                30000       ours      of the counter alone: the row without adaptation
    semantic_consistency.steps                 30000       ours
    semantic_consistency.learning_rate         1e-5        printed
    semantic_consistency.target_batch_size     8           printed
    semantic_consistency.source_mask_weight    0.01        printed   lambda^s
    semantic_consistency.target_mask_weight    0.01        printed   lambda^t
    semantic_consistency.adversarial_weight    0.001       code      lambda^d is not published; AdaptSegNet's
    semantic_consistency.adversarial_patches   sum         printed   Eq. 10
    semantic_consistency.target_masks          made        printed   by a segmenter trained on CrowdHuman's boxes
    semantic_consistency.segmenter_steps       10000       ours      on the source's masks too
    semantic_consistency.segmenter_rate        1e-5        ours

Why the factor on densities stays 1: on an untrained VGG-16 and a crop of 256 px with 15 persons the gradients of the
encoder, each times its weight, have these norms, and this share of the decoder's gradients of the density is above
Adam's 1e-8:

    density loss         density   source mask   target mask   adversary   decoder
    mean over pixels     1.4e-5    9.0e-3        1.1e-2        5.7e-2      51 %
    the same, times 100  9.6e-4    9.2e-3        1.2e-2        5.7e-2      96 %
    Eq. 6                4.5e-1    9.1e-3        1.2e-2        5.7e-2      99 %
    the same, times 100  3.0e+1    9.0e-3        1.2e-2        5.7e-2      99 %

With the mean, the adversary trains the encoder; with Eq. 6 and the factor, the density alone does.
"""

from __future__ import annotations

from dataclasses import replace

from crowddist.config import EngineConfig, RunConfig
from crowddist.data.config import StreamConfig
from crowddist.methods.settings.semantic_consistency import SemanticConsistencyConfig
from crowddist.methods.settings.train import TrainConfig
from crowddist.models.config import CounterConfig
from crowddist.recipes.places import CROWD_HUMAN, GCC, QNRF, shanghaitech


def icassp2020_gcc_to_sha() -> RunConfig:
    """GCC to ShanghaiTech A by semantic consistency as printed; a GPU and days.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py icassp2020_gcc_to_sha`, with $CROWDDIST_DATA/gcc, ImageNet weights
    and $CROWDDIST_DATA/crowd_human; on a CPU: `renderer_to_sha --method semantic_consistency`.
    Paper's row: ICASSP 2020, Table 1, its own counter: 190.8/298.1 unadapted, 129.3/187.6 adapted. Not run by us: we
    hold no GCC images.
    """
    return _icassp("icassp2020_gcc_to_sha", shanghaitech("A", "all"), shanghaitech("A", "test"), "SHA")


def icassp2020_gcc_to_shb() -> RunConfig:
    """GCC to ShanghaiTech B by semantic consistency as printed; a GPU and days.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py icassp2020_gcc_to_shb`, with data as for icassp2020_gcc_to_sha; on
    a CPU: `renderer_to_shb --method semantic_consistency`. Not run by us.
    Paper's row: ICASSP 2020, Table 1, its own counter: 24.6/33.7 unadapted, 16.9/24.7 adapted.
    """
    return _icassp("icassp2020_gcc_to_shb", shanghaitech("B", "all"), shanghaitech("B", "test"), "SHB")


def icassp2020_gcc_to_qnrf() -> RunConfig:
    """GCC to UCF-QNRF by semantic consistency as printed; a GPU and days.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py icassp2020_gcc_to_qnrf`, with data as for icassp2020_gcc_to_sha.
    Paper's row: ICASSP 2020, Table 1, its own counter: 296.1/467.9 unadapted, 221.2/390.2 adapted. Not run by us: we
    hold neither set.
    """
    return _icassp("icassp2020_gcc_to_qnrf", *QNRF, "UCF-QNRF")


def icassp2020_se_alone() -> RunConfig:
    """SE alone: semantic consistency without its discriminator, GCC to ShanghaiTech B; a GPU and days.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py icassp2020_se_alone`, with data as for icassp2020_gcc_to_sha; on a
    CPU: `renderer_to_shb --method semantic_consistency --semantic-consistency.adversarial-weight 0`.
    Changes semantic_consistency.adversarial_weight alone. The paper has no such row in print: its Table 1 has both
    parts, 16.9/24.7, or none, 24.6/33.7.
    """
    config = icassp2020_gcc_to_shb()
    return replace(config, recipe="icassp2020_se_alone",
                   semantic_consistency=replace(config.semantic_consistency, adversarial_weight=0.0))


def _icassp(recipe: str, target: str, evaluation: str, rule: str) -> RunConfig:
    """The module's table."""
    return RunConfig(
        recipe=recipe, method="semantic_consistency", source=GCC, target=target, evaluation=evaluation,
        boxes=CROWD_HUMAN,
        counter=CounterConfig(backbone="vgg16_bn", decoder="upsampling", weights="imagenet", ensemble="none",
                              orientation=False),
        stream=StreamConfig(image_size=1024, crop_size=480, crop_width=640, scale_jitter=(1.0, 1.0), colour_jitter=0.0,
                            grey_share=0.0, soft_share=0.0, scenes=rule),
        train=TrainConfig(steps=30000, learning_rate=1e-5, schedule="constant", weight_decay=0.0, block_weight=0.0,
                          cell_error="squared_sum"),
        semantic_consistency=SemanticConsistencyConfig(
            steps=30000, learning_rate=1e-5, source_mask_weight=0.01, target_mask_weight=0.01,
            adversarial_weight=0.001, adversarial_patches="sum", segmenter_steps=10000, segmenter_rate=1e-5,
        ),
        engine=EngineConfig(checkpoint_every=1000),
    )
