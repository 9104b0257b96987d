"""Fusion of a regressed density map with one drawn from detections."""

from __future__ import annotations

from typing import Any

import numpy as np

from crowddist.ops.views import EPSILON_PERSONS, NEIGHBOURHOOD_CELLS


def fuse_density(regressed: Any, detected: Any, weight: Any, out: Any = None) -> Any:
    """Mix two density maps pixel by pixel: (1 - W) * regressed + W * detected.

    Source: Liu et al., MM 2020, Eq. 8.

    Args:
        regressed: R(I), the density by regression, any shape; persons per cell, NumPy or torch.
        detected: Psi(D(I)), the density drawn from detections, same shape and kind.
        weight: W, the confidence of detection, 0 to 1; a number, or a map of the same shape and kind.
        out: where to write the fused density: a contiguous map of its shape, kind and type, `regressed` itself if need
            be. Fresh memory costs more than the mixing, so that many large maps are fused faster into one place.
            Gradients need None.

    Returns:
        The fused density, shape and kind of `regressed`, in floating point; `out` where that is given.

    Raises:
        ValueError: the shapes differ, a weight lies outside 0..1 or is NaN, or `out` does not fit.
    """
    import torch

    shape, *others = (tuple(np.shape(v)) for v in (regressed, detected, weight))
    if others[0] != shape or others[1] not in ((), shape):
        raise ValueError(f"the maps and the weight must have one shape, got {shape}, {others[0]} and {others[1]}")
    if isinstance(regressed, torch.Tensor):
        weight = torch.as_tensor(weight, dtype=regressed.dtype, device=regressed.device)
        return torch.lerp(regressed, detected, _checked_weight(weight), out=_checked_out(out, shape, regressed.dtype))
    regressed, detected = np.asarray(regressed), np.asarray(detected)
    dtype = np.result_type(regressed, detected, np.float32)
    fused = np.empty(shape, dtype) if out is None else _checked_out(out, shape, dtype)
    # torch mixes in one pass over the maps where they lie, NumPy in three; torch takes no read-only or reversed arrays,
    # so those are copied.
    maps = [torch.from_numpy(np.require(v, dtype, ["C", "W"])) for v in (regressed, detected, weight)]
    torch.lerp(maps[0], maps[1], _checked_weight(maps[2]), out=torch.from_numpy(fused))
    return fused


def uncertainty_weight(
    weight: np.ndarray, density: np.ndarray, spread: np.ndarray, neighbourhood_cells: float = NEIGHBOURHOOD_CELLS
) -> np.ndarray:
    """W of Eq. 8, less where the regressing ensemble is surer than it usually is: a detection says nothing new where
    all members agree.

    Source: ours. r = G(spread) / (G(density) + epsilon), G a Gaussian mean, as in `ops.views`; the result is W min(r /
    r', 1), r' the mean of r over the persons counted. Without any spread, as of one network alone, W stays as it is.

    Args:
        weight: W, the confidence of detection, (h, w), 0 to 1.
        density, spread: (h, w) persons per cell, mean and standard deviation over the ensemble, >= 0.

    Returns:
        (h, w) float32, 0 to W.

    Raises:
        ValueError: the shapes differ.
    """
    from scipy.ndimage import gaussian_filter

    if not weight.shape == density.shape == spread.shape:
        raise ValueError(f"weight, density and spread must have one shape, got {weight.shape}, {density.shape} and "
                         f"{spread.shape}")
    near_spread, near_density = (gaussian_filter(part.astype(np.float64), neighbourhood_cells, mode="nearest")
                                 for part in (spread, density))
    relative = near_spread / (near_density + EPSILON_PERSONS)
    persons = float(density.sum(dtype=np.float64))
    usual = float((relative * density).sum()) / persons if persons else 0.0
    return weight.astype(np.float32) if not usual else (weight * np.minimum(relative / usual, 1)).astype(np.float32)


def _checked_weight(weight: Any) -> Any:
    low, high = (float(v) for v in weight.detach().aminmax()) if weight.numel() else (0.0, 0.0)
    if not (low >= 0 and high <= 1):
        raise ValueError(f"the weight must lie in 0..1, got {low} to {high}")
    return weight


def _checked_out(out: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    if out is None:
        return None
    contiguous = (out.is_contiguous() if hasattr(out, "is_contiguous") else out.flags.c_contiguous
                  and out.flags.writeable)
    if tuple(out.shape) != shape or out.dtype != dtype or not contiguous:
        raise ValueError(f"out must be contiguous, of the shape {shape} and {dtype}, got {tuple(out.shape)} and "
                         f"{out.dtype}")
    return out
