"""Checks of points, shared by all functions that take them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def checked_points(values: ArrayLike, *nums_columns: int, what: str = "points") -> np.ndarray:
    """Points as a checked float64 array (ours).

    Args:
        values: (N, K), x and y first, any unit, finite; N may be 0
        nums_columns: allowed K
        what: name of the points in messages

    Returns:
        (N, K) float64.

    Raises:
        ValueError: the shape is another one or a value is not finite.
    """
    array = np.asarray(values, np.float64)
    if array.size == 0:
        return np.zeros((0, nums_columns[0]))
    if array.ndim != 2 or array.shape[1] not in nums_columns:
        wanted = " or ".join(map(str, nums_columns))
        raise ValueError(f"{what} must be an array of {wanted} columns, x and y first, got the shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{what} must be finite, got NaN or infinity")
    return array
