"""Suppression of points that mark the same head twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crowddist.ops.points import checked_points

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from scipy.spatial import KDTree


def suppress_points(points_xys: ArrayLike, radius_px: ArrayLike) -> np.ndarray:
    """Greedy non-maximum suppression of points: the best score wins; others within the radius of a kept point go.

    Source: Neubeck and Van Gool, ICPR 2006 (greedy), with distance instead of overlap, as MM 2020, Sec. 3.4 needs for
    the union of detections and transformed densities (ours). Of equal scores the earlier point wins.

    Args:
        points_xys: (N, 3) x and y, px, and score; N may be 0
        radius_px: a number or (N,), px, >= 0; how far a kept point clears its neighbourhood, inclusive

    Returns:
        (M,) int64 indexes of the kept points, best score first.

    Raises:
        ValueError: the shape is not N x 3, a value is not finite, or a radius is negative or not finite.
    """
    points = checked_points(points_xys, 3, what="points_xys")
    radius = np.asarray(radius_px, np.float64)
    if not (np.isfinite(radius).all() and (radius >= 0).all()) or radius.shape not in ((), (len(points),)):
        raise ValueError(f"radius_px must be one finite number >= 0, or one for each of {len(points)} points, got "
                         f"{radius}")
    order = np.argsort(-points[:, 2], kind="stable")
    if len(order) < 2:
        return order
    from scipy.spatial import KDTree

    places = points[order, :2]
    tree = KDTree(places, compact_nodes=False, balanced_tree=False)
    pairs = (_pairs_within(places, radius[order], tree) if radius.ndim
             else tree.query_pairs(float(radius), output_type="ndarray"))
    alive = bytearray(b"\x01") * len(order)
    # In the order of each pair's better point: it is known by then whether that one stays.
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    for better, worse in zip(*pairs.T.tolist(), strict=True):
        if alive[better]:
            alive[worse] = 0
    return order[np.frombuffer(alive, bool)]


def _pairs_within(places: np.ndarray, radius: np.ndarray, tree: KDTree) -> np.ndarray:
    """(K, 2) int64 pairs of points, the earlier one first, with the later one inside the earlier one's radius.

    The few radii far larger than the others are queried one by one: they would make the list of pairs long.
    """
    usual = radius <= 4 * np.median(radius[radius > 0]) if radius.any() else np.ones(len(radius), bool)
    pairs = tree.query_pairs(float(radius[usual].max()), output_type="ndarray")
    first, second = np.ascontiguousarray(pairs.T)
    x, y = np.ascontiguousarray(places.T)
    near = np.square(x[first] - x[second]) + np.square(y[first] - y[second]) <= np.square(radius)[first]
    found = [pairs[near & usual[first]]]
    for index in np.flatnonzero(~usual).tolist():
        others = np.array(tree.query_ball_point(places[index], radius[index]))
        others = others[others > index]
        found.append(np.column_stack([np.full(len(others), index), others]))
    return np.concatenate(found)
