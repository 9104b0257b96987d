"""The data types: Sample, Labels, Batch, Prediction, Seen, Part and Verdict."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from crowddist.ops import views

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Pseudo-labels of one image from one round."""

    density: np.ndarray
    """(h, w) float32 persons per cell, at the image's size or smaller; the sum is the count."""
    keep: np.ndarray
    """(h, w) bool; True for cells that are certain enough to train on."""
    detections: np.ndarray
    """D x 4 float32 x, y, size, score of heads in px of the image; D may be 0."""
    doubtful: np.ndarray
    """U x 4 float32 likewise, of ambiguous detections; the loss ignores them. U may be 0."""
    extent: tuple[float, float]
    """(height, width) of the image in cells; the last cells of the maps may reach beyond it, by less than a cell."""
    spread: np.ndarray | None = None
    """(h, w) float32, the ensemble's standard deviation of `density`, persons per cell; None if not stored."""
    windows: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Purpose -> K x 4 float64 top, left, height, width of the patches to train on, in cells; empty: train anywhere."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One decoded image with its annotations."""

    key: str
    """Name of the sample in its data set, without dots."""
    image: np.ndarray
    """(H, W, 3) uint8 RGB."""
    frame: tuple[int, int] | None = None
    """(height, width) in px of the whole image, to which all other fields refer, if `image` was decoded at a part of
    its size; None: `image` is the whole image."""
    points: np.ndarray | None = None
    """N x 2 float32 head centres x, y in px (pixel j has its centre at j); None if unlabelled."""
    boxes: np.ndarray | None = None
    """N x 4 float32 left, top, width, height of the heads of `points`, row by row, as edges in px (pixel j covers
    [j, j + 1)): a head's point is its box's centre minus half a pixel. None if the set has no boxes."""
    sizes: np.ndarray | None = None
    """(N,) float32 head sizes in px, from `boxes` or estimated from the points; None unless a stream asks for them."""
    mask: np.ndarray | None = None
    """(H, W) uint8, 1 = person; None if the set has no masks."""
    region: np.ndarray | None = None
    """(H, W) bool, the pixels in which people are annotated, if that is a part of the image and a stream asks for it;
    None: the whole image."""
    labels: Labels | None = None
    """Pseudo-labels of the image, if there are any."""
    scene: dict[str, Any] = field(default_factory=dict)
    """The sample's json: id, size, count, scene metadata (level, hour, weather), roi."""

    @property
    def heads(self) -> np.ndarray:
        """N x 2 or N x 3 float32 x, y and, where known, size of the heads in px, of the pseudo-labels or else of the
        annotation; N is 0 without either.
        """
        if self.labels is not None:
            return self.labels.detections[:, :3]
        points = np.zeros((0, 2), np.float32) if self.points is None else self.points
        return points if self.sizes is None else np.column_stack([points, self.sizes])


@dataclass(kw_only=True)
class Batch:
    """Equal-sized crops of several samples."""

    images: Tensor
    """(N, 3, H, W) float32 in [0, 1]."""
    density: Tensor | None = None
    """(N, 1, H/stride, W/stride) float32 persons per cell, from points or pseudo-labels; None if unlabelled."""
    keep: Tensor | None = None
    """(N, 1, H/stride, W/stride) float32, 1 in cells to train on: certain ones of pseudo-labels, or those in the region
    of interest of labelled images; None: all cells."""
    mask: Tensor | None = None
    """(N, 1, H, W) float32, 1 = person; None if the set has no masks."""
    heads: list[Tensor] | None = None
    """For each image (M, 3) float32 x, y, size in px, from boxes, points or pseudo-labels; None unless asked for."""
    boxed: Tensor | None = None
    """(N,) bool, True for images whose heads' sizes come from boxes; None: no image's."""
    doubtful: list[Tensor] | None = None
    """For each image (U, 3) float32 likewise, of the pseudo-labels' ambiguous detections; None if not labelled so."""
    weak: list[Tensor] | None = None
    """For each image (3, h, w) float32 in [0, 1]: the same place without random colours, blur, noise and erased
    patches, at a size of its own, a multiple of 8 px; None unless asked for."""
    draws: Tensor
    """(N,) int64, one random number per sample from (seed, stage, position): the same on any number of ranks."""
    keys: list[str] = field(default_factory=list)
    """The samples' names, for error messages."""

    def to(self, device: Any) -> Batch:
        """The same batch on `device`; from pinned memory the copy is only queued, on the current stream."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """The same batch in pinned memory, which a GPU reads by itself."""
        return self._each(lambda tensor: tensor.pin_memory())

    def used_on(self, stream: Any) -> None:
        """Tells the allocator of a GPU that a stream uses the batch, so that its memory waits for that stream."""

        def record(tensor: Tensor) -> Tensor:
            tensor.record_stream(stream)
            return tensor

        self._each(record)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with each of its tensors changed."""

        def changed(value: Any) -> Any:
            if isinstance(value, list):
                return [changed(entry) for entry in value]
            return change(value) if hasattr(value, "to") else value

        return Batch(**{entry.name: changed(getattr(self, entry.name)) for entry in fields(self)})


