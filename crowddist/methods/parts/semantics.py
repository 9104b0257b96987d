"""The semantic side of a counter: a head that tells persons from background, a discriminator of domains, and where
persons may be in the target.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from crowddist.errors import InputError
from crowddist.methods.base import Constant
from crowddist.methods.parts.counting import Trained
from crowddist.methods.parts.shared_losses import adversarial_terms, background_loss, person_mask_loss
from crowddist.models.backbones.table import BACKBONES
from crowddist.models.discriminator import build_discriminator
from crowddist.models.pyramid import build_pyramid_head
from crowddist.models.segmenter import Segmenter, build_segmenter, mask_cells

if TYPE_CHECKING:
    from torch import Tensor

    from crowddist.config import RunConfig
    from crowddist.data.sample import Batch
    from crowddist.models.counter import Counter

DISCRIMINATOR_BETAS = (0.9, 0.99)  # C: AdaptSegNet's.
"""Of the discriminator's Adam."""
DISCRIMINATOR_RATE = 1e-4  # C: AdaptSegNet's.
PERSON_THRESHOLD = 0.3
"""Probability from which the segmenter's cells may hold persons, so that they are not taught as background (ours)."""


class Semantics(nn.Module):
    """Head, discriminator and, where the target has no masks, a segmenter, beside the counter whose features they look
    at.

    Source: Han et al., ICASSP 2020, Fig. 1.

    Raises:
        InputError: a counter of several encoders, or crops that are too small for the discriminator.
    """

    def __init__(self, counter: Counter, config: RunConfig) -> None:
        super().__init__()
        self.settings = config.semantic_consistency
        if config.counter.ensemble == "deep":
            raise InputError(f"{config.method} aligns the features of one encoder: set counter.ensemble to "
                             "masksembles, dropout or none")
        heads, stride = BACKBONES[config.counter.backbone].heads, counter.encoder.stride
        self.head = build_pyramid_head(counter.encoder.channels, heads)
        self.discriminator = build_discriminator(counter.encoder.channels, heads)
        self.segmenter = build_segmenter(config.counter) if self.settings.target_masks == "made" else None
        self.stride = stride
        least = self.discriminator.least_cells * stride
        if config.stream.crop_size < least:
            raise InputError(f"stream.crop_size is {config.stream.crop_size}; the discriminator of {config.method} "
                             f"needs at least {least} px")

    def loss(self, source: Batch, target: Batch, source_features: Tensor,
             target_features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """lambda^s L_seg^s + lambda^t L_seg^t + lambda^d L_adv and the discriminator's own loss, and each of them by
        name.

        Source: Han et al., ICASSP 2020, Eq. 5. The discriminator's is added because it shares no weight with the
        others.
        """
        assert source.mask is not None  # a stream of masks, by the stage's plan
        terms = {
            "source_mask_loss": person_mask_loss(self.head(source_features), source.mask),
            "target_mask_loss": background_loss(self.head(target_features), self.possible_persons(target)),
            **adversarial_terms(self.discriminator, source_features, target_features),
        }
        weighted = (
            self.settings.source_mask_weight * terms["source_mask_loss"]
            + self.settings.target_mask_weight * terms["target_mask_loss"]
            + self.settings.adversarial_weight * terms["adversarial_loss"]
            + terms["discriminator_loss"]
        )
        return weighted, terms

    def possible_persons(self, batch: Batch) -> Tensor:
        """Where persons may be in target crops, in the features' cells: (N, 1, h, w) bool, of the shards' masks or of
        the segmenter.
        """
        if self.segmenter is None:
            assert batch.mask is not None  # by the stage's plan
            return mask_cells(batch.mask,
                              (-(-batch.mask.shape[2] // self.stride), -(-batch.mask.shape[3] // self.stride))) > 0
        with torch.no_grad():
            return self.segmenter(batch.images).float().sigmoid() >= PERSON_THRESHOLD

    def trained_discriminator(self) -> Trained:
        """How the discriminator is trained where it has an opponent."""
        return Trained(
            parameters=list(self.discriminator.parameters()),
            schedule=Constant(DISCRIMINATOR_RATE),
            betas=DISCRIMINATOR_BETAS,
        )

    @property
    def own_segmenter(self) -> Segmenter:
        """The segmenter. Raises: ValueError where the target's masks are given."""
        if self.segmenter is None:
            raise ValueError("the target's masks are given: there is no segmenter")
        return self.segmenter


class SegmenterObjective(nn.Module):
    """Binary cross-entropy of masks of persons: the source's, and those of boxes where the run has them (ours)."""

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """The losses by name; every data set counts alike."""
        losses = {}
        for name, batch in batches.items():
            assert batch.mask is not None  # a stream of masks, by the stage's plan
            losses[f"{name}_mask_loss"] = person_mask_loss(self.segmenter(batch.images), batch.mask)
        return {"loss": torch.stack(list(losses.values())).mean(), **losses}
