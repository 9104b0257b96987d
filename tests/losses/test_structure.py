"""Focal mean squared error, Eqs. 4-6 of MM 2020."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from crowddist.losses.structure import focal_mse


def focal_by_loop(prediction, target, alpha, gamma):
    total = 0.0
    for phi, m in zip(prediction.ravel(), target.ravel(), strict=True):
        sigmoid = 1 / (1 + math.exp(-phi))
        p, weight = (sigmoid, 1.0) if m == 1 else (1 - sigmoid, alpha)
        total += weight * (1 - p) ** gamma * (m - phi) ** 2
    return total / prediction.size


def test_by_hand():
    # At 0 the sigmoid is 1/2, so both pixels weigh 1/4: a head missed costs 1/4, an empty pixel nothing.
    assert focal_mse(torch.zeros(2), torch.tensor([1.0, 0.0])) == pytest.approx(0.25 / 2)
    # An empty pixel that says 2: 0.1 * sigmoid(2)^2 * 4.
    assert focal_mse(torch.tensor([2.0]), torch.tensor([0.0])) == pytest.approx(0.4 / (1 + math.exp(-2)) ** 2)


@pytest.mark.parametrize("alpha, gamma", [(0.1, 2.0), (1.0, 0.0), (0.5, 1.5)])
def test_equals_the_loop(alpha, gamma):
    generator = np.random.default_rng(0)
    prediction, target = generator.normal(0, 2, (2, 1, 6, 7)), (generator.random((2, 1, 6, 7)) < 0.2).astype(float)
    result = focal_mse(torch.tensor(prediction), torch.tensor(target), alpha, gamma)
    assert float(result) == pytest.approx(focal_by_loop(prediction, target, alpha, gamma), rel=1e-12)
    assert focal_mse(prediction, target, alpha, gamma) == float(result)  # NumPy in, a float out


def test_plain_squared_error_is_a_special_case():
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(3, 5, generator=generator), (torch.rand(3, 5, generator=generator) < 0.3).float()
    assert focal_mse(prediction, target, alpha=1, gamma=0) == pytest.approx(float((prediction - target).square().mean()), rel=1e-6)


def test_extreme_values_stay_finite():
    prediction = torch.tensor([1e4, -1e4, 1e4, -1e4], requires_grad=True)
    loss = focal_mse(prediction, torch.tensor([1.0, 1.0, 0.0, 0.0]))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(prediction.grad).all()


def test_gradients_are_right():
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randn(4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    target = (torch.rand(4, 5, generator=generator) < 0.3).double()
    assert torch.autograd.gradcheck(lambda x: focal_mse(x, target), prediction)


@pytest.mark.parametrize("shapes, arguments", [
    (((2, 3), (3, 2)), {}),
    (((0,), (0,)), {}),
    (((2,), (2,)), {"alpha": -1}),
    (((2,), (2,)), {"gamma": -1}),
])
def test_bad_input_is_refused(shapes, arguments):
    with pytest.raises(ValueError):
        focal_mse(*(torch.zeros(shape) for shape in shapes), **arguments)
