"""Semantic consistency: features that tell persons from background alike in source and target (Han et al., ICASSP 2020, SE+FD)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from crowddist.errors import InputError
from crowddist.methods.base import Stage, Stream
from crowddist.methods.counting import CountingMethod, CountingObjective, Trained
from crowddist.methods.terms import adversarial_terms, source_mask_loss, target_mask_loss
from crowddist.models.discriminator import build_discriminator
from crowddist.models.pyramid import build_pyramid_head
from crowddist.models.segmenter import build_segmenter, mask_cells

if TYPE_CHECKING:
    from torch import Tensor

    from crowddist.config import RunConfig
    from crowddist.data.sample import Batch
    from crowddist.methods.config import SemanticConsistencyConfig, TrainConfig
    from crowddist.models.counter import Counter
    from crowddist.models.segmenter import Segmenter

DISCRIMINATOR_BETAS = (0.9, 0.99)  # C: AdaptSegNet's.
"""Of the discriminator's Adam."""


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
            features = self.segmenter.encoder(self.segmenter.normalise(batch.images, self.segmenter.encoder.stride))
            losses[f"{name}_mask_loss"] = source_mask_loss(self.segmenter.head, features, batch.mask)
        return {"loss": torch.stack(list(losses.values())).mean(), **losses}


class SemanticObjective(CountingObjective):
    """L_den^s + lambda^s L_seg^s + lambda^t L_seg^t + lambda^d L_adv, beside the discriminator's own loss.

    Source: Han et al., ICASSP 2020, Eq. 5. The discriminator's loss is added because it shares no weight with the others.
    """

    def __init__(self, method: SemanticConsistency, train: TrainConfig, settings: SemanticConsistencyConfig) -> None:
        super().__init__(method.counter, train)
        self.head, self.discriminator, self.settings = method.head, method.discriminator, settings
        self.possible_persons = method.possible_persons  # a function, so the segmenter is no part of what is trained

    def forward(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """The losses by name, and how well the discriminator tells the domains apart: at 1/2 it cannot."""
        source, target = batches["source"], batches["target"]
        assert source.mask is not None  # by the stage's plan
        source_features, target_features = (self.counter.encode(batch.images) for batch in (source, target))
        terms = {
            "source_loss": self.density_loss(source, source_features),
            "source_mask_loss": source_mask_loss(self.head, source_features, source.mask),
            "target_mask_loss": target_mask_loss(self.head, target_features, self.possible_persons(target)),
            **adversarial_terms(self.discriminator, source_features, target_features),
        }
        loss = (
            terms["source_loss"]
            + self.settings.source_mask_weight * terms["source_mask_loss"]
            + self.settings.target_mask_weight * terms["target_mask_loss"]
            + self.settings.adversarial_weight * terms["adversarial_loss"]
            + terms["discriminator_loss"]
        )
        return {"loss": loss, **terms}


class SemanticConsistency(CountingMethod):
    """A counter of the source, then encoder, density, semantic head and discriminator together on source and target."""

    counter: Counter

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.settings = config.semantic_consistency
        if config.counter.ensemble == "deep":
            raise InputError("semantic_consistency aligns the features of one encoder: set counter.ensemble to masksembles, dropout or none")
        channels, compact = self.counter.encoder.channels, config.counter.backbone == "compact"
        self.head = build_pyramid_head(channels, compact=compact)
        self.discriminator = build_discriminator(channels, compact=compact)
        least = self.discriminator.least_cells * self.counter.encoder.stride
        if config.stream.crop_size < least:
            raise InputError(f"stream.crop_size is {config.stream.crop_size}; the discriminator of semantic_consistency needs at least {least} px")
        networks: dict[str, nn.Module] = {"counter": self.counter, "head": self.head, "discriminator": self.discriminator}
        self.segmenter: Segmenter | None = None
        if self.settings.target_masks == "made":
            self.segmenter = networks["segmenter"] = build_segmenter(config.counter)
        self._networks = nn.ModuleDict(networks)

    def plan(self) -> tuple[Stage, ...]:
        """Source; a segmenter, unless the target has masks of its own; then all losses together."""
        settings, source = self.settings, self.source_stream()
        masks = replace(source, masks=True)
        stages = [Stage(name="source/counter", steps=self.config.train.steps, streams={"source": source}, title="no adaptation", num_round=0)]
        if self.segmenter is not None:
            streams = {"source": masks}
            if self.config.boxes:
                streams["boxes"] = replace(masks, data="boxes")
            stages.append(
                Stage(name="source/segmenter", steps=settings.segmenter_steps, streams=streams, title="no adaptation", num_round=0)
            )
        target = Stream(data="target", batch_size=settings.target_batch_size, masks=self.segmenter is None, stride=self.output_stride)
        streams = {"source": masks, "target": target}
        stages.append(Stage(name="semantic", steps=settings.steps, streams=streams, title="semantic consistency", num_round=1))
        return tuple(stages)

    def objective(self, stage: Stage) -> nn.Module:
        """The losses of a stage."""
        if "target" in stage.streams:
            return SemanticObjective(self, self.config.train, self.settings)
        if self.segmenter is not None and stage.streams["source"].masks:
            return SegmenterObjective(self.segmenter)
        return CountingObjective(self.counter, self.config.train)

    def trained(self, stage: Stage) -> dict[str, Trained]:
        """Encoder, density and head by one optimizer, the discriminator by another of a constant rate."""
        settings = self.settings
        if "target" in stage.streams:
            return {
                "counter": Trained(parameters=[*self.density_parameters(), *self.head.parameters()], peak_rate=settings.learning_rate),
                "discriminator": Trained(
                    parameters=list(self.discriminator.parameters()),
                    peak_rate=settings.discriminator_rate,
                    constant=True,
                    betas=DISCRIMINATOR_BETAS,
                ),
            }
        if self.segmenter is not None and stage.streams["source"].masks:
            return {"segmenter": Trained(parameters=list(self.segmenter.parameters()), peak_rate=settings.segmenter_rate)}
        return {"counter": Trained(parameters=self.density_parameters(), peak_rate=self.config.train.learning_rate)}

    def possible_persons(self, batch: Batch) -> Tensor:
        """Where persons may be in target crops, in the features' cells: (N, 1, h, w) bool, of the shards' masks or of the segmenter."""
        if self.segmenter is None:
            assert batch.mask is not None  # by the stage's plan
            stride = self.counter.encoder.stride
            return mask_cells(batch.mask, (-(-batch.mask.shape[2] // stride), -(-batch.mask.shape[3] // stride))) > 0
        with torch.no_grad():
            return self.segmenter(batch.images).float().sigmoid() >= self.settings.person_threshold

    def networks(self) -> nn.Module:
        """See `Method.networks`."""
        return self._networks
