"""Losses of networks that play against a discriminator: of images by least squares, of features by cross-entropy."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

UNDECIDED = 0.5
"""A discriminator by least squares that answers this says neither real nor made: it is trained towards 1 and 0."""


def generator_loss(made: Tensor) -> Tensor:
    """What a generator pays for images that are not taken for real: the mean of (D(G(x)) - 1)^2.

    Source: Zhu et al., ICCV 2017, Sec. 4, after Mao et al., ICCV 2017 (least squares).

    Args:
        made: the discriminator's answers to images of the generator, any shape, 1 = real.

    Returns:
        Scalar >= 0, in float32 or better.

    Raises:
        ValueError: there is no answer.
    """
    return (_answers(made) - 1).square().mean()


def discriminator_loss(real: Tensor, made: Tensor) -> Tensor:
    """What a discriminator pays for its mistakes: half of the mean of (D(y) - 1)^2 plus the mean of D(G(x))^2.

    Source: Zhu et al., ICCV 2017, Sec. 4; the half, by which it learns more slowly than the generator, is in the
    appendix (P).

    Args:
        real: the answers to images of the domain, any shape.
        made: the answers to images of the generator, which are detached from it; any shape.

    Returns:
        Scalar >= 0, in float32 or better; 0.25 where all answers are undecided.

    Raises:
        ValueError: there is no answer to one of them.
    """
    return ((_answers(real) - 1).square().mean() + _answers(made).square().mean()) / 2


def discriminator_accuracy(real: Tensor, made: Tensor) -> Tensor:
    """The share of answers on the right side of undecided, real and made images alike: 1/2 is chance, 1 a generator
    that deceives nobody.

    Args: see `discriminator_loss`. Returns: scalar 0 to 1, without a gradient.
    """
    right = (_answers(real) > UNDECIDED).float().mean() + (_answers(made) < UNDECIDED).float().mean()
    return right.detach() / 2


def domain_loss(logits: Tensor, source: bool) -> Tensor:
    """Cross-entropy of "these come from the source": the mean of -log p, or of -log(1 - p) where they do not.

    Source: Han et al., ICASSP 2020: source = 1, target = 0 for the discriminator; Eq. 10 is this loss of the target's
    logits with `source=True`, summed there over patches and here their mean, so that its weight does not depend on the
    size of crops.

    Args:
        logits: any shape, not empty; p = sigmoid(logits) is the probability of "source".

    Returns:
        Scalar >= 0, in float32 or better; finite and with a finite slope for any finite logits.

    Raises:
        ValueError: there is no logit.
    """
    logits = _answers(logits)
    return functional.softplus(-logits if source else logits).mean()


def domain_accuracy(source_logits: Tensor, target_logits: Tensor) -> Tensor:
    """Share of patches whose domain a discriminator tells right, each domain counting half: 1/2 is chance."""
    return ((source_logits > 0).float().mean() + (target_logits <= 0).float().mean()) / 2


def _answers(values: Tensor) -> Tensor:
    """Answers with the digits that their mean needs: mixed precision gives them in bfloat16."""
    if values.numel() == 0:
        raise ValueError(f"a discriminator must have answered, got the shape {tuple(values.shape)}")
    return values.to(torch.promote_types(values.dtype, torch.float32))
