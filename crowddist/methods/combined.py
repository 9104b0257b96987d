"""Combined (ours; in no paper): one counter that learns orientation and semantics, and pseudo-labels from its ensemble
and a detector.

1. source/counter, source/segmenter, source/detector: one network each, on the source.
2. orientation: a new counter on source density and orientation, both from the first step (`parts.orientation`).
3. alignment: source density, semantic consistency and orientation (`AlignmentObjective`).
4. labels-1 to labels-K, each a counter and a detector stage: both learn from the fused labels (`Combined.conclude`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from crowddist.data.sample import Part, Verdict
from crowddist.data.stream import cell_places, kernel_px
from crowddist.methods.base import Stage
from crowddist.methods.parts.candidates import Candidates, candidates
from crowddist.methods.parts.detecting import DetectionObjective, confidence_weight, found_heads, read_heads
from crowddist.methods.parts.orientation import (
    ORIENTATION,
    OrientationObjective,
    orientation_stages,
    orientation_terms,
    whole_streams,
)
from crowddist.methods.parts.semantics import SemanticMethod, SemanticObjective
from crowddist.methods.parts.training import TRAINING_SETTINGS, Trained
from crowddist.models.backbones.table import BACKBONES
from crowddist.models.detector import build_detector
from crowddist.ops.density import Kernels
from crowddist.ops.fusion import fuse_density, relative_uncertainty
from crowddist.ops.peaks import density_points

if TYPE_CHECKING:
    from torch import Tensor, nn

    from crowddist.config import RunConfig
    from crowddist.data.config import StreamConfig
    from crowddist.data.sample import Batch, Prediction, Seen


DETECTOR_SETTINGS = ("detector", "bi_knowledge.detector_rate", "bi_knowledge.update_sizes", "bi_knowledge.confidence",
                     *TRAINING_SETTINGS)
"""Settings that the detector's stage on the source depends on."""


