"""Bi-knowledge transfer: a regressor and a detector teach each other on the target (Liu et al., MM 2020)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from crowddist.data.sample import Part, Prediction, Verdict
from crowddist.data.stream import cell_density, kernel_px
from crowddist.losses.density import count_map_loss
from crowddist.losses.detection import (
    CENTRE_WEIGHT,
    OFFSET_WEIGHT,
    SIZE_WEIGHT,
    centre_loss,
    detection_targets,
    offset_loss,
    size_loss,
)
from crowddist.losses.structure import dms_ssim_loss, focal_cross_entropy, focal_mse
from crowddist.methods.base import Constant, Method, OneCycle, Runtime, Stage, Stream, mean_over_workers, set_learning_rate
from crowddist.models.detector import Detector, build_detector
from crowddist.models.dssinet import Dssinet, build_dssinet
from crowddist.models.nested_unet import NestedUnet, build_localiser
from crowddist.models.norm import frozen_norm
from crowddist.ops.density import TRUNCATE
from crowddist.ops.fusion import fuse_density
from crowddist.ops.merging import confidence_map, merge_points, num_near
from crowddist.ops.nms import suppress_points
from crowddist.ops.patches import medium_density, most_confident, patch_grid
from crowddist.ops.peaks import read_detections, read_points
from crowddist.ops.scales import LARGEST_SIZE_PX, SMALLEST_SIZE_PX, transformed_sizes
from crowddist.randomness import generator

if TYPE_CHECKING:
    from torch import Tensor

    from crowddist.config import RunConfig
    from crowddist.data.config import StreamConfig
    from crowddist.data.sample import Batch, Seen
    from crowddist.methods.config import BiKnowledgeConfig, TrainConfig

COUNT_CELL_PX = 8
"""Side of the cells whose counts the regressor learns beside the structure (ours: that of the other methods' cells)."""
SOFTNESSES = 1024
"""How finely the softness of the transformer's densities is drawn (ours)."""
FROZEN_SHARE = 0.2
"""Part of a source stage, at its end, that trains with the running statistics, as images are counted (ours)."""


class RegressionObjective(nn.Module):
    """DMS-SSIM of the density, and the error of its counts, on source crops or on patches with pseudo-labels."""

    def __init__(self, regressor: Dssinet, settings: BiKnowledgeConfig, train_config: TrainConfig) -> None:
        super().__init__()
        self.regressor, self.settings, self.train_config = regressor, settings, train_config

    def forward(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """The losses by name, the mean over the streams; `loss` is what is minimised."""
        losses = {name: self._loss(batch) for name, batch in batches.items()}
        return {"loss": torch.stack(list(losses.values())).mean(), **{f"{name}_loss": loss for name, loss in losses.items()}}

    def _loss(self, batch: Batch) -> Tensor:
        assert batch.density is not None  # by the stage's plan
        predicted = self.regressor(batch.images).float()
        loss = predicted.new_zeros(())
        if self.settings.structure_weight:
            peak = self.regressor.output_stride**2 / (2 * math.pi * self.settings.sigma_px**2)
            loss = loss + self.settings.structure_weight * dms_ssim_loss(predicted, batch.density, empty_peak=peak)
        if self.settings.count_weight:
            factor = COUNT_CELL_PX // self.regressor.output_stride
            predicted, target = _pooled(predicted, factor), _pooled(batch.density, factor)
            error = count_map_loss(predicted, target, block_weight=self.train_config.block_weight, cell_error=self.train_config.cell_error)
            loss = loss + self.settings.count_weight * error
        return loss


class DetectionObjective(nn.Module):
    """Centre, size and offset of heads, which are squares round points, boxes, or pseudo-labels."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """The losses by name, the mean over the streams; `loss` is what is minimised."""
        parts = [self._losses(batch) for batch in batches.values()]
        losses = {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}
        weights = {"centre_loss": CENTRE_WEIGHT, "size_loss": SIZE_WEIGHT, "offset_loss": OFFSET_WEIGHT}
        return {"loss": sum((weights[name] * loss for name, loss in losses.items()), torch.tensor(0.0)), **losses}

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.heads is not None  # by the stage's plan
        maps = self.detector(batch.images)
        targets = detection_targets(batch.heads, (maps.logits.shape[2], maps.logits.shape[3]), self.detector.output_stride)
        num_heads = mean_over_workers(targets.centres.sum(), least=1.0)
        return {
            "centre_loss": centre_loss(maps.logits.float(), targets, num_heads),
            "size_loss": size_loss(maps.log_size.float(), targets, num_heads),
            "offset_loss": offset_loss(maps.offset.float(), targets, num_heads),
        }


class LocalisationObjective(nn.Module):
    """Phi: the 0-1 map of heads of their density, Eqs. 3 to 7.

    The densities are made softer at random first (ours): those of a regressor are, and a transformer that only ever saw Gaussians finds
    hardly a head in them.
    """

    def __init__(self, localiser: NestedUnet, loss: str, stride: int, blur_px: float = 0.0) -> None:
        super().__init__()
        self.localiser, self.loss, self.stride, self.blur_px = localiser, loss, stride, blur_px

    def forward(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """The losses by name; `loss` is what is minimised."""
        batch = batches["source"]
        assert batch.density is not None and batch.heads is not None  # by the stage's plan
        softness = batch.draws.remainder(SOFTNESSES) / SOFTNESSES  # of the sample, the same on any number of workers
        sigma = self.blur_px / self.stride
        density = blurred(batch.density, sigma * softness, largest=sigma)
        answer = self.localiser(density, self.stride).float()
        truth = localisation_map(batch.heads, (answer.shape[2], answer.shape[3]), self.stride)
        if self.loss == "mse":
            return {"loss": functional.mse_loss(answer, truth)}
        if self.loss == "focal_cross_entropy":
            return {"loss": focal_cross_entropy(answer, truth)}
        focal = focal_mse(answer, truth)
        if self.loss == "focal_mse":
            return {"loss": focal}
        structure = dms_ssim_loss(answer, truth, empty_peak=1.0)
        return {"loss": focal + structure, "focal_mse": focal, "dms_ssim": structure}


class BiKnowledge(Method):
    """Regressor R, detector D and transformer Phi, made on the source; then cycles of fused labels and fine-tuning on the target."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.settings = config.bi_knowledge
        self.regressor = build_dssinet(config.regressor)
        self.detector = build_detector(config.detector)
        self.localiser = build_localiser(config.localiser)
        self._networks = nn.ModuleDict({"regressor": self.regressor, "detector": self.detector, "localiser": self.localiser})
        self._optimizer: torch.optim.Optimizer | None = None

    @property
    def stream(self) -> StreamConfig:
        """See `Method.stream`: with crops and kernels of the method's own, and larger whole images."""
        own, usual = self.settings, self.config.stream
        low, high = usual.scale_jitter
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
        """See `Method.margin_px`."""
        return 256

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
            Stage(name=f"source/{name}", trains=network, steps=steps, streams=streams, title="no adaptation", num_round=0)
            for name, network, steps, streams in source
            if steps
        ]
        for cycle in range(1, settings.cycles + 1):
            for network in ("regressor", "detector"):
                with_heads = network == "detector"
                patches = Stream(data="target", batch_size=settings.batch_size, labels=True, windows=network, stride=stride, heads=with_heads)
                streams = {"target": patches}
                if settings.source_batch_size:
                    streams["source"] = Stream(data="source", batch_size=settings.source_batch_size, stride=stride, heads=with_heads)
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
        if stage.trains == "regressor" and adapts and settings.regressor_tuned == "last_two_layers":
            trained = self.regressor.last_two_layers()
        for parameter in self._networks.parameters():
            parameter.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)
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
            "localiser": lambda: LocalisationObjective(self.localiser, settings.localiser_loss, self.output_stride, settings.localiser_blur_px),
        }
        network.to(runtime.device)
        self._stage, self._network = stage, network
        peak = rates[stage.trains, adapts]
        self._schedule = Constant(peak) if settings.schedule == "constant" else OneCycle(peak, stage.steps)
        self._optimizer = torch.optim.AdamW(trained, lr=self._schedule.peak, weight_decay=self.config.train.weight_decay)
        self._objective = runtime.wrap(objectives[stage.trains]())

    def step(self, step: int, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        """See `Method.step`."""
        assert self._optimizer is not None  # start() comes first
        self._objective.train()
        set_learning_rate(self._optimizer, self._schedule.at(step))
        with frozen_norm(self._network, frozen=self._stage.needs_labels or step >= (1 - FROZEN_SHARE) * self._stage.steps):
            losses = self._objective(batches)
        self._optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        self._optimizer.step()
        return {name: value.detach() for name, value in losses.items()}

    def predict(self, images: Tensor) -> Prediction:
        """R's density, D's heads, and the heads that Phi makes of the density, with D's sizes there."""
        self._networks.eval()
        settings, stride = self.settings, self.detector.output_stride
        with torch.inference_mode():
            density = self.regressor(images).float()
            maps = self.detector(images)
            localisation = self.localiser(density, self.output_stride).float()
            log_size = maps.log_size.clamp(math.log(SMALLEST_SIZE_PX), math.log(LARGEST_SIZE_PX))
            confidence, log_size, offset = (part.float().cpu().numpy() for part in (maps.logits.sigmoid(), log_size, maps.offset))
        if settings.localiser_loss == "focal_cross_entropy":
            localisation = localisation.sigmoid()
        detections, transformed = [], []
        for index in range(len(images)):
            found = read_detections(confidence[index, 0], log_size[index, 0], offset[index], stride, settings.confidence)
            detections.append(_distinct(found, settings.nms_share))
            points = read_points(localisation[index, 0], settings.localiser_threshold, max(settings.merge_px // self.output_stride, 1))
            points[:, :2] = (points[:, :2] + 0.5) * self.output_stride - 0.5
            cells = np.clip((points[:, :2] + 0.5) / stride, 0, [log_size.shape[3] - 1, log_size.shape[2] - 1]).astype(np.int64)
            sizes = np.exp(log_size[index, 0][cells[:, 1], cells[:, 0]])
            transformed.append(np.column_stack([points[:, :2], sizes, np.clip(points[:, 2], 0, 1)]).astype(np.float32))
        return Prediction(density=density, spread=torch.zeros_like(density), detections=detections, transformed=transformed)

    def conclude(self, seen: Seen) -> Verdict:
        """The heads: union of both and non-maximum suppression. The density, whose sum is the count: as `BiKnowledgeConfig.fusion` says.

        The two estimates of the density are an ensemble of two: their standard deviation is the spread (ours).
        """
        assert seen.detections is not None and seen.transformed is not None  # of predict()
        settings, regressed = self.settings, seen.density
        detections = _distinct(seen.detections, settings.nms_share)  # tiles have seen some heads on their seams twice
        drawn = self.drawn_density(detections, regressed.shape)
        spread = np.abs(regressed - drawn) / 2
        heads, density = detections, regressed
        if settings.fusion != "none":
            kept = merge_points(detections[:, [0, 1, 3]], seen.transformed[:, [0, 1, 3]], settings.nms_share * detections[:, 2])
            heads = np.concatenate([detections, seen.transformed])[kept]
            in_crowd = num_near(heads[:, :2], settings.crowd_px) >= settings.crowd_heads
            chosen = (kept < len(detections)) | in_crowd
            kept, heads = kept[chosen], heads[chosen]
            heads[:, 2] = np.where(kept < len(detections), heads[:, 2], transformed_sizes(heads[:, :2], heads[:, 2], seen.size[0]))
        if settings.fusion == "heads":
            density = self.drawn_density(heads, regressed.shape)
        elif settings.fusion == "confidence":
            density = fuse_density(regressed, drawn, self.confidence_weight(detections, regressed.shape), out=drawn)
        counts = np.array([regressed.sum(dtype=np.float64), len(detections)])
        return Verdict(
            density=density,
            spread=spread,
            uncertainty=float(counts.std()),
            points=heads[:, [0, 1, 3]],
            sizes=heads[:, 2],
            parts={
                "regression": Part(count=float(counts[0])),
                "detection": Part(count=float(counts[1]), points=detections[:, [0, 1, 3]]),
                "transformed": Part(count=float(len(seen.transformed)), points=seen.transformed[:, [0, 1, 3]]),
            },
        )

    def drawn_density(self, heads: np.ndarray, cells: tuple[int, int]) -> np.ndarray:
        """Psi, Eq. 1: persons per cell of M x 4 heads, each a Gaussian as the source's densities have them."""
        return cell_density(heads[:, :3], cells, self.stream, self.output_stride)

    def confidence_weight(self, detections: np.ndarray, cells: tuple[int, int]) -> np.ndarray:
        """W of Eq. 8 of D x 4 detections: a window is as large as the kernel that Psi draws there."""
        stride = self.output_stride
        places = np.column_stack([(detections[:, :2] + 0.5) / stride - 0.5, detections[:, 3]])
        return confidence_map(places, cells, np.ceil(TRUNCATE * kernel_px(detections, self.stream) / stride))

    def select(self, density: np.ndarray, spread: np.ndarray) -> np.ndarray:
        """The patches that the regressor may learn from: those of medium density, or any."""
        del spread
        keep = np.full(density.shape, self.settings.patches == "random")
        patches = patch_grid(density.shape, self.stream.crop_size / self.output_stride)
        for patch in patches[medium_density(_mass_inside(density, patches))]:
            keep[_inside(patch)] = True
        return keep

    def windows(self, density: np.ndarray, points: np.ndarray, key: str) -> dict[str, np.ndarray]:
        """Patches of medium density, drawn at random, for R; patches of the highest mean confidence of detection for D."""
        settings, stride = self.settings, self.output_stride
        rng = generator(self.config.seed, "patches", key)
        patches = patch_grid(density.shape, self.stream.crop_size / stride)
        number = min(settings.num_patches, len(patches))
        if settings.patches == "random":
            return {network: patches[np.sort(rng.choice(len(patches), number, replace=False))] for network in ("regressor", "detector")}
        medium = medium_density(_mass_inside(density, patches))
        drawn = np.sort(rng.choice(medium, min(number, len(medium)), replace=False))
        x, y = ((points[:, axis] + 0.5) / stride for axis in (0, 1))
        top, left, height, width = (patches[:, [column]] for column in range(4))
        inside = (x >= left) & (x < left + width) & (y >= top) & (y < top + height)
        confident = most_confident(points[:, 2], inside, number)
        # An image where nobody was found still shows the detector what is no head.
        return {"regressor": patches[drawn], "detector": patches[confident if len(confident) else drawn]}

    def networks(self) -> nn.Module:
        """See `Method.networks`."""
        return self._networks

    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        """See `Method.optimizers`."""
        return {} if self._optimizer is None else {self._stage.trains: self._optimizer}


def localisation_map(heads: list[Tensor], cells: tuple[int, int], stride: int) -> Tensor:
    """M^D: (N, 1, h, w), 1 in the cell of each head's centre, else 0. Args: heads (M, 2 or more) x, y in px for each image."""
    truth = torch.zeros(len(heads), 1, *cells, device=heads[0].device)
    for one, points in zip(truth, heads, strict=True):
        column, row = (((points[:, axis] + 0.5) / stride).long().clamp(0, cells[1 - axis] - 1) for axis in (0, 1))
        one[0, row, column] = 1.0
    return truth


def blurred(maps: Tensor, sigma: Tensor, *, largest: float) -> Tensor:
    """(N, 1, h, w) maps, each smoothed by a Gaussian of its own sigma, (N,) cells; a sigma of 0 leaves a map as it is.

    Kernels reach as far as one of the `largest` sigma does, so a map comes out the same whatever others are beside it.
    """
    reach = max(math.ceil(3 * largest), 1)
    offsets = torch.arange(-reach, reach + 1, device=maps.device)
    kernels = torch.exp(-offsets.square() / (2 * sigma.to(maps.device).clamp(min=1e-3)[:, None].square()))
    kernels = (kernels / kernels.sum(1, keepdim=True))[:, None]
    rows = functional.pad(maps.transpose(0, 1), (reach, reach, 0, 0), mode="replicate")
    rows = functional.conv2d(rows, kernels[:, :, None, :], groups=len(maps))
    columns = functional.pad(rows, (0, 0, reach, reach), mode="replicate")
    return functional.conv2d(columns, kernels[:, :, :, None], groups=len(maps)).transpose(0, 1)


def _pooled(density: Tensor, factor: int) -> Tensor:
    """Persons per larger cell."""
    return functional.avg_pool2d(density, factor) * factor**2


def _distinct(detections: np.ndarray, share: float) -> np.ndarray:
    """The D x 4 detections that no better one within its share of its size says already."""
    return detections[suppress_points(detections[:, [0, 1, 3]], share * detections[:, 2])]


def _inside(patch: np.ndarray) -> tuple[slice, slice]:
    """The cells of a patch of whole cells, as far as it goes to the right and the bottom."""
    top, left, height, width = patch.astype(int).tolist()
    return slice(max(top, 0), max(top + height, 0)), slice(max(left, 0), max(left + width, 0))


def _mass_inside(density: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """(P,) persons inside patches given in cells."""
    return np.array([density[_inside(patch)].sum(dtype=np.float64) for patch in patches])
