"""Suppression of points that say the same head twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def suppress_points(points_xys: ArrayLike, radius_px: ArrayLike) -> np.ndarray:
    """Greedy non-maximum suppression of points: the best score wins, others within the radius of a kept point go.

    Source: Neubeck and Van Gool, ICPR 2006 (greedy), with the distance of points in the place of overlap, as MM 2020 Sec. 3.4 needs for the
    union of detections and transformed densities (ours). Equal scores: the earlier point wins.

    Args:
        points_xys: (N, 3) x, y in pixels and score; N may be 0.
        radius_px: a point at this distance or nearer to a better kept one is suppressed, >= 0; one number, or one for each point, which
            is how far it clears its neighbourhood when it is kept.

    Returns:
        (M,) int64 indexes of the points kept, best score first.

    Raises:
        ValueError: the shape is not N x 3, a value is not finite, or the radius is negative or not finite.
    """
    points = np.asarray(points_xys, np.float64)
    if points.size == 0:
        points = points.reshape(0, 3)
    if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
        raise ValueError(f"points_xys must be a finite N x 3 array of x, y, score, got the shape {points.shape}")
    radius = np.asarray(radius_px, np.float64)
    if not (np.isfinite(radius).all() and (radius >= 0).all()) or radius.shape not in ((), (len(points),)):
        raise ValueError(f"radius_px must be one finite number >= 0, or one for each of {len(points)} points, got {radius}")
    order = np.argsort(-points[:, 2], kind="stable")
    if len(order) < 2:
        return order
    from scipy.spatial import KDTree

    tree = KDTree(points[order, :2], compact_nodes=False, balanced_tree=False)
    alive = bytearray(b"\x01") * len(order)
    if radius.ndim:
        for index, (place, reach) in enumerate(zip(points[order, :2], radius[order], strict=True)):
            if alive[index]:
                for other in tree.query_ball_point(place, reach):
                    if other > index:
                        alive[other] = 0
        return order[np.frombuffer(alive, bool)]
    pairs = tree.query_pairs(float(radius), output_type="ndarray")
    # In the order of the better point of each pair, whose own fate is settled by then.
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    for better, worse in zip(*pairs.T.tolist(), strict=True):
        if alive[better]:
            alive[worse] = 0
    return order[np.frombuffer(alive, bool)]
