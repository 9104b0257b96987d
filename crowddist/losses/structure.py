"""Losses of 0-1 localisation maps made from density maps."""

from __future__ import annotations

from typing import Any

import torch


def focal_mse(prediction: Any, target: Any, alpha: float = 0.1, gamma: float = 2.0) -> Any:
    """Focal mean squared error: the squared error of every pixel, less of it where the pixel is easy or empty.

    Source: Liu et al., MM 2020, Eqs. 4-6: mean of alpha_i (1 - p_i)^gamma (M_i - Phi_i)^2, with p_i = sigmoid(Phi_i) and alpha_i = 1 where
    M_i = 1, p_i = 1 - sigmoid(Phi_i) and alpha_i = alpha elsewhere. The gradient flows through p_i too (our reading).

    Args:
        prediction: Phi, any shape, unbounded (the sigmoid is only taken for p); NumPy or torch.
        target: M, same shape, 1 at the one pixel of each head, 0 elsewhere.
        alpha: weight of pixels without a head, >= 0.
        gamma: how fast easy pixels lose weight, >= 0.

    Returns:
        The mean over pixels, >= 0: a float, or for tensors a differentiable scalar.

    Raises:
        ValueError: shapes differ, there is no pixel, or alpha or gamma is negative.
    """
    if not isinstance(prediction, torch.Tensor):
        return float(focal_mse(torch.as_tensor(prediction), torch.as_tensor(target), alpha, gamma))
    target = torch.as_tensor(target, device=prediction.device)
    if prediction.shape != target.shape or prediction.numel() == 0:
        raise ValueError(f"prediction and target must have one shape with a pixel, got {tuple(prediction.shape)} and {tuple(target.shape)}")
    if alpha < 0 or gamma < 0:
        raise ValueError(f"alpha and gamma must not be negative, got {alpha} and {gamma}")
    head = target == 1
    # 1 - sigmoid(x) = sigmoid(-x), which keeps its digits for large x.
    difficulty = torch.sigmoid(torch.where(head, -prediction, prediction))
    weight = torch.full_like(prediction, alpha).masked_fill(head, 1.0)
    return (weight * difficulty**gamma * (target - prediction).square()).mean()