class AlignmentObjective(SemanticObjective):
    """Stage 1 of Liu et al., CVPR 2022, (orientation) plus Eq. 5 of Han et al., ICASSP 2020; the sum is ours."""

    def forward(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        losses, settings = super().forward(batches), self.config.self_supervision
        if settings.orientation_steps == 0:
            return losses
        terms = orientation_terms(self.counter, batches)
        return {**losses, **terms, "loss": losses["loss"] + settings.orientation_weight * terms["orientation_loss"]}


class Combined(SemanticMethod):
    """Self-supervision, semantic consistency and bi-knowledge transfer, each with its own settings."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.detector = build_detector(config.detector)
        self._networks.add_module("detector", self.detector)

    def plan(self) -> tuple[Stage, ...]:
        config, rounds = self.config, self.config.self_supervision
        stages = [
            # As semantic consistency begins, so that both may be trained once.
            self.source_stage("source/counter", draws="source"),
            *self.segmenter_stages(),
            Stage(name="source/detector", steps=config.bi_knowledge.detector_steps,
                  streams={"source": replace(self.source_stream(), heads=True)}, title="no adaptation", num_round=0,
                  settings=DETECTOR_SETTINGS),
        ]
        oriented = orientation_stages(self, trains="counter")
        aligned = {**self.aligned_streams(), **(whole_streams(config) if oriented else {})}
        stages += [*oriented, Stage(name="alignment", steps=config.semantic_consistency.steps, streams=aligned,
                                    title="alignment", num_round=1 + len(oriented))]
        streams = self.labelled_streams()
        # The teacher is a counter's, and the detector's losses know no erased cells.
        with_heads = {name: replace(stream, heads=True, weak_scales=None, erased_share=0.0)
                      for name, stream in streams.items()}
        for number in range(1, rounds.rounds + 1):
            row: dict[str, Any] = {"title": f"labels, round {number}", "num_round": 1 + len(oriented) + number}
            stages += [
                Stage(name=f"labels-{number}/counter", steps=rounds.round_steps, streams=streams, **row),
                Stage(name=f"labels-{number}/detector", steps=config.bi_knowledge.cycle_steps, streams=with_heads,
                      **row),
            ]
        return tuple(stages)

    def objective(self, stage: Stage) -> nn.Module:
        if stage.round_name == ORIENTATION:
            return OrientationObjective(self.counter, self.config.train,
                                        orientation_weight=self.config.self_supervision.orientation_weight)
        if stage.name == "alignment":
            return AlignmentObjective(self.counter, self.semantics, self.config)
        if stage.name.endswith("/detector"):
            return DetectionObjective(self.detector, self.config.bi_knowledge)
        return super().objective(stage)

    def trained(self, stage: Stage) -> dict[str, Trained]:
        """Each network at the rate of the method that it comes from."""
        if stage.round_name == ORIENTATION:
            return {"counter": self.one_cycle(list(self.counter.parameters()), stage, self.config.train.learning_rate)}
        if stage.name == "alignment":
            return self.trained_by_alignment(stage, list(self.counter.parameters()))
        if stage.name.endswith("/detector"):
            settings = self.config.bi_knowledge
            rate = settings.detector_cycle_rate if stage.needs_labels else settings.detector_rate
            return {"detector": self.one_cycle(list(self.detector.parameters()), stage, rate)}
        return super().trained(stage)

    @property
    def margin_px(self) -> int:
        """That of the network that sees farthest."""
        return max(super().margin_px, BACKBONES[self.config.detector.backbone].uses["detector"].context_px)

    def label_views(self) -> tuple[float, ...]:
        return self.config.self_supervision.label_views or super().label_views()

    def predict(self, images: Tensor) -> Prediction:
        """The ensemble's density and spread; the detector's heads."""
        self.detector.eval()
        with torch.inference_mode():
            maps = self.detector(images)
        return replace(super().predict(images),
                       detections=read_heads(maps, self.detector.output_stride, self.config.bi_knowledge))

    def conclude(self, seen: Seen, *, labels: bool = True) -> Verdict:
        """Density (its sum is the count): Eq. 8 of Liu et al., MM 2020, with W scaled by the ensemble's relative
        uncertainty (ours).

        Heads: detections and, away from them, peaks of the counter's density; of both the surest, as many as the count
        (ours). Labels teach sure detections as heads; the loss ignores weaker detections and the peaks.
        """
        settings, stride, stream = self.config.bi_knowledge, self.output_stride, self.stream
        among = seen.once(_candidates, settings.nms_share, settings.union_share, stride, stream.sigma_px)
        detected = among.detected & (among.values >= settings.confidence)
        alone = ~among.detected & (among.clearing < settings.confidence)
        detections = among.heads[detected]
        found = seen.once(found_heads, settings.nms_share)
        drawn = seen.once(_kernels, settings.nms_share, stream, stride).density(found[:, 3] >= settings.confidence)
        weight = confidence_weight(seen, settings, stream, stride) * seen.once(_uncertainty)
        density = fuse_density(seen.density, drawn, weight.astype(np.float32))
        count = float(density.sum(dtype=np.float64))
        verdict = Verdict(
            density=density,
            spread=seen.spread,
            uncertainty=float(seen.member_counts.std()),
            points=among.heads[detected | alone][:round(count), [0, 1, 3]],
            parts={
                "regression": Part(count=float(seen.density.sum(dtype=np.float64)), density=seen.density),
                "detection": Part(count=float(len(detections)), points=detections[:, [0, 1, 3]]),
            },
        )
        if not labels:
            return verdict
        sure = among.detected & (among.values >= max(settings.sure_confidence, settings.confidence))
        peaks = among.heads[alone]
        peaks[:, 2] = float(np.median(detections[:, 2])) if len(detections) else stride
        return replace(verdict, taught=among.heads[sure],
                       doubtful=np.concatenate([among.heads[among.detected & ~sure], peaks]))


def _candidates(seen: Seen, nms_share: float, union_share: float, stride: int, sigma_px: float) -> Candidates:
    """The detector's heads and the peaks of the counter's density, which have no size."""
    found, peaks = seen.once(found_heads, nms_share), density_points(seen.density, stride, sigma_px)
    return candidates(found, np.insert(peaks, 2, 0, axis=1), union_share * found[:, 2])


def _kernels(seen: Seen, nms_share: float, stream: StreamConfig, stride: int) -> Kernels:
    found, cells = seen.once(found_heads, nms_share), seen.density.shape
    return Kernels(cell_places(found, cells, stride), cells, kernel_px(found, stream) / stride)


def _uncertainty(seen: Seen) -> np.ndarray:
    return relative_uncertainty(seen.density, seen.spread)
