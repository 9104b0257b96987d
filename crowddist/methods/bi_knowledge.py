"""Bi-knowledge transfer: a regressor and a detector teach each other on the target (Liu et al., MM 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from crowddist.data.sample import Part, Prediction, Verdict
from crowddist.data.stream import cell_density
from crowddist.methods.base import Constant, Method, OneCycle, Runtime, Stage, Stream, make_optimizer, set_learning_rate
from crowddist.methods.bi_knowledge_objectives import LocalisationObjective, RegressionObjective
from crowddist.methods.parts.detecting import (
    DetectionObjective,
    confidence_weight,
    distinct,
    fused_counts,
    log_sizes,
    read_heads,
)
from crowddist.models.backbones.table import BACKBONES
from crowddist.models.detector import build_detector
from crowddist.models.dssinet import build_dssinet
from crowddist.models.nested_unet import build_localiser
from crowddist.models.norm import frozen_norm
from crowddist.ops.fusion import fuse_density
from crowddist.ops.merging import merge_points, num_near
from crowddist.ops.patches import medium_density, most_confident, patch_grid
from crowddist.ops.peaks import clear_squares, local_maxima
from crowddist.ops.scales import transformed_sizes
from crowddist.randomness import generator

if TYPE_CHECKING:
    from torch import Tensor

    from crowddist.config import RunConfig
    from crowddist.data.config import StreamConfig
    from crowddist.data.sample import Batch, Seen
    from crowddist.methods.settings.bi_knowledge import BiKnowledgeConfig

NUM_PATCHES = 2
"""Patches of each image that a cycle learns from. P."""
FROZEN_SHARE = 0.2
"""Part of a source stage, at its end, that trains with the running statistics, as images are counted (ours)."""


class BiKnowledge(Method):
    """Regressor R, detector D and transformer Phi, made on the source; then cycles of fused labels and fine-tuning on
    the target.
    """

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.regressor = build_dssinet(config.regressor)
        self.detector = build_detector(config.detector)
        self.localiser = build_localiser(config.localiser)
        self._networks = nn.ModuleDict({"regressor": self.regressor, "detector": self.detector,
                                        "localiser": self.localiser})
        self._optimizer: torch.optim.Optimizer | None = None

    @property
    def settings(self) -> BiKnowledgeConfig:
        """The method's part of the configuration."""
        return self.config.bi_knowledge

    @property
    def stream(self) -> StreamConfig:
        """See `Method.stream`: with crops and kernels of the method's own, and larger whole images."""
        own, usual = self.settings, self.config.stream
        low, high = own.scale_jitter if own.scale_jitter[1] else usual.scale_jitter
        return replace(
            usual,
            image_size=round(usual.image_size * own.enlarge),
            scale_jitter=(low / own.enlarge, high / own.enlarge),
            crop_size=own.crop_size,
            sigma_px=own.sigma_px,
            sigma_of_size=own.sigma_of_size,
        )

    @property
    def output_stride(self) -> int:
        """See `Method.output_stride`."""
        return self.regressor.output_stride

    @property
    def margin_px(self) -> int:
        """See `Method.margin_px`: of the network that looks farthest."""
        regressor, detector = BACKBONES[self.config.regressor.backbone], BACKBONES[self.config.detector.backbone]
        return max(regressor.uses["regressor"].context_px, detector.uses["detector"].context_px)

    @property
    def settling_px(self) -> int:
        """See `Method.settling_px`: a head that moves by a pixel or two has not changed."""
        return 32

    @property
    def stop_change(self) -> float:
        """See `Method.stop_change`."""
        return self.settings.stop_change

    def plan(self) -> tuple[Stage, ...]:
        """R, D and Phi on the source; then, in each cycle, R and D on patches of the target."""
        settings, stride, size = self.settings, self.output_stride, self.config.train.batch_size
        density = {"source": Stream(data="source", batch_size=size, stride=stride)}
        heads = {"source": Stream(data="source", batch_size=size, stride=stride, heads=True)}
        some = {"source": replace(heads["source"], share=settings.localiser_share)}
        boxes = {"boxes": Stream(data="boxes", batch_size=size, stride=stride, heads=True)}
        source = [
            ("regressor", "regressor", settings.regressor_steps, density),
            ("detector-boxes", "detector", settings.boxes_steps, boxes),
            ("detector", "detector", settings.detector_steps, heads),
            ("localiser", "localiser", settings.localiser_steps, some),
        ]
        stages = [
            Stage(name=f"source/{name}", trains=network, steps=steps, streams=streams, title="no adaptation",
                  num_round=0)
            for name, network, steps, streams in source
            if steps
        ]
        for cycle in range(1, settings.cycles + 1):
            for network in ("regressor", "detector"):
                with_heads = network == "detector"
                patches = Stream(data="target", batch_size=settings.batch_size, labels=True, windows=network,
                                 stride=stride, heads=with_heads)
                streams = {"target": patches}
                if settings.source_batch_size:
                    streams["source"] = Stream(data="source", batch_size=settings.source_batch_size, stride=stride,
                                               heads=with_heads)
                stages.append(
                    Stage(
                        name=f"cycle-{cycle}/{network}",
                        trains=network,
                        steps=settings.cycle_steps,
                        streams=streams,
                        title=f"cycle {cycle}",
                        num_round=cycle,
                    )
                )
        return tuple(stages)

    def start(self, stage: Stage, runtime: Runtime) -> None:
        """See `Method.start`."""
        settings, adapts = self.settings, stage.needs_labels
        network = self._networks[stage.trains]
        trained = list(network.parameters())
        if stage.trains == "regressor" and adapts:
            trained = self.regressor.last_two_layers()  # P
        for parameter in self._networks.parameters():
            parameter.requires_grad_(False)
        rates = {
            ("regressor", False): settings.regressor_rate,
            ("regressor", True): settings.regressor_cycle_rate,
            ("detector", False): settings.detector_rate,
            ("detector", True): settings.detector_cycle_rate,
            ("localiser", False): settings.localiser_rate,
        }
        objectives = {
            "regressor": lambda: RegressionObjective(self.regressor, settings, self.config.train),
            "detector": lambda: DetectionObjective(self.detector),
            "localiser": lambda: LocalisationObjective(self.localiser, settings.localiser_loss, self.output_stride,
                                                       settings.localiser_blur_px),
        }
        network.to(runtime.device)
        self._stage, self._network = stage, network
        peak = rates[stage.trains, adapts]
        self._schedule = Constant(peak) if settings.schedule == "constant" else OneCycle(peak, stage.steps)
        self._optimizer = make_optimizer(network, trained, self.config.train,
                                         weight_decay=self.config.train.weight_decay)
        self._objective = runtime.wrap(objectives[stage.trains]())

    def step(self, step: int, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """See `Method.step`."""
        assert self._optimizer is not None  # start() comes first
        self._objective.train()
        set_learning_rate(self._optimizer, self._schedule.at(step))
        with frozen_norm(self._network,
                         frozen=self._stage.needs_labels or step >= (1 - FROZEN_SHARE) * self._stage.steps):
            losses = self._objective(batches)
        self._optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        self._optimizer.step()
        return {name: value.detach() for name, value in losses.items()}

    def predict(self, images: Tensor) -> Prediction:
        """R's density, D's heads, and the peaks of the map that Phi makes of the density, with D's sizes there."""
        self._networks.eval()
        settings, stride = self.settings, self.detector.output_stride
        with torch.inference_mode():
            density = self.regressor(images).float()
            maps = self.detector(images)
            localisation = self.localiser(density, self.output_stride).float()
            log_size = log_sizes(maps).cpu().numpy()
        if settings.localiser_loss == "focal_cross_entropy":
            localisation = localisation.sigmoid()
        transformed = []
        for index in range(len(images)):
            values = localisation[index, 0].cpu().numpy()
            rows, columns = local_maxima(values, settings.localiser_threshold)
            places = (np.column_stack([columns, rows]) + 0.5) * self.output_stride - 0.5
            cells = np.clip((places + 0.5) / stride, 0, [log_size.shape[3] - 1, log_size.shape[2] - 1]).astype(np.int64)
            sizes = np.exp(log_size[index, 0][cells[:, 1], cells[:, 0]])
            transformed.append(np.column_stack([places, sizes, values[rows, columns]]).astype(np.float32))
        return Prediction(density=density, spread=torch.zeros_like(density),
                          detections=read_heads(maps, stride, settings), transformed=transformed)

    def conclude(self, seen: Seen) -> Verdict:
        """The heads: union of both and non-maximum suppression. The density, whose sum is the count: as
        `BiKnowledgeConfig.fusion` says.

        The two estimates of the density are an ensemble of two: their standard deviation is the spread (ours). The
        labels leave open what only one of them sees, unless it is sure or joins a crowd (ours).
        """
        assert seen.detections is not None and seen.transformed is not None  # of predict()
        settings, regressed = self.settings, seen.density
        found = distinct(seen.detections, settings.nms_share)  # tiles have seen some heads on their seams twice
        detections, doubtful = found[found[:, 3] >= settings.confidence], [found[found[:, 3] < settings.confidence]]
        drawn = self.drawn_density(detections, regressed.shape)
        spread = np.abs(regressed - drawn) / 2
        heads, density, detected = detections, regressed, np.ones(len(detections), bool)
        transformed = self.transformed_points(seen.transformed)
        if settings.fusion != "none":
            kept = merge_points(detections[:, [0, 1, 3]], transformed[:, [0, 1, 3]],
                                settings.nms_share * detections[:, 2])
            heads = np.concatenate([detections, transformed])[kept]
            detected = kept < len(detections)
            near = num_near(heads[:, :2], settings.crowd_px)
            seen_near = num_near(heads[:, :2], settings.crowd_px, of=heads[detected, :2])
            chosen = detected | ((near >= settings.crowd_heads) & (seen_near >= settings.crowd_share * near))
            doubtful.append(heads[~chosen])
            heads, detected = heads[chosen], detected[chosen]
            heads[:, 2] = np.where(detected, heads[:, 2], transformed_sizes(heads[:, :2], heads[:, 2], seen.size[0]))
        if settings.fusion == "heads":
            density = self.drawn_density(heads, regressed.shape)
        elif settings.fusion == "confidence":
            density = fuse_density(regressed, drawn, self.confidence_weight(detections, regressed.shape), out=drawn)
        sure = ~detected | (heads[:, 3] >= settings.sure_confidence)
        counts = np.array([regressed.sum(dtype=np.float64), len(detections)])
        return Verdict(
            density=density,
            spread=spread,
            uncertainty=float(counts.std()),
            points=heads[:, [0, 1, 3]],
            sizes=heads[:, 2],
            taught=heads[sure],
            doubtful=np.concatenate([heads[~sure], *doubtful]) if settings.sure_confidence else None,
            parts={
                "regression": Part(count=float(counts[0]), density=regressed),
                "detection": Part(count=float(counts[1]), points=detections[:, [0, 1, 3]]),
                "transformed": Part(count=float(len(transformed)), points=transformed[:, [0, 1, 3]]),
            },
        )

    def count_by_confidence(self, seen: Seen, thresholds: np.ndarray) -> np.ndarray | None:
        """See `Method.count_by_confidence`: where Eq. 8 fuses. Merged heads must be merged anew for each threshold; a
        regressor alone has none.
        """
        if self.settings.fusion != "confidence":
            return None
        return fused_counts(seen, thresholds, self.settings, self.stream, self.output_stride)

    def transformed_points(self, peaks: np.ndarray) -> np.ndarray:
        """Phi's heads of its P x 4 peaks, best first: those of the least value, and of those within one square the
        best. Scores are at most 1.
        """
        strong = peaks[peaks[:, 3] >= self.settings.localiser_threshold]
        cells = np.column_stack([np.rint((strong[:, :2] + 0.5) / self.output_stride - 0.5), strong[:, 3]])
        heads = strong[clear_squares(cells, max(self.settings.merge_px // self.output_stride, 1))]
        heads[:, 3] = np.clip(heads[:, 3], 0, 1)
        return heads

    def drawn_density(self, heads: np.ndarray, cells: tuple[int, int]) -> np.ndarray:
        """Psi, Eq. 1: persons per cell of M x 4 heads, each a Gaussian as the source's densities have them."""
        return cell_density(heads[:, :3], cells, self.stream, self.output_stride)

    def confidence_weight(self, detections: np.ndarray, cells: tuple[int, int]) -> np.ndarray:
        """W of Eq. 8 of D x 4 detections."""
        return confidence_weight(detections, cells, self.stream, self.output_stride, self.settings.weight_exponent)

    def select(self, density: np.ndarray, spread: np.ndarray) -> np.ndarray:
        """The patches that the regressor may learn from: those of medium density, or any."""
        del spread
        keep = np.full(density.shape, self.settings.patches == "random")
        patches = patch_grid(density.shape, self.stream.crop_size / self.output_stride)
        for patch in patches[self._medium(density, patches)]:
            keep[_inside(patch)] = True
        return keep

    def windows(self, density: np.ndarray, points: np.ndarray, key: str) -> dict[str, np.ndarray]:
        """Patches of medium density, drawn at random, for R; patches of the highest mean confidence of detection for
        D.
        """
        settings, stride = self.settings, self.output_stride
        rng = generator(self.config.seed, "patches", key)
        patches = patch_grid(density.shape, self.stream.crop_size / stride)
        number = min(NUM_PATCHES, len(patches))
        if settings.patches == "random":
            return {network: patches[np.sort(rng.choice(len(patches), number, replace=False))]
                    for network in ("regressor", "detector")}
        medium = self._medium(density, patches)
        drawn = np.sort(rng.choice(medium, min(number, len(medium)), replace=False))
        x, y = ((points[:, axis] + 0.5) / stride for axis in (0, 1))
        top, left, height, width = (patches[:, [column]] for column in range(4))
        inside = (x >= left) & (x < left + width) & (y >= top) & (y < top + height)
        confident = most_confident(points[:, 2], inside, number)
        # An image where nobody was found still shows the detector what is no head.
        return {"regressor": patches[drawn], "detector": patches[confident if len(confident) else drawn]}

    def _medium(self, density: np.ndarray, patches: np.ndarray) -> np.ndarray:
        """Indexes of the patches of medium density."""
        return medium_density(_mass_inside(density, patches), *self.settings.density_range)

    def networks(self) -> nn.Module:
        """See `Method.networks`."""
        return self._networks

    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        """See `Method.optimizers`."""
        return {} if self._optimizer is None else {self._stage.trains: self._optimizer}


def _inside(patch: np.ndarray) -> tuple[slice, slice]:
    """The cells of a patch of whole cells, as far as it goes to the right and the bottom."""
    top, left, height, width = patch.astype(int).tolist()
    return slice(max(top, 0), max(top + height, 0)), slice(max(left, 0), max(left + width, 0))


def _mass_inside(density: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """(P,) persons inside patches given in cells."""
    return np.array([density[_inside(patch)].sum(dtype=np.float64) for patch in patches])
