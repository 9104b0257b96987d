"""The loss of count maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crowddist.losses.density import count_map_loss, poisson_deviance


def loss_by_loop(prediction, target, keep, block, weight, cell_error):
    """Cell by cell and block by block."""
    total = 0.0
    for image in range(len(prediction)):
        p, y = prediction[image, 0], target[image, 0]
        kept = np.ones_like(y, bool) if keep is None else keep[image, 0].astype(bool)
        cells = blocks = 0.0
        for row, column in zip(*np.nonzero(kept), strict=True):
            here, truth = p[row, column] + 0.001, y[row, column] + 0.001
            cells += (here - truth) ** 2 if cell_error == "squared" else here - truth + truth * np.log(
                truth) - truth * np.log(here)
        for top in range(0, p.shape[0], block):
            for left in range(0, p.shape[1], block):
                place = np.s_[top:top + block, left:left + block]
                miss = ((p - y) * kept)[place].sum()
                blocks += miss * max(miss / (0.1 + (p * kept)[place].sum()), -4)
        total += (cells + weight * blocks) / max(kept.sum(), 1)
    return total / len(prediction)


def test_squares_by_hand():
    prediction = torch.tensor([[0.0, 0.9, 0, 0], [0, 0, 3.9, 0]])[None, None]
    target = torch.tensor([[1.0, 2.9, 0, 0], [0, -1, 3.9, 4]])[None, None]
    # Cells: 1 + 4 + 1 + 16. Blocks of 2: errors -2 and -4 where 0.9 and 3.9 are predicted, so 4 / 1 and 16 / 4.
    assert count_map_loss(prediction, target, block=2, block_weight=0.5,
                          cell_error="squared") == pytest.approx((22 + 0.5 * 8) / 8)
    keep = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])[None, None]
    # Without the 4 the second block has no error left.
    assert count_map_loss(prediction, target, keep, block=2, block_weight=0.5,
                          cell_error="squared") == pytest.approx((6 + 0.5 * 4) / 7)


def test_deviance_by_hand():
    # p - y - y log(p / y): 2 - 1 - log 2, and 1 - 2 + 2 log 2; an empty cell costs what is seen there, but for the
    # floor of 0.001.
    deviance = poisson_deviance(torch.tensor([2.0, 1.0, 0.5, 3.0]), torch.tensor([1.0, 2.0, 0.0, 3.0]))
    assert deviance == pytest.approx(torch.tensor([0.30685, 0.38629, 0.5 - 0.001 * np.log(501), 0.0]), abs=1e-3)
    assert count_map_loss(torch.full((1, 1, 1, 1), 2.0), torch.ones(1, 1, 1, 1),
                          block_weight=0.0) == pytest.approx(0.30685, abs=1e-3)


def test_the_deviance_is_that_of_the_likelihood():
    """Twice the log of how much likelier a count is under itself than under the prediction, halved; SciPy knows the
    likelihood.
    """
    from scipy.stats import poisson

    counts = torch.tensor([1.0, 3.0, 7.0, 40.0])
    rates = torch.tensor([2.5, 3.0, 1.0, 55.0])
    expected = poisson.logpmf(counts.numpy(), counts.numpy()) - poisson.logpmf(counts.numpy(), rates.numpy())
    assert poisson_deviance(rates, counts).numpy() == pytest.approx(expected, abs=2e-2, rel=1e-3)


def test_a_block_that_saw_nothing_pulls_four_times_and_no_more():
    prediction = torch.zeros(1, 1, 2, 2, requires_grad=True)
    count_map_loss(prediction, torch.full((1, 1, 2, 2), 2.0), block=2, block_weight=0.5,
                   cell_error="squared").backward()
    # 2 e of the cells, and block_weight * pull = 0.5 * -4, not 0.5 * -8 / 0.1; over 4 cells.
    assert prediction.grad == pytest.approx(torch.full((1, 1, 2, 2), (2 * -2 + 0.5 * -4) / 4))


@pytest.mark.parametrize("shape", [(3, 1, 16, 16), (2, 1, 13, 9), (1, 1, 3, 5)])
@pytest.mark.parametrize("kept_share", [None, 0.0, 0.95, 1.0])
@pytest.mark.parametrize("cell_error", ["poisson", "squared"])
def test_equals_the_loop(shape, kept_share, cell_error):
    generator = np.random.default_rng(0)
    prediction, target = generator.random((2, *shape))
    keep = None if kept_share is None else generator.random(shape) < kept_share
    kept = None if keep is None else torch.tensor(keep)
    result = count_map_loss(torch.tensor(prediction), torch.tensor(target), kept, 4, 0.3, cell_error)
    assert float(result) == pytest.approx(loss_by_loop(prediction, target, keep, 4, 0.3, cell_error), abs=1e-12)


def test_equation_6_by_hand():
    """Half the sum over the pixels of an image, divided by the number of images."""
    prediction = torch.tensor([[[[1.0, 0.0], [0.5, 2.0]]], [[[0.0, 0.0], [0.0, 3.0]]]])
    target = torch.tensor([[[[0.0, 0.0], [0.5, 4.0]]], [[[0.0, 0.0], [0.0, 0.0]]]])
    # (1 + 4) / 2 and 9 / 2, over two images.
    assert count_map_loss(prediction, target, block_weight=0.0, cell_error="squared_sum") == pytest.approx(3.5)
    keep = torch.tensor([[[[1, 1], [1, 0]]], [[[1, 1], [1, 1]]]])
    assert count_map_loss(prediction, target, keep, block_weight=0.0, cell_error="squared_sum") == pytest.approx(2.5)
    # Blocks of 2 are whole images: 1 * -1 / 3.6 and 3 * 3 / 3.1, not divided by their cells.
    blocks = count_map_loss(prediction, target, block=2, block_weight=0.1, cell_error="squared_sum")
    assert blocks == pytest.approx(3.5 + 0.1 * (1 / 3.6 + 9 / 3.1) / 2)


@pytest.mark.parametrize("side", [1, 2, 8])
def test_equation_6_equals_the_loop_over_pixels(side):
    """A cell of several pixels spreads its persons evenly over them."""
    generator = np.random.default_rng(0)
    prediction, target = generator.random((2, 3, 1, 5, 4))
    naive = 0.0
    for p, y in zip(prediction[:, 0], target[:, 0], strict=True):
        for row in range(5 * side):
            for column in range(4 * side):
                cell = row // side, column // side
                naive += (p[cell] / side**2 - y[cell] / side**2) ** 2
    loss = count_map_loss(torch.tensor(prediction), torch.tensor(target), block_weight=0.0, cell_error="squared_sum",
                          cell_px=side)
    assert float(loss) == pytest.approx(naive / (2 * 3), abs=1e-12)


def test_equation_6_is_half_the_cells_times_the_mean():
    generator = torch.Generator().manual_seed(0)
    prediction, target = (torch.rand(2, 1, 16, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    losses = {error: count_map_loss(prediction, target, block_weight=0.0, cell_error=error)
              for error in ("squared", "squared_sum")}
    assert float(losses["squared_sum"]) == pytest.approx(16 * 8 / 2 * float(losses["squared"]), rel=1e-12)


@pytest.mark.parametrize("cell_error", ["poisson", "squared", "squared_sum"])
def test_halves_of_a_batch_average_to_the_whole(cell_error):
    generator = torch.Generator().manual_seed(0)
    prediction, target, chance = (torch.rand(4, 1, 16, 16, generator=generator, dtype=torch.float64) for _ in range(3))
    # Very different kept shares in the two halves.
    keep = chance < torch.tensor([0.1, 0.2, 0.99, 1.0])[:, None, None, None]
    halves = [count_map_loss(prediction[i:i + 2], target[i:i + 2], keep[i:i + 2], cell_error=cell_error)
              for i in (0, 2)]
    assert count_map_loss(prediction, target, keep,
                          cell_error=cell_error) == pytest.approx(float(sum(halves) / 2), abs=1e-12)


@pytest.mark.parametrize("cell_error", ["poisson", "squared", "squared_sum"])
def test_what_is_not_kept_teaches_nothing(cell_error):
    generator = torch.Generator().manual_seed(0)
    prediction = torch.rand(1, 1, 16, 16, generator=generator, requires_grad=True)
    keep = torch.rand(1, 1, 16, 16, generator=generator) < 0.5
    count_map_loss(prediction, torch.zeros(1, 1, 16, 16), keep, cell_error=cell_error).backward()
    assert (prediction.grad[~keep] == 0).all() and (prediction.grad[keep] > 0).all()


def test_the_gradient_takes_the_pull_as_given():
    """1 - y / p of each cell, and block_weight (sum e) / (0.1 + sum p) of each cell of a block, over K."""
    generator = torch.Generator().manual_seed(0)
    prediction = torch.rand(1, 1, 8, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    target = torch.rand(1, 1, 8, 4, generator=generator, dtype=torch.float64)
    count_map_loss(prediction, target, block=4, block_weight=0.3).backward()
    p, error = prediction.detach(), (prediction - target).detach()
    for block in (slice(0, 4), slice(4, 8)):
        pull = 0.3 * error[:, :, block].sum() / (0.1 + p[:, :, block].sum())
        cells = 1 - (target[:, :, block] + 0.001) / (p[:, :, block] + 0.001)
        torch.testing.assert_close(prediction.grad[:, :, block], (cells + pull) / 32)


@pytest.mark.parametrize("cell_error", ["poisson", "squared", "squared_sum"])
def test_the_mean_is_where_nothing_pulls(cell_error):
    """Of labels that are 0 or 8 by chance, a constant prediction of their mean has no slope; an absolute error would
    pull it down to 0.
    """
    target = torch.zeros(4, 1, 8, 8, dtype=torch.float64)
    target[3] = 8 / 64
    prediction = torch.full_like(target, 2 / 64).requires_grad_()
    count_map_loss(prediction, target, cell_error=cell_error).backward()
    assert float(prediction.grad.sum()) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("prediction, target, keep, arguments", [
    ((2, 1, 4, 4), (2, 1, 4, 5), None, {}),
    ((2, 2, 4, 4), (2, 2, 4, 4), None, {}),
    ((4, 4), (4, 4), None, {}),
    ((0, 1, 4, 4), (0, 1, 4, 4), None, {}),
    ((2, 1, 4, 4), (2, 1, 4, 4), (1, 1, 4, 4), {}),
    ((2, 1, 4, 4), (2, 1, 4, 4), None, {"block": 0}),
    ((2, 1, 4, 4), (2, 1, 4, 4), None, {"block_weight": -1}),
    ((2, 1, 4, 4), (2, 1, 4, 4), None, {"cell_px": 0}),
])
def test_bad_input_is_refused(prediction, target, keep, arguments):
    with pytest.raises(ValueError):
        count_map_loss(torch.ones(prediction), torch.ones(target), None if keep is None else torch.ones(keep),
                       **arguments)
