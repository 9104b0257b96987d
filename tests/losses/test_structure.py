"""Losses of the density-to-localisation transformer: Eqs. 4-7 of MM 2020 and the focal cross-entropy of its Table 4."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from crowddist.losses.structure import dms_ssim_loss, focal_cross_entropy, focal_mse
from crowddist.ops.ssim import ms_ssim_dilated

FOCAL = pytest.mark.parametrize("loss_of", [focal_mse, focal_cross_entropy])


def focal_by_loop(prediction, target, alpha, gamma):
    total = 0.0
    for phi, m in zip(prediction.ravel(), target.ravel(), strict=True):
        sigmoid = 1 / (1 + math.exp(-phi))
        p, weight = (sigmoid, 1.0) if m == 1 else (1 - sigmoid, alpha)
        total += weight * (1 - p) ** gamma * (m - phi) ** 2
    return total / prediction.size


def cross_entropy_by_loop(prediction, target, alpha, gamma):
    total = 0.0
    for phi, m in zip(prediction.ravel(), target.ravel(), strict=True):
        sigmoid = 1 / (1 + math.exp(-phi))
        p, weight = (sigmoid, 1.0) if m == 1 else (1 - sigmoid, alpha)
        total -= weight * (1 - p) ** gamma * math.log(p)
    return total / prediction.size


def test_by_hand():
    # At 0 the sigmoid is 1/2, so both pixels weigh 1/4: a head missed costs 1/4, an empty pixel nothing.
    assert focal_mse(torch.zeros(2), torch.tensor([1.0, 0.0])) == pytest.approx(0.25 / 2)
    # An empty pixel that says 2: 0.1 * sigmoid(2)^2 * 4.
    assert focal_mse(torch.tensor([2.0]), torch.tensor([0.0])) == pytest.approx(0.4 / (1 + math.exp(-2)) ** 2)


def test_cross_entropy_by_hand():
    # At 0 every p is 1/2: a head costs log 2 / 4, an empty pixel a tenth of that.
    assert focal_cross_entropy(torch.zeros(2), torch.tensor([1.0, 0.0])) == pytest.approx(1.1 * math.log(2) / 4 / 2)
    # A logit of log 3 says p = 3/4 of a head, which costs (1/4)^2 log(4/3), and of an empty pixel 1/4: 0.1 (3/4)^2 log
    # 4.
    logits = np.full(2, math.log(3))
    expected = (math.log(4 / 3) / 16 + 0.1 * 9 / 16 * math.log(4)) / 2
    assert focal_cross_entropy(logits, np.array([1, 0])) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("loss_of, by_loop", [(focal_mse, focal_by_loop), (focal_cross_entropy, cross_entropy_by_loop)])
@pytest.mark.parametrize("alpha, gamma", [(0.1, 2.0), (1.0, 0.0), (0.5, 1.5), (0.0, 0.5)])
def test_equals_the_loop(loss_of, by_loop, alpha, gamma):
    generator = np.random.default_rng(0)
    prediction, target = generator.normal(0, 2, (2, 1, 6, 7)), (generator.random((2, 1, 6, 7)) < 0.2).astype(float)
    result = loss_of(torch.tensor(prediction), torch.tensor(target), alpha, gamma)
    assert float(result) == pytest.approx(by_loop(prediction, target, alpha, gamma), rel=1e-12)
    assert loss_of(prediction, target, alpha, gamma) == float(result)  # NumPy in, a float out
    assert loss_of(prediction, target.astype(np.uint8), alpha, gamma) == float(result)


@FOCAL
def test_whole_numbers_are_no_special_case(loss_of):
    assert loss_of(np.array([0, 2]), np.array([1, 0])) == loss_of(np.array([0.0, 2.0], np.float32), np.array([1, 0]))


def test_plain_squared_error_is_a_special_case():
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(3, 5, generator=generator), (torch.rand(3, 5, generator=generator) < 0.3).float()
    assert focal_mse(prediction, target, alpha=1,
                     gamma=0) == pytest.approx(float((prediction - target).square().mean()), rel=1e-6)


def test_plain_cross_entropy_is_a_special_case():
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(3, 5, generator=generator), (torch.rand(3, 5, generator=generator) < 0.3).float()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
    assert focal_cross_entropy(logits, target, alpha=1, gamma=0) == pytest.approx(float(expected), rel=1e-6)


@FOCAL
def test_a_pixel_costs_more_the_worse_it_is_said(loss_of):
    said = np.linspace(1, -6, 30)  # of a head; beyond its 1 a squared error rises again
    losses = [loss_of(np.array([value]), np.array([1.0])) for value in said]
    assert losses == sorted(losses) and losses[0] < losses[-1]
    assert loss_of(np.array([3.0]), np.array([0.0]),
                   alpha=0.2) == pytest.approx(2 * loss_of(np.array([3.0]), np.array([0.0])))


@FOCAL
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_extreme_values_stay_finite(loss_of, gamma):
    prediction = torch.tensor([1e4, -1e4, 1e4, -1e4], requires_grad=True)
    loss = loss_of(prediction, torch.tensor([1.0, 1.0, 0.0, 0.0]), gamma=gamma)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(prediction.grad).all()


def test_large_logits_cost_what_they_say():
    # -log p of a head said with -100 is 100, whereas log(sigmoid(-100)) would be that of 0 in single precision.
    assert focal_cross_entropy(torch.tensor([-100.0]), torch.tensor([1.0])) == pytest.approx(100)
    assert focal_cross_entropy(torch.tensor([1000.0]), torch.tensor([0.0])) == pytest.approx(100)
    assert focal_cross_entropy(torch.tensor([-1000.0]), torch.tensor([0.0])) == 0


@FOCAL
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_gradients_are_right(loss_of, gamma):
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randn(4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    target = (torch.rand(4, 5, generator=generator) < 0.3).double()
    assert torch.autograd.gradcheck(lambda x: loss_of(x, target, gamma=gamma), prediction)


@FOCAL
@pytest.mark.parametrize("shapes, arguments", [
    (((2, 3), (3, 2)), {}),
    (((0,), (0,)), {}),
    (((2,), (2,)), {"alpha": -1}),
    (((2,), (2,)), {"gamma": -1}),
    (((2,), (2,)), {"gamma": math.nan}),
])
def test_bad_input_is_refused(loss_of, shapes, arguments):
    with pytest.raises(ValueError):
        loss_of(*(torch.zeros(shape) for shape in shapes), **arguments)


def test_dms_ssim_by_hand():
    target = np.random.default_rng(0).random((24, 24))
    assert dms_ssim_loss(target, target) == pytest.approx(0, abs=1e-12)
    # One pixel, 1/2 for 1: every level sees the centre weight w alone.
    line = math.exp(0) / (1 + 2 * math.exp(-0.5) + 2 * math.exp(-2))
    w, c1, c2 = line**2, 0.0001, 0.0009
    level = (w * w + c1) * (w - w * w + c2) / ((1.25 * w * w + c1) * (1.25 * (w - w * w) + c2))
    assert dms_ssim_loss([[0.5]], [[1.0]]) == pytest.approx(1 - level**1.0001, rel=1e-12)  # the exponents sum to 1.0001


@pytest.mark.parametrize("pool", [False, True])
def test_dms_ssim_is_one_minus_the_similarity_whatever_the_scale(pool):
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.rand(2, 3, 1, 20, 22, generator=generator, dtype=torch.float64)
    loss = dms_ssim_loss(prediction, target, pool)
    assert float(loss) == pytest.approx(1 - float(ms_ssim_dilated(prediction, target, pool)), abs=1e-12)
    assert float(dms_ssim_loss(7 * prediction, 7 * target, pool)) == pytest.approx(float(loss), abs=1e-12)
    if not pool:  # which leaves out an odd last column
        assert float(dms_ssim_loss(prediction.flip(-1), target.flip(-1))) == pytest.approx(float(loss), abs=1e-12)
    assert dms_ssim_loss(prediction.numpy(), target.numpy(), pool) == pytest.approx(float(loss), abs=1e-12)


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (13, 12)])
def test_dms_ssim_gradients_are_right(size, pool):
    generator = torch.Generator().manual_seed(0)
    prediction, noise = torch.rand(2, 2, 1, *size, generator=generator, dtype=torch.float64)
    target = 0.5 * prediction + 0.5 * noise
    assert torch.autograd.gradcheck(lambda x: dms_ssim_loss(x, target, pool), prediction.requires_grad_())
    empty = torch.zeros_like(target)
    assert torch.autograd.gradcheck(lambda x: dms_ssim_loss(0.01 * x, empty, pool), prediction)


def checkerboard(size):
    return (torch.arange(size)[:, None] + torch.arange(size)) % 2.0


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("prediction, target", [
    pytest.param(1 - checkerboard(24), checkerboard(24), id="every window against the target"),
    pytest.param(-checkerboard(24), checkerboard(24), id="below zero"),
    pytest.param(torch.rand(24, 24, generator=torch.Generator().manual_seed(0)), torch.zeros(24, 24), id="empty crop"),
    pytest.param(torch.full((24, 24), 1e4), torch.zeros(24, 24), id="large on an empty crop"),
    pytest.param(torch.zeros(24, 24), torch.zeros(24, 24), id="both empty"),
    pytest.param(torch.zeros(24, 24), checkerboard(24), id="nothing said"),
    pytest.param(torch.full((24, 24), 0.3), torch.full((24, 24), 0.7), id="constants"),
    pytest.param(torch.full((24, 24), 500.0), torch.ones(24, 24), id="large constants"),
    pytest.param(torch.full((24, 24), 0.01), 1e-20 * checkerboard(24), id="hardly anything"),
    pytest.param(torch.tensor([[0.2, 0.5]]), torch.tensor([[1.0, 0.0]]), id="smaller than any window"),
    pytest.param(torch.rand(1, 30, generator=torch.Generator().manual_seed(0)), torch.ones(1, 30), id="a line"),
])
def test_dms_ssim_is_finite_at_the_edges(prediction, target, kind, pool):
    prediction = prediction.to(kind, copy=True).requires_grad_()
    loss = dms_ssim_loss(prediction, target.to(kind), pool)
    loss.backward()
    assert 0 <= loss.detach() <= 1 and torch.isfinite(prediction.grad).all()


def test_dms_ssim_at_the_edges_by_value():
    empty = np.zeros((24, 24))
    assert dms_ssim_loss(empty, empty) == 0
    losses = [dms_ssim_loss(np.full((24, 24), level), empty) for level in (1e-5, 1e-3, 1e-1, 1e4)]
    assert losses == sorted(losses) and losses[0] < 0.01 and losses[-1] == pytest.approx(1, abs=1e-5)
    board = checkerboard(24).numpy()
    assert dms_ssim_loss(1 - board, board) > dms_ssim_loss(empty, board) > 0.5


def test_an_empty_map_is_scaled_by_the_peak_of_a_head():
    """What is said of nobody costs as much as it is large beside a head: 0-1 maps have a peak of 1, densities a small
    one.
    """
    empty = np.zeros((24, 24))
    for level in (0.01, 0.3):
        assert dms_ssim_loss(np.full((24, 24), level), empty, empty_peak=1.0) == pytest.approx(
            dms_ssim_loss(np.full((24, 24), level / 100), empty, empty_peak=0.01), rel=1e-9
        )
    # Away from the border, where zeros surround the map, each level's similarity is C1 / (0.5^2 + C1).
    losses = [dms_ssim_loss(np.full((400, 400), 0.5 * peak), np.zeros((400, 400)), empty_peak=peak)
              for peak in (1.0, 0.01)]
    assert losses == pytest.approx([1 - 1e-4 / 0.2501] * 2, abs=3e-3)
    with pytest.raises(ValueError, match="empty_peak must be positive"):
        dms_ssim_loss(empty, empty, empty_peak=0.0)


@pytest.mark.parametrize("shapes",
                         [((5, 5), (5, 6)), ((5,), (5,)), ((0, 5), (0, 5)), ((1, 1, 1, 5, 5), (1, 1, 1, 5, 5))])
def test_dms_ssim_refuses_bad_input(shapes):
    with pytest.raises(ValueError):
        dms_ssim_loss(*(torch.zeros(shape) for shape in shapes))
