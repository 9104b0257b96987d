"""Losses of person masks where only boxes are known."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

SMALLEST_COMPLEMENT = 1e-7
"""Floor of 1 - z under the logarithm: a certain mistake costs 16, not infinity. ours."""


def background_bce(logits_or_probabilities: Any, box_mask: Any, from_logits: bool = False) -> Any:
    """Binary cross-entropy of a person mask outside the person boxes: the mean over the background of -log(1 - z).

    Source: Han et al., ICASSP 2020, Eqs. 8 and 9. Boxes hold both, so the term is 0 inside.

    Args:
        logits_or_probabilities: z, probability of "person", any shape, 0 to 1, or its logits, unbounded; NumPy or torch
        box_mask: shape of z, bool or 0/1, 1 = inside a person box
        from_logits: the first argument holds logits

    Returns:
        >= 0, 0 without background: a float, or for tensors a differentiable scalar.

    Raises:
        ValueError: the shapes differ, or a probability is NaN or outside 0..1.
    """
    values = logits_or_probabilities
    if not isinstance(values, torch.Tensor):
        return float(background_bce(torch.as_tensor(values), torch.as_tensor(box_mask), from_logits))
    box_mask = torch.as_tensor(box_mask, device=values.device)
    if values.shape != box_mask.shape:
        raise ValueError(f"the prediction and box_mask must have one shape, got {tuple(values.shape)} and "
                         f"{tuple(box_mask.shape)}")
    if from_logits:
        # -log(1 - sigmoid(x)) = softplus(x): stable for any x.
        cost = functional.softplus(values)
    else:
        if not bool(((values >= 0) & (values <= 1)).all()):
            raise ValueError("probabilities must lie in 0..1; for logits pass from_logits=True")
        cost = -(1 - values).clamp(min=SMALLEST_COMPLEMENT).log()
    background = box_mask == 0
    return cost.masked_fill(~background, 0).sum() / background.sum().clamp(min=1)
