"""Settings of translation, and what a run has to know of it."""

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
    """Image translation: CycleGAN (Zhu et al., ICCV 2017), SE CycleGAN (Wang et al., CVPR 2019). Defaults are for the
    compact networks.
    """

    steps: int = 1500
    """Steps of the four networks that translate (P: 200 epochs)."""
    batch_size: int = 4
    """Source crops of a step, and as many target crops, over all workers (P: 1)."""
    crop_size: int = 128
    """Side of their crops in px, a multiple of 8 (P: 256)."""
    learning_rate: float = 2e-4
    """Adam's rate in the first half of the steps; it falls to zero in the second (P)."""
    structure_weight: float = 1.0
    """Weight of 1 - SSIM of the cycle: SE CycleGAN (ours); 0 is CycleGAN."""
    identity_weight: float = 0.0
    """Weight of the L1 error of target images that are shown as target images, and of the source likewise (P: 0; 5 for
    paintings, whose colours it keeps)."""
    counting_steps: int = 1000
    """Steps of the counter on the translated source."""
    counting_rate: float = 5e-4
    """Its peak learning rate (ours); one that is to begin anew wants that of `train.learning_rate`."""
    fresh: bool = False
    """Whether it begins anew, rather than with the counter of the source, which needs fewer steps (ours)."""

    def __post_init__(self) -> None:
        require_positive(steps=self.steps, batch_size=self.batch_size, learning_rate=self.learning_rate)
        require_positive(counting_steps=self.counting_steps, counting_rate=self.counting_rate)
        require_not_negative(structure_weight=self.structure_weight, identity_weight=self.identity_weight)
        if self.crop_size % 8 or self.crop_size < 32:
            raise InputError(f"crop_size must be a multiple of 8 and at least 32, got {self.crop_size}")


def _check(config: Any) -> None:
    settings = config.translation
    if config.more_sources:
        raise InputError("translation shows one source as the target would: leave more_sources out, or choose another "
                         "method")
    smallest = config.stream.image_size * SCALE_JITTER[0]
    if smallest < settings.crop_size:
        raise InputError(f"translation.crop_size {settings.crop_size} is larger than images can be, which are shown at "
                         f"a longest side down to {smallest:.0f} px ({SCALE_JITTER[0]} of stream.image_size)")


def _batches(config: Any) -> dict[str, int]:
    return {"translation.batch_size": config.translation.batch_size}


FACTS = MethodFacts(
    line="the source shown as the target would show it (SE CycleGAN, Wang et al., CVPR 2019)",
    module="crowddist.methods.translation",
    name="Translation",
    check=_check,
    batches=_batches,
    published={"GCC->SHA": (160.0, 123.4), "GCC->SHB": (22.8, 19.9)},  # SE CycleGAN, in Table 1 of CVPR 2022
)