@dataclass(kw_only=True)
class Prediction:
    """A method's predictions for a batch of images."""

    density: Tensor
    """(N, 1, h, w) float32 persons per cell, the ensemble's mean; the sum of a map is its count."""
    spread: Tensor
    """(N, 1, h, w) float32, the ensemble's standard deviation, in the unit of `density`; 0 without an ensemble."""
    member_counts: Tensor | None = None
    """(M, N) float32, each member's count; gives the uncertainty of the count."""
    detections: list[np.ndarray] | None = None
    """For each image D x 4 float32 x, y, size in px and score, from a detector; None without one."""
    transformed: list[np.ndarray] | None = None
    """For each image P x 4 likewise: peaks of the map that a localiser made from the density, at most one per cell, not
    yet merged, with the detector's sizes there; None without such a map."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The predictions for one whole image, merged from its tiles.

    As in `Prediction`: density and spread (h, w), member counts (M,), detections D x 4 and transformed P x 4 in px of
    the network's input image.
    """

    size: tuple[int, int]
    """(height, width) of the network's input image, px. The maps' last cells may reach beyond it."""
    density: np.ndarray
    spread: np.ndarray
    member_counts: np.ndarray
    detections: np.ndarray | None = None
    transformed: np.ndarray | None = None
    zoom_certainty: np.ndarray | None = None
    """(h, w) float32, 0 to 1, how far zooms and members agree, see `ops.views.merge_views`; None for one zoom."""
    zoom_counts: Mapping[float, float] = field(default_factory=dict)
    """Zoom -> persons counted at it alone; {} for one zoom."""
    _made: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def once(self, make: Callable[..., T], *settings: Hashable) -> T:
        """`make(self, *settings)`, kept for the next call: what no searched threshold changes. Nobody may change it."""
        key = (make, *settings)
        if key not in self._made:
            self._made[key] = make(self, *settings)
        return self._made[key]

    @cached_property
    def certainty(self) -> np.ndarray:
        """(h, w) float32, 0 to 1, see `ops.views.certainty`. Kept: trials of thresholds ask for it again and again."""
        return views.certainty(self.density, self.spread) if self.zoom_certainty is None else self.zoom_certainty


@dataclass(frozen=True, kw_only=True)
class Part:
    """The result of one part of a method alone."""

    count: float
    """Persons: the number of its points, or else the sum of its density."""
    points: np.ndarray | None = None
    """M x 3 float32 x, y, score; None if the part gives no points."""
    density: np.ndarray | None = None
    """(h, w) float32 persons per cell, as in the verdict; None if the part gives no density."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A method's result for one image; px are those of `Seen`."""

    density: np.ndarray
    """(h, w) float32 persons per cell; its sum is the count."""
    spread: np.ndarray
    """(h, w) float32, see `Prediction`."""
    uncertainty: float
    """Standard deviation of the count, persons."""
    points: np.ndarray
    """M x 3 float32 x, y, score of heads."""
    sizes: np.ndarray | None = None
    """(M,) float32 head sizes in px; None if unknown."""
    taught: np.ndarray | None = None
    """T x 4 float32 x, y, size, score of the heads that become pseudo-labels; None: none."""
    doubtful: np.ndarray | None = None
    """U x 4 float32 likewise, of ambiguous detections; losses ignore them. None: none."""
    parts: Mapping[str, Part] = field(default_factory=dict)
    """Result of each part by name, e.g. regression and detection."""
