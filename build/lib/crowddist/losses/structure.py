"""Losses of 0-1 localisation maps made from density maps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from crowddist.ops.ssim import EMPTY_PEAK, ms_ssim_dilated


def dms_ssim_loss(prediction: Any, target: Any, pool: bool = False, empty_peak: float = EMPTY_PEAK) -> Any:
    """1 minus the dilated multi-scale structural similarity.

    Source: Liu et al., ICCV 2019 (DSSINet); beside `focal_mse` in Liu et al., MM 2020, Eq. 7.

    Args:
        prediction, target: a and b of `ms_ssim_dilated`
        pool, empty_peak: as in `ms_ssim_dilated`; empty_peak is 1 for 0-1 maps
    Returns, Raises: as `ms_ssim_dilated`.
    """
    return 1 - ms_ssim_dilated(prediction, target, pool, empty_peak)


def focal_mse(prediction: Any, target: Any, alpha: float = 0.1, gamma: float = 2.0) -> Any:
    """Focal mean squared error: the squared error of every pixel, weighted down where the pixel is easy or empty.

    Source: Liu et al., MM 2020, Eqs. 4-6: mean of alpha_i (1 - p_i)^gamma (M_i - Phi_i)^2, with p_i = sigmoid(Phi_i)
    and alpha_i = 1 where M_i = 1, p_i = 1 - sigmoid(Phi_i) and alpha_i = alpha elsewhere. p_i has a gradient.

    Args:
        prediction: Phi, any shape, unbounded (the sigmoid is only for p); NumPy or torch
        target: M, shape of Phi, 1 at the one pixel of each head, 0 elsewhere
        alpha: weight of pixels without a head, >= 0
        gamma: how fast easy pixels lose weight, >= 0

    Returns:
        mean over pixels, >= 0: a float, or for tensors a differentiable scalar.

    Raises:
        ValueError: shapes differ, there is no pixel, or alpha or gamma is negative.
    """
    if not isinstance(prediction, Tensor):
        return float(focal_mse(torch.as_tensor(prediction), target, alpha, gamma))
    prediction, target, head = _checked(prediction, target, alpha, gamma)
    return (_weights(prediction, head, alpha, gamma) * (target - prediction).square()).mean()


def focal_cross_entropy(logits: Any, target: Any, alpha: float = 0.1, gamma: float = 2.0) -> Any:
    """Focal cross-entropy: the logarithmic loss of every pixel, weighted down where the pixel is easy or empty.

    Source: Liu et al., MM 2020, Table 4 (L_Focal-CE), after Lin et al., ICCV 2017: mean of -alpha_i (1 - p_i)^gamma log
    p_i, p_i and alpha_i as in Eqs. 5-6. Every p_i has a gradient (our reading).

    Args:
        logits: Phi, any shape, unbounded; NumPy or torch. Its sigmoid is the localisation map
        target, alpha, gamma: as in `focal_mse`
    Returns, Raises: as `focal_mse`.
    """
    if not isinstance(logits, Tensor):
        return float(focal_cross_entropy(torch.as_tensor(logits), target, alpha, gamma))
    logits, _, head = _checked(logits, target, alpha, gamma)
    log_p = functional.logsigmoid(torch.where(head, logits, -logits))
    return -(_weights(logits, head, alpha, gamma) * log_p).mean()


def _checked(prediction: Tensor, target: Any, alpha: float, gamma: float) -> tuple[Tensor, Tensor, Tensor]:
    """Prediction and target in floating point on one device, and where the heads are."""
    target = torch.as_tensor(target, device=prediction.device)
    if prediction.shape != target.shape or prediction.numel() == 0:
        raise ValueError(f"prediction and target must have one shape with a pixel, got {tuple(prediction.shape)} and "
                         f"{tuple(target.shape)}")
    if not (alpha >= 0 and gamma >= 0):
        raise ValueError(f"alpha and gamma must not be negative, got {alpha} and {gamma}")
    prediction = prediction if prediction.is_floating_point() else prediction.float()
    return prediction, target.to(prediction.dtype), target == 1


def _weights(prediction: Tensor, head: Tensor, alpha: float, gamma: float) -> Tensor:
    """alpha_i (1 - p_i)^gamma of Eqs. 4-6."""
    # 1 - sigmoid(x) = sigmoid(-x) keeps its digits for large x; via its logarithm every power has a finite slope.
    modulation = torch.exp(gamma * functional.logsigmoid(torch.where(head, -prediction, prediction)))
    return modulation * torch.full_like(prediction, alpha).masked_fill(head, 1.0)
