"""Bi-knowledge transfer (Liu et al., MM 2020): a regressor R and a detector D teach each other on the target.

1. source/regressor, source/detector-boxes, source/detector, source/localiser: on the source, R learns densities, D (on
   images with boxes first) heads, and Phi to turn a density into heads (Eqs. 3 to 7). Psi (Eq. 1) turns heads into a
   density.
2. cycle-1 to cycle-T, each a regressor and a detector stage: fuse both on the target (their heads, or their densities
   by Eq. 8; `BiKnowledge.conclude`), choose patches (`BiKnowledge.windows`), fine-tune R on the fused density and D on
   the heads.

Losses: `bi_knowledge_objectives` for R and Phi, `parts.detecting.DetectionObjective` for D.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from crowddist.data.sample import Part, Prediction, Verdict
from crowddist.data.stream import cell_density, cell_places
from crowddist.methods.base import Stage, Stream
from crowddist.methods.bi_knowledge_objectives import LocalisationObjective, RegressionObjective
from crowddist.methods.parts.candidates import Candidates, NumNear, candidates
from crowddist.methods.parts.detecting import (
    DetectionObjective,
    confidence_weight,
    found_heads,
    log_sizes,
    read_heads,
)
from crowddist.methods.parts.training import TRAINING_SETTINGS, Trained, TrainingMethod
from crowddist.models.backbones.table import BACKBONES
from crowddist.models.detector import build_detector
from crowddist.models.dssinet import build_dssinet
from crowddist.models.nested_unet import build_localiser
from crowddist.ops.density import Kernels
from crowddist.ops.fusion import fuse_density
from crowddist.ops.patches import medium_density, most_confident, patch_grid
from crowddist.ops.peaks import clear_squares, local_maxima
from crowddist.ops.scales import transformed_sizes
from crowddist.ops.sums import total
from crowddist.randomness import generator

if TYPE_CHECKING:
    from torch import Tensor

    from crowddist.config import RunConfig
    from crowddist.data.config import StreamConfig
    from crowddist.data.sample import Seen
    from crowddist.methods.settings.bi_knowledge import BiKnowledgeConfig

NUM_PATCHES = 2  # P: patches of each image that a cycle learns from.
SOURCE_SETTINGS = {
    "regressor": ("regressor_rate", "structure_weight", "count_weight", "sigma_px", "regressor_noise"),
    "detector": ("detector_rate", "update_sizes", "confidence"),
    "localiser": ("localiser_rate", "localiser_loss", "localiser_blur_px"),
}
"""Network -> the method's own settings that its stages on the source depend on, beside their schedule and crops."""


