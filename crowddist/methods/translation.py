"""Translation: the source as the target would show it (CycleGAN, SE CycleGAN), and a counter trained on that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from crowddist.data.sample import Batch
from crowddist.losses.adversarial import discriminator_accuracy, discriminator_loss, generator_loss
from crowddist.methods.base import Stage, Stream
from crowddist.methods.parts.counting import CountingMethod, CountingObjective, Trained
from crowddist.methods.settings.translation import SCALE_JITTER
from crowddist.models.frozen import frozen_forward
from crowddist.models.translator import Translator, build_translator
from crowddist.ops.ssim import ssim

if TYPE_CHECKING:
    from torch import Tensor

    from crowddist.config import RunConfig
    from crowddist.methods.settings.translation import TranslationConfig

BETAS = (0.5, 0.999)
"""Of Adam. P."""
CYCLE_WEIGHT = 10.0
"""Weight lambda of the cycle's L1 error. P."""
STEADY_SHARE = 0.5
"""Part of the steps before the rate begins to fall, linearly to zero. P: 100 of 200 epochs."""


class TranslationObjective(nn.Module):
    """All losses of the four networks as one module, so that a wrapped (DDP) forward is called once a step.

    Source: Zhu et al., ICCV 2017, Eqs. 1 to 3 by least squares; with a structure weight, Wang et al., CVPR 2019 (SE
    CycleGAN): the cycle also keeps the SSIM. The generators' losses pass through frozen discriminators and the
    discriminators see detached images, so one backward pass gives each network its own gradient, and both sides step
    from where they stood. Discriminators see the newest images alone: the history of 50 that the authors draw from
    would have to be kept with every checkpoint (ours).
    """

    def __init__(self, translator: Translator, settings: TranslationConfig) -> None:
        super().__init__()
        self.translator, self.settings = translator, settings

    def forward(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """The losses by name, each the sum over both domains, and the share of patches that the discriminators tell
        right.
        """
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


class OneStreamObjective(CountingObjective):
    """The density loss on the crops of the stage's one stream: the source, or the translated source."""

    def forward(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """The loss."""
        (batch,) = batches.values()
        return {"loss": self.source_loss(batch)}


class Translation(CountingMethod):
    """A counter on the source; four networks on source and target; then the counter on the source as one of them
    translated it.
    """

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.translator = build_translator(config.translator)
        self._networks = nn.ModuleDict({"counter": self.counter, "translator": self.translator})

    @property
    def settings(self) -> TranslationConfig:
        """The method's part of the configuration."""
        return self.config.translation

    def plan(self) -> tuple[Stage, ...]:
        """Source; then, in one round, the translator on plain crops of both domains, and the counter on what it makes
        of the source.
        """
        train, settings = self.config.train, self.settings
        source = self.source_stream()
        crops = Stream(
            data="source", batch_size=settings.batch_size, scale_jitter=SCALE_JITTER,
            crop_size=settings.crop_size, plain=True
        )
        return (
            Stage(name="source", steps=train.steps, streams={"source": source}, title="no adaptation", num_round=0),
            Stage(
                name="translation/translator",
                trains="translator",
                steps=settings.steps,
                streams={"source": crops, "target": replace(crops, data="target")},
                title="translation",
                num_round=1,
            ),
            Stage(
                name="translation/counter",
                trains="counter",
                fresh=settings.fresh,
                steps=settings.counting_steps,
                streams={"translated": replace(source, data="translated")},
                title="translation",
                num_round=1,
            ),
        )

    def translate(self, images: Tensor) -> Tensor:
        """See `Method.translate`."""
        self.translator.eval()
        with torch.inference_mode():
            return self.translator.generators["target"](images).float()

    def objective(self, stage: Stage) -> nn.Module:
        """The losses of the four networks, or the density loss on whatever the stage reads."""
        return (TranslationObjective(self.translator, self.settings) if stage.trains == "translator"
                else OneStreamObjective(self.counter, self.config.train))

    def trained(self, stage: Stage) -> dict[str, Trained]:
        """Generators and discriminators, each by an optimizer of their own, or the counter: on the source at the
        training's rate.
        """
        if stage.trains == "translator":
            schedule = SteadyThenFalling(self.settings.learning_rate, stage.steps)
            return {
                name: Trained(parameters=list(networks.parameters()), schedule=schedule, betas=BETAS)
                for name, networks in self.translator.named_children()
            }
        rate = self.settings.counting_rate if stage.needs_translation else self.config.train.learning_rate
        return {"counter": self.one_cycle(self.density_parameters(), stage, rate)}

    def networks(self) -> nn.Module:
        """See `Method.networks`."""
        return self._networks


@dataclass(frozen=True)
class SteadyThenFalling:
    """The peak in the first half of the steps, then down in a line, to zero behind the last step.

    Source: Zhu et al., ICCV 2017, Sec. 4 (P).
    """

    peak: float
    steps: int

    def at(self, step: int) -> float:
        """The rate of step 0..steps-1."""
        return self.peak * min((self.steps - step) / ((1 - STEADY_SHARE) * self.steps), 1.0)


def _total(losses: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(losses)).sum()
