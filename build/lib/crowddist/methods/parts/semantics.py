"""The semantic side of a counter: a head that tells persons from background, a discriminator that tells source from
target features, and a segmenter that tells where persons may be in the target.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from crowddist.errors import InputError
from crowddist.losses.adversarial import Patches, domain_accuracy, domain_loss
from crowddist.losses.segmentation import background_bce
from crowddist.methods.base import Stage, Stream
from crowddist.methods.parts.counting import CountingMethod, CountingObjective
from crowddist.methods.parts.training import TRAINING_SETTINGS, Trained, mean_over_workers
from crowddist.models.backbones.table import BACKBONES
from crowddist.models.discriminator import FeatureDiscriminator
from crowddist.models.frozen import frozen_forward
from crowddist.models.pyramid import PyramidHead
from crowddist.models.segmenter import Segmenter, build_segmenter, mask_cells

if TYPE_CHECKING:
    from torch import Tensor

    from crowddist.config import RunConfig
    from crowddist.data.sample import Batch
    from crowddist.models.counter import Counter
    from crowddist.models.discriminator import FeatureDiscriminator

DISCRIMINATOR_BETAS = (0.9, 0.99)  # C: AdaptSegNet's Adam.
DISCRIMINATOR_RATE = 1e-4  # C: AdaptSegNet's.
PERSON_THRESHOLD = 0.3
"""Probability at which a segmenter's cell may hold persons and is not taught as background (ours)."""
SEGMENTER_STAGE = "source/segmenter"
SEGMENTER_SETTINGS = ("counter.backbone", "counter.decoder", "counter.weights", "semantic_consistency.segmenter_rate",
                      *TRAINING_SETTINGS)
"""Settings that its stage depends on."""


