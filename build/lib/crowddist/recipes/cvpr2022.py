"""Self-supervision as published (Liu et al., CVPR 2022): from GCC to five data sets, and the paper's ablations.

The paper prints the method, its networks' layers only by reference, and hardly a number; our copy of it ends within
the second stage, before its experiments. Where every value comes from: `printed` in the paper, `code` of the authors
(or, of SFCN, that of the authors of GCC), `ours` where neither says anything.

    setting                              value       whence
    source                               by recipe   printed   GCC
    target                               by recipe   printed   all training images, without labels
    evaluation                           by recipe   printed   the test set
    stream.scenes                        by recipe   printed   GCC's own rule for each target (Wang et al., IJCV 2021)
    counter.backbone                     vgg16       code      its first ten convolutions
    counter.weights                      imagenet    code
    counter.decoder                      usual       code      six dilated convolutions and SFCN's spatial encoder
    counter.ensemble                     masksembles printed   behind the decoder's first convolution
    counter.num_masks                    3           code
    counter.orientation                  on          printed   a head of its own, here on a grid of 8 x 4 (ours)
    counter.density_factor               100         code      of GCC's authors
    stream.image_size                    1024        ours
    stream.crop_size                     480         ours
    stream.scale_jitter                  0.8 1.2     ours
    stream.colour_jitter                 0           printed   neither paper names any change but the flip
    stream.grey_share                    0           printed   likewise
    stream.soft_share                    0           printed   likewise
    stream.noisy_share                   0           printed   likewise
    stream.sigma_px                      6           ours
    train.cell_error                     squared     printed   "the usual L2 loss"
    train.block_weight                   0           printed
    train.density_limit                  on          printed   density regularisation (Wang et al., CVPR 2019)
    train.steps                          30000       ours
    train.batch_size                     8           ours
    train.learning_rate                  1e-4        ours
    train.schedule                       one_cycle   ours
    train.weight_decay                   5e-4        ours
    self_supervision.orientation_steps   30000       ours
    self_supervision.orientation_weight  default     ours      lambda is not published
    self_supervision.rounds              2           ours      "until convergence"
    self_supervision.round_steps         5000        ours
    self_supervision.target_batch_size   8           ours
    self_supervision.target_weight       1           ours
    self_supervision.min_certainty       0.7         ours      "the least uncertain"
    self_supervision.label_views         1           printed   one size
    self_supervision.learning_rate       5e-5        ours
    self_supervision.stop_change         0.02        ours      "until convergence"

With `--method translation` the same recipes are CycleGAN and SE CycleGAN:

    translator.backbone                  published   code      of CycleGAN
    translation.steps                    100000      ours      the paper: 200 epochs
    translation.batch_size               1           printed
    translation.crop_size                256         printed
    translation.learning_rate            2e-4        printed
    translation.structure_weight         1           ours
    translation.fresh                    on          printed   the counter is trained on the translated images
    translation.counting_steps           30000       ours
    translation.counting_rate            1e-4        ours

SE CycleGAN (JT), the row of joint training, has no recipe: the table of rows that we hold gives its figures (A
119.6/189.1, B 16.4/25.8, UCF_CC_50 370.2/512.0, UCF-QNRF 225.9/385.7, WorldExpo'10 24.4) and neither its losses nor
what is trained jointly. Mixing translated and untranslated source images is not known to be it.
"""

from __future__ import annotations

from dataclasses import replace

from crowddist.config import EngineConfig, RunConfig
from crowddist.data.config import StreamConfig
from crowddist.methods.settings.self_supervision import SelfSupervisionConfig
from crowddist.methods.settings.train import TrainConfig
from crowddist.methods.settings.translation import TranslationConfig
from crowddist.models.config import CounterConfig, TranslatorConfig
from crowddist.recipes.places import GCC, QNRF, UCF_CC_50, WORLDEXPO, shanghaitech


def gcc_to_sha() -> RunConfig:
    """GCC to ShanghaiTech A as published; a GPU and half a day. SFCN-style VGG-16 counter, for holders of GCC.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py gcc_to_sha`, with $CROWDDIST_DATA/gcc (and its index files) and
    ImageNet weights. Reads the 2,641 images of GCC that scene regularisation keeps for A.
    Paper's row: CVPR 2022, Table 1: 160.0/216.5 unadapted, 109.2/168.1 adapted. Not run by us: we hold no GCC images.
    With `--method translation`, SE CycleGAN: 123.4/193.4; without structure loss (`--translation.structure-weight 0`),
    CycleGAN: 143.3/204.3. With `--counter.backbone resnet101`, SFCN's larger encoder.
    """
    return _from_gcc("gcc_to_sha", shanghaitech("A", "all"), shanghaitech("A", "test"), "SHA")


def gcc_to_shb() -> RunConfig:
    """GCC to ShanghaiTech B as published; a GPU and half a day. SFCN-style VGG-16 counter, for holders of GCC.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py gcc_to_shb`, with data as for gcc_to_sha. Reads the 3,322 images
    of GCC that scene regularisation keeps for B.
    Paper's row: CVPR 2022, Table 1: 22.8/30.6 unadapted, 11.4/17.3 adapted. Not run by us: we hold no GCC images.
    With `--method translation`, SE CycleGAN: 19.9/28.3; without structure loss: 25.4/39.7.
    """
    return _from_gcc("gcc_to_shb", shanghaitech("B", "all"), shanghaitech("B", "test"), "SHB")


