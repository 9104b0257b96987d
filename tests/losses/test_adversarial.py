"""Losses against a discriminator: by hand, against a naive reference, at the edges, and their slopes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from crowddist.losses.adversarial import (
    discriminator_accuracy,
    discriminator_loss,
    domain_accuracy,
    domain_loss,
    generator_loss,
)


def answers(*shape: int, seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_least_squares_by_hand() -> None:
    # (0 - 1)^2, (1 - 1)^2 and (3 - 1)^2: 5 / 3.
    assert generator_loss(torch.tensor([0.0, 1.0, 3.0])).item() == pytest.approx(5 / 3)
    # Real: (0.5 - 1)^2 and (2 - 1)^2, mean 0.625; made: 0.5^2 and (-1)^2, mean 0.625; half of the sum.
    assert discriminator_loss(torch.tensor([0.5, 2.0]), torch.tensor([0.5, -1.0])).item() == pytest.approx(0.625)
    undecided = torch.full((2, 1, 3, 3), 0.5)
    assert discriminator_loss(undecided, undecided).item() == pytest.approx(0.25)
    assert generator_loss(torch.ones(2, 1, 3,
                                     3)).item() == 0 == discriminator_loss(torch.ones(4), torch.zeros(9)).item()


def test_accuracy_by_hand() -> None:
    real, made = torch.tensor([0.6, 0.4, 0.5, 2.0]), torch.tensor([0.4, -3.0])
    assert discriminator_accuracy(real, made.requires_grad_()).item() == pytest.approx((2 / 4 + 2 / 2) / 2)
    assert not discriminator_accuracy(real, made).requires_grad


def test_accuracy_counts_both_domains_alike() -> None:
    assert float(domain_accuracy(torch.tensor([1.0, -1.0]), torch.tensor([-1.0]))) == pytest.approx(0.75)
    assert float(domain_accuracy(torch.zeros(3), torch.zeros(3))) == 0.5


def test_domains_by_hand() -> None:
    """A logit of log 3 is a probability of 3/4 for the source."""
    logits = torch.tensor([math.log(3), 0.0])
    assert domain_loss(logits, source=True).item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)
    assert domain_loss(logits, source=False).item() == pytest.approx((math.log(4) + math.log(2)) / 2)


def test_equation_10_by_hand() -> None:
    """The sum over an image's patches; images are averaged. Logits of log 3 and 0 are probabilities of 3/4 and 1/2."""
    logits = torch.tensor([[[[math.log(3), 0.0]]], [[[0.0, 0.0]]]])
    assert domain_loss(logits, source=True, patches="sum").item() == pytest.approx(
        ((math.log(4 / 3) + math.log(2)) + 2 * math.log(2)) / 2)


def test_equation_10_equals_the_loop() -> None:
    logits, naive = answers(3, 1, 4, 5), 0.0
    for image in logits:
        for h in range(4):
            for w in range(5):
                naive -= math.log(1 / (1 + math.exp(-float(image[0, h, w]))))
    found = domain_loss(logits, source=True, patches="sum")
    assert found.item() == pytest.approx(naive / 3, rel=1e-12)
    assert found.item() == pytest.approx(20 * domain_loss(logits, source=True).item(), rel=1e-12)


def test_they_equal_the_naive_reference() -> None:
    real, made = answers(2, 1, 5, 4), answers(3, 1, 2, 6, seed=1)
    x, y = real.numpy(), made.numpy()
    assert generator_loss(made).item() == pytest.approx(np.mean((y - 1) ** 2), rel=1e-12)
    assert discriminator_loss(real, made).item() == pytest.approx((np.mean((x - 1) ** 2) + np.mean(y**2)) / 2,
                                                                  rel=1e-12)
    assert discriminator_accuracy(real, made).item() == pytest.approx((np.mean(x > 0.5) + np.mean(y < 0.5)) / 2,
                                                                      rel=1e-6)
    p = 1 / (1 + np.exp(-x))
    assert domain_loss(real, source=True).item() == pytest.approx(-np.mean(np.log(p)), rel=1e-12)
    assert domain_loss(real, source=False).item() == pytest.approx(-np.mean(np.log(1 - p)), rel=1e-12)


def test_slopes() -> None:
    real, made = answers(2, 1, 3, 2).requires_grad_(), answers(2, 1, 2, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(generator_loss, made)
    assert torch.autograd.gradcheck(discriminator_loss, (real, made))
    for source in (True, False):
        assert torch.autograd.gradcheck(lambda logits, source=source: domain_loss(logits, source), real)


@pytest.mark.parametrize("source", [True, False])
def test_extreme_logits_stay_finite(source: bool) -> None:
    logits = torch.tensor([-1e30, -1e4, 0.0, 1e4, 1e30], requires_grad=True)
    loss = domain_loss(logits, source)
    loss.backward()
    assert loss.isfinite() and logits.grad is not None and logits.grad.isfinite().all()
    wrong = torch.tensor([-1e4 if source else 1e4], requires_grad=True)
    assert domain_loss(wrong, source).item() == pytest.approx(1e4)
    assert domain_loss(-wrong, source).item() == 0


def test_extreme_answers_stay_finite() -> None:
    for size in (-1e15, 1e15):
        wild = torch.full((4,), size, requires_grad=True)
        loss = generator_loss(wild) + discriminator_loss(wild, wild)
        loss.backward()
        assert loss.isfinite() and wild.grad is not None and wild.grad.isfinite().all()


def test_mixed_precision_is_summed_in_float32() -> None:
    half = answers(1, 1, 40, 40).bfloat16()
    for loss, exact in (
        (generator_loss(half), generator_loss(half.double())),
        (discriminator_loss(half, half), discriminator_loss(half.double(), half.double())),
        (domain_loss(half, source=True), domain_loss(half.double(), source=True)),
    ):
        assert loss.dtype == torch.float32 and loss.item() == pytest.approx(exact.item(), rel=1e-5)


def test_no_answer_at_all_is_refused() -> None:
    empty, some = torch.zeros(0, 1, 2, 2), torch.zeros(1)
    for call in (lambda: generator_loss(empty), lambda: discriminator_loss(some, empty),
                 lambda: domain_loss(empty, source=True)):
        with pytest.raises(ValueError, match="must have answered"):
            call()
