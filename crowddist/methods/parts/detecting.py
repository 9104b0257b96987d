"""Methods with a head detector: its losses, and how its maps become heads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from crowddist.data.stream import cell_places, kernel_px
from crowddist.losses import detection
from crowddist.methods.parts.training import mean_over_workers
from crowddist.ops.merging import strongest
from crowddist.ops.nms import suppress_points
from crowddist.ops.peaks import read_detections
from crowddist.ops.scales import LARGEST_SIZE_PX, SMALLEST_SIZE_PX

if TYPE_CHECKING:
    from torch import Tensor

    from crowddist.data.config import StreamConfig
    from crowddist.data.sample import Batch, Seen
    from crowddist.methods.settings.bi_knowledge import BiKnowledgeConfig
    from crowddist.models.detector import Detector, DetectorMaps

WINDOW_SIGMAS = 3
"""Half a window of W in standard deviations of the head's Gaussian, so that k = 6 sigma + 1. C (DSSINet)."""


class DetectionObjective(nn.Module):
    """Losses of the heads' centres, sizes and offsets, from points, boxes or pseudo-labels; mean over the streams.

    Args:
        settings: tell whether sizes of points are updated; None: they are not.
    """

    def __init__(self, detector: Detector, settings: BiKnowledgeConfig | None = None) -> None:
        super().__init__()
        self.detector, self.settings = detector, settings

    def forward(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        parts = [self._losses(batch) for batch in batches.values()]
        losses = {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}
        weights = {"centre_loss": detection.CENTRE_WEIGHT, "size_loss": detection.SIZE_WEIGHT,
                   "offset_loss": detection.OFFSET_WEIGHT}
        return {"loss": sum((weights[name] * loss for name, loss in losses.items()), torch.tensor(0.0)), **losses}

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.heads is not None  # by the stage's plan
        maps = self.detector(batch.images)
        cells, stride = (maps.logits.shape[2], maps.logits.shape[3]), self.detector.output_stride
        targets = detection.detection_targets(self._heads(batch, maps), cells, stride)
        doubtful = None
        if batch.doubtful is not None:
            doubtful = detection.reach(batch.doubtful, cells, stride)
        elif batch.keep is not None:  # outside the region of interest of labelled images nobody is annotated
            doubtful = functional.interpolate(batch.keep, cells, mode="area") < 0.5
        num_heads = mean_over_workers(targets.centres.sum(), least=1.0)
        return {
            "centre_loss": detection.centre_loss(maps.logits.float(), targets, num_heads, doubtful=doubtful),
            "size_loss": detection.size_loss(maps.log_size.float(), targets, num_heads),
            "offset_loss": detection.offset_loss(maps.offset.float(), targets, num_heads),
        }

    def _heads(self, batch: Batch, maps: DetectorMaps) -> list[Tensor]:
        """The batch's heads; sizes estimated from points may be updated, those of boxes and pseudo-labels not."""
        assert batch.heads is not None  # by the stage's plan
        if self.settings is None or not self.settings.update_sizes or batch.doubtful is not None:
            return batch.heads
        confidence, sizes = maps.logits.sigmoid().float(), log_sizes(maps)
        boxed = [False] * len(batch.heads) if batch.boxed is None else batch.boxed.tolist()
        return [heads if known else detection.updated_heads(heads, size[0], sure[0], self.detector.output_stride,
                                                            self.settings.confidence)
                for heads, size, sure, known in zip(batch.heads, sizes, confidence, boxed, strict=True)]


def log_sizes(maps: DetectorMaps) -> Tensor:
    """(N, 1, h, w) logarithms of sizes in px, limited to sizes that heads have."""
    return maps.log_size.clamp(math.log(SMALLEST_SIZE_PX), math.log(LARGEST_SIZE_PX)).float()


def read_heads(maps: DetectorMaps, stride: int, settings: BiKnowledgeConfig) -> list[np.ndarray]:
    """D x 4 x, y, size in px and confidence of the detected heads of each image, including those the loss ignores."""
    least = min(settings.confidence, settings.doubtful_confidence if settings.sure_confidence else 1.0)
    confidence, log_size, offset = (part.float().cpu().numpy()
                                    for part in (maps.logits.sigmoid(), log_sizes(maps), maps.offset))
    return [distinct(read_detections(*image, stride, least), settings.nms_share)
            for image in zip(confidence[:, 0], log_size[:, 0], offset, strict=True)]


def distinct(detections: np.ndarray, share: float) -> np.ndarray:
    """The D x 4 detections without those that a better one suppresses, within `share` of its size."""
    return detections[suppress_points(detections[:, [0, 1, 3]], share * detections[:, 2])]


def found_heads(seen: Seen, share: float) -> np.ndarray:
    """D x 4, best first: the detections of an image; tiles overlap, so some heads are seen twice."""
    assert seen.detections is not None  # from predict()
    return distinct(seen.detections, share)


def weighing_heads(seen: Seen, share: float, stream: StreamConfig, stride: int) -> np.ndarray:
    """(h, w) int32, which of D `found_heads` gives each cell its W in Eq. 8, see `ops.merging.strongest`; D: none."""
    found = seen.once(found_heads, share)
    places = np.column_stack([cell_places(found, seen.density.shape, stride), found[:, 3]])
    return strongest(places, seen.density.shape, np.floor(WINDOW_SIGMAS * kernel_px(found, stream) / stride))


def confidence_weight(seen: Seen, settings: BiKnowledgeConfig, stream: StreamConfig, stride: int) -> np.ndarray:
    """W of Eq. 8, (h, w) float32: confidence to the power of `weight_exponent`, over k x k cells round each detection.

    Heads that only R sees lose W of their density inside a detection's window, as Eq. 8 is printed. With a sigma of 0.6
    of the size, windows of 6 sigma hold 3.0 other true heads on ShanghaiTech A and 1.8 on B (8 sigma: 5.6 and 3.2).
    `fusion` heads counts them all.
    """
    scores = seen.once(found_heads, settings.nms_share)[:, 3]
    weights = np.where(scores >= settings.confidence, scores ** settings.weight_exponent, 0)
    cells = torch.from_numpy(seen.once(weighing_heads, settings.nms_share, stream, stride))
    # torch takes indexes of 4 bytes as they are; NumPy would turn them into 8 bytes in each trial of thresholds.
    return torch.from_numpy(np.append(weights, np.float32(0))).index_select(0, cells.view(-1)).view(cells.shape).numpy()
