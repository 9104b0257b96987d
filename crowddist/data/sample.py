"""The nouns of the data: Sample, Labels, Batch and Prediction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Pseudo-labels of one image, as one round wrote them."""

    density: np.ndarray
    """(h, w) float32, persons per cell; h and w may be smaller than the image's, the sum is the count."""
    keep: np.ndarray
    """(h, w) bool, the cells certain enough to train on."""
    detections: np.ndarray
    """D x 4 float32: x, y, size, score, in pixels of the image; D may be 0."""
    extent: tuple[float, float]
    """(height, width) of the image in cells: the last cells of the maps may reach beyond it, by less than a cell."""
    spread: np.ndarray | None = None
    """(h, w) float32, standard deviation of `density` over the ensemble, persons per cell; None where a set was written without."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image as stored, decoded: pixels, and whatever is known about them."""

    key: str
    """The name of the sample in its data set, without dots."""
    image: np.ndarray
    """(H, W, 3) uint8, RGB."""
    points: np.ndarray | None = None
    """N x 2 float32 head centres x, y in pixels (pixel j has its centre at j), or None where unlabelled."""
    mask: np.ndarray | None = None
    """(H, W) uint8, 1 = person, or None where the set has no masks."""
    labels: Labels | None = None
    """Pseudo-labels, where a round has written them."""
    scene: dict[str, Any] = field(default_factory=dict)
    """The sample's json: id, size, count, scene metadata (level, hour, weather), roi."""


@dataclass(kw_only=True)
class Batch:
    """Equal-sized crops of several samples, ready for a network."""

    images: Tensor
    """(N, 3, H, W) float32 in [0, 1]."""
    density: Tensor | None = None
    """(N, 1, H/stride, W/stride) float32 persons per cell, from points or from pseudo-labels; None where unlabelled."""
    keep: Tensor | None = None
    """(N, 1, H/stride, W/stride) float32, 1 where `density` may be trained on; None means everywhere."""
    mask: Tensor | None = None
    """(N, 1, H, W) float32, 1 = person; None where the set has no masks."""
    draws: Tensor
    """(N,) int64: one random number a sample, from (seed, stage, position): the same on any number of ranks."""
    keys: list[str] = field(default_factory=list)
    """The samples' names, for error messages."""

    def to(self, device: Any) -> Batch:
        """The same batch on `device`."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        return Batch(images=self.images.to(device, non_blocking=True), density=move(self.density), keep=move(self.keep),
                     mask=move(self.mask), draws=self.draws.to(device), keys=self.keys)


@dataclass(kw_only=True)
class Prediction:
    """What a method says of a batch of images."""

    density: Tensor
    """(N, 1, h, w) float32 persons per cell, the mean over the ensemble; each map sums to its count."""
    spread: Tensor
    """(N, 1, h, w) float32, standard deviation over the ensemble, in the unit of `density`."""
    keep: Tensor
    """(N, 1, h, w) bool, the cells certain enough to be labels."""
    detections: list[np.ndarray] = field(default_factory=list)
    """For each image D x 4 float32: x, y, size, score in pixels of the image given; empty without a detector."""
    member_counts: Tensor | None = None
    """(M, N) float32: the count by each member of the ensemble, for the uncertainty of the count."""