class Semantics(nn.Module):
    """Head and discriminator on a counter's features; a segmenter of images where the target has no masks.

    Source: Han et al., ICASSP 2020, Fig. 1.

    Raises:
        InputError: the counter has several encoders, or crops are too small for the discriminator.
    """

    def __init__(self, counter: Counter, config: RunConfig) -> None:
        super().__init__()
        self.settings = config.semantic_consistency
        if config.counter.ensemble == "deep":
            raise InputError(f"{config.method} aligns the features of one encoder: set counter.ensemble to "
                             "masksembles, dropout or none")
        heads, self.stride = BACKBONES[config.counter.backbone].heads, counter.encoder.stride
        self.head = PyramidHead(counter.encoder.channels, heads)
        self.discriminator = FeatureDiscriminator(counter.encoder.channels, heads)
        self.segmenter = build_segmenter(config.counter) if self.settings.target_masks == "made" else None
        least = self.discriminator.least_cells * self.stride
        if min(config.stream.crop) < least:
            side = "crop_size" if config.stream.crop_size < least else "crop_width"
            raise InputError(f"stream.{side} is {min(config.stream.crop)}; the discriminator of {config.method} needs "
                             f"at least {least} px")

    def possible_persons(self, batch: Batch) -> Tensor:
        """Feature cells of target crops that may hold persons, by given masks or the segmenter: (N, 1, h, w) bool."""
        if self.segmenter is None:
            assert batch.mask is not None  # by the stage's plan
            height, width = (-(-side // self.stride) for side in batch.mask.shape[2:])
            return mask_cells(batch.mask, (height, width)) > 0
        with torch.no_grad():
            return self.segmenter(batch.images).float().sigmoid() >= PERSON_THRESHOLD


class SemanticObjective(CountingObjective):
    """L_den^s + lambda^s L_seg^s + lambda^t L_seg^t + lambda^d L_adv, and the discriminator's own loss.

    Source: Han et al., ICASSP 2020, Eq. 5. The discriminator's loss is added because it shares no weight with the
    others.
    """

    def __init__(self, counter: Counter, semantics: Semantics, config: RunConfig) -> None:
        super().__init__(counter, config.train)
        self.semantics, self.config = semantics, config

    def forward(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        source, target = batches["source"], batches["target"]
        semantics, settings = self.semantics, self.config.semantic_consistency
        assert source.mask is not None  # a stream of masks, by the stage's plan
        source_features, target_features = (self.counter.encode(batch.images) for batch in (source, target))
        density = self.density_loss(source, source_features)
        terms = {
            "source_mask_loss": person_mask_loss(semantics.head(source_features), source.mask),
            "target_mask_loss": background_loss(semantics.head(target_features), semantics.possible_persons(target)),
            **adversarial_terms(semantics.discriminator, source_features, target_features,
                                settings.adversarial_patches),
        }
        weighted = (
            settings.source_mask_weight * terms["source_mask_loss"]
            + settings.target_mask_weight * terms["target_mask_loss"]
            + settings.adversarial_weight * terms["adversarial_loss"]
            + terms["discriminator_loss"]
        )
        return {"loss": density + weighted, "source_loss": density, **terms}


class SegmenterObjective(nn.Module):
    """Binary cross-entropy of the source's masks of persons and, where the run has boxes, of theirs (ours); mean over
    the data sets.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        losses = {}
        for name, batch in batches.items():
            assert batch.mask is not None  # a stream of masks, by the stage's plan
            losses[f"{name}_mask_loss"] = person_mask_loss(self.segmenter(batch.images), batch.mask)
        return {"loss": torch.stack(list(losses.values())).mean(), **losses}


class SemanticMethod(CountingMethod):
    """A counter with a semantic side: provides the segmenter's stage and the parts of an alignment stage."""

    counter: Counter

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.semantics = Semantics(self.counter, config)
        self._networks = nn.ModuleDict({"counter": self.counter, "semantics": self.semantics})

    def segmenter_stages(self) -> list[Stage]:
        """The segmenter on the source's masks and those of boxes; none where the target has masks of its own."""
        settings = self.config.semantic_consistency
        if settings.target_masks == "given":
            return []
        masks = replace(self.source_stream(), masks=True)
        boxes = {"boxes": replace(masks, data="boxes")} if self.config.boxes else {}
        return [Stage(name=SEGMENTER_STAGE, steps=settings.segmenter_steps, streams={"source": masks, **boxes},
                      title="no adaptation", num_round=0, settings=SEGMENTER_SETTINGS)]

    def aligned_streams(self) -> dict[str, Stream]:
        """Source and target of an alignment stage."""
        settings = self.config.semantic_consistency
        target = Stream(data="target", batch_size=settings.target_batch_size, masks=settings.target_masks == "given",
                        stride=self.output_stride)
        return {"source": replace(self.source_stream(), masks=True), "target": target}

    def trained_by_alignment(self, stage: Stage, counter: list[nn.Parameter]) -> dict[str, Trained]:
        """These parameters of the counter and the semantic head; the discriminator, at a constant rate."""
        settings = self.config.semantic_consistency
        return {
            "counter": self.one_cycle([*counter, *self.semantics.head.parameters()], stage, settings.learning_rate),
            "discriminator": Trained(parameters=list(self.semantics.discriminator.parameters()),
                                     schedule=lambda step: DISCRIMINATOR_RATE, betas=DISCRIMINATOR_BETAS),
        }

    def objective(self, stage: Stage) -> nn.Module:
        if stage.name == SEGMENTER_STAGE:
            return SegmenterObjective(self._segmenter())
        return super().objective(stage)

    def trained(self, stage: Stage) -> dict[str, Trained]:
        if stage.name == SEGMENTER_STAGE:
            return {"segmenter": self.one_cycle(list(self._segmenter().parameters()), stage,
                                                self.config.semantic_consistency.segmenter_rate)}
        return super().trained(stage)

    def _segmenter(self) -> Segmenter:
        assert self.semantics.segmenter is not None  # its stage exists only where there is one
        return self.semantics.segmenter


def person_mask_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Binary cross-entropy of the mask of persons; a cell's truth is the share of it that persons cover.

    Source: Han et al., ICASSP 2020, Eq. 7, there per pixel. Both agree, because a cell has one prediction for all its
    pixels.

    Args:
        logits: (N, 1, h, w) of "person".
        mask: (N, 1, H, W), 1 = person.
    """
    truth = mask_cells(mask, (logits.shape[2], logits.shape[3]))
    return functional.binary_cross_entropy_with_logits(logits.float(), truth)


def background_loss(logits: Tensor, persons: Tensor) -> Tensor:
    """Cross-entropy of the background alone; its cells weigh the same in the crops of all workers.

    Source: Han et al., ICASSP 2020, Eqs. 8 and 9.

    Args:
        logits: (N, 1, h, w) of "person".
        persons: same shape, bool, the cells that may hold some.
    """
    background = (~persons).sum().float()
    share = background / mean_over_workers(background, least=1.0)
    return share * background_bce(logits.float(), persons, from_logits=True)


def adversarial_terms(discriminator: FeatureDiscriminator, source_features: Tensor, target_features: Tensor,
                      patches: Patches = "mean") -> dict[str, Tensor]:
    """The adversarial loss (gradient to the encoder only), the discriminator's (to itself only, always the mean) and
    its accuracy, which is 1/2 where it cannot tell the domains apart.

    Source: Han et al., ICASSP 2020, Eq. 10; Tsai et al., CVPR 2018. Both losses use the same features and weights, as
    if the encoder stepped first and the discriminator then learned from the features before that step.
    """
    deceived = frozen_forward(discriminator, target_features).float()
    of_source, of_target = (discriminator(features.detach()).float() for features in (source_features, target_features))
    return {
        "adversarial_loss": domain_loss(deceived, source=True, patches=patches),
        "discriminator_loss": (domain_loss(of_source, source=True) + domain_loss(of_target, source=False)) / 2,
        "discriminator_accuracy": domain_accuracy(of_source, of_target),
    }
