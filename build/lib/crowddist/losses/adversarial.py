"""Adversarial losses: least squares for images, cross-entropy for features."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Patches = Literal["mean", "sum"]
UNDECIDED = 0.5
"""Answer of a least-squares discriminator between real (1) and made (0)."""


def generator_loss(made: Tensor) -> Tensor:
    """Loss of a generator whose images are recognised as made: the mean of (D(G(x)) - 1)^2.

    Source: Zhu et al., ICCV 2017, Sec. 4, after Mao et al., ICCV 2017 (least squares).

    Args:
        made: discriminator's answers to made images, any shape, unbounded, 1 = real

    Returns:
        scalar, >= 0, float32 or better.

    Raises:
        ValueError: there is no answer.
    """
    return (_answers(made) - 1).square().mean()


def discriminator_loss(real: Tensor, made: Tensor) -> Tensor:
    """Loss of a discriminator's mistakes: half of the mean of (D(y) - 1)^2 plus the mean of D(G(x))^2.

    Source: Zhu et al., ICCV 2017, Sec. 4; the half, from the appendix (P), slows it down against the generator.

    Args:
        real: answers to real images, any shape, unbounded, 1 = real
        made: answers to made images, detached from the generator, any shape, unbounded, 1 = real

    Returns:
        scalar, >= 0, float32 or better; 0.25 where all answers are undecided.

    Raises:
        ValueError: either has no answer.
    """
    return ((_answers(real) - 1).square().mean() + _answers(made).square().mean()) / 2


def discriminator_accuracy(real: Tensor, made: Tensor) -> Tensor:
    """Share of answers on the right side of `UNDECIDED`; real and made images count half each (ours).

    Args:
        real, made: as in `discriminator_loss`

    Returns:
        scalar, 0 to 1, without gradient; 1/2 is chance, 1 means that every made image is recognised.

    Raises:
        ValueError: either has no answer.
    """
    right = (_answers(real) > UNDECIDED).float().mean() + (_answers(made) < UNDECIDED).float().mean()
    return right.detach() / 2


def domain_loss(logits: Tensor, source: bool, patches: Patches = "mean") -> Tensor:
    """Cross-entropy of "these are from the source": the mean of -log p, or of -log(1 - p) where they are not.

    Source: Han et al., ICASSP 2020: source = 1, target = 0 for the discriminator. Eq. 10 is this loss of the target's
    logits with `source=True` and `patches="sum"`. With the mean, the weight does not depend on the crop size (ours).

    Args:
        logits: any shape, not empty, unbounded, the first axis the images; p = sigmoid(logits) is the probability of
            "source"
        source: label of all logits
        patches: how an image's patches are joined, by their mean or their sum; images are averaged

    Returns:
        scalar, >= 0, float32 or better; value and slope are finite for finite logits.

    Raises:
        ValueError: there is no logit.
    """
    logits = _answers(logits)
    losses = functional.softplus(-logits if source else logits)
    return losses.sum() / len(losses) if patches == "sum" else losses.mean()


def domain_accuracy(source_logits: Tensor, target_logits: Tensor) -> Tensor:
    """Share of patches whose domain a discriminator recognises; each domain counts half (ours).

    Args:
        source_logits, target_logits: any shape, not empty, unbounded; above 0 means "source"

    Returns:
        scalar, 0 to 1; 1/2 is chance.
    """
    return ((source_logits > 0).float().mean() + (target_logits <= 0).float().mean()) / 2


def _answers(values: Tensor) -> Tensor:
    """Answers in at least float32: mixed precision gives bfloat16, too coarse for a mean."""
    if values.numel() == 0:
        raise ValueError(f"a discriminator must have answered, got the shape {tuple(values.shape)}")
    return values.to(torch.promote_types(values.dtype, torch.float32))
