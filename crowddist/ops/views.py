"""Zooms: one image counted at several sizes, merged place by place by the networks' certainty."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from crowddist.ops.nms import suppress_points

NEIGHBOURHOOD_CELLS = 6.0
"""Standard deviation of the Gaussian that averages a view's certainty: nearby heads have one size. ours."""
EMPTY_PERSONS = 0.01
"""Persons per cell that every neighbourhood is taken to hold beside its own, of a known uncertainty. ours."""
EMPTY_SPREAD = 0.3
"""Relative uncertainty of those persons, so of an empty neighbourhood. Without it a view that sees nobody, with hardly
any spread, passes for certain, and erases the crowd that another view resolves. ours: of 0 to 0.3 it errs least from B
to A (121.7 persons; 123.1 without)."""


def merge_views(
    densities: Sequence[np.ndarray], spreads: Sequence[np.ndarray], neighbourhood_cells: float = NEIGHBOURHOOD_CELLS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and spread of several views of one image, each weighted by the inverse of its relative variance nearby; and
    how certain they are of it together.

    Source: ours, after "the densities the network is most certain of" (CVPR 2022, stage 2): the ensemble agrees on
    heads of a familiar size, so the best view differs from place to place. u_v is `relative_spread`; w_v = u_v^-2 /
    sum over views of u^-2; density = sum of w_v density_v; spread^2 = sum of w_v (spread_v^2 + density_v^2) - density^2
    (law of total variance): views that disagree add spread as members do. The certainty is of neighbourhoods:
    `certainty` of the mean, with the variance of the views' G(density_v) added, for two views that see a head in two
    cells side by side agree.

    Args:
        densities: V maps (h, w), persons per cell, >= 0, on one grid of cells
        spreads: V maps (h, w), persons per cell, >= 0; standard deviation over the ensemble
        neighbourhood_cells: standard deviation of G, cells, > 0

    Returns:
        density and spread, (h, w) float32, persons per cell, >= 0, and certainty, (h, w) float32, 0 to 1. Views weigh
        alike where no view has spread.

    Raises:
        ValueError: there is no view, shapes differ, or neighbourhood_cells is not positive.
    """
    shapes = {np.shape(part) for part in (*densities, *spreads)}
    if not len(densities) or len(densities) != len(spreads) or len(shapes) != 1:
        raise ValueError("densities and spreads must be equally many maps of one shape, at least one of each")
    if neighbourhood_cells <= 0:
        raise ValueError(f"neighbourhood_cells must be positive, got {neighbourhood_cells}")
    density, spread = (np.stack(part).astype(np.float64) for part in (densities, spreads))
    # Without an ensemble nothing tells the views apart.
    precision = (np.stack([relative_spread(*maps, neighbourhood_cells) ** -2
                           for maps in zip(density, spread, strict=True)]) if spread.any() else np.ones_like(density))
    weight = precision / precision.sum(0)
    mean = (weight * density).sum(0)
    variance = (weight * (spread**2 + density**2)).sum(0) - mean**2
    near = np.stack([_near(part, neighbourhood_cells) for part in density])
    disagreement = np.sqrt((weight * (near - (weight * near).sum(0)) ** 2).sum(0))
    certain = certainty(mean, (weight * spread).sum(0), disagreement, neighbourhood_cells=neighbourhood_cells)
    return mean.astype(np.float32), np.sqrt(variance.clip(min=0)).astype(np.float32), certain


def average_counters(
    densities: Sequence[np.ndarray], spreads: Sequence[np.ndarray], certainties: Sequence[np.ndarray],
    neighbourhood_cells: float = NEIGHBOURHOOD_CELLS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and spread of several counters' densities of one image, and how certain they are of it together.

    Source: ours. All weigh alike: certainties of different networks do not compare. density = mean of density_k;
    spread^2 = mean of (spread_k^2 + density_k^2) - density^2. The certainty is (s + e) / (s + e + u), with s the mean
    of s_k = G(density_k), e `EMPTY_PERSONS` and u^2 = mean of u_k^2 + variance of s_k, where u_k = (s_k + e) (1 - c_k)
    / c_k is the doubt that a counter's own certainty c_k stands for, see `certainty`: near 1/2, or less, where one sees
    many and the other nobody.

    Args:
        densities, spreads: K maps (h, w), persons per cell, >= 0, as for `merge_views`
        certainties: K maps (h, w), above 0 to 1, of `certainty` or `merge_views`
        neighbourhood_cells: standard deviation of G, cells, > 0

    Returns:
        density and spread, (h, w) float32, persons per cell, >= 0, and certainty, (h, w) float32, above 0 to 1.

    Raises:
        ValueError: there is no counter, or shapes differ.
    """
    if len({np.shape(part) for part in (*densities, *spreads, *certainties)}) != 1 or not (
            len(densities) == len(spreads) == len(certainties)):
        raise ValueError("densities, spreads and certainties must be equally many maps of one shape, at least one")
    density, spread, certain = (np.stack(part).astype(np.float64) for part in (densities, spreads, certainties))
    mean = density.mean(0)
    variance = (spread**2 + density**2).mean(0) - mean**2
    near = np.stack([_near(part, neighbourhood_cells) for part in density])
    doubts = (near + EMPTY_PERSONS) * (1 - certain) / certain
    doubt = np.sqrt((doubts**2).mean(0) + near.var(0))
    seen = near.mean(0) + EMPTY_PERSONS
    return (mean.astype(np.float32), np.sqrt(variance.clip(min=0)).astype(np.float32),
            (seen / (seen + doubt)).astype(np.float32))


def certainty(density: np.ndarray, spread: np.ndarray, disagreement: np.ndarray | float = 0.0, *,
              neighbourhood_cells: float = NEIGHBOURHOOD_CELLS) -> np.ndarray:
    """How certain the ensemble, and the views where there are several, are of a cell's neighbourhood.

    Source: ours: (G(density) + e) / (G(density) + e + sqrt(G(spread)^2 + disagreement^2)), G a Gaussian mean, e
    `EMPTY_PERSONS`: 1 where all agree, also that nobody is there, and 1/2 where they differ by as much as they see.

    Args:
        density, spread: (h, w), persons per cell, >= 0; mean and standard deviation over the ensemble
        disagreement: (h, w) or 0, persons per cell, >= 0; standard deviation over views of their G(density)
        neighbourhood_cells: standard deviation of G, cells, > 0

    Returns:
        (h, w) float32, above 0 to 1.
    """
    seen = _near(density, neighbourhood_cells) + EMPTY_PERSONS
    doubt = np.hypot(_near(spread, neighbourhood_cells), disagreement)
    return (seen / (seen + doubt)).astype(np.float32)


def relative_spread(density: np.ndarray, spread: np.ndarray, neighbourhood_cells: float) -> np.ndarray:
    """The relative uncertainty of each cell's neighbourhood.

    Source: ours: (G(spread) + s e) / (G(density) + e), G a Gaussian mean, e `EMPTY_PERSONS` and s `EMPTY_SPREAD`: s
    where nobody is.

    Args:
        density, spread: (h, w), persons per cell, >= 0; mean and standard deviation over the ensemble
        neighbourhood_cells: standard deviation of G, cells, > 0

    Returns:
        (h, w) float64, >= 0, without unit.
    """
    near_density, near_spread = (_near(part, neighbourhood_cells) for part in (density, spread))
    return (near_spread + EMPTY_SPREAD * EMPTY_PERSONS) / (near_density + EMPTY_PERSONS)


def _near(values: np.ndarray, neighbourhood_cells: float) -> np.ndarray:
    """G: the Gaussian mean around each cell, (h, w) float64."""
    import cv2  # SciPy's filter would cost a second, to import it

    radius = int(4 * neighbourhood_cells + 0.5)  # SciPy's
    return cv2.GaussianBlur(np.asarray(values, np.float64), (2 * radius + 1, 2 * radius + 1), neighbourhood_cells,
                            borderType=cv2.BORDER_REPLICATE)


def merge_heads(views: Sequence[np.ndarray]) -> np.ndarray:
    """Merge the heads of several views of one image; scores are averaged over the views.

    Source: weighted boxes fusion (Solovyev et al., 2021), which lowers the score of a box that some models missed; here
    for points, which keep the place of the surest view. A head's score is the mean over views of the best detection
    within its size, 0 where a view has none.

    Args:
        views: V arrays (D, 4) x, y and size, px of one image, and score, 0 to 1

    Returns:
        (M, 4) float32 x, y and size, px, and score, 0 to 1, best first; none lies within the size of a surer one.

    Raises:
        ValueError: there is no view.
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
