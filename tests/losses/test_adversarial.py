"""The losses of a discriminator of domains."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from crowddist.losses.adversarial import domain_accuracy, domain_loss


def test_by_hand() -> None:
    # p = 1/2 and 3/4: -log p is log 2 and log 4/3, -log(1 - p) is log 2 and log 4.
    logits = torch.tensor([[0.0, math.log(3)]])
    assert float(domain_loss(logits, source=True)) == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)
    assert float(domain_loss(logits, source=False)) == pytest.approx((math.log(2) + math.log(4)) / 2)


@pytest.mark.parametrize("source", [True, False])
def test_equals_equation_10_in_numpy(source: bool) -> None:
    logits = np.random.default_rng(0).normal(0, 3, (2, 1, 3, 4))
    p = 1 / (1 + np.exp(-logits))
    expected = -np.mean(np.log(p if source else 1 - p))
    assert float(domain_loss(torch.tensor(logits), source=source)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("source", [True, False])
def test_gradients_and_the_ends(source: bool) -> None:
    logits = torch.randn(2, 1, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: domain_loss(values, source=source), logits)
    ends = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss = domain_loss(ends, source=source)
    loss.backward()
    assert loss.isfinite() and ends.grad is not None and ends.grad.isfinite().all()


def test_accuracy_counts_both_domains_alike() -> None:
    assert float(domain_accuracy(torch.tensor([1.0, -1.0]), torch.tensor([-1.0]))) == pytest.approx(0.75)
    assert float(domain_accuracy(torch.zeros(3), torch.zeros(3))) == 0.5


def test_no_logits_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one logit"):
        domain_loss(torch.zeros(0), source=True)
