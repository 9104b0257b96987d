"""Head points read from maps: 0-1 localisation maps, a detector's maps, and density maps."""

from __future__ import annotations

from typing import Any

import numpy as np

from crowddist.ops.density import TRUNCATE

DENSE_SHARE = 1 / 32
"""Above this share of candidate pixels a filter of the whole map is faster than checking each. ours, at 1080p."""
SMALLEST_SCORE = 1e-6
"""Score of a point that the count demands where there is hardly any density. ours."""
FILTER_SHARE = 2 / 3
"""Sigma of the search filter over sigma of a head: 1 is best in noise, less separates close heads. ours: best or near
it on true, blurred and noisy maps of ShanghaiTech A and B."""


def read_points(localisation: Any, threshold: float = 0.2, merge_px: int = 10) -> np.ndarray:
    """Head points of a localisation map: strong local maxima; each clears the square around it.

    Source: Liu et al., MM 2020, Sec. 3.3: threshold 0.2, then redundant pixels within 10 x 10 are merged. Our reading:
    candidates are the pixels >= threshold that none of their 8 neighbours exceeds. Taken from the highest down (equal
    ones row by row from the top left), each one left becomes a point and removes those within merge_px / 2 in x and y.

    Args:
        localisation: (h, w), about 1 at heads, 0 elsewhere; NumPy or torch
        threshold: least value of a head, > 0
        merge_px: side of the square around a point that holds no other, px, >= 1

    Returns:
        (M, 3) float32 x and y, px, and score = the map's value, best first.

    Raises:
        ValueError: the map is not (h, w) or not finite, or threshold or merge_px is out of range.
    """
    values = _checked_map(localisation)
    if not threshold > 0 or merge_px < 1:
        raise ValueError(f"threshold must be greater than 0 and merge_px at least 1, got {threshold} and {merge_px}")
    rows, columns = local_maxima(values, threshold)
    points = np.stack([columns, rows, values[rows, columns]], axis=1)
    return points[clear_squares(points, merge_px)].astype(np.float32)


def clear_squares(points: np.ndarray, merge_px: int) -> np.ndarray:
    """Which points remain when each, best first, clears the square around it: the second half of `read_points`.

    Source: Liu et al., MM 2020, Sec. 3.3.

    Args:
        points: (M, 3) x and y, whole px, >= 0, and score; of equal scores the first goes first
        merge_px: side of the square, px, >= 1

    Returns:
        (K,) int64 indexes, best score first.
    """
    order = np.argsort(-points[:, 2], kind="stable")
    columns, rows = points[order, :2].astype(np.int64).T
    reach = merge_px // 2
    cleared = np.zeros((rows.max(initial=0) + 1, columns.max(initial=0) + 1), bool)
    kept = []
    for index, row, column in zip(order.tolist(), rows.tolist(), columns.tolist(), strict=True):
        if not cleared[row, column]:
            kept.append(index)
            cleared[max(row - reach, 0):row + reach + 1, max(column - reach, 0):column + reach + 1] = True
    return np.array(kept, np.int64)


def read_detections(confidence: Any, log_size: Any, offset: Any, stride_px: int, threshold: float) -> np.ndarray:
    """Heads of a detector's maps: strong local maxima of the confidence, with their sizes.

    Source: Liu et al., CVPR 2019 (CSP), Sec. 3.4: confidence above a threshold, size and offset from the other maps.
    Only maxima of the 8-neighbourhood are taken; CSP leaves that to non-maximum suppression (ours).

    Args:
        confidence: (h, w), 0 to 1; NumPy or torch
        log_size: (h, w), natural logarithm of the size in px
        offset: (2, h, w) y and x of the centre relative to the cell's centre, cells, clipped to -0.5..0.5
        stride_px: side of a cell, px, >= 1
        threshold: least confidence of a head, > 0

    Returns:
        (D, 4) float32 x, y and size, px, and score, best first.

    Raises:
        ValueError: a map has a wrong shape or is not finite, or stride_px or threshold is out of range.
    """
    values, sizes = _checked_map(confidence), _checked_map(log_size)
    shifts = np.stack([_checked_map(part) for part in offset])
    if sizes.shape != values.shape or shifts.shape != (2, *values.shape):
        raise ValueError(f"the maps must have one shape, got {values.shape}, {sizes.shape} and {shifts.shape}")
    if not threshold > 0 or stride_px < 1:
        raise ValueError(f"threshold must be greater than 0 and stride_px at least 1, got {threshold} and {stride_px}")
    rows, columns = local_maxima(values, threshold)
    scores = values[rows, columns]
    order = np.argsort(-scores, kind="stable")
    rows, columns = rows[order], columns[order]
    y, x = ((place + 0.5 + np.clip(shift[rows, columns], -0.5, 0.5)) * stride_px - 0.5
            for place, shift in zip((rows, columns), shifts, strict=True))
    return np.stack([x, y, np.exp(sizes[rows, columns]), scores[order]], axis=1).astype(np.float32)


