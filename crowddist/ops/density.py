"""Density maps: head points become Gaussians whose sum over the frame is the count."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from crowddist.ops.points import checked_points

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

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
    Returns: (height, width) float32, persons per pixel, >= 0.
    Raises: ValueError if points or sigma have a wrong shape or are not finite, sigma is not positive, or the size is
        empty.
    """
    height, width = _checked_size(size)
    return density_crop(points, (height, width), sigma_px, (0, 0, height, width))


def density_crop(points: ArrayLike, size: tuple[int, int], sigma_px: ArrayLike,
                 window: tuple[int, int, int, int]) -> np.ndarray:
    """The slice of `density_map(points, size, sigma_px)` under a window, bit for bit, without making the rest of the
    map.

    Args:
        points, size, sigma_px: as for `density_map`, in the coordinates of the whole frame.
        window: (top, left, height, width) in pixels, inside the frame.

    Returns:
        (window height, window width) float32, persons per pixel.

    Raises:
        ValueError: as `density_map`, or the window is empty or leaves the frame.
    """
    frame = _checked_size(size)
    top, left, height, width = _checked_window(window, frame)
    xy, sigma = _points_inside(points, sigma_px, frame)
    # The tiles lie on the grid of the whole frame, so that a tile is the same product of the same matrices whatever the
    # window.
    first_row, end_row = top // TILE_PX, -(-(top + height) // TILE_PX)
    first_column, end_column = left // TILE_PX, -(-(left + width) // TILE_PX)
    rows = _windows(xy[:, 1], sigma, frame[0])
    columns = _windows(xy[:, 0], sigma, frame[1])
    near = (rows.last_tile >= first_row) & (rows.first_tile < end_row)
    near &= (columns.last_tile >= first_column) & (columns.first_tile < end_column)
    if not near.all():
        rows, columns, sigma = _Windows(*(a[near] for a in rows)), _Windows(*(a[near] for a in columns)), sigma[near]
    bottom, right = min(end_row * TILE_PX, frame[0]), min(end_column * TILE_PX, frame[1])
    tiles = np.zeros((bottom - first_row * TILE_PX, right - first_column * TILE_PX), np.float32)
    if len(sigma):
        _add_kernels(tiles, rows, columns, sigma, (first_row, end_row, first_column, end_column))
    if tiles.shape == (height, width):
        return tiles
    y, x = top - first_row * TILE_PX, left - first_column * TILE_PX
    return tiles[y:y + height, x:x + width].copy()


def kernel_means(values: np.ndarray, points: ArrayLike, sigma_px: ArrayLike) -> np.ndarray:
    """The mean of a map under each point's kernel: the sum of the map times `density_map` of that point alone.

    Source: ours.
    Args:
        values: (height, width), any unit
        points, sigma_px: as in `density_map`
    Returns: (N,) float64, unit of `values`; 0 for a point outside the frame.
    Raises: ValueError as `density_map`.
    """
    frame = _checked_size(values.shape)
    given = checked_points(points, 2)
    inside = (given[:, 0] >= 0) & (given[:, 0] < frame[1]) & (given[:, 1] >= 0) & (given[:, 1] < frame[0])
    xy, sigma = _points_inside(given, sigma_px, frame)
    rows, columns = _windows(xy[:, 1], sigma, frame[0]), _windows(xy[:, 0], sigma, frame[1])
    means = np.zeros(len(given))
    found = np.zeros(len(xy))
    # Windows of like size together: each group is one product of arrays.
    sides = np.maximum(rows.length, columns.length)
    for side in np.unique(sides):
        group = np.flatnonzero(sides == side)
        (y, row_weights), (x, column_weights) = (_dense_kernels(_Windows(*(part[group] for part in axis)), sigma[group])
                                                 for axis in (rows, columns))
        patches = values[y[:, :, None], x[:, None, :]]
        found[group] = np.einsum("nyx,ny,nx->n", patches, row_weights, column_weights, optimize=True)
    means[inside] = found
    return means


def adaptive_sigma(points: ArrayLike, neighbours: int = 4, beta: float = 0.3) -> np.ndarray:
    """The standard deviation of each head's kernel: `beta` times the mean distance to its nearest neighbours.

    Source: Zhang et al., CVPR 2016, Sec. 2.2 (geometry-adaptive kernels); beta 0.3 and 4 neighbours as in DSSINet's
    data code (C).
    Args:
        points: (N, 2) x and y of heads, px; N may be 0
        neighbours: neighbours to average, >= 1; all others where there are fewer
        beta: factor on the mean distance, > 0
    Returns: (N,) float32, px, at least `SMALLEST_SIGMA_PX`; `LONE_SIGMA_PX` for a lone point.
    Raises: ValueError if points have a wrong shape or are not finite, or neighbours or beta is not positive.
    """
    if neighbours < 1 or not beta > 0:
        raise ValueError(f"adaptive_sigma needs neighbours >= 1 and beta > 0, got {neighbours} and {beta}")
    xy = checked_points(points, 2)
    if len(xy) < 2:
        return np.full(len(xy), LONE_SIGMA_PX, np.float32)
    from scipy.spatial import KDTree

    tree = KDTree(xy, compact_nodes=False, balanced_tree=False)
    distances, _ = tree.query(xy, k=min(neighbours, len(xy) - 1) + 1)
    # The nearest of all is the point itself, or one that coincides with it: distance 0 either way.
    return np.maximum(beta * distances[:, 1:].mean(axis=1), SMALLEST_SIGMA_PX).astype(np.float32)


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
    # A window wider than the frame is the frame: the bound keeps a huge sigma from overflowing the integer.
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

    # exp(-(d^2 - d0^2) / 2 sigma^2), with d0 the distance to the nearest pixel: 1 at that pixel, so the sum never
    # vanishes.
    offset = (flat + spread(windows.low - windows.nearest - start)).astype(np.float32)
    exponent = offset - spread((2 * windows.fraction).astype(np.float32))
    exponent *= offset
    exponent *= spread((-0.5 / np.square(sigma)).astype(np.float32))
    values = np.exp(exponent, out=exponent)
    values *= spread((1.0 / np.add.reduceat(values, start)).astype(np.float32))
    pieces = np.zeros((int(num_pieces.sum()), TILE_PX), np.float32)
    pieces.reshape(-1)[flat + spread((first_piece - windows.first_tile) * TILE_PX + windows.low - start)] = values
    return pieces, first_piece


