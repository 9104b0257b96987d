"""Fusion of a regressed density map with one drawn from detections."""

from __future__ import annotations

from typing import Any

import numpy as np


def fuse_density(regressed: Any, detected: Any, weight: Any) -> Any:
    """Mix two density maps pixel by pixel: (1 - W) * regressed + W * detected.

    Source: Liu et al., MM 2020, Eq. 8.

    Args:
        regressed: R(I), the density by regression, any shape; persons per cell, NumPy or torch.
        detected: Psi(D(I)), the density drawn from detections, same shape and kind.
        weight: W, the confidence of detection, 0 to 1; a number, or a map of the same shape and kind.

    Returns:
        The fused density, shape and kind of `regressed`, in floating point.

    Raises:
        ValueError: the shapes differ, or a weight lies outside 0..1 or is NaN.
    """
    shape, *others = (tuple(np.shape(v)) for v in (regressed, detected, weight))
    if others[0] != shape or others[1] not in ((), shape):
        raise ValueError(f"the maps and the weight must have one shape, got {shape}, {others[0]} and {others[1]}")
    if hasattr(regressed, "lerp"):
        import torch

        weight = torch.as_tensor(weight, dtype=regressed.dtype, device=regressed.device)
        low, high = (float(v) for v in weight.detach().aminmax()) if weight.numel() else (0.0, 0.0)
    else:
        weight = np.asarray(weight)
        low, high = (float(weight.min()), float(weight.max())) if weight.size else (0.0, 0.0)
    if not (low >= 0 and high <= 1):
        raise ValueError(f"the weight must lie in 0..1, got {low} to {high}")
    if hasattr(regressed, "lerp"):
        return regressed.lerp(detected, weight)
    return np.asarray(regressed) + weight * (np.asarray(detected) - np.asarray(regressed))
