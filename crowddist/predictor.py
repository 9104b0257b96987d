"""Predictor: a trained counter behind one call, for images of any size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from crowddist import checkpoint
from crowddist.config import RunConfig, from_json, without_weights
from crowddist.data.stream import STRIDE, to_tensor, whole_image
from crowddist.data.transforms import crop_mass, resize_pixels, resize_points, scaled_size
from crowddist.errors import InputError
from crowddist.methods.base import Method
from crowddist.methods.table import build_method
from crowddist.ops.peaks import density_points
from crowddist.ops.views import merge_views

TILE_PX = 1536
"""Images are cut into tiles of this side when their longer side exceeds it, so that memory stays bounded."""
MARGIN_PX = 128
"""Context around a tile that is computed and thrown away: more than half the receptive field of the compact counter."""
BATCH_PX = 8 * 512 * 512
"""Pixels of a batch of equally large images."""


Maps = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Density, spread and kept cells of an image, (h, w) each, and the count of every member."""


@dataclass(frozen=True, kw_only=True)
class ImagePrediction:
    """What the counter says of one image."""

    count: float
    """Persons in the image."""
    uncertainty: float
    """Standard deviation of the count over the ensemble's members, persons."""
    density: np.ndarray
    """(h, w) float32 persons per cell, cells of the resized image; sums to `count`."""
    spread: np.ndarray
    """(h, w) float32, standard deviation over the members."""
    keep: np.ndarray
    """(h, w) bool, the cells certain enough to be pseudo-labels."""
    points: np.ndarray
    """M x 3 float32: x, y, score of heads, in pixels of the image as given."""
    size: tuple[int, int]
    """(height, width) of the resized image that the maps belong to; the last cells may reach beyond it."""


