"""Merging of detections with what a density says: the weight that they have in its fusion, and the union of the points
of both.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from crowddist.ops.nms import suppress_points
from crowddist.ops.points import checked_points


def confidence_map(detections: Any, size: tuple[int, int], reach: Any) -> np.ndarray:
    """W of Eq. 8: the confidence of detections, spread evenly over the k x k area round each centre; where areas
    overlap, the largest.

    Source: Liu et al., MM 2020, Sec. 3.4: "within each k x k (same k for the Gaussian kernel) area of a detection
    center, the weights are set the same to the center weight".

    Args:
        detections: (D, 3) x, y in cells and score in 0..1; D may be 0.
        size: (height, width) of the map.
        reach: (k - 1) / 2 in cells, >= 0; one number, or one for each detection, rounded to whole cells.

    Returns:
        (height, width) float32; 0 where no detection reaches.

    Raises:
        ValueError: detections are not D x 3 finite numbers, a score lies outside 0..1, or a reach is negative or not
            finite.
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
    """How many others lie within a radius of each point.

    Args:
        points: (N, 2) x, y in px.
        of: (M, 2) likewise, those that are counted; None counts the points themselves, each but for itself.

    Returns:
        (N,) int64.
    """
    from scipy.spatial import KDTree

    places = checked_points(points, 2)
    others = places if of is None else checked_points(of, 2)
    if not (len(places) and len(others)):
        return np.zeros(len(places), np.int64)
    return KDTree(others).query_ball_point(places, radius_px, return_length=True).astype(np.int64) - (of is None)


def merge_points(detections: Any, transformed: Any, radius_px: Any) -> np.ndarray:
    """Which of the points of detection and of the transformed density stay: the union of both, after non-maximum
    suppression.

    Source: Liu et al., MM 2020, Sec. 3.4: D(I) and Phi(R(I)) are fused, "followed up by non-maximum suppression". Our
    reading: detections go first, and a transformed point stays where none of them is near, because the two scores are
    of different kinds and only detections have sizes of their own.

    Args:
        detections: (D, 3) x, y in px and score.
        transformed: (P, 3) likewise, of which none says the same head as another.
        radius_px: how far a detection clears its neighbourhood, >= 0; one number, or one for each detection.

    Returns:
        (M,) int64 indexes into both, one after the other, best score first.
    """
    first, second = checked_points(detections, 3), checked_points(transformed, 3)
    points = np.concatenate([first, second])
    rank = points.copy()
    rank[: len(first), 2] += 1 + (second[:, 2].max() if len(second) else 0)
    radius = np.concatenate([np.broadcast_to(np.asarray(radius_px, np.float64), len(first)), np.zeros(len(second))])
    kept = suppress_points(rank, radius)
    return kept[np.argsort(-points[kept, 2], kind="stable")]
