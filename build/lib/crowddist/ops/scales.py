"""Sizes of heads that are only known as points."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from crowddist.ops.points import checked_points

LONE_SIZE_PX = 30.0
"""Size of the only head of an image. ours."""
SMALLEST_SIZE_PX, LARGEST_SIZE_PX = 3.0, 200.0
"""Bounds of all sizes. ours."""
NUM_PEERS = 15
"""Heads at about the same height in the image, so at about the same scale. ours."""
PEER_QUANTILE = 0.25
"""Quantile of the peers' neighbour distances: among a few peers some stand shoulder to shoulder. ours."""


def head_sizes(points: ArrayLike) -> np.ndarray:
    """The side of each head's square, from the distance to its nearest neighbour.

    Source: MM 2020, Sec. 4.2 refers to PSDDN (Liu et al., CVPR 2019) for boxes made of points: the nearest neighbour's
    distance, with similar boxes in one row. That distance means little in a sparse crowd, so ours is the smaller of it
    and the first quartile of it among the `NUM_PEERS` heads nearest in y.

    Args:
        points: (N, 2) x and y, px; N may be 0

    Returns:
        (N,) float32, px, `SMALLEST_SIZE_PX` to `LARGEST_SIZE_PX`.

    Raises:
        ValueError: points have a wrong shape or are not finite.
    """
    given = checked_points(points, 2)
    # A point that is annotated twice is not its own neighbour.
    xy, place_of = np.unique(given, axis=0, return_inverse=True)
    if len(xy) < 2:
        return np.full(len(given), LONE_SIZE_PX, np.float32)
    distance = neighbour_distances(xy, 1)
    order = np.argsort(xy[:, 1], kind="stable")
    num_peers = min(NUM_PEERS, len(xy))
    groups = np.lib.stride_tricks.sliding_window_view(distance[order], num_peers)
    usual = np.quantile(groups, PEER_QUANTILE, axis=1)
    place = np.clip(np.arange(len(xy)) - num_peers // 2, 0, len(groups) - 1)
    sizes = np.empty(len(xy))
    sizes[order] = np.minimum(distance[order], usual[place])
    return np.clip(sizes[place_of.reshape(-1)], SMALLEST_SIZE_PX, LARGEST_SIZE_PX).astype(np.float32)


def neighbour_distances(points: ArrayLike, neighbours: int) -> np.ndarray:
    """The mean distance of each point to its nearest neighbours.

    Source: Zhang et al., CVPR 2016, Sec. 2.2.

    Args:
        points: (N, 2) x and y, px; N >= 2
        neighbours: neighbours to average, >= 1; all others where there are fewer

    Returns:
        (N,) float64, px, >= 0.

    Raises:
        ValueError: points have a wrong shape or are not finite.
    """
    from scipy.spatial import KDTree

    xy = checked_points(points, 2)
    distances, _ = KDTree(xy, compact_nodes=False, balanced_tree=False).query(xy, k=min(neighbours, len(xy) - 1) + 1)
    # The nearest is the point itself, or one that coincides with it: distance 0 either way.
    return distances[:, 1:].mean(axis=1)


def transformed_sizes(points: ArrayLike, detector_sizes: ArrayLike, height: float) -> np.ndarray:
    """Sizes of points read from a density: the detector's in the lower half of the image, else `head_sizes`.

    Source: Liu et al., MM 2020, Sec. 3.4: "using the original scale map M^S from D_t in the lower half of the image and
    nearest neighbor distances in the upper half", where heads are far, small and dense.

    Args:
        points: (N, 2) x and y of all heads found, px
        detector_sizes: (N,) scale map at the points, px, > 0
        height: of the image, px

    Returns:
        (N,) float32, px, > 0.

    Raises:
        ValueError: points have a wrong shape or are not finite.
    """
    xy = checked_points(points, 2)
    lower = xy[:, 1] >= height / 2
    return np.where(lower, np.asarray(detector_sizes, np.float32), head_sizes(xy)).astype(np.float32)
