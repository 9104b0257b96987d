"""Recipes for a CPU: rendered crowds and ShanghaiTech. All their settings are ours."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from crowddist.config import EngineConfig, RunConfig
from crowddist.data.config import StreamConfig
from crowddist.methods.settings.bi_knowledge import BiKnowledgeConfig
from crowddist.methods.settings.self_supervision import SelfSupervisionConfig
from crowddist.methods.settings.semantic_consistency import SemanticConsistencyConfig
from crowddist.methods.settings.train import TrainConfig
from crowddist.methods.settings.translation import TranslationConfig
from crowddist.models.config import CounterConfig, DetectorConfig, RegressorConfig
from crowddist.recipes.places import shanghaitech

FROM_IMAGENET: dict[str, Any] = {"backbone": "efficientnet_lite0", "weights": "imagenet"}
"""Start of the networks in the recipes for a CPU."""
ON_A_CPU: dict[str, Any] = {"counter": CounterConfig(**FROM_IMAGENET), "regressor": RegressorConfig(**FROM_IMAGENET),
                            "detector": DetectorConfig(**FROM_IMAGENET)}


def quickstart() -> RunConfig:
    """The demo: rendered source and target, one round; 4 minutes on 2 cores.

    Command: `make demo`, or `python jobs/adapt.py quickstart`. Needs no data. The paper has no such row.
    Tuned on 80 images of another seed, its sizes on its own (docs/networks.md). Without orientation: in so few steps it
    only disturbs the counter.
    """
    return RunConfig(
        recipe="quickstart", source="renderer:source:160:0:360", target="renderer:target:80:1:360",
        evaluation="renderer:target:80:2:360", calibration="renderer:source:20:3:360", num_workers=2,
        **{**ON_A_CPU, "counter": CounterConfig(**FROM_IMAGENET, orientation=False)},
        # The target's cameras are grainy, the source is clean: without noisy crops the error is 61. Images are counted
        # a little smaller than they are labelled, which takes a tenth less time: the round brings the small view near
        # the large one.
        stream=StreamConfig(image_size=512, crop_size=192, scale_jitter=(0.4, 1.1), colour_jitter=0.5, grey_share=0.3,
                            noisy_share=0.35, zooms=(0.95,)),
        train=TrainConfig(steps=440, learning_rate=1e-3, pretrained_share=0.3),
        # The check of a round looks at images once more, for which a demo has no time.
        self_supervision=SelfSupervisionConfig(orientation_steps=0, rounds=1, round_steps=160, min_certainty=0.0,
                                               label_views=(1.0, 1.2), drop_rise=0.0),
        engine=EngineConfig(checkpoint_every=100),
    )


IN_ROUNDS = SelfSupervisionConfig(orientation_steps=0, min_certainty=0.7, drop_rise=-0.05)
"""Two rounds of labels, made at `stream.zooms`, of the places that are certain. A round is kept where it brings the
counts at these zooms nearer to each other, as rounds do that help (docs/adaptation.md). Without orientation, which
whole images teach in 50 steps and then no more (`methods.parts.orientation`).
"""


def _real_to_real(recipe: str, source: str, target: str) -> RunConfig:
    return RunConfig(
        recipe=recipe, source=shanghaitech(source, "train"), target=shanghaitech(target, "train"),
        evaluation=shanghaitech(target, "val"), calibration=shanghaitech(source, "val"), num_workers=2, **ON_A_CPU,
        train=TrainConfig(steps=600, learning_rate=1e-3, pretrained_share=0.3),
        # Heads of A are seen best at very different sizes: the far ones enlarged, the near ones small.
        stream=StreamConfig(zooms=(0.42, 0.75, 1.33)), self_supervision=IN_ROUNDS,
    )


def shb_to_sha() -> RunConfig:
    """ShanghaiTech B to A on a CPU. EfficientNet-Lite0, 5 minutes on one core before adaptation.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py shb_to_sha`. Trains on 80 % of B's training images, adapts to 80 %
    of A's without labels, and is evaluated on the other 20 %, which a hash of the name holds out.
    Unadapted, on one thread at one size: MAE 149.6, 149.4 and 153.6 with seeds 0, 1 and 2. At three zooms 138.1, 120.5
    and 129.9, after a round 109.0, 101.2 and 100.3 (docs/results.md).
    Compact networks, 3,000 steps, one size: 166.5 unadapted, 169.8 after orientation, 134.8 and 126.3 after the rounds.
    With `--method bi_knowledge --num-workers 1 --num-labellers 2 --engine.precision bfloat16`, 20 minutes on 2 cores
    with AVX-512 (75 in float32 without it): 198.2 by the unadapted regressor, 201.5 by the detector, 143.2 by both,
    124.6 after a cycle. Paper's setting: MM 2020, Table 1, B->A, 148.9 unadapted, 112.2 adapted (bi-knowledge, ImageNet
    weights, A's test set).
    """
    return _real_to_real("shb_to_sha", "B", "A")


def sha_to_shb() -> RunConfig:
    """ShanghaiTech A to B on a CPU. EfficientNet-Lite0, 11 minutes on one core before adaptation.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py sha_to_shb`. Images held out as in shb_to_sha.
    Unadapted, on one thread: MAE 23.4, 25.9 and 25.0 with seeds 0, 1 and 2. A round brings 23.2, and is dropped with
    seeds 1 and 2 (docs/results.md). With 640 px and 600 steps, as in 0.2.0: 26.7, 32.6 and 27.8.
    Compact networks, 3,000 steps at 512 px, one worker, bfloat16: 45.5 unadapted, 45.0 after orientation, 46.3 and 47.2
    after the rounds. With `--method bi_knowledge --num-workers 1 --num-labellers 2 --engine.precision bfloat16`, 27
    minutes on 2 cores with AVX-512: 57.2 by the unadapted regressor, 33.2 by the detector, 33.9 by both, 31.9 after a
    cycle. Paper's setting: MM 2020, Table 1, A->B, 21.65 unadapted, 13.38 adapted (bi-knowledge, ImageNet weights, B's
    test set).
    """
    config = _real_to_real("sha_to_shb", "A", "B")
    return replace(
        config,
        # With images of 640 px more steps only fitted A: B's error was 29 persons after 600, 33 after 1,500. With 1,024
        # px it is 26 and 25. No soft crops: A's heads are small and packed, and the counter judges their size by their
        # sharpness.
        train=replace(config.train, steps=1500),
        stream=StreamConfig(image_size=1024, zooms=(0.875,), scale_jitter=(0.45, 1.4), soft_share=0.0),
        self_supervision=replace(IN_ROUNDS, label_views=(0.75, 0.875, 1.0)),
        # At 640 px many of B's people are too close for the detector to tell apart, and B's near heads are larger than
        # A's.
        bi_knowledge=BiKnowledgeConfig(scale_jitter=(0.3125, 1.125), regressor_steps=1500, detector_steps=3000,
                                       crowd_share=0.6),
    )


FROM_RENDERED: dict[str, Any] = {
    "source": "renderer:wide:1500", "calibration": "renderer:wide:80:3", "num_workers": 2,
    **{**ON_A_CPU, "counter": CounterConfig(**FROM_IMAGENET, orientation=False)},
    # An encoder learns from rendered people what only rendered images have: with `broad` at 0.3 of the rate the error
    # on B is 40, at 0.05 it is 35 (docs/networks.md).
    "train": TrainConfig(steps=1500, learning_rate=1e-3, pretrained_share=0.05),
    # Rendered people are cleaner than photographed ones: with `broad`, noisy crops take the error on A from 359 to 313.
    # Seen large, people are shapes and not texture: B errs by 28 at 768 px, by 22 at 1,229 (docs/adaptation.md).
    "stream": StreamConfig(image_size=768, zooms=(1.6,), scale_jitter=(0.45, 1.8), colour_jitter=0.4, grey_share=0.2,
                           noisy_share=0.4)}
"""Settings of the recipes with rendered crowds for photographs."""


def renderer_to_shb() -> RunConfig:
    """Rendered crowds to ShanghaiTech B or your own --target on a CPU. EfficientNet-Lite0, 12 minutes on one core
    before adaptation.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py renderer_to_shb`, or with your own `--target`.
    Unadapted, on one thread: MAE 21.7 and 20.2 with seeds 0 and 1. A round, labelled at zooms of 1.2, 1.6 and 2.0, made
    it worse and was dropped (docs/adaptation.md). At zooms of 0.6, 1.0 and 1.6: 28.1, 28.5 after a round. Nearest
    published row: GCC->SHB, CVPR 2022: 22.8 unadapted, 11.4 adapted (GCC is richer than our renderer).
    """
    return _from_renderer("renderer_to_shb", "B")


def renderer_to_sha() -> RunConfig:
    """Rendered crowds to ShanghaiTech A on a CPU. EfficientNet-Lite0, 12 minutes on one core before adaptation.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py renderer_to_sha`, or with your own `--target`.
    Unadapted, on one thread, seed 0: MAE 117.5 at 1,229 px, 103.7 after a round (docs/adaptation.md). With people as in
    renderer_to_shb: 151.2 and 179.3 with seeds 0 and 1.
    Nearest published row: GCC->SHA, CVPR 2022: 160.0 unadapted, 109.2 adapted (GCC is richer than our renderer).
    """
    config = _from_renderer("renderer_to_sha", "A")
    # A counter that learns from people half as large again counts dense crowds a twelfth too low, the other one a fifth
    # too high. B, whose people are fewer, it counts worse: 30 in the place of 22.
    stream = replace(config.stream, image_size=1152, zooms=(0.8, 1.0667), scale_jitter=(0.45, 1.6))
    # One round, for labels at one size do not tell which round to keep: what is new in them is the second counter's.
    return replace(config, stream=stream, self_supervision=replace(
        IN_ROUNDS, label_views=(1.0667,), rounds=1, second_counter="rendered"))


def _from_renderer(recipe: str, target: str) -> RunConfig:
    return RunConfig(recipe=recipe, target=shanghaitech(target, "train"), evaluation=shanghaitech(target, "val"),
                     self_supervision=replace(IN_ROUNDS, label_views=(1.1, 1.6)),
                     **FROM_RENDERED)


def pretrain() -> RunConfig:
    """Trains the counter that comes with crowddist, for all cameras, on rendered crowds.

    Command: `python jobs/adapt.py pretrain --launcher local --num-workers 1 --threads 1`, 20 minutes on 2 cores, 4 of
    them for rendering. Needs no data. The paper has no such row.
    `crowddist export --model runs/pretrain --output crowddist/counters/rendered.pt` makes the file of the package.
    """
    return RunConfig(recipe="pretrain", method="source_only", target="renderer:broad:40:5",
                     evaluation="renderer:broad:40:6", **FROM_RENDERED)


def smoke() -> RunConfig:
    """Checks in two minutes that everything runs here; says nothing of accuracy. A few steps on a few rendered images,
    in this process.

    Command: `python jobs/adapt.py smoke`; about 2 minutes on one core. The paper has no such row.
    """
    return RunConfig(
        recipe="smoke", source="renderer:source:8:0:96", target="renderer:target:6:1:96",
        evaluation="renderer:target:4:2:96", calibration="renderer:source:12:3:96", launcher="local",
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
