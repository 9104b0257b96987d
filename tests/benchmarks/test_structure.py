"""The DMS-SSIM loss, there and back, against five dilated convolutions a level."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from crowddist.losses.structure import dms_ssim_loss
from crowddist.ops.density import density_map
from tests.benchmarks.harness import compare


def maps_of(num_maps, size):
    """Crops of crowds, and what a network says of them halfway through its training."""
    generator = np.random.default_rng(0)
    heads = [generator.uniform(0, size[::-1], (generator.integers(20, 200), 2)) for _ in range(num_maps)]
    truth = np.stack([density_map(points, size, 4.0) for points in heads])[:, None]
    smooth = np.stack([density_map(points + generator.normal(0, 3, points.shape), size, 6.0)
                       for points in heads])[:, None]
    said = smooth * generator.uniform(0.7, 1.3, truth.shape) + 1e-4 * generator.random(truth.shape)
    return torch.from_numpy(said.astype(np.float32)), torch.from_numpy(truth)


def convolved_loss(prediction: Tensor, target: Tensor, pool: bool) -> Tensor:
    """As DSSINet computes it: a 5 x 5 convolution each for the means, the squares and the product, and a contrast term
    that nobody reads.

    The peak is that of each map and so is the product over levels, as with ours; all products of these maps are
    positive.
    """
    offsets = torch.arange(5.0) - 2
    line = torch.exp(-offsets.square() / 2)
    window = (torch.outer(line, line) / line.sum().square())[None, None]
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    peak = target.amax((1, 2, 3), keepdim=True)
    a, b = 255 * prediction / peak, 255 * target / peak
    levels, contrasts = [], []
    for dilation in (1, 2, 3, 6, 9):
        mean_a, mean_b, square_a, square_b, product = (
            functional.conv2d(v, window, padding=2 * dilation, dilation=dilation) for v in (a, b, a * a, b * b, a * b)
        )
        variance_a, variance_b, covariance = square_a - mean_a.pow(
            2), square_b - mean_b.pow(2), product - mean_a * mean_b
        similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
        similarity = similarity / ((mean_a.pow(2) + mean_b.pow(2) + c1) * (variance_a + variance_b + c2))
        levels.append(similarity.mean((1, 2, 3)))
        contrasts.append(((2 * covariance + c2) / (variance_a + variance_b + c2)).mean())
        if pool:
            a, b = functional.avg_pool2d(a, 2), functional.avg_pool2d(b, 2)
    weights = torch.tensor([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])
    return 1 - (torch.stack(levels) ** weights[:, None]).prod(0).mean()


def same(peer, ours):
    """Losses to a millionth, gradients to a ten-thousandth of the largest."""
    return abs(peer[0] - ours[0]) <= 1e-6 and float((peer[1] - ours[1]).abs().max() / peer[1].abs().max()) <= 1e-4


@pytest.mark.benchmark
@pytest.mark.parametrize("pool", [False, True], ids=["plain", "pooled"])
@pytest.mark.parametrize("num_maps, size, rounds, goal", [(8, (224, 224), 9, 5.0), (8, (480, 640), 3, 3.0)])
def test_loss_and_gradient(num_maps, size, rounds, goal, pool):
    prediction, target = maps_of(num_maps, size)

    def there_and_back(loss_of):
        said = prediction.clone().requires_grad_()
        loss = loss_of(said, target, pool=pool)
        loss.backward()
        return float(loss.detach()), said.grad

    result = compare(lambda: there_and_back(convolved_loss), lambda: there_and_back(dms_ssim_loss), rounds=rounds,
                     agree=same)
    print(f"\nDMS-SSIM and its gradient, {num_maps} maps of {size[1]} x {size[0]}, {'pooled' if pool else 'plain'}, "
          f"convolutions / ours: {result}")
    assert result.ratio >= goal
