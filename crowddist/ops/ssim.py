"""Structural similarity of density maps: SSIM, and the dilated multi-scale SSIM that networks train on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
"""Gaussian window of SSIM, cells. P (Wang et al., TIP 2004)."""
DILATED_WINDOW, DILATED_SIGMA = 5, 1.0
"""Gaussian window of DMS-SSIM, cells. C (DSSINet)."""
DILATIONS = (1, 2, 3, 6, 9)
"""Dilation of the window at each level. C (DSSINet)."""
LEVEL_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponent of each level. P (Wang et al., 2003), kept by DSSINet (C)."""
LUMINANCE_CONSTANT, CONTRAST_CONSTANT = 0.01**2, 0.03**2
"""C1 and C2 for maps with a peak of 1. P; DSSINet scales maps to 255 and both constants by 255^2 (C)."""
EMPTY_PEAK = 1 / (2 * math.pi * 4.0**2)
"""Default scale of an empty truth: peak of a head drawn with a sigma of 4 cells. ours."""
SMALLEST_LEVEL = 1e-6
"""Floor of a level's similarity: a fractional power needs a positive base and a finite slope. ours."""
CHUNK_CELLS = 2**17
"""Of so many cells at a time, but at least one map, DMS-SSIM is worked out on a CPU. ours: 2**15 to 2**18 were equally
fast, all maps at once slower."""


def ssim(a: Any, b: Any, inside: np.ndarray | None = None, peak: float | None = None) -> Any:
    """Mean structural similarity of density maps, or, with `peak` 1, of images in [0, 1], channel by channel.

    Source: Wang et al., TIP 2004, Eq. 13: Gaussian window 11 x 11 of sigma 1.5, population variances, only where the
    window fits in. Both maps are divided by the true map's maximum (`EMPTY_PEAK` if that is 0), so the data range is 1.
    On a map smaller than the window, the window is the largest odd square that fits (ours).

    Args:
        a: prediction, (h, w), (N, h, w) or (N, C, h, w), any unit; NumPy or torch
        b: truth, shape and unit of `a`
        inside: (h, w) bool, places to average; if possible only those where the window fits (ours). None: all
        peak: divisor of both maps instead of the maximum, > 0; for images, whose white does not depend on their content

    Returns:
        mean over maps and places, -1 to 1: a float, or for tensors a differentiable scalar.

    Raises:
        ValueError: shapes differ, there are not 2 to 4 dimensions, no pixel or none inside, or peak <= 0.
    """
    prediction, truth = _stacked(a, b, peak=peak)
    if inside is not None and (inside.shape != truth.shape[-2:] or not inside.any()):
        raise ValueError(f"inside must be {tuple(truth.shape[-2:])} as the maps and hold a place, got {inside.shape} "
                         f"with {int(inside.sum())} of them")
    side = min(SSIM_WINDOW, *truth.shape[-2:])
    weights = _gaussian(side - 1 + side % 2, SSIM_SIGMA)
    height, width = truth.shape[-2:]
    radius = len(weights) // 2
    similarity = _similarity(prediction, truth, weights, 1)
    central = similarity[:, radius:height - radius, radius:width - radius]
    if inside is None:
        return _answer(central.mean(), a, b)
    places = torch.as_tensor(inside, device=similarity.device)
    central_places = places[radius:height - radius, radius:width - radius]
    return _answer((central[:, central_places] if central_places.any() else similarity[:, places]).mean(), a, b)


