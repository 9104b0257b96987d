"""Predictor: a trained counter behind one call, for images of any size."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from crowddist.config import RunConfig, from_json
from crowddist.data.config import require_zooms
from crowddist.data.pixels import as_pixels
from crowddist.data.safe_decode import require_visible
from crowddist.data.sample import Part, Seen
from crowddist.data.stream import STRIDE, to_tensor, whole_image
from crowddist.data.transforms import crop_mass, resize_pixels, resize_points, scaled_size
from crowddist.errors import InputError
from crowddist.inference.intervals import LEVEL, CountInterval, Intervals, find_intervals
from crowddist.methods.base import Method
from crowddist.methods.build import build_method
from crowddist.models.counter import Counter
from crowddist.models.folding import fold_norms
from crowddist.ops.views import certainty, merge_heads, merge_views
from crowddist.run import checkpoint

TILE_PX = 1536
"""Images with more pixels than a square of this side are cut into such squares, so that memory stays bounded. A tile is
seen with a margin, which is work done twice: a fifth of the pixels seen of a 1080p image are margin."""
BATCH_PX = 8 * 512 * 512
"""Pixels of a batch of equally large images."""


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
    keep: np.ndarray
    """(h, w) bool, the cells certain enough to be pseudo-labels."""
    points: np.ndarray
    """M x 3 float32: x, y, score of heads, in pixels of the image as given."""
    size: tuple[int, int]
    """(height, width) of the resized image that the maps belong to; the last cells may reach beyond it."""
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


class Predictor:
    """Runs a method's networks on images.

    Args:
        method: with its weights loaded.
        image_size: images are resized to this longest side, px; 0: not resized.
        zooms: sizes, relative to `image_size`, that images are counted at; None: those of the method's settings.
    """

    def __init__(self, method: Method, *, image_size: int, zooms: Sequence[float] | None = None,
                 device: str = "cpu") -> None:
        self.method, self.image_size, self.device = method, image_size, torch.device(device)
        self.zooms = tuple(method.stream.zooms if zooms is None else zooms)
        self.stride = method.output_stride
        self.one_at_a_time = False
        """Run images one by one instead of in batches: less memory, the same results but for rounding."""
        self.intervals: Intervals | None = None
        """Of the counts; None but for a checkpoint's own counter."""
        method.networks().to(self.device)

    @classmethod
    def from_checkpoint(cls, url: str, *, image_size: int | None = None, zooms: Sequence[float] | None = None,
                        device: str = "cpu", one_pass: bool = False, level: float = LEVEL) -> Predictor:
        """The predictor of a checkpoint's counter.

        Folds batch normalisation into the convolutions: the same results but for rounding, in less time.

        Args:
            image_size: None: as in training.
            zooms: None: those that the run evaluated at.
            one_pass: count by the mean of the masks alone, see `Counter.one_pass`.
            level: share of images like the source's whose true count lies in its interval, above 0 and below 1.

        Raises:
            FileNotFoundError, InputError: there is no checkpoint, it cannot be read, or no image has such a size, or no
                interval such a level.
        """
        if image_size is not None and image_size != 0 and image_size < STRIDE:
            raise InputError(f"image_size must be 0 or at least {STRIDE} px, got {image_size}")
        if zooms is not None:
            require_zooms("zooms", tuple(zooms))
        content = checkpoint.load(url)
        try:
            if trained := content["method"].get("trained"):
                raise InputError(f"the checkpoint of a {trained} alone counts nothing; give the one that result.json "
                                 "names")
            method = build_method(from_json(content["config"]), weights="none")
            method.load_state_dict(content["method"], optimizers=False)
        except (KeyError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{url} holds no counter that can be built ({reason}); give a .pt file of a run's "
                             "checkpoints folder") from error
        for network in fold_norms(method.networks()).modules():
            if isinstance(network, Counter):
                network.one_pass = one_pass
        predictor = cls(method, image_size=method.stream.image_size if image_size is None else image_size, zooms=zooms,
                        device=device)
        predictor.intervals = find_intervals(url, level, image_size=predictor.image_size, zooms=predictor.zooms,
                                             one_pass=one_pass)
        return predictor

    def with_config(self, config: RunConfig) -> Predictor:
        """The same networks with another configuration, see `Method.with_config`."""
        other = Predictor(self.method.with_config(config), image_size=self.image_size, zooms=self.zooms,
                          device=str(self.device))
        other.one_at_a_time = self.one_at_a_time
        return other

    def predict(self, image: np.ndarray) -> ImagePrediction:
        """Counts one image: (H, W, 3) uint8 RGB, or an array that `as_pixels` brings to that form.

        Raises InputError for any other array, and for an image of which nothing is left at the size it is counted at.
        """
        return next(self.predict_views([self.checked(image)]))

    def checked(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB of an image that can be counted. Raises InputError as `predict`."""
        image = as_pixels(image)
        size = (image.shape[0], image.shape[1])
        factor = self.image_size / max(size) if self.image_size else 1.0
        require_visible(size, scaled_size(size, factor, factor))
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
            factor = self.image_size / max(image.shape[:2]) if self.image_size else 1.0
            size = scaled_size(image.shape[:2], factor, factor)
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
        resized = (whole_image(image, self.image_size) if self.image_size else image for image in images)
        for shape, group in itertools.groupby(resized, key=lambda image: image.shape):
            alike, most = list(group), 1 if self.one_at_a_time else max(BATCH_PX // (shape[0] * shape[1]), 1)
            for first in range(0, len(alike), most):
                yield from self._see(alike[first : first + most])

    def _see(self, resized: Sequence[np.ndarray]) -> list[Seen]:
        """Runs the networks on images of equal size, in tiles where they are large."""
        height, width = resized[0].shape[:2]
        if height * width > TILE_PX**2:
            return [self._see_tiles(image) for image in resized]
        return self._see_whole(torch.cat([to_tensor(image) for image in resized]))

    def _see_whole(self, images: torch.Tensor) -> list[Seen]:
        prediction = self.method.predict(images.to(self.device))
        # Contiguous, as when read back from a file: a sum over a view of a larger array adds in another order.
        density, spread = (np.ascontiguousarray(part.cpu().numpy()[:, 0])
                           for part in (prediction.density, prediction.spread))
        counts = (prediction.member_counts.cpu().numpy().T if prediction.member_counts is not None
                  else density.sum((1, 2))[:, None])
        counts = np.ascontiguousarray(counts, np.float64)
        size = (images.shape[2], images.shape[3])
        return [
            Seen(size=size, density=density[index], spread=spread[index], member_counts=counts[index],
                 detections=None if prediction.detections is None else prediction.detections[index],
                 transformed=None if prediction.transformed is None else prediction.transformed[index])
            for index in range(len(images))
        ]

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
                seen = self._see_whole(to_tensor(tile))[0]
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


def judge(method: Method, seen: Seen, size: tuple[int, int]) -> ImagePrediction:
    """A method's prediction for an image of `size` (height, width) px, in pixels of that image."""
    verdict = method.conclude(seen)
    certain = certainty(seen.density, seen.spread) if seen.zoom_certainty is None else seen.zoom_certainty
    scale_x, scale_y = size[1] / seen.size[1], size[0] / seen.size[0]
    scale = np.sqrt(scale_x * scale_y)

    def in_image(points: np.ndarray) -> np.ndarray:
        moved = points.copy()
        moved[:, :2] = np.clip(resize_points(points[:, :2], scale_x, scale_y), 0, [size[1] - 1, size[0] - 1])
        return moved

    def with_sizes(heads: np.ndarray | None) -> np.ndarray | None:
        return None if heads is None else in_image(heads * np.array([1, 1, scale, 1], np.float32))

    return ImagePrediction(
        count=float(verdict.density.sum(dtype=np.float64)), uncertainty=verdict.uncertainty,
        density=verdict.density, spread=verdict.spread, certainty=certain,
        keep=method.select(verdict.density, certain),
        points=in_image(verdict.points), size=seen.size,
        sizes=None if verdict.sizes is None else verdict.sizes * scale,
        taught=with_sizes(verdict.taught),
        doubtful=with_sizes(verdict.doubtful),
        parts={name: part if part.points is None else replace(part, points=in_image(part.points))
               for name, part in verdict.parts.items()},
        zoom_counts=seen.zoom_counts,
    )


def _heads_at(heads: np.ndarray, size: tuple[int, int], new_size: tuple[int, int]) -> np.ndarray:
    """Moves M x 4 heads (x, y, size, score) from an image resized to `size` to one resized to `new_size`, both px."""
    scale_y, scale_x = (new / old for new, old in zip(new_size, size, strict=True))
    places = np.clip(resize_points(heads[:, :2], scale_x, scale_y), 0, [new_size[1] - 1, new_size[0] - 1])
    return np.column_stack([places, heads[:, 2] * np.sqrt(scale_x * scale_y), heads[:, 3]]).astype(np.float32)
