"""Views: one image counted at several sizes, merged by how certain the networks are of each, place by place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from crowddist.ops.nms import suppress_points

NEIGHBOURHOOD_CELLS = 6.0
"""Standard deviation of the Gaussian that a view's certainty is averaged over: as heads of a place are of one size
(ours)."""
SMALLEST_UNCERTAINTY = 1e-6
"""Added to the relative uncertainty, so that views without any spread weigh alike (ours)."""
EPSILON_PERSONS = 1e-4
"""Added to the density of a neighbourhood before it is divided by (ours)."""


def merge_views(
    densities: Sequence[np.ndarray], spreads: Sequence[np.ndarray], neighbourhood_cells: float = NEIGHBOURHOOD_CELLS
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and spread of several predictions of one image, each weighted by the inverse of its relative variance near
    by.

    Source: ours, after "the densities the network is most certain of" (CVPR 2022, stage 2): heads of a size that the
    counter knows are those its ensemble agrees on, so of several sizes of an image the right one differs from place to
    place. u_v = G(spread_v) / (G(density_v) + epsilon), G a Gaussian mean; w_v = u_v^-2 / sum over views of u^-2;
    density = sum of w_v density_v; spread^2 = sum of w_v (spread_v^2 + density_v^2) - density^2, the law of total
    variance: views that disagree make a place uncertain as members that disagree do.

    Args:
        densities: V maps (h, w), persons per cell >= 0, moved to the cells of one grid.
        spreads: V maps (h, w), standard deviation over the ensemble, persons per cell >= 0.
        neighbourhood_cells: standard deviation of G, cells, > 0.

    Returns:
        density and spread, (h, w) float32 each. Where every view's spread is 0, all views weigh alike.

    Raises:
        ValueError: no view, shapes that differ, or neighbourhood_cells that is not positive.
    """
    from scipy.ndimage import gaussian_filter

    if not len(densities) or len({np.shape(part)
                                  for part in (*densities, *spreads)}) != 1 or len(densities) != len(spreads):
        raise ValueError("densities and spreads must be equally many maps of one shape, at least one of each")
    if neighbourhood_cells <= 0:
        raise ValueError(f"neighbourhood_cells must be positive, got {neighbourhood_cells}")
    density, spread = (np.stack(part).astype(np.float64) for part in (densities, spreads))
    near = [[gaussian_filter(one, neighbourhood_cells, mode="nearest") for one in part] for part in (density, spread)]
    relative = np.stack(near[1]) / (np.stack(near[0]) + EPSILON_PERSONS)
    certainty = (relative + SMALLEST_UNCERTAINTY) ** -2
    weight = certainty / certainty.sum(0)
    mean = (weight * density).sum(0)
    variance = (weight * (spread**2 + density**2)).sum(0) - mean**2
    return mean.astype(np.float32), np.sqrt(variance.clip(min=0)).astype(np.float32)


def merge_heads(views: Sequence[np.ndarray]) -> np.ndarray:
    """The heads of several views of one image, each as sure as the views are together.

    Source: weighted boxes fusion (Solovyev et al., 2021), which lowers the score of a box that some of the models did
    not find; here with points, which stay where the surest view has them. A head's score is the mean over all views of
    the surest detection within its size, 0 where a view has none.

    Args:
        views: V arrays D x 4, x, y, size in px and score, moved to one image's pixels.

    Returns:
        M x 4 float32, likewise; no head lies within the size of a surer one.

    Raises:
        ValueError: no view.
    """
    from scipy.spatial import KDTree

    if not views:
        raise ValueError("give the heads of at least one view")
    found = np.concatenate(views).astype(np.float32)
    heads = found[suppress_points(found[:, [0, 1, 3]], found[:, 2])]
    total = np.zeros(len(heads))
    for view in views:
        if len(view) and len(heads):
            near = KDTree(view[:, :2]).query_ball_point(heads[:, :2], heads[:, 2])
            total += [view[places, 3].max() if places else 0.0 for places in near]
    heads[:, 3] = total / len(views)
    return heads[np.argsort(-heads[:, 3], kind="stable")]
