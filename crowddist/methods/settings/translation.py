"""Settings of translation, and the facts a run needs of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from crowddist.errors import InputError, require_not_negative, require_positive
from crowddist.methods.settings.facts import MethodFacts


@dataclass(frozen=True, kw_only=True)
class TranslationConfig:
    """CycleGAN (Zhu et al., ICCV 2017), SE CycleGAN (Wang et al., CVPR 2019). Defaults suit the compact networks."""

    steps: int = 1500
    """Steps of the translator's four networks (P: 200 epochs)."""
    batch_size: int = 4
    """Translator's source crops per step, and as many target crops, over all workers (P: 1)."""
    crop_size: int = 128
    """Side of the translator's crops in px, a multiple of 8, at least 32 (P: 256)."""
    scale_jitter: tuple[float, float] = (0.8, 1.25)
    """Range of these crops' random scale on top of `stream.image_size` (ours). Near 1, because images are translated at
    the size at which they are counted."""
    learning_rate: float = 2e-4
    """Translator's learning rate in the first half of its steps; falls to 0 in the second (P)."""
    cycle_weight: float = 10.0
    """Weight lambda of the L1 error of the cycle (P)."""
    structure_weight: float = 1.0
    """Weight of the cycle's 1 - SSIM, SE CycleGAN's loss (ours); 0: CycleGAN."""
    identity_weight: float = 0.0
    """Weight of the L1 error of images translated to their own domain, which keeps colours (P: 0; 5 for paintings)."""
    counting_steps: int = 1000
    """Steps of the counter on the translated source."""
    counting_rate: float = 5e-4
    """Peak learning rate of the counter on the translated source (ours); with `fresh`, use `train.learning_rate`."""
    joint: bool = False
    """Train the counter on half source and half translated source."""
    fresh: bool = False
    """Train a new counter on the translated source. Off: continue the source's, which needs fewer steps (ours)."""

    def __post_init__(self) -> None:
        require_positive(steps=self.steps, batch_size=self.batch_size, learning_rate=self.learning_rate,
                         cycle_weight=self.cycle_weight)
        require_positive(counting_steps=self.counting_steps, counting_rate=self.counting_rate)
        require_not_negative(structure_weight=self.structure_weight, identity_weight=self.identity_weight)
        if self.crop_size % 8 or self.crop_size < 32:
            raise InputError(f"crop_size must be a multiple of 8 and at least 32, got {self.crop_size}")
        low, high = self.scale_jitter
        if not 0 < low <= high:
            raise InputError(f"scale_jitter must be two positive numbers, the smaller first, got {self.scale_jitter}")


def _check(config: Any) -> None:
    settings, workers = config.translation, config.num_workers
    if config.more_sources:
        raise InputError("translation works on one source: leave more_sources out, or choose another method")
    if settings.joint and config.train.batch_size % (2 * workers):
        raise InputError(f"translation.joint needs a train.batch_size whose halves {workers} workers can share "
                         f"equally, got {config.train.batch_size}")
    smallest = config.stream.image_size * settings.scale_jitter[0]
    if smallest < settings.crop_size:
        raise InputError(f"translation.crop_size {settings.crop_size} is larger than the smallest images, whose "
                         f"longest side is {smallest:.0f} px (stream.image_size times translation.scale_jitter)")


def _batches(config: Any) -> dict[str, int]:
    halves = {"half of train.batch_size": config.train.batch_size // 2} if config.translation.joint else {}
    return {"translation.batch_size": config.translation.batch_size, **halves}


FACTS = MethodFacts(
    line="makes the source look like the target (SE CycleGAN, Wang et al., CVPR 2019)",
    module="crowddist.methods.translation",
    name="Translation",
    check=_check,
    batches=_batches,
    published={"GCC->SHA": (160.0, 123.4), "GCC->SHB": (22.8, 19.9)},  # SE CycleGAN, in Table 1 of CVPR 2022
)
