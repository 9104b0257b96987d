"""Losses of a discriminator of domains, and of the features that are to deceive it."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def domain_loss(logits: Tensor, *, source: bool) -> Tensor:
    """Cross-entropy of "these come from the source": the mean of -log p, or of -log(1 - p) where they do not.

    Source: Han et al., ICASSP 2020: source = 1, target = 0 for the discriminator; Eq. 10 is this loss of the target's logits with
    `source=True`, summed there over patches and here their mean, so that its weight does not depend on the size of crops.

    Args:
        logits: any shape, not empty; p = sigmoid(logits) is the probability of "source".

    Returns:
        Scalar, >= 0, finite for any logit.

    Raises:
        ValueError: there is no logit.
    """
    if logits.numel() == 0:
        raise ValueError("a domain loss needs at least one logit, got none")
    return functional.softplus(-logits if source else logits).mean()


def domain_accuracy(source_logits: Tensor, target_logits: Tensor) -> Tensor:
    """Share of patches whose domain a discriminator tells right, each domain counting half: 1/2 is chance."""
    return ((source_logits > 0).float().mean() + (target_logits <= 0).float().mean()) / 2

