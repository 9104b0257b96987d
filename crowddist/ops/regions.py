"""Regions of interest: the pixels of a polygon, and the points that lie in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crowddist.ops.points import checked_points

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

FARTHEST_PX = 1e6
"""No vertex lies farther out than this. ours."""


def polygon_pixels(polygon: ArrayLike, size: tuple[int, int]) -> np.ndarray:
    """The pixels of a polygon, those that its outline runs through included; its vertices are moved to the pixels they
    lie in (ours).

    Args:
        polygon: K x 2 x, y of the vertices in pixels (pixel j has its centre at j), K >= 3, the last joined to the
            first; a place that it goes round twice lies outside.
        size: (height, width) of the image, which cuts the polygon off.

    Returns:
        bool (height, width).

    Raises:
        ValueError: fewer than three vertices, another shape, or a vertex that is not finite or farther out than
            `FARTHEST_PX`.
    """
    import cv2

    pixels = np.zeros(size, np.uint8)
    cv2.fillPoly(pixels, [np.floor(_checked_polygon(polygon) + 0.5).astype(np.int32)], 1)
    return pixels.astype(bool)


def points_inside(points: np.ndarray, polygon: ArrayLike) -> np.ndarray:
    """(N,) bool, whether each point lies in a polygon or on its outline.

    Args:
        points: N x 2 or more columns, x and y in pixels first.
        polygon: as `polygon_pixels`.

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
