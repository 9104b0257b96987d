"""What all predictors do with an image, whatever runs their networks: sizes, batches, tiles, zooms. Without torch."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Protocol

import numpy as np

from crowddist.data.config import STRIDE, require_zooms
from crowddist.data.pixels import as_pixels
from crowddist.data.safe_decode import MAX_SIDE_PX, MIN_SIDE_PX, require_visible
from crowddist.data.sample import Part, Seen, Verdict
from crowddist.data.transforms import crop_mass, resize_pixels, resize_points, scaled_size
from crowddist.errors import InputError
from crowddist.inference.intervals import CountInterval, Intervals
from crowddist.ops.sums import total
from crowddist.ops.views import merge_heads, merge_views

TILE_PX = 1536
"""Images with more pixels than a square of this side are cut into such squares, so that memory stays bounded. A tile is
seen with a margin, which is work done twice: a fifth of the pixels seen of a 1080p image are margin."""
BATCH_PX = 8 * 512 * 512
"""Pixels of a batch of equally large images."""
CPU_BATCH_PX = 512 * 512
"""Likewise on a CPU. ours: the C library takes arrays beyond 32 MiB, as EfficientNet-Lite0 makes of 350,000 px, anew
from the system each time; in batches of six an image of 768 px took 156 ms of CPU, alone 98 ms."""


class Judge(Protocol):
    """What makes a count of what the networks see, see `methods.base.Method`."""

    @property
    def output_stride(self) -> int:
        """Side of a density cell in px of the image."""

    @property
    def margin_px(self) -> int:
        """Context in px around each tile of a large image."""

    def conclude(self, seen: Seen, *, labels: bool = True) -> Verdict:
        """The count and the heads of a whole image."""

    def select(self, density: np.ndarray, certainty: np.ndarray) -> np.ndarray:
        """The cells of a whole image that become labels: (h, w) bool."""


@dataclass(frozen=True, kw_only=True)
class ImagePrediction:
    """The counter's prediction for one image."""

    count: float
    """Persons in the image."""
    uncertainty: float
    """Standard deviation of the count over the ensemble's members, persons."""
    density: np.ndarray
    """(h, w) float32 persons per cell, cells of the resized image; sums to `count`."""
    spread: np.ndarray
    """(h, w) float32, standard deviation over the members."""
    certainty: np.ndarray
    """(h, w) float32, 0 to 1, see `ops.views.certainty`."""
    points: np.ndarray
    """M x 3 float32: x, y, score of heads, in pixels of the image as given."""
    size: tuple[int, int]
    """(height, width) of the resized image that the maps belong to; the last cells may reach beyond it."""
    keep: np.ndarray | None = None
    """(h, w) bool, the cells certain enough to be pseudo-labels; None only where a trial did not ask for them."""
    sizes: np.ndarray | None = None
    """(M,) float32: the heads' sizes in pixels of the image as given, where the method predicts them."""
    taught: np.ndarray | None = None
    """T x 4, see `Verdict`; in pixels of the image as given."""
    doubtful: np.ndarray | None = None
    """U x 4, likewise."""
    parts: Mapping[str, Part] = field(default_factory=dict)
    """The method's parts alone; points in pixels of the image as given."""
    zoom_counts: Mapping[float, float] = field(default_factory=dict)
    """Zoom -> persons counted at it alone; {} where the image was seen at one."""
    interval: CountInterval | None = None
    """Where the true count lies; None where the counter has no intervals, or sees the image at other sizes."""


