"""Localisation: average precision of head points at every distance; precision and recall of one-to-one matches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from crowddist.ops.points import checked_points


def mean_average_precision(predictions: Sequence[ArrayLike], truths: Sequence[ArrayLike],
                           max_distance_px: int = 100) -> float:
    """The mean of `average_precisions` over all distances.

    Source: Liu et al., MM 2020, Sec. 4.2.

    Args and Raises: as `average_precisions`.

    Returns:
        0 to 1.
    """
    return float(average_precisions(predictions, truths, max_distance_px).mean())


def average_precisions(predictions: Sequence[ArrayLike], truths: Sequence[ArrayLike],
                       max_distance_px: int = 100) -> np.ndarray:
    """Average precision of head points for every distance c = 1..max_distance_px.

    Source: Liu et al., MM 2020, Sec. 4.2. All predictions of the data set are taken in order of score. A prediction is
    a true positive at c if its nearest truth is at most c away and no better prediction took that truth. Our readings:
    the area under the precision-recall curve is interpolated at all points; equal scores keep their order, and of
    equally near truths the first counts.

    The nearest truth and its distance d do not depend on c: a prediction is a true positive for ceil(d) <= c < the
    least ceil(d') of the better predictions with the same nearest truth. So one pass finds every c.

    Args:
        predictions: for each image (M, 3) x and y, px, and score; M may be 0
        truths: for each image (N, 2) x and y, px; N may be 0
        max_distance_px: largest distance c, px, >= 1

    Returns:
        (max_distance_px,) float64, 0 to 1. Without any truth: 1 if there is no prediction either, else 0 (ours).

    Raises:
        ValueError: the lists differ in length, an array has a wrong shape or is not finite, or c < 1.
    """
    _check_lengths(predictions, truths)
    if max_distance_px < 1:
        raise ValueError(f"max_distance_px must be at least 1, got {max_distance_px}")
    points = [checked_points(p, 3, what="predictions") for p in predictions]
    heads = [checked_points(t, 2, what="truths") for t in truths]
    num_predictions, num_truths = (sum(map(len, arrays)) for arrays in (points, heads))
    if num_truths == 0 or num_predictions == 0:
        return np.full(max_distance_px, float(num_predictions == num_truths))
    order = np.argsort(-np.concatenate([p[:, 2] for p in points]), kind="stable")
    nearest, distance = (values[order] for values in _nearest_truths(points, heads))
    first = np.clip(np.ceil(distance), 1, max_distance_px + 1).astype(np.int64)
    end = _taken_from(nearest, first, max_distance_px + 1)
    return _areas(first, end, num_truths, max_distance_px)


def precision_recall(
    predictions: Sequence[ArrayLike], truths: Sequence[ArrayLike], radii_px: Sequence[float],
) -> dict[float, dict[str, float]]:
    """Precision, recall and F1 of head points at every radius, from the largest one-to-one match with the truths.

    Source: protocol of NWPU-Crowd (Wang et al., TPAMI 2021), with given radii instead of box sizes (ours). In each
    image as many disjoint pairs of a prediction and a truth within the radius as possible are matched (Hopcroft and
    Karp, SIAM J. Comput. 1973); pairs and points are added up over all images before dividing.

    Args:
        predictions: for each image (M, 2) x and y, px, or (M, 3) with an unused score; M may be 0
        truths: for each image (N, 2) x and y, px; N may be 0
        radii_px: one or more largest distances of a pair, px, >= 0

    Returns:
        for each radius `precision` = pairs / M, `recall` = pairs / N and `f1` = 2 pairs / (M + N), 0 to 1. A
        quotient with denominator 0 is 1 if there are neither predictions nor truths, else 0 (ours).

    Raises:
        ValueError: the lists differ in length, an array has a wrong shape or is not finite, or a radius is < 0.
    """
    _check_lengths(predictions, truths)
    if len(radii_px) == 0 or not all(np.isfinite(radius) and radius >= 0 for radius in radii_px):
        raise ValueError(f"radii_px must be one or more finite numbers >= 0, got {radii_px}")
    points = [checked_points(p, 2, 3, what="predictions")[:, :2] for p in predictions]
    heads = [checked_points(t, 2, what="truths") for t in truths]
    num_predictions, num_truths = (sum(map(len, arrays)) for arrays in (points, heads))
    num_pairs = sum((_match_sizes(p, t, radii_px) for p, t in zip(points, heads, strict=True)),
                    np.zeros(len(radii_px), np.int64))

    def share(part: float, whole: int) -> float:
        return part / whole if whole else float(num_predictions == num_truths)

    return {
        radius: {"precision": share(n, num_predictions), "recall": share(n, num_truths),
                 "f1": share(2 * n, num_predictions + num_truths)}
        for radius, n in zip(radii_px, num_pairs.tolist(), strict=True)
    }


def _match_sizes(points: np.ndarray, heads: np.ndarray, radii_px: Sequence[float]) -> np.ndarray:
    """Pairs of the largest match of one image, for every radius."""
    sizes = np.zeros(len(radii_px), np.int64)
    if len(points) == 0 or len(heads) == 0:
        return sizes
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching
    from scipy.spatial import KDTree

    # Search a little farther: points on the radius are decided by d <= r alone, not by the tree's rounding.
    reach_px = max(radii_px) * (1 + 1e-9)
    near = KDTree(points).sparse_distance_matrix(KDTree(heads), reach_px, output_type="ndarray")
    rows, columns = near["i"], near["j"]
    gaps = np.hypot(*(points[rows] - heads[columns]).T)
    for index, radius in enumerate(radii_px):
        inside = gaps <= radius
        graph = csr_array((np.ones(inside.sum(), bool), (rows[inside], columns[inside])), (len(points), len(heads)))
        sizes[index] = (maximum_bipartite_matching(graph, perm_type="column") >= 0).sum()
    return sizes


def _check_lengths(predictions: Sequence[ArrayLike], truths: Sequence[ArrayLike]) -> None:
    if len(predictions) != len(truths):
        raise ValueError(f"predictions and truths must have one entry an image, got {len(predictions)}, {len(truths)}")


def _nearest_truths(points: list[np.ndarray], heads: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """For all predictions: the nearest truth's index in the data set, and its distance, infinite without one."""
    from scipy.spatial import KDTree

    nearest, distance, offset = [], [], 0
    for predicted, true in zip(points, heads, strict=True):
        xy = predicted[:, :2]
        index, gap = np.zeros(len(xy), np.int64), np.full(len(xy), np.inf)
        if len(xy) and len(true):
            both, indexes = KDTree(true, compact_nodes=False, balanced_tree=False).query(xy, k=min(2, len(true)))
            index = indexes.reshape(len(xy), -1)[:, 0]
            if len(true) > 1:
                # The tree picks any of equally near truths.
                for tie in np.flatnonzero(both[:, 1] <= both[:, 0] * (1 + 1e-12)):
                    index[tie] = np.argmin(np.hypot(*(true - xy[tie]).T))
            gap = np.hypot(*(true[index] - xy).T)
        nearest.append(index + offset)
        distance.append(gap)
        offset += len(true)
    return np.concatenate(nearest), np.concatenate(distance)


def _taken_from(nearest: np.ndarray, first: np.ndarray, never: int) -> np.ndarray:
    """In score order: the least `first` of the better predictions with the same nearest truth, else `never`."""
    by_truth = np.argsort(nearest, kind="stable")
    group = np.cumsum(np.diff(nearest[by_truth], prepend=nearest[by_truth[0]]) > 0)
    # Each group's values lie below all earlier groups, so the running minimum restarts with each group.
    running = np.minimum.accumulate(first[by_truth] - group * (never + 1)) + group * (never + 1)
    starts = np.diff(group, prepend=-1) > 0
    end = np.empty_like(first)
    end[by_truth] = np.where(starts, never, np.concatenate(([never], running[:-1])))
    return end


def _areas(first: np.ndarray, end: np.ndarray, num_truths: int, max_distance_px: int) -> np.ndarray:
    """The area at every c, from the range of c in which each prediction (in score order) is a true positive."""
    rank = np.flatnonzero(first < end)
    first, end, num_tried = first[rank], end[rank], rank + 1.0
    changes = set(first.tolist()) | set(end.tolist())
    num_hits = np.arange(1.0, len(rank) + 1)
    areas = np.zeros(max_distance_px + 1)
    for c in range(1, max_distance_px + 1):
        if c not in changes:
            areas[c] = areas[c - 1]
            continue
        hits = num_tried[np.flatnonzero((first <= c) & (c < end))]
        # Recall rises only at hits, so the precision's envelope is needed only there.
        precision = num_hits[:len(hits)] / hits
        areas[c] = np.maximum.accumulate(precision[::-1]).sum() / num_truths
    return areas[1:]