def _dense_kernels(windows: _Windows, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and kernel weights of all windows along one axis, (N, longest); shorter ones repeat their last pixel with
    0.
    """
    step = np.arange(windows.length.max(initial=1))
    offset = windows.low[:, None] + step - windows.nearest[:, None]
    fraction = windows.fraction[:, None]
    weights = np.exp(-(np.square(offset) - 2 * offset * fraction) / (2 * np.square(sigma[:, None])))
    weights[step >= windows.length[:, None]] = 0
    return np.minimum(windows.low[:, None] + step,
                      (windows.low + windows.length - 1)[:, None]), weights / weights.sum(1, keepdims=True)


def _add_kernels(tiles: np.ndarray, rows: _Windows, columns: _Windows, sigma: np.ndarray,
                 region: tuple[int, int, int, int]) -> None:
    """Fills the map tile by tile: the sum of outer products of a tile's kernels is one matrix product."""
    first_row, end_row, first_column, end_column = region
    row_pieces, row_start = _kernels(rows, sigma)
    column_pieces, column_start = _kernels(columns, sigma)
    row_low, row_high = np.maximum(rows.first_tile, first_row), np.minimum(rows.last_tile, end_row - 1)
    column_low, column_high = np.maximum(columns.first_tile,
                                         first_column), np.minimum(columns.last_tile, end_column - 1)
    num_columns = column_high - column_low + 1
    num_tiles = (row_high - row_low + 1) * num_columns
    point = np.repeat(np.arange(len(sigma)), num_tiles)
    row, column = np.divmod(np.arange(len(point)) - (np.cumsum(num_tiles) - num_tiles)[point], num_columns[point])
    row += row_low[point]
    column += column_low[point]
    width_tiles = end_column - first_column
    tile = (row - first_row) * width_tiles + (column - first_column)
    # Stable: within a tile the points keep their order, so the products of a crop and of the full map round alike.
    order = np.argsort(tile, kind="stable")
    row_piece = (row_start[point] + row - rows.first_tile[point])[order]
    column_piece = (column_start[point] + column - columns.first_tile[point])[order]
    bounds = np.concatenate(([0], np.cumsum(np.bincount(tile, minlength=(end_row - first_row) * width_tiles)))).tolist()
    for strip in range(end_row - first_row):
        begin, end = bounds[strip * width_tiles], bounds[(strip + 1) * width_tiles]
        left, right = row_pieces[row_piece[begin:end]], column_pieces[column_piece[begin:end]]
        target = tiles[strip * TILE_PX:(strip + 1) * TILE_PX]
        for index in range(width_tiles):
            start, stop = bounds[strip * width_tiles + index] - begin, bounds[strip * width_tiles + index + 1] - begin
            if start < stop:
                cell = target[:, index * TILE_PX:(index + 1) * TILE_PX]
                np.matmul(left[start:stop, :cell.shape[0]].T, right[start:stop, :cell.shape[1]], out=cell)


def _checked_size(size: tuple[int, int]) -> tuple[int, int]:
    height, width = (int(v) for v in size)
    if height < 1 or width < 1:
        raise ValueError(f"a density map needs a height and a width of at least 1, got {tuple(size)}")
    return height, width


def _checked_window(window: tuple[int, int, int, int], frame: tuple[int, int]) -> tuple[int, int, int, int]:
    top, left, height, width = (int(v) for v in window)
    if top < 0 or left < 0 or height < 1 or width < 1 or top + height > frame[0] or left + width > frame[1]:
        raise ValueError(f"the window (top, left, height, width) = {tuple(window)} does not lie inside a frame of "
                         f"{frame[0]} x {frame[1]}")
    return top, left, height, width


def _points_inside(points: ArrayLike, sigma_px: ArrayLike, frame: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Which points lie inside the frame, (N,) bool; those points and their sigmas, float64, checked."""
    xy = checked_points(points, 2)
    sigma = np.asarray(sigma_px, np.float64)
    if sigma.ndim > 1 or (sigma.ndim == 1 and len(sigma) != len(xy)):
        raise ValueError(f"sigma_px must be one number or one a point ({len(xy)}), got the shape {sigma.shape}")
    if not (np.isfinite(sigma) & (sigma > 0)).all():
        raise ValueError("sigma_px must be finite and greater than 0")
    inside = (xy[:, 0] >= 0) & (xy[:, 0] < frame[1]) & (xy[:, 1] >= 0) & (xy[:, 1] < frame[0])
    return xy[inside], np.maximum(np.broadcast_to(sigma, len(xy))[inside], SMALLEST_KERNEL_PX)