class BasePredictor(ABC):
    """Counts images of any size by networks that see them in batches of one size.

    Args:
        method: makes the counts.
        image_size: images are resized to this longest side, px; 0: not resized.
        zooms: sizes, relative to `image_size`, that images are counted at.
    """

    method: Judge

    def __init__(self, method: Judge, *, image_size: int, zooms: Sequence[float]) -> None:
        self.method, self.image_size, self.zooms = method, image_size, tuple(zooms)
        self.stride = method.output_stride
        self.batch_px = BATCH_PX
        """Pixels that go through the networks at once, where several images fit into that."""
        self.one_at_a_time = False
        """Run images one by one instead of in batches: less memory, the same results but for rounding."""
        self.intervals: Intervals | None = None
        """Of the counts; None but for a checkpoint's own counter."""

    def predict(self, image: np.ndarray) -> ImagePrediction:
        """Counts one image: (H, W, 3) uint8 RGB, or an array that `as_pixels` brings to that form.

        Raises InputError for any other array, and for an image of which nothing is left at the size it is counted at.
        """
        return next(self.predict_views([self.checked(image)]))

    def checked(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB of an image that can be counted. Raises InputError as `predict`."""
        image = as_pixels(image)[0]
        height, width = image.shape[:2]
        if min(height, width) < MIN_SIDE_PX:  # as of files; a film may be so small, too
            raise InputError(f"too small: {width} x {height} px; each side needs at least {MIN_SIDE_PX} px")
        require_visible((height, width), self._counted_size(image))
        return image

    def predict_views(self, images: Sequence[np.ndarray],
                      scales: Sequence[float] | None = None) -> Iterator[ImagePrediction]:
        """Counts images in order, at several sizes, see `see`; at one size, equally large neighbours in one batch."""
        for image, seen in zip(images, self.see(images, scales), strict=True):
            found = judge(self.method, seen, image.shape[:2])
            if scales is None and self.intervals is not None:
                found = replace(found, interval=self.intervals.around(found.count, found.uncertainty))
            yield found

    def see(self, images: Sequence[np.ndarray], scales: Sequence[float] | None = None) -> Iterator[Seen]:
        """The networks' output for images at several sizes, relative to `image_size`, merged by `ops.views`; `judge`
        turns it into predictions. Cells and `size` are those of `image_size`. `scales` None: the predictor's zooms.
        """
        scales = self.zooms if scales is None else scales
        if tuple(scales) == (1.0,):
            yield from self._see_in_batches(images)
            return
        for image in images:
            size = self._counted_size(image)
            views = [self._see([resize_pixels(image, scaled_size(size, scale, scale))])[0] for scale in scales]
            moved = [[self._to_cells(part, view.size, size) for part in (view.density, view.spread)] for view in views]
            density, spread, certain = merge_views(*zip(*moved, strict=True))
            counts = np.array([view.density.sum(dtype=np.float64) for view in views])
            uncertainty = np.sqrt(np.mean([view.member_counts.std() ** 2 for view in views]) + counts.var())
            heads = {kind: [_heads_at(getattr(view, kind), view.size, size) for view in views
                            if getattr(view, kind) is not None] for kind in ("detections", "transformed")}
            # Two synthetic members with the merged deviation.
            yield Seen(size=size, density=density, spread=spread, member_counts=np.array([-uncertainty, uncertainty]),
                       zoom_certainty=certain, zoom_counts=dict(zip(scales, counts.tolist(), strict=True)),
                       **{kind: merge_heads(found) for kind, found in heads.items() if found})

    def _see_in_batches(self, images: Sequence[np.ndarray]) -> Iterator[Seen]:
        resized = (resize_pixels(image, self._counted_size(image)) for image in images)
        for shape, group in itertools.groupby(resized, key=lambda image: image.shape):
            alike, most = list(group), 1 if self.one_at_a_time else max(self.batch_px // (shape[0] * shape[1]), 1)
            for first in range(0, len(alike), most):
                yield from self._see(alike[first : first + most])

    def _see(self, resized: Sequence[np.ndarray]) -> list[Seen]:
        """Runs the networks on images of equal size, in tiles where they are large."""
        height, width = resized[0].shape[:2]
        if height * width > TILE_PX**2:
            return [self._see_tiles(image) for image in resized]
        return self.see_batch(resized)

    @abstractmethod
    def see_batch(self, images: Sequence[np.ndarray]) -> list[Seen]:
        """Runs the networks on images of equal size, (H, W, 3) uint8 RGB, in one batch."""

    def _counted_size(self, image: np.ndarray) -> tuple[int, int]:
        """(height, width) px at which an image is counted at zoom 1."""
        factor = self.image_size / max(image.shape[:2]) if self.image_size else 1.0
        return scaled_size(image.shape[:2], factor, factor)

    def _see_tiles(self, image: np.ndarray) -> Seen:
        """Runs the networks on a large image, tile by tile; the tiles' member counts add up."""
        stride, margin, (height, width) = self.stride, self.method.margin_px, image.shape[:2]
        shape = (-(-height // stride), -(-width // stride))
        density, spread = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        counts: np.ndarray | float = 0.0
        heads: dict[str, list[np.ndarray]] = {"detections": [], "transformed": []}
        for top in range(0, height, TILE_PX):
            for left in range(0, width, TILE_PX):
                outer_top, outer_left = max(top - margin, 0), max(left - margin, 0)
                bottom, right = min(top + TILE_PX, height), min(left + TILE_PX, width)
                tile = image[outer_top : min(bottom + margin, height), outer_left : min(right + margin, width)]
                seen = self.see_batch([tile])[0]
                inner = (slice((top - outer_top) // stride, -(-(bottom - outer_top) // stride)),
                         slice((left - outer_left) // stride, -(-(right - outer_left) // stride)))
                place = (slice(top // stride, -(-bottom // stride)), slice(left // stride, -(-right // stride)))
                density[place], spread[place] = seen.density[inner], seen.spread[inner]
                # The margin's persons belong to other tiles: scale each member's count to the tile's share.
                whole = max(float(seen.density.sum()), 1e-9)
                counts = counts + seen.member_counts * (float(seen.density[inner].sum()) / whole)
                for name, parts in heads.items():
                    found = getattr(seen, name)
                    if found is not None:
                        moved = found + np.array([outer_left, outer_top, 0, 0], np.float32)
                        # The last cells may reach beyond the image.
                        moved[:, :2] = np.clip(moved[:, :2], 0, [width - 1, height - 1])
                        x, y = moved[:, 0] + 0.5, moved[:, 1] + 0.5
                        parts.append(moved[(x >= left) & (x < right) & (y >= top) & (y < bottom)])
        joined = {name: np.concatenate(parts) if parts else None for name, parts in heads.items()}
        return Seen(size=(height, width), density=density, spread=spread, member_counts=np.asarray(counts),
                    detections=joined["detections"], transformed=joined["transformed"])

    def _to_cells(self, grid: np.ndarray, size: tuple[int, int], new_size: tuple[int, int]) -> np.ndarray:
        """Moves a map of an image resized to `size` to the cells of the image resized to `new_size`, both px; keeps its
        sum.
        """
        rows, columns = (-(-extent // self.stride) for extent in new_size)
        window = (0.0, 0.0, rows * size[0] / new_size[0], columns * size[1] / new_size[1])
        return crop_mass(grid, window, (rows, columns), (size[0] / self.stride, size[1] / self.stride))


def require_sizes(image_size: int | None, zooms: Sequence[float] | None) -> None:
    """Raises InputError for sizes that no image can be counted at; None stands for the counter's own."""
    if image_size is not None and not (isinstance(image_size, Real)
                                       and (image_size == 0 or STRIDE <= image_size <= MAX_SIDE_PX)):
        raise InputError(f"image_size must be 0 or from {STRIDE} to {MAX_SIDE_PX} px, got {image_size!r:.80}")
    if zooms is not None:
        if not isinstance(zooms, Iterable) or not all(isinstance(zoom, Real) for zoom in zooms):
            raise InputError(f"zooms must be several numbers from 0.1 to 4, or one as (1,), got {zooms!r:.80}")
        require_zooms("zooms", tuple(zooms))


def judge(method: Judge, seen: Seen, size: tuple[int, int], *, labels: bool = True) -> ImagePrediction:
    """A method's prediction for an image of `size` (height, width) px, in pixels of that image.

    Args:
        labels: False leaves out `keep`, `sizes`, `taught` and `doubtful`, which trials of thresholds do not read.

    Raises:
        InputError: the density is not finite.
    """
    if not seen.once(_is_finite):
        raise InputError("the counter gives numbers that are not finite: its weights are damaged, or its training "
                         "diverged; take another checkpoint")
    verdict = method.conclude(seen, labels=labels)
    scale_x, scale_y = size[1] / seen.size[1], size[0] / seen.size[0]
    scale = np.sqrt(scale_x * scale_y)

    def in_image(points: np.ndarray) -> np.ndarray:
        moved = points.copy()
        moved[:, :2] = np.clip(resize_points(points[:, :2], scale_x, scale_y), 0, [size[1] - 1, size[0] - 1])
        return moved

    def with_sizes(heads: np.ndarray | None) -> np.ndarray | None:
        return None if heads is None else in_image(heads * np.array([1, 1, scale, 1], np.float32))

    return ImagePrediction(
        count=total(verdict.density), uncertainty=verdict.uncertainty,
        density=verdict.density, spread=verdict.spread, certainty=seen.certainty,
        keep=method.select(verdict.density, seen.certainty) if labels else None,
        points=in_image(verdict.points), size=seen.size,
        sizes=None if verdict.sizes is None else verdict.sizes * scale,
        taught=with_sizes(verdict.taught),
        doubtful=with_sizes(verdict.doubtful),
        parts={name: part if part.points is None else replace(part, points=in_image(part.points))
               for name, part in verdict.parts.items()},
        zoom_counts=seen.zoom_counts,
    )


def _is_finite(seen: Seen) -> bool:
    return bool(np.isfinite(seen.density).all())


def _heads_at(heads: np.ndarray, size: tuple[int, int], new_size: tuple[int, int]) -> np.ndarray:
    """Moves M x 4 heads (x, y, size, score) from an image resized to `size` to one resized to `new_size`, both px."""
    scale_y, scale_x = (new / old for new, old in zip(new_size, size, strict=True))
    places = np.clip(resize_points(heads[:, :2], scale_x, scale_y), 0, [new_size[1] - 1, new_size[0] - 1])
    return np.column_stack([places, heads[:, 2] * np.sqrt(scale_x * scale_y), heads[:, 3]]).astype(np.float32)
