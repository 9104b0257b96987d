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