def ms_ssim_dilated(a: Any, b: Any, pool: bool = False, empty_peak: float = EMPTY_PEAK) -> Any:
    """Dilated multi-scale structural similarity: the product over levels of SSIM with an ever wider, dilated window.

    Source: Liu et al., ICCV 2019 (DSSINet): window 5 x 5 of sigma 1, dilations 1, 2, 3, 6, 9, maps divided by the
    maximum of the true one, zeros around the map (C). The paper's loss is 1 minus this. Our readings: the maximum is
    each map's own, not the batch's; a level below `SMALLEST_LEVEL` becomes that and passes no gradient.

    Args:
        a: prediction, (h, w), (N, h, w) or (N, C, h, w), any unit; NumPy or torch
        b: truth, shape and unit of `a`, >= 0; no gradient reaches it
        pool: average both maps over 2 x 2 cells from level to level, as in the released code (C) but not in the paper.
            An odd last row or column is dropped; maps of one pixel stay as they are
        empty_peak: divisor where the truth is empty, unit of the maps, > 0: the peak of one head

    Returns:
        mean over maps, 0 to 1: a float, or for tensors a differentiable scalar.

    Raises:
        ValueError: shapes differ, there are not 2 to 4 dimensions, no pixel, or empty_peak is not positive.
    """
    prediction, truth = _stacked(a, b, empty_peak)
    weights = _gaussian(DILATED_WINDOW, DILATED_SIGMA)
    product = torch.ones(len(truth), dtype=truth.dtype, device=truth.device)
    for number, (dilation, exponent) in enumerate(zip(DILATIONS, LEVEL_WEIGHTS, strict=True)):
        if pool and number and min(truth.shape[-2:]) > 1:
            prediction, truth = functional.avg_pool2d(prediction, 2), functional.avg_pool2d(truth, 2)
        level = _MeanSimilarity.apply(prediction, truth, weights, dilation)
        product = product * level.clamp(SMALLEST_LEVEL, 1.0) ** exponent
    return _answer(product.mean(), a, b)


def _stacked(a: Any, b: Any, empty_peak: float = EMPTY_PEAK, peak: float | None = None) -> tuple[Tensor, Tensor]:
    """Both as (maps, h, w) floating tensors, each map divided by the peak of its truth, or by `peak`."""
    prediction, truth = (torch.as_tensor(v if isinstance(v, Tensor) else np.asarray(v)) for v in (a, b))
    if prediction.shape != truth.shape or not 2 <= truth.ndim <= 4 or truth.numel() == 0:
        shapes = f"{tuple(prediction.shape)} and {tuple(truth.shape)}"
        raise ValueError(f"the maps must have one shape of 2 to 4 dimensions with at least one pixel, got {shapes}")
    if not empty_peak > 0:
        raise ValueError(f"empty_peak must be positive, got {empty_peak}")
    if peak is not None and not peak > 0:
        raise ValueError(f"peak must be positive, got {peak}")
    dtype = torch.promote_types(torch.promote_types(prediction.dtype, truth.dtype), torch.float32)
    prediction, truth = (v.to(dtype).reshape(-1, *v.shape[-2:]) for v in (prediction, truth))
    if peak is not None:
        return prediction / peak, truth / peak
    own_peak = truth.detach().amax((1, 2), keepdim=True)
    scale = torch.where(own_peak > 0, own_peak, torch.full_like(own_peak, empty_peak))
    return prediction / scale, truth / scale


def _answer(value: Tensor, a: Any, b: Any) -> Any:
    return value if isinstance(a, Tensor) or isinstance(b, Tensor) else float(value)