def local_maxima(values: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """The pixels of a map that are >= threshold and that none of their 8 neighbours exceeds (ours).

    Args:
        values: (h, w), finite
        threshold: least value of a maximum

    Returns:
        their rows and their columns, (M,) int64 each, in row-major order.
    """
    strong = values >= threshold
    if np.count_nonzero(strong) > DENSE_SHARE * values.size:
        import cv2

        rows, columns = np.nonzero((values == cv2.dilate(values, np.ones((3, 3), np.uint8))) & strong)
        return rows, columns
    height, width = values.shape
    rows, columns = np.divmod(np.flatnonzero(strong), width)
    # Few pixels remain after the first two. Clipped to the map, a neighbour is another neighbour or the pixel itself.
    for down, right in ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1)):
        neighbours = values[(rows + down).clip(0, height - 1), (columns + right).clip(0, width - 1)]
        standing = values[rows, columns] >= neighbours
        rows, columns = rows[standing], columns[standing]
    return rows, columns


def density_points(density: Any, stride_px: int = 8, sigma_px: float = 6.0) -> np.ndarray:
    """Head points of a counter's density map: as many as the map counts, strongest first.

    Source: ours (matching pursuit, Mallat and Zhang 1993). The smoothed map's highest cell becomes a point, and one
    smoothed head is subtracted there, until round(count) points are found. So local maxima come first, and a place with
    the mass of several heads is visited again. A cell gives at most one point; with more heads than half the cells,
    cells are first cut in four, down to single pixels.

    Args:
        density: (h, w), persons per cell, >= 0; NumPy or torch
        stride_px: side of a cell, px of the image, >= 1
        sigma_px: standard deviation of the kernel that drew the density, px of the image, > 0

    Returns:
        (M, 3) float32 x and y, px of the image, and score in (0, 1]: the part of one head that was left there.

    Raises:
        ValueError: the map is not (h, w) or not finite, or stride_px or sigma_px is out of range.
    """
    cells = _checked_map(density).astype(np.float64)
    if stride_px < 1 or not sigma_px > 0:
        raise ValueError(f"stride_px must be at least 1 and sigma_px positive, got {stride_px} and {sigma_px}")
    count = max(0, round(float(cells.sum())))
    side = float(stride_px)
    while 2 * count > cells.size and side > 1:
        cells, side = cells.repeat(2, 0).repeat(2, 1) / 4, side / 2
    smoothing, head = _kernel(FILTER_SHARE * sigma_px / side), _kernel(sigma_px / side)
    head = np.convolve(head, smoothing)
    head = np.outer(head, head)
    reach = len(head) // 2
    # Minus infinity around the map: heads can be subtracted at its edge and are never found outside.
    strength = np.pad(_smoothed(cells, smoothing), reach, constant_values=-np.inf)
    points = np.empty((min(count, cells.size), 3))
    for point in points:
        row, column = divmod(int(strength.argmax()), strength.shape[1])
        point[:] = column - reach, row - reach, strength[row, column]
        strength[row - reach:row + reach + 1, column - reach:column + reach + 1] -= head
        strength[row, column] = -np.inf
    points[:, :2] = (points[:, :2] + 0.5) * side - 0.5
    points[:, 2] = np.clip(points[:, 2] / head[reach, reach], SMALLEST_SCORE, 1.0)
    return points.astype(np.float32)


def _kernel(sigma: float) -> np.ndarray:
    radius = int(np.ceil(TRUNCATE * sigma))
    kernel = np.exp(-np.square(np.arange(-radius, radius + 1)) / (2 * sigma**2))
    return kernel / kernel.sum()


def _smoothed(cells: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The map filtered with a symmetric kernel along both axes, with zeros around."""
    radius = len(kernel) // 2
    for axis in (0, 1):
        length = cells.shape[axis]
        padded = np.moveaxis(np.pad(cells, [(radius, radius) if a == axis else (0, 0) for a in (0, 1)]), axis, 0)
        cells = np.moveaxis(sum(weight * padded[i:i + length] for i, weight in enumerate(kernel)), 0, axis)
    return cells


def _checked_map(values: Any) -> np.ndarray:
    array = values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"the map must be (h, w) with at least one pixel, got the shape {array.shape}")
    # The sum is finite only if all values are (overflow is as bad), and needs no second map.
    if not np.isfinite(array.sum()):
        raise ValueError("the map must be finite, got NaN or infinity")
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)
