"""Fusion of a regressed density map with one drawn from detections."""

from __future__ import annotations

from typing import Any

import numpy as np

from crowddist.ops.views import NEIGHBOURHOOD_CELLS

PRIOR_PERSONS = 1e-5
"""Persons a cell, as unsure as the image's are on average, that are added to every neighbourhood. ours: 0.002 persons
within the reach of the Gaussian, which weigh nothing beside one head."""


def fuse_density(regressed: Any, detected: Any, weight: Any, out: Any = None) -> Any:
    """Mix two density maps pixel by pixel: (1 - W) * regressed + W * detected.

    Source: Liu et al., MM 2020, Eq. 8.

    Args:
        regressed: R(I), any shape, persons per cell, >= 0; NumPy or torch
        detected: Psi(D(I)), density drawn from detections: shape, kind and unit of `regressed`
        weight: W, confidence of detection, 0 to 1; a number, or shape and kind of `regressed`
        out: contiguous, shape, kind and type of the result; may be `regressed`. Reusing memory makes fusing many large
            maps faster. Must be None where gradients are needed.

    Returns:
        shape and kind of `regressed`, floating point, persons per cell, >= 0; `out` if given.

    Raises:
        ValueError: shapes differ, a weight is NaN or outside 0..1, or `out` does not fit.
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
    # torch mixes in one pass, NumPy in three; torch takes no read-only or reversed arrays, so those are copied.
    maps = [torch.from_numpy(np.require(v, dtype, ["C", "W"])) for v in (regressed, detected, weight)]
    torch.lerp(maps[0], maps[1], _checked_weight(maps[2]), out=torch.from_numpy(fused))
    return fused


def relative_uncertainty(density: np.ndarray, spread: np.ndarray,
                         neighbourhood_cells: float = NEIGHBOURHOOD_CELLS) -> np.ndarray:
    """Factor on the weight of detections, below 1 where the regressing ensemble is surer than on average; there
    detections add nothing.

    Source: ours. r = (G(spread) + e r') / (G(density) + e) is the relative uncertainty of a neighbourhood, G a Gaussian
    mean, and r' the mean of r over the counted persons; the result is min(r / r', 1). The e persons of usual
    uncertainty (`PRIOR_PERSONS`) say that an ensemble that sees almost nobody is neither sure nor unsure: there the
    factor is 1. Without them, a spread of 30 % of nearly nothing would look like certainty and silence the detector
    where it alone sees a crowd. It is 1 where there is no spread (a single network).

    Args:
        density, spread: (h, w), persons per cell, >= 0; mean and standard deviation over the ensemble
        neighbourhood_cells: standard deviation of G, cells, > 0

    Returns:
        (h, w) float64, 0 to 1.

    Raises:
        ValueError: the shapes differ.
    """
    if density.shape != spread.shape:
        raise ValueError(f"density and spread must have one shape, got {density.shape} and {spread.shape}")
    from scipy.ndimage import gaussian_filter

    near_density, near_spread = (gaussian_filter(part.astype(np.float64), neighbourhood_cells, mode="nearest")
                                 for part in (density, spread))
    per_person = density / (near_density + PRIOR_PERSONS)
    # r' is on both sides of its own definition, linearly: sum (G(spread) + e r') d / (G(density) + e) = r' sum d.
    counted = float((per_person * near_density).sum())
    usual = float((per_person * near_spread).sum()) / counted if counted else 0.0
    if not usual:
        return np.ones(density.shape)
    return np.minimum((near_spread + PRIOR_PERSONS * usual) / (near_density + PRIOR_PERSONS) / usual, 1)


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
