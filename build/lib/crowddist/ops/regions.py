"""Regions of interest: the pixels of a polygon, and the points that lie in it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from crowddist.ops.points import checked_points

FARTHEST_PX = 1e6
"""Largest coordinate of a vertex, px. ours."""


def polygon_pixels(polygon: ArrayLike, size: tuple[int, int]) -> np.ndarray:
    """The pixels of a polygon, including those on its outline; vertices snap to the pixels they lie in (ours).

    Source: `cv2.fillPoly`.

    Args:
        polygon: (K, 2) x and y of vertices, px (pixel j has its centre at j), K >= 3; the last is joined to the first,
            and a part that is circled twice is outside
        size: (height, width) of the image, px, which clips the polygon

    Returns:
        (height, width) bool.

    Raises:
        ValueError: there are less than three vertices, the shape is wrong, or one is beyond `FARTHEST_PX`.
    """
    import cv2

    pixels = np.zeros(size, np.uint8)
    cv2.fillPoly(pixels, [np.floor(_checked_polygon(polygon) + 0.5).astype(np.int32)], 1)
    return pixels.astype(bool)


def points_inside(points: np.ndarray, polygon: ArrayLike) -> np.ndarray:
    """Does each point lie in a polygon or on its outline?

    Source: `cv2.pointPolygonTest`.

    Args:
        points: (N, 2 or more) x and y, px, first
        polygon: as in `polygon_pixels`

    Returns:
        (N,) bool.

    Raises:
        ValueError: as `polygon_pixels`.
    """
    import cv2

    vertices = _checked_polygon(polygon).astype(np.float32)
    return np.array([cv2.pointPolygonTest(vertices, point, False) >= 0 for point in points[:, :2].tolist()], bool)


def _checked_polygon(polygon: ArrayLike) -> np.ndarray:
    vertices = checked_points(polygon, 2, what="vertices")
    if len(vertices) < 3 or np.abs(vertices).max() > FARTHEST_PX:
        raise ValueError(f"a polygon needs three vertices or more within {FARTHEST_PX:g} px, got {vertices.tolist()}")
    return vertices


def centred_pixels(polygon: ArrayLike, size: tuple[int, int]) -> np.ndarray:
    """The pixels whose centre lies in a polygon, by the even-odd rule (ours).

    Unlike `polygon_pixels` it leaves out what the outline only touches: polygons that share a side share no pixel, so
    that those which part an image between them cover each pixel once.

    Args:
        polygon: (K, 2) x and y of vertices, px from the image's left and top edge (pixel j covers j to j + 1), K >= 3;
            the last is joined to the first
        size: (height, width) of the image, px, which clips the polygon

    Returns:
        (height, width) bool.

    Raises:
        ValueError: as `polygon_pixels`.
    """
    height, width = size
    corners = _checked_polygon(polygon)
    turns = np.zeros((height, width + 1), np.int32)
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        # From top to bottom, so that the polygon on the other side of this line computes the same numbers.
        (x_top, top), (x_bottom, bottom) = sorted((start, end), key=lambda corner: (corner[1], corner[0]))
        rows = np.arange(max(np.ceil(top - 0.5), 0), min(np.ceil(bottom - 0.5), height), dtype=np.int64)
        if len(rows):
            x = x_top + (rows + 0.5 - top) * ((x_bottom - x_top) / (bottom - top))
            turns[rows, np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)] += 1
    return np.cumsum(turns, axis=1)[:, :width] % 2 == 1


def self_crossing(polygon: ArrayLike) -> tuple[int, int, tuple[float, float]] | None:
    """Where two sides of a polygon cross or touch each other that are no neighbours; None for a simple polygon.

    Args:
        polygon: as in `centred_pixels`, in any unit

    Returns:
        The numbers of the first such sides, from 0 (side i goes from vertex i to the next), and x, y of the place.

    Raises:
        ValueError: as `polygon_pixels`.
    """
    starts = _checked_polygon(polygon)
    ends = np.roll(starts, -1, axis=0)
    for first in range(len(starts) - 2):
        others = slice(first + 2, len(starts) - (first == 0))  # the last side is the first one's neighbour
        start, end, low, high = starts[first], ends[first], starts[others], ends[others]
        # On which side of the one line the ends of the other lie.
        of_low, of_high = _turn(start, end, low), _turn(start, end, high)
        of_start, of_end = _turn(low, high, start), _turn(low, high, end)
        near = ((np.maximum(low, high) >= np.minimum(start, end)) & (np.minimum(low, high) <= np.maximum(start, end)))
        met = np.flatnonzero((of_low * of_high <= 0) & (of_start * of_end <= 0) & near.all(axis=1))
        if len(met):
            place = met[0]
            along = of_start[place] - of_end[place]
            x, y = start + (end - start) * (of_start[place] / along) if along else np.maximum(
                np.minimum(low[place], high[place]), np.minimum(start, end))  # two sides on one line
            return first, first + 2 + int(place), (float(x), float(y))
    return None


def _turn(start: np.ndarray, end: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N,) above 0 where the way from start to end to a point turns to the one side, below 0 to the other."""
    along, aside = end - start, points - start
    return along[..., 0] * aside[..., 1] - along[..., 1] * aside[..., 0]
