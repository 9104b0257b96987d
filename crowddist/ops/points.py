"""What every function that takes points asks of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def checked_points(values: ArrayLike, *nums_columns: int, what: str = "points") -> np.ndarray:
    """Points as a float64 array. Args: values, N x one of the numbers of columns, x and y first; N may be 0.

    Raises:
        ValueError: another shape, or a value that is not finite.
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