def _gaussian(window: int, sigma: float) -> tuple[float, ...]:
    values = [math.exp(-((i - window // 2) ** 2) / (2 * sigma**2)) for i in range(window)]
    return tuple(v / sum(values) for v in values)


def _similarity(prediction: Tensor, truth: Tensor, weights: tuple[float, ...], dilation: int) -> Tensor:
    """SSIM at every pixel, (maps, h, w), with zeros around the maps."""
    # The two variances appear only as a sum, so four maps are smoothed, not five.
    stack = torch.stack((prediction, truth, prediction * prediction + truth * truth, prediction * truth))
    mean_a, mean_b, squares, products = _Smooth.apply(stack, weights, dilation)
    mean_product = mean_a * mean_b
    mean_squares = mean_a * mean_a + mean_b * mean_b
    numerator = (2 * mean_product + LUMINANCE_CONSTANT) * (2 * (products - mean_product) + CONTRAST_CONSTANT)
    # For large values with hardly any variance only rounding remains, which can be negative.
    variances = (squares - mean_squares).clamp_min(0)
    return numerator / ((mean_squares + LUMINANCE_CONSTANT) * (variances + CONTRAST_CONSTANT))


class _MeanSimilarity(torch.autograd.Function):
    """The mean of `_similarity` over each map, (maps,), and its gradient for the prediction, written out by hand.

    Autograd goes over all maps once for every operation. Here a few maps go through all operations, so that they stay
    in the processor's cache.
    """

    @staticmethod
    def forward(ctx: Any, prediction: Tensor, truth: Tensor, weights: tuple[float, ...], dilation: int) -> Tensor:
        num_maps = max(1, CHUNK_CELLS // truth[0].numel()) if truth.device.type == "cpu" else len(truth)
        means, slopes = [], []
        for a, b in zip(prediction.split(num_maps), truth.split(num_maps), strict=True):
            mean, slope = _mean_similarity(a, b, weights, dilation, ctx.needs_input_grad[0])
            means.append(mean)
            slopes.append(slope)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(torch.cat(slopes))
        return torch.cat(means)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.saved_tensors[0] * gradient[:, None, None], None, None, None


def _mean_similarity(a: Tensor, b: Tensor, weights: tuple[float, ...], dilation: int,
                     with_slope: bool) -> tuple[Tensor, Tensor]:
    """The mean similarity of each map, (maps,), and its derivative by each cell of `a`, (maps, h, w)."""
    maps = torch.stack((a, b, (a * a).addcmul_(b, b), a * b))
    mean_a, mean_b, squares, products = _smooth(maps, weights, dilation)
    mean_product = mean_a * mean_b
    mean_squares = (mean_a * mean_a).addcmul_(mean_b, mean_b)
    variances = squares.sub_(mean_squares)
    positive = variances >= 0
    variances.clamp_min_(0).add_(CONTRAST_CONSTANT)
    covariance = products.sub_(mean_product).mul_(2).add_(CONTRAST_CONSTANT)
    luminance = mean_product.mul_(2).add_(LUMINANCE_CONSTANT)
    mean_squares.add_(LUMINANCE_CONSTANT)
    inverse = (mean_squares * variances).reciprocal_()
    similarity = (luminance * covariance).mul_(inverse)
    mean = similarity.mean((1, 2))
    if not with_slope:
        return mean, mean
    # The derivatives of the similarity by mean_product and by products, both halved; by squares and by mean_squares.
    by_product, by_products = covariance.mul_(inverse), luminance.mul_(inverse)
    by_squares = (similarity / variances).mul_(positive).neg_()
    by_mean_squares = similarity.div_(mean_squares).neg_()
    by_product.sub_(by_products)
    by_mean_squares.sub_(by_squares)
    by_mean = by_product.mul_(mean_b).addcmul_(by_mean_squares, mean_a).mul_(2)
    # The window is symmetric, so that its adjoint is itself.
    by_mean, by_squares, by_products = _smooth(torch.stack((by_mean, by_squares, by_products)), weights, dilation)
    slope = by_mean.addcmul_(by_squares, a, value=2).addcmul_(by_products, b, value=2)
    return mean, slope.div_(a[0].numel())


class _Smooth(torch.autograd.Function):
    """A separable, symmetric, dilated window over the last two dimensions with zeros around: its own adjoint.

    Shifting and adding whole maps is several times faster on CPU than a dilated convolution of one channel.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weights: tuple[float, ...], dilation: int) -> Tensor:
        ctx.weights, ctx.dilation = weights, dilation
        return _smooth(maps, weights, dilation)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Smooth.apply(gradient, ctx.weights, ctx.dilation), None, None


def _smooth(maps: Tensor, weights: tuple[float, ...], dilation: int) -> Tensor:
    return _smooth_along(_smooth_along(maps, -1, weights, dilation), -2, weights, dilation)


def _smooth_along(maps: Tensor, dim: int, weights: tuple[float, ...], dilation: int) -> Tensor:
    length, radius = maps.shape[dim], len(weights) // 2
    result = maps * weights[radius]
    for step in range(1, radius + 1):
        shift, weight = step * dilation, weights[radius + step]
        if shift >= length:
            break
        result.narrow(dim, shift, length - shift).add_(maps.narrow(dim, 0, length - shift), alpha=weight)
        result.narrow(dim, 0, length - shift).add_(maps.narrow(dim, shift, length - shift), alpha=weight)
    return result
