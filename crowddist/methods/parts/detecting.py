"""What the methods with a head detector share: its objective, and how heads are read from its maps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from crowddist.data.stream import cell_places, kernel_px
from crowddist.losses.detection import (
    CENTRE_WEIGHT,
    OFFSET_WEIGHT,
    SIZE_WEIGHT,
    centre_loss,
    detection_targets,
    offset_loss,
    reach,
    size_loss,
)
from crowddist.methods.base import mean_over_workers
from crowddist.ops.density import TRUNCATE
from crowddist.ops.merging import confidence_map
from crowddist.ops.nms import suppress_points
from crowddist.ops.peaks import read_detections
from crowddist.ops.scales import LARGEST_SIZE_PX, SMALLEST_SIZE_PX

if TYPE_CHECKING:
    from torch import Tensor

    from crowddist.data.config import StreamConfig
    from crowddist.data.sample import Batch
    from crowddist.methods.settings.bi_knowledge import BiKnowledgeConfig
    from crowddist.models.detector import Detector, DetectorMaps


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
        cells, stride = (maps.logits.shape[2], maps.logits.shape[3]), self.detector.output_stride
        targets = detection_targets(batch.heads, cells, stride)
        doubtful = None if batch.doubtful is None else reach(batch.doubtful, cells, stride)
        num_heads = mean_over_workers(targets.centres.sum(), least=1.0)
        return {
            "centre_loss": centre_loss(maps.logits.float(), targets, num_heads, doubtful=doubtful),
            "size_loss": size_loss(maps.log_size.float(), targets, num_heads),
            "offset_loss": offset_loss(maps.offset.float(), targets, num_heads),
        }


def log_sizes(maps: DetectorMaps) -> Tensor:
    """(N, 1, h, w) logarithms of sizes in px, within those that heads have."""
    return maps.log_size.clamp(math.log(SMALLEST_SIZE_PX), math.log(LARGEST_SIZE_PX)).float()


def read_heads(maps: DetectorMaps, stride: int, settings: BiKnowledgeConfig) -> list[np.ndarray]:
    """For each image D x 4 x, y, size in px and confidence of the heads detected, down to those that labels leave
    open.
    """
    least = min(settings.confidence, settings.doubtful_confidence if settings.sure_confidence else 1.0)
    confidence, log_size, offset = (part.float().cpu().numpy()
                                    for part in (maps.logits.sigmoid(), log_sizes(maps), maps.offset))
    return [
        distinct(read_detections(confidence[index, 0], log_size[index, 0], offset[index], stride, least),
                 settings.nms_share)
        for index in range(len(confidence))
    ]


def distinct(detections: np.ndarray, share: float) -> np.ndarray:
    """The D x 4 detections that no better one within its share of its size says already."""
    return detections[suppress_points(detections[:, [0, 1, 3]], share * detections[:, 2])]


def confidence_weight(detections: np.ndarray, cells: tuple[int, int], stream: StreamConfig, stride: int,
                      exponent: float = 1.0) -> np.ndarray:
    """W of Eq. 8 of D x 4 detections, to a power, (h, w): a window is that of the kernel that the density is drawn with
    there.
    """
    places = np.column_stack([cell_places(detections, cells, stride), detections[:, 3] ** exponent])
    return confidence_map(places, cells, np.ceil(TRUNCATE * kernel_px(detections, stream) / stride))


def sure_and_doubtful(detections: np.ndarray, settings: BiKnowledgeConfig) -> tuple[np.ndarray, np.ndarray]:
    """Of D x 4 detections those that labels teach as heads, and those that they leave open (ours)."""
    sure = detections[:, 3] >= max(settings.sure_confidence, settings.confidence)
    return detections[sure], detections[~sure]
