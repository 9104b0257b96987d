"""The nouns of the data: Sample, Labels, Batch and Prediction."""

from __future__ import annotations

from collections.abc import Mapping
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
    """D x 4 float32: x, y, size, score of heads, in pixels of the image; D may be 0."""
    doubtful: np.ndarray
    """U x 4 float32 likewise: what may be a head or not, so that neither is learnt there; U may be 0."""
    extent: tuple[float, float]
    """(height, width) of the image in cells: the last cells of the maps may reach beyond it, by less than a cell."""
    spread: np.ndarray | None = None
    """(h, w) float32, standard deviation of `density` over the ensemble, persons per cell; None where a set was written
    without."""
    windows: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Purpose -> K x 4 float64 top, left, height, width of the patches chosen to train on, in cells; empty:
    anywhere."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image as stored, decoded: pixels, and whatever is known about them."""

    key: str
    """The name of the sample in its data set, without dots."""
    image: np.ndarray
    """(H, W, 3) uint8, RGB."""
    frame: tuple[int, int] | None = None
    """(height, width) in px of the image that all the rest refers to, where `image` was decoded at a part of its size;
    None: `image` is that image."""
    points: np.ndarray | None = None
    """N x 2 float32 head centres x, y in pixels (pixel j has its centre at j), or None where unlabelled."""
    boxes: np.ndarray | None = None
    """N x 4 float32 left, top, width, height of the heads of `points`, row by row, as edges in pixels (pixel j covers
    [j, j + 1)): a head's point is its box's centre, less half a pixel. None where the set has no boxes."""
    sizes: np.ndarray | None = None
    """(N,) float32 sizes of the heads in px, where a stream asks for them: of `boxes`, or guessed from the points."""
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
    heads: list[Tensor] | None = None
    """For each image (M, 3) float32 x, y, size in px, from boxes, points or pseudo-labels; None where nobody asked for
    them."""
    doubtful: list[Tensor] | None = None
    """For each image (U, 3) float32 likewise: what pseudo-labels leave open; None: nothing."""
    draws: Tensor
    """(N,) int64: one random number a sample, from (seed, stage, position): the same on any number of ranks."""
    keys: list[str] = field(default_factory=list)
    """The samples' names, for error messages."""

    def to(self, device: Any) -> Batch:
        """The same batch on `device`."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        def move_all(tensors: list[Tensor] | None) -> list[Tensor] | None:
            return None if tensors is None else [one.to(device, non_blocking=True) for one in tensors]

        return Batch(images=self.images.to(device, non_blocking=True), density=move(self.density), keep=move(self.keep),
                     mask=move(self.mask),
                     heads=move_all(self.heads), doubtful=move_all(self.doubtful), draws=self.draws.to(device),
                     keys=self.keys)


@dataclass(kw_only=True)
class Prediction:
    """What a method's networks say of a batch of images."""

    density: Tensor
    """(N, 1, h, w) float32 persons per cell, the mean over the ensemble; each map sums to its count."""
    spread: Tensor
    """(N, 1, h, w) float32, standard deviation over the ensemble, in the unit of `density`; 0 without one."""
    member_counts: Tensor | None = None
    """(M, N) float32: the count by each member of the ensemble, for the uncertainty of the count."""
    detections: list[np.ndarray] | None = None
    """For each image D x 4 float32: x, y, size in px and score, of a detector; None without one."""
    transformed: list[np.ndarray] | None = None
    """For each image P x 4 likewise: peaks of the map that the density was transformed to, one a cell and not yet
    merged, with the detector's sizes there; None without such a map."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The predictions of one whole image, put together from its tiles."""

    size: tuple[int, int]
    """(height, width) of the image as the networks saw it, px; the maps' last cells may reach beyond it."""
    density: np.ndarray
    """(h, w) float32 persons per cell."""
    spread: np.ndarray
    """(h, w) float32."""
    member_counts: np.ndarray
    """(M,), see `Prediction`."""
    detections: np.ndarray | None = None
    """D x 4, see `Prediction`; px of the image as the networks saw it."""
    transformed: np.ndarray | None = None
    """P x 4, likewise."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one part of a method would have said alone."""

    count: float
    """Persons: the number of its points, or else the sum of its density."""
    points: np.ndarray | None = None
    """M x 3 float32: x, y, score; None where it gives none."""
    density: np.ndarray | None = None
    """(h, w) float32 persons per cell, as the verdict's; None where it gives none."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a method concludes of one image; px are those of `Seen`."""

    density: np.ndarray
    """(h, w) float32 persons per cell; its sum is the count."""
    spread: np.ndarray
    """(h, w) float32."""
    uncertainty: float
    """Standard deviation of the count, persons."""
    points: np.ndarray
    """M x 3 float32: x, y, score of heads."""
    sizes: np.ndarray | None = None
    """(M,) float32: the heads' sizes in px, where they are known."""
    taught: np.ndarray | None = None
    """T x 4 float32: x, y, size, score of the heads that pseudo-labels teach; None: none."""
    doubtful: np.ndarray | None = None
    """U x 4 float32 likewise: what may be a head or not, so that pseudo-labels leave it open; None: nothing."""
    parts: Mapping[str, Part] = field(default_factory=dict)
    """Name -> what that part says alone, e.g. regression and detection."""
