"""Merging detections with a density: where they weigh in the fused density, and which points of a density they clear.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from crowddist.ops.points import checked_points


def strongest(detections: Any, size: tuple[int, int], reach: Any) -> np.ndarray:
    """Which detection gives each cell its W in Eq. 8: of those whose k x k area holds the cell, that of the best score.

    Source: Liu et al., MM 2020, Sec. 3.4: "within each k x k (same k for the Gaussian kernel) area of a detection
    center, the weights are set the same to the center weight".

    Args:
        detections: (D, 3) x and y, cells, and score, 0 to 1; D may be 0
        size: (height, width) of the map, cells
        reach: (k - 1) / 2, a number or (D,), cells, >= 0; rounded to whole cells

    Returns:
        (height, width) int32, 0 to D - 1; D where no detection reaches.

    Raises:
        ValueError: detections are not D x 3 finite numbers, a score is outside 0..1, or a reach is not >= 0.
    """
    points = checked_points(detections, 3)
    if len(points) and not (points[:, 2].min() >= 0 and points[:, 2].max() <= 1):
        raise ValueError(f"scores must lie in 0..1, got {points[:, 2].min():g} to {points[:, 2].max():g}")
    half = np.broadcast_to(np.rint(np.asarray(reach, np.float64)), len(points))
    if not (np.isfinite(half).all() and (half >= 0).all()):
        raise ValueError(f"the reach must be finite and not negative, got {reach}")
    best = np.full(size, len(points), np.int32)
    order = np.argsort(points[:, 2], kind="stable")  # the largest is written last
    centre, width = np.rint(points[order, :2]).astype(np.int64), half[order, None].astype(np.int64)
    low, high = np.maximum(centre - width, 0), np.maximum(centre + width + 1, 0)
    for (left, top), (right, bottom), index in zip(low.tolist(), high.tolist(), order.tolist(), strict=True):
        best[top:bottom, left:right] = index
    return best


def clearing_scores(detections: Any, points: Any, radius_px: Any) -> np.ndarray:
    """For each point of a density the best score of the detections that clear it from the union of both kinds.

    Source: Liu et al., MM 2020, Sec. 3.4: D(I) and Phi(R(I)) are fused, "followed up by non-maximum suppression". Our
    reading: detections go first, and a point stays if no detection is near, because the two scores are of different
    kinds and only detections have sizes of their own. Of the detections above a threshold one is near exactly if the
    best one near is above it, so this one number tells it for every threshold.

    Args:
        detections: (D, 3) x and y, px, and score > 0, one detection a head
        points: (P, 2) x and y, px, one point a head
        radius_px: a number or (D,), px, >= 0; how far a detection clears its neighbourhood of points, inclusive

    Returns:
        (P,) float64; 0 where no detection is near.

    Raises:
        ValueError: points have a wrong shape or are not finite, or a radius is negative or not finite.
    """
    from scipy.spatial import KDTree

    first, second = checked_points(detections, 3), checked_points(points, 2)
    radius = np.broadcast_to(np.asarray(radius_px, np.float64), len(first))
    if not (np.isfinite(radius).all() and (radius >= 0).all()):
        raise ValueError(f"radius_px must be finite and not negative, got {radius_px}")
    best = np.zeros(len(second))
    if len(first) and len(second):
        near = KDTree(second).query_ball_point(first[:, :2], radius)
        for index in np.argsort(first[:, 2], kind="stable").tolist():  # the largest is written last
            best[near[index]] = first[index, 2]
    return best


def near_points(points: Any, radius_px: float, of: Any) -> tuple[np.ndarray, np.ndarray]:
    """Which points lie within a radius of each of some places (ours).

    Args:
        points: (N, 2) x and y, px, the places; each counts as near itself if it is one of `of`
        radius_px: px, >= 0
        of: (M, 2) x and y, px, the points that may be near

    Returns:
        indexes into `of`, place by place, int32; and (N + 1,) int64 bounds: those of place i are [bounds[i],
        bounds[i + 1]).

    Raises:
        ValueError: points have a wrong shape or are not finite.
    """
    from scipy.spatial import KDTree

    places, others = checked_points(points, 2), checked_points(of, 2)
    if not (len(places) and len(others)):
        return np.zeros(0, np.int32), np.zeros(len(places) + 1, np.int64)
    near = KDTree(others).query_ball_point(places, radius_px)
    return np.concatenate(near).astype(np.int32), np.cumsum([0, *map(len, near)])
