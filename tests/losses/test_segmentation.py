"""Background-only cross-entropy, Eqs. 8 and 9 of SE+FD."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from crowddist.losses.segmentation import background_bce


def test_by_hand():
    z = torch.tensor([[0.5, 0.9], [0.75, 0.0]])
    box = torch.tensor([[0, 1], [0, 0]])
    # -log(1/2) - log(1/4) - log(1), over three pixels of background.
    assert background_bce(z, box) == pytest.approx((math.log(2) + math.log(4)) / 3)


def test_equals_the_printed_equations():
    """Eq. 8 fills the boxes with ones, so that their cross-entropy against the label 1 vanishes; what is left is
    background.
    """
    generator = np.random.default_rng(0)
    z, box = generator.uniform(0.01, 0.99, (2, 1, 6, 7)), (generator.random((2, 1, 6, 7)) < 0.4).astype(float)
    filled = z * (1 - box) + box
    terms = [-math.log(v) if b else -math.log(1 - v) for v, b in zip(filled.ravel(), box.ravel(), strict=True)]
    assert float(background_bce(torch.tensor(z),
                                torch.tensor(box))) == pytest.approx(sum(terms) / (1 - box).sum(), rel=1e-12)
    assert background_bce(z, box) == float(background_bce(torch.tensor(z), torch.tensor(box)))  # NumPy in, a float out


def test_inside_a_box_nothing_counts_whatever_is_said():
    box = torch.tensor([1, 1, 0, 0])
    outcomes = []
    for inside in (0.0, 0.3, 1.0):
        z = torch.tensor([inside, 1 - inside, 0.2, 0.6], requires_grad=True)
        loss = background_bce(z, box)
        loss.backward()
        assert (z.grad[:2] == 0).all() and (z.grad[2:] > 0).all()
        outcomes.append(loss.item())
    assert len(set(outcomes)) == 1


@pytest.mark.parametrize("from_logits", [False, True])
def test_no_background_is_zero_with_a_gradient(from_logits):
    z = torch.full((2, 3), 1.0, requires_grad=True)
    loss = background_bce(z, torch.ones(2, 3, dtype=torch.bool), from_logits)
    loss.backward()
    assert loss == 0 and (z.grad == 0).all()


def test_logits_say_the_same():
    logits = torch.linspace(-5, 5, 12, dtype=torch.float64).reshape(3, 4)
    box = torch.eye(3, 4)
    assert background_bce(logits, box, from_logits=True) == pytest.approx(float(background_bce(logits.sigmoid(), box)),
                                                                          rel=1e-9)
    assert background_bce(torch.tensor([1e4, 50.0]), torch.zeros(2), from_logits=True) == pytest.approx(5025)


def test_a_certain_mistake_costs_a_finite_amount():
    assert background_bce(torch.ones(3), torch.zeros(3)) == pytest.approx(-math.log(1e-7), rel=1e-5)


@pytest.mark.parametrize("from_logits", [False, True])
def test_gradients_are_right(from_logits):
    generator = torch.Generator().manual_seed(0)
    z = (0.1 + 0.8 * torch.rand(3, 4, generator=generator, dtype=torch.float64)).requires_grad_()
    box = torch.rand(3, 4, generator=generator) < 0.5
    assert torch.autograd.gradcheck(lambda x: background_bce(x, box, from_logits), z)


@pytest.mark.parametrize("values, box",
                         [([0.5, 1.5], [0, 0]), ([-0.1, 0.5], [0, 0]), ([math.nan, 0.5], [0, 0]), ([0.5], [0, 0])])
def test_bad_input_is_refused(values, box):
    with pytest.raises(ValueError):
        background_bce(torch.tensor(values), torch.tensor(box))
