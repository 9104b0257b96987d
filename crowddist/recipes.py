"""Recipes: each function is one experiment; its docstring says what it does, what it costs and what to expect."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace

from crowddist.config import EngineConfig, RunConfig
from crowddist.data.config import StreamConfig
from crowddist.methods.config import SelfSupervisionConfig, TrainConfig
from crowddist.models.config import CounterConfig

RENDERED_SOURCE = "renderer:broad:1000"


def quickstart() -> RunConfig:
    """Embedded data, 5 to 10 minutes on 2 cores: a rendered source, a rendered target of another look, one round of labels.

    Command: `make demo`, or `python jobs/adapt.py quickstart`. Needs no data. The paper has no such row.
    Seed 0 on 40 target images gave MAE 69.7 unadapted, 62.0 after one round of labels (-11 %). Orientation is left out: in so few
    steps it only disturbs the counter.
    """
    return RunConfig(
        recipe="quickstart",
        source="renderer:source:160:0:360",
        target="renderer:target:80:1:360",
        evaluation="renderer:target:40:2:360",
        num_workers=2,
        stream=StreamConfig(image_size=512, crop_size=192, scale_jitter=(0.4, 1.25), colour_jitter=0.5, grey_share=0.3),
        train=TrainConfig(steps=600),
        self_supervision=SelfSupervisionConfig(orientation_steps=0, rounds=1, round_steps=200, label_views=(1.0, 1.5)),
        engine=EngineConfig(checkpoint_every=100),
    )


def _real_to_real(recipe: str, source: str, target: str) -> RunConfig:
    root = "$CROWDDIST_DATA/shanghaitech"
    return RunConfig(
        recipe=recipe,
        source=f"shanghaitech:{root}/part_{source}_final:train",
        target=f"shanghaitech:{root}/part_{target}_final:train",
        evaluation=f"shanghaitech:{root}/part_{target}_final:val",
        num_workers=2,
    )


def shb_to_sha() -> RunConfig:
    """ShanghaiTech B to A, compact counter, about 40 minutes on 2 cores.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py shb_to_sha`. Trains on 80 % of B's training images, adapts to 80 % of
    A's without their labels, and is evaluated on the 20 % of A's training images that a hash of the name sets aside.
    Seed 0 gave MAE 166.5 unadapted, 169.8 after orientation, 134.8 and 126.3 after the rounds.
    Paper's setting: MM 2020, Table 1, B->A, 148.9 unadapted and 112.2 adapted (bi-knowledge, ImageNet weights, A's test set).
    """
    return _real_to_real("shb_to_sha", "B", "A")


def sha_to_shb() -> RunConfig:
    """ShanghaiTech A to B, compact counter, about 40 minutes on 2 cores.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py sha_to_shb`. Parts set aside as in shb_to_sha.
    Seed 0 gave MAE 45.5 unadapted, 45.0 after orientation, 46.3 and 47.2 after the rounds (one worker, bfloat16).
    Paper's setting: MM 2020, Table 1, A->B, 21.65 unadapted and 13.38 adapted (bi-knowledge, ImageNet weights, B's test set).
    """
    return replace(
        _real_to_real("sha_to_shb", "A", "B"),
        # A's heads are small and packed: how sharp they are tells the counter how large they are, and no crop is made softer.
        stream=StreamConfig(image_size=512, scale_jitter=(0.6, 1.6), soft_share=0.0),
        self_supervision=SelfSupervisionConfig(label_views=(0.7, 1.0, 1.4)),
    )


def renderer_to_shb() -> RunConfig:
    """Rendered crowds to ShanghaiTech B, compact counter, about 45 minutes on 2 cores.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py renderer_to_shb`, or with your own `--target` and `--evaluation`.
    Seed 0 gave MAE 75.6 unadapted, 87.4 after orientation, 73.8 and 63.5 after the rounds.
    Nearest published row: GCC->SHB, CVPR 2022: 22.8 unadapted, 11.4 adapted (GCC is richer than our renderer).
    """
    return _from_renderer("renderer_to_shb", "B")


def renderer_to_sha() -> RunConfig:
    """Rendered crowds to ShanghaiTech A, compact counter, about 45 minutes on 2 cores.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py renderer_to_sha`, or with your own `--target` and `--evaluation`.
    Nearest published row: GCC->SHA, CVPR 2022: 160.0 unadapted, 109.2 adapted (GCC is richer than our renderer).
    """
    return _from_renderer("renderer_to_sha", "A")


def _from_renderer(recipe: str, target: str) -> RunConfig:
    root = "$CROWDDIST_DATA/shanghaitech"
    return RunConfig(
        recipe=recipe,
        source=RENDERED_SOURCE,
        target=f"shanghaitech:{root}/part_{target}_final:train",
        evaluation=f"shanghaitech:{root}/part_{target}_final:val",
        num_workers=2,
        # Rendered people are coarser than photographed ones: the larger a photograph is seen, the more of it looks like people.
        stream=StreamConfig(image_size=512, scale_jitter=(0.45, 1.8), colour_jitter=0.4),
        self_supervision=SelfSupervisionConfig(label_views=(0.7, 1.0)),
    )


def gcc_to_sha() -> RunConfig:
    """GCC to ShanghaiTech A as published, for holders of GCC: SFCN-style VGG-16 counter; a GPU and about half a day.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py gcc_to_sha`, with $CROWDDIST_DATA/gcc and ImageNet weights.
    Paper's row: CVPR 2022, Table 1: 160.0/216.5 unadapted, 109.2/168.1 adapted. Not run by us: we hold no GCC images.
    """
    return _from_gcc("gcc_to_sha", "A")


def gcc_to_shb() -> RunConfig:
    """GCC to ShanghaiTech B as published, for holders of GCC: SFCN-style VGG-16 counter; a GPU and about half a day.

    Command: `CROWDDIST_DATA=... python jobs/adapt.py gcc_to_shb`, with $CROWDDIST_DATA/gcc and ImageNet weights.
    Paper's row: CVPR 2022, Table 1: 22.8/30.6 unadapted, 11.4/17.3 adapted. Not run by us: we hold no GCC images.
    """
    return _from_gcc("gcc_to_shb", "B")


def _from_gcc(recipe: str, target: str) -> RunConfig:
    root = "$CROWDDIST_DATA/shanghaitech"
    return RunConfig(
        recipe=recipe,
        source="gcc:$CROWDDIST_DATA/gcc",
        target=f"shanghaitech:{root}/part_{target}_final:train",
        evaluation=f"shanghaitech:{root}/part_{target}_final:test",
        counter=CounterConfig(backbone="vgg16", weights="imagenet"),
        stream=StreamConfig(image_size=1024, crop_size=480, scale_jitter=(0.8, 1.2)),
        train=TrainConfig(steps=30000, learning_rate=1e-4, block_weight=0.0, cell_error="squared"),
        self_supervision=SelfSupervisionConfig(orientation_steps=10000, round_steps=5000, learning_rate=5e-5),
        engine=EngineConfig(checkpoint_every=1000),
    )


def smoke() -> RunConfig:
    """A handful of steps on a handful of rendered images, in this process: does everything run here? Says nothing of accuracy.

    Command: `python jobs/adapt.py smoke`; about a minute on one core. The paper has no such row.
    """
    return RunConfig(
        recipe="smoke",
        source="renderer:source:8:0:96",
        target="renderer:target:6:1:96",
        evaluation="renderer:target:4:2:96",
        launcher="local",
        stream=StreamConfig(image_size=128, crop_size=64),
        train=TrainConfig(steps=6, batch_size=4),
        self_supervision=SelfSupervisionConfig(
            orientation_steps=4, rounds=2, round_steps=4, target_batch_size=4, stop_change=0.0
        ),
        engine=EngineConfig(checkpoint_every=2, log_every=2),
    )


RECIPES: tuple[Callable[[], RunConfig], ...] = (
    quickstart,
    shb_to_sha,
    sha_to_shb,
    renderer_to_shb,
    renderer_to_sha,
    gcc_to_sha,
    gcc_to_shb,
    smoke,
)


def summary(recipe: Callable[[], RunConfig]) -> str:
    """The first line of a recipe's docstring."""
    return (inspect.getdoc(recipe) or "").splitlines()[0]
