"""Density maps: head points become Gaussians whose sum over the frame is the count."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from crowddist.ops.points import checked_points
from crowddist.ops.scales import neighbour_distances

TRUNCATE = 4.0
"""Half a kernel in standard deviations. C (CSRNet: scipy's default)."""
TILE_PX = 64
"""Side of the tiles the map is made of. ours: 32 and 128 were slower on 1080p maps of 500 to 4,000 heads."""
SMALLEST_KERNEL_PX = 1e-3
"""Floor of sigma: below it a kernel is one pixel anyway, and its square would underflow. ours."""
SMALLEST_SIGMA_PX = 0.5
"""Floor of the adaptive sigma, for points that coincide. ours."""
LONE_SIGMA_PX = 15.0
"""Adaptive sigma of a lone point. ours: CSRNet's fixed sigma for sparse scenes (C)."""


def density_map(points: ArrayLike, size: tuple[int, int], sigma_px: ArrayLike) -> np.ndarray:
    """The density map of head points: one Gaussian a point, each summing to 1 over the frame.

    Source: Zhang et al., CVPR 2016, Sec. 2.2. A kernel is sampled at the pixel centres within `TRUNCATE` sigma (rounded
    up to whole pixels) of the pixel nearest to the point, and divided by its sum inside the frame (ours), so heads at a
    border and very narrow kernels count fully.

    Args:
        points: (N, 2) x and y of heads, px; points outside 0 <= x < width, 0 <= y < height are ignored
        size: (height, width) of the map, px, >= 1
        sigma_px: a number or (N,), px, > 0; standard deviation of the kernels

    Returns:
        (height, width) float32, persons per pixel, >= 0.

    Raises:
        ValueError: points or sigma have a wrong shape or are not finite, sigma <= 0, or the size is empty.
    """
    return Kernels(points, size, sigma_px).density()


def adaptive_sigma(points: ArrayLike, neighbours: int = 4, beta: float = 0.3) -> np.ndarray:
    """The standard deviation of each head's kernel: `beta` times the mean distance to its nearest neighbours.

    Source: Zhang et al., CVPR 2016, Sec. 2.2 (geometry-adaptive kernels); defaults of DSSINet's data code (C).

    Args:
        points: (N, 2) x and y of heads, px; N may be 0
        neighbours: neighbours to average, >= 1; all others where there are fewer
        beta: factor on the mean distance, > 0

    Returns:
        (N,) float32, px, at least `SMALLEST_SIGMA_PX`; `LONE_SIGMA_PX` for a lone point.

    Raises:
        ValueError: points have a wrong shape or are not finite, or neighbours or beta is not positive.
    """
    if neighbours < 1 or not beta > 0:
        raise ValueError(f"adaptive_sigma needs neighbours >= 1 and beta > 0, got {neighbours} and {beta}")
    xy = checked_points(points, 2)
    if len(xy) < 2:
        return np.full(len(xy), LONE_SIGMA_PX, np.float32)
    return np.maximum(beta * neighbour_distances(xy, neighbours), SMALLEST_SIGMA_PX).astype(np.float32)


class _Windows(NamedTuple):
    """The in-frame windows of all kernels along one axis; all fields (N,)."""

    nearest: np.ndarray
    """The pixel nearest to the point."""
    fraction: np.ndarray
    """The point's coordinate minus `nearest`, in (-0.5, 1)."""
    low: np.ndarray
    """First pixel of the window."""
    length: np.ndarray
    """Pixels of the window."""
    first_tile: np.ndarray
    last_tile: np.ndarray


def _windows(coordinates: np.ndarray, sigma: np.ndarray, length: int) -> _Windows:
    nearest = np.minimum(np.rint(coordinates), length - 1).astype(np.int64)
    # The bound keeps a huge sigma from overflowing the integer; a window never leaves the frame anyway.
    radius = np.minimum(np.ceil(TRUNCATE * sigma), length).astype(np.int64)
    low, high = np.maximum(nearest - radius, 0), np.minimum(nearest + radius, length - 1)
    return _Windows(nearest, coordinates - nearest, low, high - low + 1, low // TILE_PX, high // TILE_PX)


def _kernels(windows: _Windows, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All 1-D kernels cut into tiles, (pieces, TILE_PX) float32, and the index of each point's first piece."""
    num_pieces = windows.last_tile - windows.first_tile + 1
    first_piece = np.cumsum(num_pieces) - num_pieces
    start = np.cumsum(windows.length) - windows.length
    flat = np.arange(int(windows.length.sum()))

    def spread(values: np.ndarray) -> np.ndarray:
        return np.repeat(values, windows.length)

    # exp(-(d^2 - d0^2) / 2 sigma^2), d0 the distance to the nearest pixel: 1 at that pixel, so the sum is never 0.
    offset = (flat + spread(windows.low - windows.nearest - start)).astype(np.float32)
    exponent = offset - spread((2 * windows.fraction).astype(np.float32))
    exponent *= offset
    exponent *= spread((-0.5 / np.square(sigma)).astype(np.float32))
    values = np.exp(exponent, out=exponent)
    values *= spread((1.0 / np.add.reduceat(values, start)).astype(np.float32))
    pieces = np.zeros((int(num_pieces.sum()), TILE_PX), np.float32)
    pieces.reshape(-1)[flat + spread((first_piece - windows.first_tile) * TILE_PX + windows.low - start)] = values
    return pieces, first_piece


class Kernels:
    """The Gaussians of head points, see `density_map`, kept so that maps of some of the points cost little: trials of
    thresholds choose others again and again. Keeps 0.6 KB a point, more where a kernel reaches over several tiles.

    Arguments and errors are those of `density_map`.
    """

    def __init__(self, points: ArrayLike, size: tuple[int, int], sigma_px: ArrayLike) -> None:
        height, width = self._size = _checked_size(size)
        xy, sigma, given = _points_inside(points, sigma_px, self._size)
        self._tiles = -(-height // TILE_PX), -(-width // TILE_PX)
        if not len(sigma):
            self._point = self._tile = np.zeros(0, np.int64)
            return
        rows, columns = _windows(xy[:, 1], sigma, height), _windows(xy[:, 0], sigma, width)
        self._row_pieces, row_start = _kernels(rows, sigma)
        self._column_pieces, column_start = _kernels(columns, sigma)
        num_columns = columns.last_tile - columns.first_tile + 1
        num_tiles = (rows.last_tile - rows.first_tile + 1) * num_columns
        point = np.repeat(np.arange(len(sigma)), num_tiles)
        row, column = np.divmod(np.arange(len(point)) - (np.cumsum(num_tiles) - num_tiles)[point], num_columns[point])
        tile = (row + rows.first_tile[point]) * self._tiles[1] + column + columns.first_tile[point]
        # Stable: within a tile the points keep their order, so that sums always round alike.
        order = np.argsort(tile, kind="stable")
        self._tile, self._point = tile[order], given[point[order]]
        self._row_piece, self._column_piece = (row_start[point] + row)[order], (column_start[point] + column)[order]

    def density(self, chosen: np.ndarray | None = None) -> np.ndarray:
        """The map of the points that `chosen`, (N,) bool, says; None: of all. As `density_map` of these alone, to the
        bit.

        Tile by tile: the sum of outer products of a tile's kernels is one matrix product.
        """
        density = np.zeros(self._size, np.float32)
        kept: Any = slice(None) if chosen is None else chosen[self._point]
        tile = self._tile[kept]
        if not len(tile):
            return density
        row_piece, column_piece = self._row_piece[kept], self._column_piece[kept]
        tiles_down, tiles_across = self._tiles
        bounds = np.concatenate(([0], np.cumsum(np.bincount(tile, minlength=tiles_down * tiles_across)))).tolist()
        for strip in range(tiles_down):
            begin, end = bounds[strip * tiles_across], bounds[(strip + 1) * tiles_across]
            left, right = self._row_pieces[row_piece[begin:end]], self._column_pieces[column_piece[begin:end]]
            band = density[strip * TILE_PX:(strip + 1) * TILE_PX]
            up = left[:, :len(band)].T
            for index in range(tiles_across):
                start, stop = bounds[strip * tiles_across + index], bounds[strip * tiles_across + index + 1]
                if start < stop:
                    cell = band[:, index * TILE_PX:(index + 1) * TILE_PX]
                    np.matmul(up[:, start - begin:stop - begin], right[start - begin:stop - begin, :cell.shape[1]],
                              out=cell)
        return density


def _checked_size(size: tuple[int, int]) -> tuple[int, int]:
    height, width = (int(v) for v in size)
    if height < 1 or width < 1:
        raise ValueError(f"a density map needs a height and a width of at least 1, got {tuple(size)}")
    return height, width


def _points_inside(
    points: ArrayLike, sigma_px: ArrayLike, frame: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The points inside the frame and their sigmas, float64, checked; and their indexes."""
    xy = checked_points(points, 2)
    sigma = np.asarray(sigma_px, np.float64)
    if sigma.ndim > 1 or (sigma.ndim == 1 and len(sigma) != len(xy)):
        raise ValueError(f"sigma_px must be one number or one a point ({len(xy)}), got the shape {sigma.shape}")
    if not (np.isfinite(sigma) & (sigma > 0)).all():
        raise ValueError("sigma_px must be finite and greater than 0")
    inside = (xy[:, 0] >= 0) & (xy[:, 0] < frame[1]) & (xy[:, 1] >= 0) & (xy[:, 1] < frame[0])
    reach = np.maximum(np.broadcast_to(sigma, len(xy))[inside], SMALLEST_KERNEL_PX)
    return xy[inside], reach, np.flatnonzero(inside)