class BiKnowledge(TrainingMethod):
    """Regressor, detector and localiser (Phi, the paper's Reg-to-Det transformer), which start on the source and adapt
    in cycles.
    """

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.regressor = build_dssinet(config.regressor)
        self.detector = build_detector(config.detector)
        self.localiser = build_localiser(config.localiser)
        self._networks = nn.ModuleDict({"regressor": self.regressor, "detector": self.detector,
                                        "localiser": self.localiser})

    @property
    def settings(self) -> BiKnowledgeConfig:
        return self.config.bi_knowledge

    @property
    def stream(self) -> StreamConfig:
        """The run's, with the method's own crops and kernels and with enlarged whole images."""
        own, usual = self.settings, self.config.stream
        low, high = own.scale_jitter if own.scale_jitter[1] else usual.scale_jitter
        return replace(usual, image_size=round(usual.image_size * own.enlarge),
                       scale_jitter=(low / own.enlarge, high / own.enlarge), crop_size=own.crop_size,
                       crop_width=0, sigma_px=own.sigma_px, sigma_of_size=own.sigma_of_size)

    @property
    def output_stride(self) -> int:
        return self.regressor.output_stride

    @property
    def margin_px(self) -> int:
        """That of the network that sees farthest."""
        regressor, detector = BACKBONES[self.config.regressor.backbone], BACKBONES[self.config.detector.backbone]
        return max(regressor.uses["regressor"].context_px, detector.uses["detector"].context_px)

    @property
    def settling_px(self) -> int:
        """Large enough that a head that moves by a pixel or two has not changed."""
        return 32

    @property
    def stop_change(self) -> float:
        return self.settings.stop_change

    def plan(self) -> tuple[Stage, ...]:
        settings, size = self.settings, self.config.train.batch_size
        density = Stream(data="source", batch_size=size, stride=self.output_stride)
        heads = replace(density, heads=True)
        boxes = replace(heads, data="boxes", crop_size=settings.boxes_crop_size)
        averages = {"detector": settings.detector_average}
        source = [
            ("regressor", "regressor", settings.regressor_steps, {"source": density}),
            ("detector-boxes", "detector", settings.boxes_steps, {"boxes": boxes}),
            ("detector", "detector", settings.detector_steps, {"source": heads}),
            ("localiser", "localiser", settings.localiser_steps,
             {"source": replace(heads, share=settings.localiser_share)}),
        ]
        stages = [
            Stage(name=f"source/{name}", trains=network, steps=steps, streams=streams, title="no adaptation",
                  num_round=0, average_decay=averages.get(network, 0.0), settings=_source_settings(network))
            for name, network, steps, streams in source if steps
        ]
        for cycle in range(1, settings.cycles + 1):
            for network, crops in (("regressor", density), ("detector", heads)):
                streams = {"target": replace(crops, data="target", batch_size=settings.batch_size, labels=True,
                                             windows=network)}
                if settings.source_batch_size:
                    streams["source"] = replace(crops, batch_size=settings.source_batch_size)
                stages.append(Stage(name=f"cycle-{cycle}/{network}", trains=network, steps=settings.cycle_steps,
                                    streams=streams, title=f"cycle {cycle}", num_round=cycle,
                                    average_decay=averages.get(network, 0.0)))
        return tuple(stages)

    def objective(self, stage: Stage) -> nn.Module:
        settings = self.settings
        match stage.trains:
            case "regressor":
                return RegressionObjective(self.regressor, settings, self.config.train)
            case "detector":
                return DetectionObjective(self.detector, settings)
        return LocalisationObjective(self.localiser, settings.localiser_loss, self.output_stride,
                                     settings.localiser_blur_px)

    def trained(self, stage: Stage) -> dict[str, Trained]:
        """The stage's network; in a cycle maybe only the regressor's last layers."""
        settings, adapts = self.settings, stage.needs_labels
        parameters = list(self._networks.get_submodule(stage.trains).parameters())
        if stage.trains == "regressor" and adapts:
            parameters = self.regressor.last_two_layers()  # P
        peak = {
            ("regressor", False): settings.regressor_rate,
            ("regressor", True): settings.regressor_cycle_rate,
            ("detector", False): settings.detector_rate,
            ("detector", True): settings.detector_cycle_rate,
            ("localiser", False): settings.localiser_rate,
        }[stage.trains, adapts]
        trained = self.one_cycle(parameters, stage, peak)
        if settings.schedule == "constant":
            trained = replace(trained, schedule=lambda step: peak)
        return {stage.trains: trained}

    def predict(self, images: Tensor) -> Prediction:
        """R's density, D's heads, and the peaks of Phi's map of that density, with D's sizes there."""
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

    def conclude(self, seen: Seen, *, labels: bool = True) -> Verdict:
        """Heads: the union of D's and Phi's after non-maximum suppression. Density (its sum is the count): see
        `BiKnowledgeConfig.fusion`.

        R's density and the one drawn from D's heads are an ensemble of two; their standard deviation is the spread
        (ours). Heads that only one of them sees are ambiguous, and the loss ignores them, unless they are sure or join
        a crowd (ours).
        """
        settings, stream, stride, regressed = self.settings, self.stream, self.output_stride, seen.density
        key = (settings.nms_share, settings.union_share)
        among = seen.once(_candidates, *key)
        standing = seen.once(_standing, max(settings.merge_px // stride, 1), stride, *key)
        detected = among.detected & (among.values >= settings.confidence)
        peaks = standing & (among.values >= settings.localiser_threshold)
        chosen, doubtful = detected, [among.detected & ~detected]
        if settings.fusion != "none":
            union = detected | peaks & (among.clearing < settings.confidence)
            num_near = seen.once(_num_near, settings.crowd_px, *key)
            near = num_near(union)
            crowded = (near >= settings.crowd_heads) & (num_near(detected) >= settings.crowd_share * near)
            chosen = detected | union & crowded
            doubtful.append(union & ~chosen)
        heads, detections = among.heads[chosen], among.heads[detected]
        if labels or stream.sigma_of_size:
            sizes = transformed_sizes(heads[:, :2], heads[:, 2], seen.size[0])
            heads[:, 2] = np.where(detected[chosen], heads[:, 2], sizes)

        def psi(kept: np.ndarray, heads: np.ndarray) -> np.ndarray:
            """Eq. 1: the density of some candidates, each a Gaussian as in the source's densities."""
            if stream.sigma_of_size:  # sizes depend on who is near
                return cell_density(heads[:, :3], regressed.shape, stream, stride)
            return seen.once(_kernels, stream.sigma_px, stride, *key).density(kept)

        drawn = psi(detected, detections)
        spread = np.abs(regressed - drawn)
        spread /= 2
        density = regressed
        if settings.fusion == "heads":
            density = psi(chosen, heads)
        elif settings.fusion == "confidence":
            weight = confidence_weight(seen, settings, stream, stride)
            density = fuse_density(regressed, drawn, weight, out=drawn)
        persons = seen.once(_persons)
        verdict = Verdict(
            density=density,
            spread=spread,
            uncertainty=abs(persons - len(detections)) / 2,  # the standard deviation of two
            points=heads[:, [0, 1, 3]],
            parts={
                "regression": Part(count=persons, density=regressed),
                "detection": Part(count=float(len(detections)), points=detections[:, [0, 1, 3]]),
                "transformed": Part(count=float(peaks.sum()), points=among.heads[peaks][:, [0, 1, 3]]),
            },
        )
        if not labels:
            return verdict
        sure = ~detected[chosen] | (heads[:, 3] >= settings.sure_confidence)
        ambiguous = [heads[~sure], *(among.heads[part] for part in doubtful)]
        return replace(verdict, sizes=heads[:, 2], taught=heads[sure],
                       doubtful=np.concatenate(ambiguous) if settings.sure_confidence else None)

    def select(self, density: np.ndarray, certainty: np.ndarray) -> np.ndarray:
        """The cells of patches that the regressor may learn from: those of medium density, or all."""
        del certainty
        keep = np.full(density.shape, self.settings.patches == "random")
        patches = patch_grid(density.shape, self.settings.crop_size / self.output_stride)
        for patch in patches[self._medium(density, patches)]:
            keep[_inside(patch)] = True
        return keep

    def windows(self, density: np.ndarray, points: np.ndarray, key: str) -> dict[str, np.ndarray]:
        """Random patches of medium density for R; the patches of highest mean detection confidence for D."""
        settings, stride = self.settings, self.output_stride
        rng = generator(self.config.seed, "patches", key)
        patches = patch_grid(density.shape, settings.crop_size / stride)
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
        # An image without detections still teaches the detector what is no head.
        return {"regressor": patches[drawn], "detector": patches[confident if len(confident) else drawn]}

    def _medium(self, density: np.ndarray, patches: np.ndarray) -> np.ndarray:
        """Indexes of the patches of medium density."""
        persons = [total(density[_inside(patch)]) for patch in patches]
        return medium_density(persons, *self.settings.density_range)


def _candidates(seen: Seen, nms_share: float, union_share: float) -> Candidates:
    """D's heads and all peaks of Phi's map."""
    found, peaks = seen.once(found_heads, nms_share), seen.transformed
    assert peaks is not None  # from predict()
    best_first = np.argsort(-peaks[:, 3], kind="stable")  # also of those above 1, whose scores are cut
    return candidates(found, peaks[best_first], union_share * found[:, 2])


def _standing(seen: Seen, square: int, stride: int, *key: Any) -> np.ndarray:
    """(C,) bool, Phi's heads: the peaks that remain when each, best first, clears a square of cells round it. They are
    the same for every threshold, for a peak is cleared by better ones alone.
    """
    among = seen.once(_candidates, *key)
    peaks, standing = np.flatnonzero(~among.detected), np.zeros(len(among.detected), bool)
    cells = np.column_stack([np.rint((among.heads[peaks, :2] + 0.5) / stride - 0.5), among.values[peaks]])
    standing[peaks[clear_squares(cells, square)]] = True
    return standing


def _persons(seen: Seen) -> float:
    return total(seen.density)


def _num_near(seen: Seen, crowd_px: float, *key: Any) -> NumNear:
    return NumNear(seen.once(_candidates, *key), crowd_px)


def _kernels(seen: Seen, sigma_px: float, stride: int, *key: Any) -> Kernels:
    heads, cells = seen.once(_candidates, *key).heads, seen.density.shape
    return Kernels(cell_places(heads, cells, stride), cells, sigma_px / stride)


def _source_settings(network: str) -> tuple[str, ...]:
    """Names of all settings that a network's stages on the source depend on."""
    own = tuple(f"bi_knowledge.{name}" for name in ("schedule", *SOURCE_SETTINGS[network]))
    error = ("train.block_weight", "train.cell_error") if network == "regressor" else ()
    return (network, *own, *error, *TRAINING_SETTINGS)


def _inside(patch: np.ndarray) -> tuple[slice, slice]:
    """A patch of whole cells as an index, cut at the top and the left border."""
    top, left, height, width = patch.astype(int).tolist()
    return slice(max(top, 0), max(top + height, 0)), slice(max(left, 0), max(left + width, 0))
