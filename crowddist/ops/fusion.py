"""Fusion of a regressed density map with one drawn from detections."""

from __future__ import annotations

from typing import Any

import numpy as np


def fuse_density(regressed: Any, detected: Any, weight: Any, out: Any = None) -> Any:
    """Mix two density maps pixel by pixel: (1 - W) * regressed + W * detected.

    Source: Liu et al., MM 2020, Eq. 8.

    Args:
        regressed: R(I), the density by regression, any shape; persons per cell, NumPy or torch.
        detected: Psi(D(I)), the density drawn from detections, same shape and kind.
        weight: W, the confidence of detection, 0 to 1; a number, or a map of the same shape and kind.
        out: where to write the fused density: a contiguous map of its shape, kind and type, `regressed` itself if need be. Fresh memory
            costs more than the mixing, so that many large maps are fused faster into one place. Gradients need None.

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
    # torch mixes in one pass over the maps where they lie, NumPy in three; torch takes no read-only or reversed arrays, so those are copied.
    maps = [torch.from_numpy(np.require(v, dtype, ["C", "W"])) for v in (regressed, detected, weight)]
    torch.lerp(maps[0], maps[1], _checked_weight(maps[2]), out=torch.from_numpy(fused))
    return fused


def _checked_weight(weight: Any) -> Any:
    low, high = (float(v) for v in weight.detach().aminmax()) if weight.numel() else (0.0, 0.0)
    if not (low >= 0 and high <= 1):
        raise ValueError(f"the weight must lie in 0..1, got {low} to {high}")
    return weight


def _checked_out(out: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    if out is None:
        return None
    contiguous = out.is_contiguous() if hasattr(out, "is_contiguous") else out.flags.c_contiguous and out.flags.writeable
    if tuple(out.shape) != shape or out.dtype != dtype or not contiguous:
        raise ValueError(f"out must be contiguous, of the shape {shape} and {dtype}, got {tuple(out.shape)} and {out.dtype}")
    return out