class Predictor:
    """A method's networks with the size they look at images in.

    Args:
        method: with its weights loaded.
        image_size: longest side, px, that images are resized to; 0 leaves them as they are.
        sigma_px: standard deviation of a head's Gaussian that the density was trained with.
    """

    def __init__(self, method: Method, *, image_size: int, sigma_px: float, device: str = "cpu") -> None:
        self.method, self.image_size, self.sigma_px, self.device = method, image_size, sigma_px, torch.device(device)
        method.networks().to(self.device)

    @classmethod
    def from_checkpoint(cls, url: str, *, image_size: int | None = None, device: str = "cpu") -> Predictor:
        """The predictor of a checkpoint's counter; `image_size` None means the one it was trained with.

        Raises:
            FileNotFoundError, InputError: there is no checkpoint, it cannot be read, or no image has such a size.
        """
        if image_size is not None and image_size != 0 and image_size < STRIDE:
            raise InputError(f"image_size must be 0 or at least {STRIDE} px, got {image_size}")
        content = checkpoint.load(url)
        try:
            config = from_json(content["config"])
            method = load_method(config, content)
        except (KeyError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{url} holds no counter that can be built ({reason}); give a .pt file of a run's checkpoints folder") from error
        size = config.stream.image_size if image_size is None else image_size
        return cls(method, image_size=size, sigma_px=config.stream.sigma_px, device=device)

    def predict(self, image: np.ndarray) -> ImagePrediction:
        """Counts one (H, W, 3) uint8 RGB image."""
        return next(self.predict_many([image]))

    def predict_many(self, images: Sequence[np.ndarray]) -> Iterator[ImagePrediction]:
        """Counts images one after the other, neighbours of equal size together in one batch."""
        resized = [whole_image(image, self.image_size) if self.image_size else image for image in images]
        first = 0
        while first < len(images):
            size = resized[first].shape
            last = first + 1
            most = max(BATCH_PX // (size[0] * size[1]), 1)
            while last < len(images) and last - first < most and resized[last].shape == size:
                last += 1
            yield from self._predict_equal(images[first:last], resized[first:last])
            first = last

    def predict_views(self, images: Sequence[np.ndarray], scales: Sequence[float]) -> Iterator[ImagePrediction]:
        """Counts images at several sizes, relative to `image_size`, and merges what is seen as `ops.views` says.

        Cells and `size` are those of `image_size`; `uncertainty` is taken over the members of all views alike.
        """
        if tuple(scales) == (1.0,):
            yield from self.predict_many(images)
            return
        for image in images:
            factor = self.image_size / max(image.shape[:2]) if self.image_size else 1.0
            size = scaled_size(image.shape[:2], factor, factor)
            sizes = [scaled_size(size, scale, scale) for scale in scales]
            views = [self._maps([resize_pixels(image, seen)])[0] for seen in sizes]
            moved = [[_to_cells(part, seen, size) for part in view[:2]] for view, seen in zip(views, sizes, strict=True)]
            density, spread = merge_views(*zip(*moved, strict=True))
            counts = np.array([view[0].sum(dtype=np.float64) for view in views])
            uncertainty = np.sqrt(np.mean([view[3].std() ** 2 for view in views]) + counts.var())
            yield self._finish(image, size, density, spread, self.method.select(density, spread), float(uncertainty))

    def _predict_equal(self, images: Sequence[np.ndarray], resized: Sequence[np.ndarray]) -> Iterator[ImagePrediction]:
        height, width = resized[0].shape[:2]
        for image, (density, spread, keep, counts) in zip(images, self._maps(resized), strict=True):
            yield self._finish(image, (height, width), density, spread, keep, float(counts.std()))

    def _maps(self, resized: Sequence[np.ndarray]) -> list[Maps]:
        """The maps of equally large images, in tiles where they are large."""
        if max(resized[0].shape[:2]) > TILE_PX:
            return [self._tiled(image) for image in resized]
        return self._whole(torch.cat([to_tensor(image) for image in resized]))

    def _finish(
        self, image: np.ndarray, size: tuple[int, int], density: np.ndarray, spread: np.ndarray, keep: np.ndarray, uncertainty: float
    ) -> ImagePrediction:
        points = density_points(density, STRIDE, self.sigma_px)
        points[:, :2] = resize_points(points[:, :2], image.shape[1] / size[1], image.shape[0] / size[0])
        points[:, :2] = np.clip(points[:, :2], 0, [image.shape[1] - 1, image.shape[0] - 1])
        return ImagePrediction(
            count=float(density.sum(dtype=np.float64)),
            uncertainty=uncertainty,
            density=density,
            spread=spread,
            keep=keep,
            points=points,
            size=size,
        )

    def _whole(self, images: torch.Tensor) -> list[Maps]:
        prediction = self.method.predict(images.to(self.device))
        density, spread, keep = (part.cpu().numpy()[:, 0] for part in (prediction.density, prediction.spread, prediction.keep))
        counts = prediction.member_counts.cpu().numpy().T if prediction.member_counts is not None else density.sum((1, 2))[:, None]
        return list(zip(density, spread, keep, counts, strict=True))

    def _tiled(self, image: np.ndarray) -> Maps:
        """The maps of a large image, tile by tile; each tile's own member counts add up."""
        height, width = image.shape[:2]
        shape = (-(-height // STRIDE), -(-width // STRIDE))
        density, spread = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        keep = np.zeros(shape, bool)
        counts: np.ndarray | float = 0.0
        for top in range(0, height, TILE_PX):
            for left in range(0, width, TILE_PX):
                outer_top, outer_left = max(top - MARGIN_PX, 0), max(left - MARGIN_PX, 0)
                bottom, right = min(top + TILE_PX, height), min(left + TILE_PX, width)
                tile = image[outer_top : min(bottom + MARGIN_PX, height), outer_left : min(right + MARGIN_PX, width)]
                tile_density, tile_spread, tile_keep, tile_counts = self._whole(to_tensor(tile))[0]
                inner = (slice((top - outer_top) // STRIDE, -(-(bottom - outer_top) // STRIDE)),
                         slice((left - outer_left) // STRIDE, -(-(right - outer_left) // STRIDE)))
                place = (slice(top // STRIDE, -(-bottom // STRIDE)), slice(left // STRIDE, -(-right // STRIDE)))
                density[place], spread[place], keep[place] = tile_density[inner], tile_spread[inner], tile_keep[inner]
                # The margin's persons belong to other tiles: scale each member's count to the part that stays.
                whole = max(float(tile_density.sum()), 1e-9)
                counts = counts + tile_counts * (float(tile_density[inner].sum()) / whole)
        return density, spread, keep, np.asarray(counts)


def _to_cells(grid: np.ndarray, size: tuple[int, int], new_size: tuple[int, int]) -> np.ndarray:
    """A map of an image resized to `size`, moved to the cells of the image resized to `new_size`, both px; its sum stays."""
    rows, columns = (-(-extent // STRIDE) for extent in new_size)
    window = (0.0, 0.0, rows * size[0] / new_size[0], columns * size[1] / new_size[1])
    return crop_mass(grid, window, (rows, columns), (size[0] / STRIDE, size[1] / STRIDE))


def load_method(config: RunConfig, content: dict) -> Method:
    """The method of a configuration with the weights of a checkpoint's content."""
    method = build_method(without_weights(config))
    method.load_state_dict(content["method"], optimizers=False)
    return method