def gcc_to_qnrf() -> RunConfig:
    """GCC to UCF-QNRF as published; a GPU and half a day. SFCN-style VGG-16 counter, for holders of GCC.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py gcc_to_qnrf`, with data as for gcc_to_sha.
    Paper's row: CVPR 2022: 275.5/458.5 unadapted, 198.3/332.9 adapted. Not run by us: we hold neither set.
    With `--method translation`, SE CycleGAN: 230.4/384.5; without structure loss: 257.3/400.6.
    """
    return _from_gcc("gcc_to_qnrf", *QNRF, "UCF-QNRF")


def gcc_to_ucf_cc_50() -> RunConfig:
    """GCC to UCF_CC_50 as published; a GPU and days for all folds. Alone, this is fold 1 of 5.

    Command: `CROWDDIST_DATA=... python jobs/folds.py gcc_to_ucf_cc_50` for all folds and their mean, which is the row;
    `python jobs/adapt.py gcc_to_ucf_cc_50` for the first. The folds are ours: the published ones were random.
    Paper's row: CVPR 2022: 487.2/689.0 unadapted, 336.5/486.1 adapted. Not run by us: we hold neither set.
    With `--method translation`, SE CycleGAN: 373.4/528.8; without structure loss: 404.6/548.2.
    """
    return _from_gcc("gcc_to_ucf_cc_50", *UCF_CC_50, "UCF_CC_50")


def gcc_to_worldexpo10() -> RunConfig:
    """GCC to WorldExpo'10 as published; a GPU and half a day. SFCN-style VGG-16 counter, for holders of GCC.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py gcc_to_worldexpo10`, with data as for gcc_to_sha. The figure is
    `target/mae_by_scene`: inside the regions of interest, the mean over the five test scenes.
    Paper's row: CVPR 2022, MAE by scene: 42.8 unadapted, 16.6 adapted (4.0, 31.9, 23.5, 19.4 and 4.2). Not run by us:
    we hold neither set. With `--method translation`, SE CycleGAN: 26.3; without structure loss: 32.4.
    """
    return _from_gcc("gcc_to_worldexpo10", *WORLDEXPO, "WorldExpo'10")


def cvpr2022_dropout() -> RunConfig:
    """Ablation: MC-dropout in Masksembles' place, GCC to ShanghaiTech A; a GPU and half a day.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py cvpr2022_dropout`; on a CPU: `renderer_to_sha --counter.ensemble
    dropout`. Changes counter.ensemble alone; three dropouts, as many as masks (ours).
    Paper's row: CVPR 2022 names it, our copy ends before its figures. Against 109.2/168.1 with Masksembles.
    """
    return _ablation("cvpr2022_dropout", ensemble="dropout")


def cvpr2022_deep_ensemble() -> RunConfig:
    """Ablation: a deep ensemble in Masksembles' place, GCC to ShanghaiTech A; a GPU and days.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py cvpr2022_deep_ensemble`; on a CPU: `renderer_to_sha
    --counter.ensemble deep`. Changes counter.ensemble alone; three counters, as many as masks (ours), at three times
    the cost.
    Paper's row: CVPR 2022 names it, our copy ends before its figures. Against 109.2/168.1 with Masksembles.
    """
    return _ablation("cvpr2022_deep_ensemble", ensemble="deep")


def cvpr2022_without_uncertainty() -> RunConfig:
    """Ablation: all densities become labels, certain or not, GCC to ShanghaiTech A; a GPU and half a day.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py cvpr2022_without_uncertainty`; on a CPU: `renderer_to_sha
    --self-supervision.min-certainty 0`. Changes self_supervision.min_certainty alone.
    Paper's row: CVPR 2022 names it, our copy ends before its figures. Against 109.2/168.1 with the certain ones.
    """
    config = _ablation("cvpr2022_without_uncertainty")
    return replace(config, self_supervision=replace(config.self_supervision, min_certainty=0.0))


def _ablation(recipe: str, **counter: str) -> RunConfig:
    config = gcc_to_sha()
    return replace(config, recipe=recipe, counter=replace(config.counter, **counter))  # type: ignore[arg-type]


def _from_gcc(recipe: str, target: str, evaluation: str, rule: str) -> RunConfig:
    """The module's table."""
    return RunConfig(
        recipe=recipe, source=GCC, target=target, evaluation=evaluation,
        counter=CounterConfig(backbone="vgg16", weights="imagenet", density_factor=100.0),
        stream=StreamConfig(image_size=1024, crop_size=480, scale_jitter=(0.8, 1.2), colour_jitter=0.0, grey_share=0.0,
                            soft_share=0.0, scenes=rule),
        train=TrainConfig(steps=30000, learning_rate=1e-4, block_weight=0.0, cell_error="squared", density_limit=True),
        self_supervision=SelfSupervisionConfig(orientation_steps=30000, round_steps=5000, learning_rate=5e-5,
                                               label_views=(1.0,)),
        translator=TranslatorConfig(backbone="published"),
        translation=TranslationConfig(steps=100000, batch_size=1, crop_size=256, fresh=True, counting_steps=30000,
                                      counting_rate=1e-4),
        engine=EngineConfig(checkpoint_every=1000),
    )
