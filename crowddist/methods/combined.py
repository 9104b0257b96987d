"""The combination that none of the papers has: one counter that learns orientation and semantics, and labels fused from
its ensemble and a detector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from crowddist.data.sample import Part, Verdict
from crowddist.data.stream import cell_density
from crowddist.methods.base import Stage, Stream
from crowddist.methods.parts.counting import CountingMethod, CountingObjective, LabelObjective, Trained
from crowddist.methods.parts.detecting import (
    DetectionObjective,
    confidence_weight,
    distinct,
    fused_counts,
    read_heads,
    sure_and_doubtful,
)
from crowddist.methods.parts.semantics import SegmenterObjective, Semantics
from crowddist.methods.parts.shared_losses import orientation_terms
from crowddist.methods.settings.self_supervision import LABEL_SCALE_JITTER
from crowddist.models.backbones.table import BACKBONES
from crowddist.models.detector import build_detector
from crowddist.ops.fusion import fuse_density, uncertainty_weight
from crowddist.ops.merging import merge_points
from crowddist.ops.peaks import density_points

if TYPE_CHECKING:
    from torch import Tensor

    from crowddist.config import RunConfig
    from crowddist.data.sample import Batch, Prediction, Seen
    from crowddist.models.counter import Counter


class AlignmentObjective(CountingObjective):
    """Stage 1: the source's density, the semantic side's losses and the orientation of target images.

    Source: Liu et al., CVPR 2022, stage 1, and Han et al., ICASSP 2020, Eq. 5, added up (ours).
    """

    def __init__(self, counter: Counter, semantics: Semantics, config: RunConfig) -> None:
        super().__init__(counter, config.train)
        self.semantics, self.orientation_weight = semantics, config.self_supervision.orientation_weight

    def forward(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """The losses by name, and how well orientation and domains are told."""
        source, target = batches["source"], batches["target"]
        source_features, target_features = (self.counter.encode(batch.images) for batch in (source, target))
        density = self.density_loss(source, source_features)
        weighted, terms = self.semantics.loss(source, target, source_features, target_features)
        terms |= orientation_terms(self.counter, target.images)
        return {"loss": density + weighted + self.orientation_weight * terms["orientation_loss"],
                "source_loss": density, **terms}


class Combined(CountingMethod):
    """Self-supervision, semantic consistency and bi-knowledge transfer in one; every setting is that of the method it
    comes from.
    """

    counter: Counter

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.semantics = Semantics(self.counter, config)
        self.detector = build_detector(config.detector)
        self._networks = nn.ModuleDict({"counter": self.counter, "semantics": self.semantics,
                                        "detector": self.detector})

    def plan(self) -> tuple[Stage, ...]:
        """Counter, detector and segmenter on the source; alignment; then K rounds of fused labels for counter and
        detector.
        """
        config, rounds, semantic, heads_of = (self.config, self.config.self_supervision,
                                              self.config.semantic_consistency, self.config.bi_knowledge)
        source, made = self.source_stream(), semantic.target_masks == "made"
        masks, heads = replace(source, masks=True), replace(source, heads=True)
        boxes = {"boxes": replace(masks, data="boxes")} if config.boxes else {}
        none: dict[str, Any] = {"title": "no adaptation", "num_round": 0}
        stages = [
            Stage(name="source/counter", steps=config.train.steps, streams={"source": source}, **none),
            Stage(name="source/detector", steps=heads_of.detector_steps, streams={"source": heads}, **none),
        ]
        if made:
            stages.append(Stage(name="source/segmenter", steps=semantic.segmenter_steps,
                                streams={"source": masks, **boxes}, **none))
        target = Stream(data="target", batch_size=semantic.target_batch_size, masks=not made, stride=self.output_stride)
        stages.append(
            Stage(name="alignment", steps=semantic.steps, streams={"source": masks, "target": target},
                  title="alignment", num_round=1)
        )
        labelled = Stream(
            data="target",
            batch_size=rounds.target_batch_size,
            labels=True,
            scale_jitter=LABEL_SCALE_JITTER,
            stride=self.output_stride,
        )
        for number in range(1, rounds.rounds + 1):
            row: dict[str, Any] = {"title": f"labels, round {number}", "num_round": 1 + number}
            streams = {"source": source, "target": labelled}
            with_heads = {name: replace(stream, heads=True) for name, stream in streams.items()}
            stages.append(Stage(name=f"labels-{number}/counter", steps=rounds.round_steps, streams=streams, **row))
            stages.append(Stage(name=f"labels-{number}/detector", steps=heads_of.cycle_steps, streams=with_heads,
                                **row))
        return tuple(stages)

    def objective(self, stage: Stage) -> nn.Module:
        """The losses of a stage."""
        match _trained_by(stage):
            case "detector":
                return DetectionObjective(self.detector)
            case "segmenter":
                return SegmenterObjective(self.semantics.own_segmenter)
            case "alignment":
                return AlignmentObjective(self.counter, self.semantics, self.config)
        if stage.needs_labels:
            return LabelObjective(self.counter, self.config.train,
                                  target_weight=self.config.self_supervision.target_weight)
        return CountingObjective(self.counter, self.config.train)

    def trained(self, stage: Stage) -> dict[str, Trained]:
        """What a stage trains, at the rates of the method it comes from."""
        heads_of, adapts = self.config.bi_knowledge, "target" in stage.streams
        match _trained_by(stage):
            case "detector":
                rate = heads_of.detector_cycle_rate if adapts else heads_of.detector_rate
                return {"detector": self.one_cycle(list(self.detector.parameters()), stage, rate)}
            case "segmenter":
                segmenter = list(self.semantics.own_segmenter.parameters())
                return {"segmenter": self.one_cycle(segmenter, stage, self.config.semantic_consistency.segmenter_rate)}
            case "alignment":
                counter = [*self.counter.parameters(), *self.semantics.head.parameters()]
                return {
                    "counter": self.one_cycle(counter, stage, self.config.semantic_consistency.learning_rate),
                    "discriminator": self.semantics.trained_discriminator(),
                }
        rate = self.config.self_supervision.learning_rate if adapts else self.config.train.learning_rate
        return {"counter": self.one_cycle(self.density_parameters(), stage, rate)}

    @property
    def margin_px(self) -> int:
        """See `Method.margin_px`: of the network that looks farthest."""
        return max(super().margin_px, BACKBONES[self.config.detector.backbone].uses["detector"].context_px)

    @property
    def stop_change(self) -> float:
        """See `Method.stop_change`."""
        return self.config.self_supervision.stop_change

    def label_views(self) -> tuple[float, ...]:
        """See `Method.label_views`."""
        return self.config.self_supervision.label_views

    def predict(self, images: Tensor) -> Prediction:
        """The ensemble's density and spread, and the detector's heads."""
        self.detector.eval()
        with torch.inference_mode():
            maps = self.detector(images)
        return replace(super().predict(images),
                       detections=read_heads(maps, self.detector.output_stride, self.config.bi_knowledge))

    def conclude(self, seen: Seen) -> Verdict:
        """The density of both, by Eq. 8 with W scaled by the ensemble's relative uncertainty (ours), whose sum is the
        count.

        The heads are the detector's and, where it has none, the peaks of the counter's density, of both the surest, as
        many as are counted (ours). Labels teach the sure detections; weaker ones and those peaks they leave open.
        """
        assert seen.detections is not None  # of predict()
        settings, stride = self.config.bi_knowledge, self.output_stride
        found = distinct(seen.detections, settings.nms_share)  # tiles have seen some heads twice
        detections = found[found[:, 3] >= settings.confidence]
        drawn = cell_density(detections[:, :3], seen.density.shape, self.stream, stride)
        confidence = confidence_weight(detections, seen.density.shape, self.stream, stride, settings.weight_exponent)
        peaks = density_points(seen.density, stride, self.stream.sigma_px)
        kept = merge_points(detections[:, [0, 1, 3]], peaks, settings.nms_share * detections[:, 2])
        heads = np.concatenate([detections[:, [0, 1, 3]], peaks])[kept]
        sure, doubtful = sure_and_doubtful(found, settings)
        alone = peaks[kept[kept >= len(detections)] - len(detections)]
        size = np.full(len(alone), float(np.median(detections[:, 2])) if len(detections) else stride)
        density = fuse_density(seen.density, drawn, uncertainty_weight(confidence, seen.density, seen.spread))
        heads = heads[np.argsort(-heads[:, 2], kind="stable")[: round(float(density.sum(dtype=np.float64)))]]
        return Verdict(
            density=density,
            spread=seen.spread,
            uncertainty=float(seen.member_counts.std()),
            points=heads.astype(np.float32),
            taught=sure,
            doubtful=np.concatenate([doubtful, np.column_stack([alone[:, :2], size, alone[:, 2]])]).astype(np.float32),
            parts={
                "regression": Part(count=float(seen.density.sum(dtype=np.float64)), density=seen.density),
                "detection": Part(count=float(len(detections)), points=detections[:, [0, 1, 3]]),
            },
        )

    def count_by_confidence(self, seen: Seen, thresholds: np.ndarray) -> np.ndarray:
        """See `Method.count_by_confidence`: what W is scaled by does not depend on the detections."""
        scale = uncertainty_weight(np.ones_like(seen.density), seen.density, seen.spread)
        return fused_counts(seen, thresholds, self.config.bi_knowledge, self.stream, self.output_stride, scale)

    def networks(self) -> nn.Module:
        """See `Method.networks`."""
        return self._networks


def _trained_by(stage: Stage) -> str:
    """What a stage is there for: counter, detector, segmenter or alignment."""
    return stage.name.rpartition("/")[2]
