"""Translation: make the source look like the target (CycleGAN, SE CycleGAN) and train a counter on the result.

1. source: the counter on the source, for the row without adaptation.
2. translation/translator: two generators and two discriminators on crops of both domains (`TranslationObjective`).
3. translation/counter: the counter on the translated source.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from crowddist.data.sample import Batch
from crowddist.losses.adversarial import discriminator_accuracy, discriminator_loss, generator_loss
from crowddist.methods.base import Stage, Stream
from crowddist.methods.parts.counting import CountingMethod, CountingObjective
from crowddist.methods.parts.training import TRAINING_SETTINGS, Schedule, Trained
from crowddist.methods.settings.translation import SCALE_JITTER
from crowddist.models.frozen import frozen_forward
from crowddist.models.translator import Translator, build_translator
from crowddist.ops.ssim import ssim

if TYPE_CHECKING:
    from torch import Tensor

    from crowddist.config import RunConfig
    from crowddist.methods.settings.translation import TranslationConfig

BETAS = (0.5, 0.999)  # P: Adam's.
CYCLE_WEIGHT = 10.0  # P: lambda of the cycle's L1 error.
TRANSLATOR_SETTINGS = ("translator", "translation.learning_rate", "translation.structure_weight",
                       "translation.identity_weight", *TRAINING_SETTINGS)
"""Settings that the translator's stage depends on."""


class TranslationObjective(nn.Module):
    """The losses of generators and discriminators together, each the sum over both domains.

    Source: Zhu et al., ICCV 2017, Eqs. 1 to 3 with least squares; Wang et al., CVPR 2019 (SE CycleGAN), where a
    structure weight also keeps the SSIM of the cycle. The generators' losses pass through frozen discriminators, and
    discriminators see detached images: one backward pass gives each network its own gradient, and both sides step from
    the same weights. Discriminators see only the newest images (ours), because the authors' history of 50 would be part
    of every checkpoint.
    """

    def __init__(self, translator: Translator, settings: TranslationConfig) -> None:
        super().__init__()
        self.translator, self.settings = translator, settings

    def forward(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        settings = self.settings
        generators, discriminators = self.translator.generators, self.translator.discriminators
        real = {domain: batches[domain].images for domain in ("source", "target")}
        made = {"target": generators["target"](real["source"]), "source": generators["source"](real["target"])}
        cycled = {"source": generators["source"](made["target"]), "target": generators["target"](made["source"])}
        told_made = {domain: discriminators[domain](made[domain].detach()) for domain in real}
        told_real = {domain: discriminators[domain](real[domain]) for domain in real}
        parts = {
            "cycle_loss": _total(functional.l1_loss(cycled[domain].float(), real[domain]) for domain in real),
            "adversarial_loss": _total(generator_loss(frozen_forward(discriminators[domain], made[domain]))
                                       for domain in real),
            "discriminator_loss": _total(discriminator_loss(told_real[domain], told_made[domain]) for domain in real),
        }
        loss = CYCLE_WEIGHT * parts["cycle_loss"] + parts["adversarial_loss"] + parts["discriminator_loss"]
        if settings.structure_weight:
            parts["structure_loss"] = _total(1 - ssim(cycled[domain], real[domain], peak=1.0) for domain in real)
            loss = loss + settings.structure_weight * parts["structure_loss"]
        if settings.identity_weight:
            parts["identity_loss"] = _total(functional.l1_loss(generators[domain](real[domain]).float(), real[domain])
                                            for domain in real)
            loss = loss + settings.identity_weight * parts["identity_loss"]
        accuracy = _total(discriminator_accuracy(told_real[domain], told_made[domain]) for domain in real) / len(real)
        return {"loss": loss, **parts, "discriminator_accuracy": accuracy}


class TranslatedObjective(CountingObjective):
    """The density loss on the translated source."""

    def forward(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        return {"loss": self.density_loss(batches["translated"])}


class Translation(CountingMethod):
    """A counter on the source; four translating networks on source and target; the counter on the translated source."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.translator = build_translator(config.translator)
        self._networks = nn.ModuleDict({"counter": self.counter, "translator": self.translator})

    @property
    def settings(self) -> TranslationConfig:
        return self.config.translation

    def plan(self) -> tuple[Stage, ...]:
        settings, source = self.settings, self.source_stream()
        crops = Stream(data="source", batch_size=settings.batch_size, scale_jitter=SCALE_JITTER,
                       crop_size=settings.crop_size, plain=True)
        row: dict[str, Any] = {"title": "translation", "num_round": 1}
        return (
            self.source_stage(),
            Stage(name="translation/translator", trains="translator", steps=settings.steps,
                  streams={"source": crops, "target": replace(crops, data="target")}, settings=TRANSLATOR_SETTINGS,
                  **row),
            Stage(name="translation/counter", trains="counter", fresh=settings.fresh, steps=settings.counting_steps,
                  streams={"translated": replace(source, data="translated")}, **row),
        )

    def objective(self, stage: Stage) -> nn.Module:
        if stage.trains == "translator":
            return TranslationObjective(self.translator, self.settings)
        if stage.needs_translation:
            return TranslatedObjective(self.counter, self.config.train)
        return super().objective(stage)

    def trained(self, stage: Stage) -> dict[str, Trained]:
        """All generators by one optimizer and all discriminators by another; or the counter."""
        if stage.trains == "translator":
            schedule = falling_rate(self.settings.learning_rate, stage.steps)
            return {name: Trained(parameters=list(networks.parameters()), schedule=schedule, betas=BETAS)
                    for name, networks in self.translator.named_children()}
        rate = self.settings.counting_rate if stage.needs_translation else self.config.train.learning_rate
        return {"counter": self.one_cycle(self.density_parameters(), stage, rate)}

    def translate(self, images: Tensor) -> Tensor:
        self.translator.eval()
        with torch.inference_mode():
            return self.translator.generators["target"](images).float()


def falling_rate(peak: float, steps: int) -> Schedule:
    """The peak in the first half of the steps, then a linear fall that would reach 0 after the last step.

    Source: Zhu et al., ICCV 2017, Sec. 4 (P: 100 and 100 epochs).
    """
    return lambda step: peak * min((steps - step) / (0.5 * steps), 1.0)


def _total(losses: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(losses)).sum()
