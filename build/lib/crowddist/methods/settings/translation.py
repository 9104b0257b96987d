"""Settings of translation, and the facts a run needs of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from crowddist.errors import InputError, require_not_negative, require_positive
from crowddist.methods.settings.facts import MethodFacts

SCALE_JITTER = (0.8, 1.25)
"""Range of the random scale of the translator's crops on top of `stream.image_size` (ours): images are translated at
the size that they are counted at."""


@dataclass(frozen=True, kw_only=True)
class TranslationConfig:
    """CycleGAN (Zhu et al., ICCV 2017), SE CycleGAN (Wang et al., CVPR 2019). Defaults suit the compact networks."""

    steps: int = 1500
    """Steps of the translator's four networks (P: 200 epochs)."""
    batch_size: int = 4
    """Translator's source crops per step, and as many target crops, over all workers (P: 1)."""
    crop_size: int = 128
    """Side of the translator's crops in px, a multiple of 8, at least 32 (P: 256)."""
    learning_rate: float = 2e-4
    """Translator's learning rate in the first half of its steps; falls to 0 in the second (P)."""
    structure_weight: float = 1.0
    """Weight of the cycle's 1 - SSIM, SE CycleGAN's loss (ours); 0: CycleGAN."""
    identity_weight: float = 0.0
    """Weight of the L1 error of images translated to their own domain, which keeps colours (P: 0; 5 for paintings)."""
    counting_steps: int = 1000
    """Steps of the counter on the translated source."""
    counting_rate: float = 5e-4
    """Peak learning rate of the counter on the translated source (ours); with `fresh`, use `train.learning_rate`."""
    fresh: bool = False
    """Train a new counter on the translated source. Off: continue the source's, which needs fewer steps (ours)."""

    def __post_init__(self) -> None:
        require_positive(steps=self.steps, batch_size=self.batch_size, learning_rate=self.learning_rate)
        require_positive(counting_steps=self.counting_steps, counting_rate=self.counting_rate)
        require_not_negative(structure_weight=self.structure_weight, identity_weight=self.identity_weight)
        if self.crop_size % 8 or self.crop_size < 32:
            raise InputError(f"crop_size must be a multiple of 8 and at least 32, got {self.crop_size}")


def _check(config: Any) -> None:
    settings = config.translation
    if config.more_sources:
        raise InputError("translation works on one source: leave more_sources out, or choose another method")
    smallest = config.stream.image_size * SCALE_JITTER[0]
    if smallest < settings.crop_size:
        raise InputError(f"translation.crop_size {settings.crop_size} is larger than the smallest images, whose "
                         f"longest side is {smallest:.0f} px ({SCALE_JITTER[0]} of stream.image_size)")


def _batches(config: Any) -> dict[str, int]:
    return {"translation.batch_size": config.translation.batch_size}


FACTS = MethodFacts(
    line="makes the source look like the target (SE CycleGAN, Wang et al., CVPR 2019)",
    module="crowddist.methods.translation",
    name="Translation",
    settings=("counter", "translator", "train", "translation"),
    check=_check,
    batches=_batches,
    # SE CycleGAN, in Table 1 of CVPR 2022
    published={"GCC->SHA": (160.0, 123.4), "GCC->SHB": (22.8, 19.9), "GCC->UCF_CC_50": (487.2, 373.4),
               "GCC->QNRF": (275.5, 230.4)},
)
