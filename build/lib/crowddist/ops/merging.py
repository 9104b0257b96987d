"""Merging detections with a density: their weight in the fused density, and the union of both sets of points."""

from __future__ import annotations

from typing import Any

import numpy as np

from crowddist.ops.points import checked_points


def confidence_map(detections: Any, size: tuple[int, int], reach: Any) -> np.ndarray:
    """W of Eq. 8: each detection's score, over the k x k area round its centre; the largest where areas overlap.

    Source: Liu et al., MM 2020, Sec. 3.4: "within each k x k (same k for the Gaussian kernel) area of a detection
    center, the weights are set the same to the center weight".

    Args:
        detections: (D, 3) x and y, cells, and score, 0 to 1; D may be 0
        size: (height, width) of the map, cells
        reach: (k - 1) / 2, a number or (D,), cells, >= 0; rounded to whole cells

    Returns:
        (height, width) float32, 0 to 1; 0 where no detection reaches.

    Raises:
        ValueError: detections are not D x 3 finite numbers, a score is outside 0..1, or a reach is not >= 0.
    """
    points = checked_points(detections, 3)
    if len(points) and not (points[:, 2].min() >= 0 and points[:, 2].max() <= 1):
        raise ValueError(f"scores must lie in 0..1, got {points[:, 2].min():g} to {points[:, 2].max():g}")
    half = np.broadcast_to(np.rint(np.asarray(reach, np.float64)), len(points))
    if not (np.isfinite(half).all() and (half >= 0).all()):
        raise ValueError(f"the reach must be finite and not negative, got {reach}")
    weight = np.zeros(size, np.float32)
    order = np.argsort(points[:, 2], kind="stable")  # the largest is written last
    centre, width = np.rint(points[order, :2]).astype(np.int64), half[order, None].astype(np.int64)
    low, high = np.maximum(centre - width, 0), np.maximum(centre + width + 1, 0)
    for (left, top), (right, bottom), score in zip(low.tolist(), high.tolist(), points[order, 2].tolist(), strict=True):
        weight[top:bottom, left:right] = score
    return weight


def num_near(points: Any, radius_px: float, of: Any = None) -> np.ndarray:
    """How many other points lie within a radius of each point (ours).

    Args:
        points: (N, 2) x and y, px
        radius_px: px, >= 0
        of: (M, 2) x and y, px, the points to count; None counts `points`, each but for itself

    Returns:
        (N,) int64, >= 0.

    Raises:
        ValueError: points have a wrong shape or are not finite.
    """
    from scipy.spatial import KDTree

    places = checked_points(points, 2)
    others = places if of is None else checked_points(of, 2)
    if not (len(places) and len(others)):
        return np.zeros(len(places), np.int64)
    return KDTree(others).query_ball_point(places, radius_px, return_length=True).astype(np.int64) - (of is None)


def merge_points(detections: Any, transformed: Any, radius_px: Any) -> np.ndarray:
    """The union of detections and points of the transformed density, without points near a detection.

    Source: Liu et al., MM 2020, Sec. 3.4: D(I) and Phi(R(I)) are fused, "followed up by non-maximum suppression". Our
    reading: detections go first, and a transformed point stays if no detection is near, because the two scores are of
    different kinds and only detections have sizes of their own. Detections do not suppress each other here: that is
    done before, within a radius of its own.

    Args:
        detections: (D, 3) x and y, px, and score, one detection a head
        transformed: (P, 3) x and y, px, and score, one point a head
        radius_px: a number or (D,), px, >= 0; how far a detection clears its neighbourhood of points, inclusive

    Returns:
        (M,) int64 indexes into detections followed by transformed points, best score first.

    Raises:
        ValueError: points have a wrong shape or are not finite, or a radius is negative or not finite.
    """
    from scipy.spatial import KDTree

    first, second = checked_points(detections, 3), checked_points(transformed, 3)
    radius = np.broadcast_to(np.asarray(radius_px, np.float64), len(first))
    if not (np.isfinite(radius).all() and (radius >= 0).all()):
        raise ValueError(f"radius_px must be finite and not negative, got {radius_px}")
    kept = np.ones(len(first) + len(second), bool)
    if len(first) and len(second):
        near = KDTree(second[:, :2]).query_ball_point(first[:, :2], radius)
        kept[len(first) + np.concatenate(near).astype(np.int64)] = False
    indexes = np.flatnonzero(kept)
    return indexes[np.argsort(-np.concatenate([first, second])[indexes, 2], kind="stable")]
