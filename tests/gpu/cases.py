"""Networks and batches that the check computes with: each method's stages, small, with random weights and numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from crowddist.config import RunConfig
from crowddist.data.config import StreamConfig
from crowddist.data.sample import Batch
from crowddist.methods.base import Method, Stage
from crowddist.methods.build import build_method
from crowddist.methods.settings.bi_knowledge import BiKnowledgeConfig
from crowddist.methods.settings.self_supervision import SelfSupervisionConfig
from crowddist.methods.settings.semantic_consistency import SemanticConsistencyConfig
from crowddist.methods.settings.train import TrainConfig
from crowddist.methods.settings.translation import TranslationConfig
from crowddist.models.config import CounterConfig, DetectorConfig, LocaliserConfig, RegressorConfig, TranslatorConfig
from crowddist.models.initialisation import init_kaiming

LITE0 = CounterConfig(backbone="efficientnet_lite0")
VGG16 = CounterConfig(backbone="vgg16")
PUBLISHED_PAIR = {"regressor": RegressorConfig(backbone="vgg16"), "detector": DetectorConfig(backbone="resnet50"),
                  "localiser": LocaliserConfig(backbone="vgg16")}


def settings(method: str, *, crop_px: int = 64, batch_size: int = 2, steps: int = 4, **parts: Any) -> RunConfig:
    """A configuration of few steps and small crops; nothing is read from the places that it names."""
    return RunConfig(
        recipe="check", source="renderer:source:8", target="renderer:target:8", method=method, launcher="local",
        tracking_uri="none", **{
            "stream": StreamConfig(image_size=2 * crop_px, crop_size=crop_px),
            "train": TrainConfig(steps=steps, batch_size=batch_size),
            "self_supervision": SelfSupervisionConfig(orientation_steps=1, orientation_px=64, rounds=1, round_steps=1,
                                                      target_batch_size=2, teacher_share=0.5),
            "bi_knowledge": BiKnowledgeConfig(crop_size=crop_px, regressor_steps=steps, detector_steps=1,
                                              localiser_steps=1, cycles=1, cycle_steps=1, batch_size=2,
                                              source_batch_size=2),
            "semantic_consistency": SemanticConsistencyConfig(steps=1, target_batch_size=2, segmenter_steps=1),
            "translation": TranslationConfig(steps=1, batch_size=2, crop_size=crop_px, counting_steps=1),
            **parts})


def all_cases(tiny: bool) -> Iterator[tuple[str, RunConfig]]:
    """Each method on small networks; where not `tiny`, also on all published ones."""
    for method in ("self_supervision", "bi_knowledge", "semantic_consistency", "translation"):
        yield f"{method} compact", settings(method)
    if tiny:
        return
    yield "combined compact", settings("combined")
    yield "self_supervision lite0", settings("self_supervision", crop_px=128, counter=LITE0)
    yield "source_only lite0, deep ensemble", settings(
        "source_only", crop_px=128, counter=CounterConfig(backbone="efficientnet_lite0", ensemble="deep"))
    yield "bi_knowledge lite0", settings(
        "bi_knowledge", crop_px=128, regressor=RegressorConfig(backbone="efficientnet_lite0"),
        detector=DetectorConfig(backbone="efficientnet_lite0"))
    yield "self_supervision VGG-16", settings("self_supervision", crop_px=128, counter=VGG16)
    yield "source_only ResNet-50", settings("source_only", crop_px=128, counter=CounterConfig(backbone="resnet50"))
    yield "bi_knowledge published", settings("bi_knowledge", **PUBLISHED_PAIR)
    yield "semantic_consistency published", settings(
        "semantic_consistency", crop_px=256,
        counter=CounterConfig(backbone="vgg16_bn", decoder="upsampling_large", decoder_norm=True, ensemble="none",
                              orientation=False))
    yield "translation published", settings("translation", crop_px=128,
                                            translator=TranslatorConfig(backbone="published"))


def different_stages(method: Method) -> Iterator[Stage]:
    """The stages of a method's plan that train different networks or by different losses."""
    seen = set()
    for stage in method.plan():
        kind = (type(method.objective(stage)).__name__, stage.trains, stage.needs_labels)
        if kind not in seen:
            seen.add(kind)
            yield stage


def built(config: RunConfig, *, strong: bool = True) -> Method:
    """A method with random weights, always the same. `strong`: every layer counts; with the weights that published
    trainings begin with, N(0, 0.01), hardly anything of an image reaches the loss.
    """
    torch.manual_seed(0)
    method = build_method(config, weights="none")
    if not strong:
        return method
    biases = {name: value.detach().clone() for name, value in method.networks().named_parameters()
              if name.endswith("bias")}
    init_kaiming(method.networks())
    method.networks().load_state_dict(biases, strict=False)
    return method


def random_batches(method: Method, stage: Stage, *, seed: int = 0) -> dict[str, Batch]:
    """Random batches for the streams of a stage, in ordinary memory. No two heads of an image share a cell."""
    batches = {}
    for number, (name, use) in enumerate(sorted(stage.streams.items())):
        generator = torch.Generator().manual_seed(1000 * seed + number)
        side = use.crop_size or method.stream.crop_size
        height, width = (3 * use.whole_px // 4, use.whole_px) if use.whole_px else (side, side)
        size, cells = use.batch_size, (height // use.stride, width // use.stride)
        shape = (size, 1, *cells)
        labelled = use.data != "target" or use.labels
        heads = [_heads(height, width, generator) for _ in range(size)]
        batches[name] = Batch(
            images=torch.rand(size, 3, height, width, generator=generator),
            density=0.2 * torch.rand(shape, generator=generator) * (use.stride / 8) ** 2 if labelled else None,
            keep=(torch.rand(shape, generator=generator) > 0.3).float() if use.labels and not use.windows else None,
            mask=(torch.rand(size, 1, height, width, generator=generator) > 0.7).float() if use.masks else None,
            heads=heads if use.heads else None,
            doubtful=[one[:2] for one in heads] if use.heads and use.labels else None,
            weak=[torch.rand(3, height - 8 * (index % 2), width, generator=generator) for index in range(size)]
            if use.weak_scales else None,
            draws=torch.randint(0, 1 << 30, (size,), generator=generator),
            keys=[f"{name}-{index}" for index in range(size)])
    return batches


def _heads(height: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """(4, 3) x, y and size, px; one in each quarter of the image."""
    corner = torch.tensor([[0, 0], [width // 2, 0], [0, height // 2], [width // 2, height // 2]])
    inside = torch.rand(4, 2, generator=generator) * torch.tensor([width / 2 - 8, height / 2 - 8])
    return torch.cat([corner + inside, 4 + 8 * torch.rand(4, 1, generator=generator)], dim=1)
