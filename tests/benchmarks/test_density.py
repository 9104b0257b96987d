"""Density of a 1080p map, against a loop over local windows and against one filter of the whole image a
head.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from crowddist.ops.density import adaptive_sigma, density_map
from tests.benchmarks.harness import compare

SIZE = (1080, 1920)


def square(num_heads):
    """Heads on a square seen from above at a slant: small and close at the top."""
    generator = np.random.default_rng(num_heads)
    y = SIZE[0] * (0.25 + 0.75 * generator.random(num_heads) ** 2)
    return np.stack([generator.uniform(0, SIZE[1], num_heads), np.minimum(y, SIZE[0] - 1)], axis=1)


def csrnet_sigma(points):
    """The rule of CSRNet's script: a tenth of the sum of the distances to the three nearest neighbours."""
    return adaptive_sigma(points, neighbours=3, beta=0.3)


def window_loop(points, sigmas, size):
    """Add one Gaussian a head in its own window of 4 sigma, in double precision, as data preparation scripts do."""
    total = np.zeros(size)
    for (x, y), sigma in zip(points, sigmas, strict=True):
        radius, column, row = math.ceil(4 * sigma), min(round(x), size[1] - 1), min(round(y), size[0] - 1)
        left, right = max(column - radius, 0), min(column + radius + 1, size[1])
        top, bottom = max(row - radius, 0), min(row + radius + 1, size[0])
        across = np.exp(-((np.arange(left, right) - x) ** 2) / (2 * sigma**2))
        down = np.exp(-((np.arange(top, bottom) - y) ** 2) / (2 * sigma**2))
        total[top:bottom, left:right] += np.outer(down / down.sum(), across / across.sum())
    return total


def cached_window_loop(points, sigmas, size):
    """The fastest loop in use: heads at whole pixels, windows of 3 sigma either way, kernels kept by a tenth of a pixel
    of sigma.

    So did the data scripts of DSSINet; its map differs by these roundings.
    """
    total, kernels = np.zeros(size), {}
    for (x, y), sigma in zip(points, sigmas, strict=True):
        radius, column, row = int(3 * sigma), int(x), int(y)
        kernel = kernels.get(int(10 * sigma))
        if kernel is None:
            offsets = np.arange(-radius, radius + 1)
            kernel = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * sigma**2))
            kernel /= kernel.sum()
            kernels[int(10 * sigma)] = kernel
        radius = len(kernel) // 2
        left, right = max(column - radius, 0), min(column + radius + 1, size[1])
        top, bottom = max(row - radius, 0), min(row + radius + 1, size[0])
        part = kernel[top - row + radius:bottom - row + radius, left - column + radius:right - column + radius]
        total[top:bottom, left:right] += part * (kernel.sum() / part.sum())
    return total


def full_filter(points, sigmas, size):
    """Filter an image of one pixel for every head, as CSRNet's script does."""
    from scipy.ndimage import gaussian_filter

    total = np.zeros(size, np.float32)
    for (x, y), sigma in zip(points, sigmas, strict=True):
        pixel = np.zeros(size, np.float32)
        pixel[int(y), int(x)] = 1
        total += gaussian_filter(pixel, sigma, mode="constant")
    return total


def near(peer, ours):
    return np.abs(peer - ours).max() <= 1e-6 * peer.max()


def as_many(peer, ours):
    return abs(peer.sum() - ours.sum()) <= 1e-3


@pytest.mark.benchmark
@pytest.mark.parametrize("loop, agree", [(cached_window_loop, as_many), (window_loop, near)])
@pytest.mark.parametrize("num_heads", [500, 1000, 2000, 4000])
def test_full_map_against_window_loop(num_heads, loop, agree):
    points = square(num_heads)
    sigmas = csrnet_sigma(points)
    result = compare(lambda: loop(points, sigmas, SIZE), lambda: density_map(points, SIZE, sigmas), agree=agree)
    print(f"\ndensity 1080p, {num_heads} heads, {loop.__name__} / ours: {result}")
    assert result.ratio >= 2.5


@pytest.mark.benchmark
@pytest.mark.parametrize("num_heads", [500, 4000])
def test_full_map_against_one_filter_a_head(num_heads):
    points = square(num_heads)
    sigmas = csrnet_sigma(points)
    # Whole pixels far from the border, where both rules place the same kernel; a few heads spread over the sizes.
    points = np.rint(points)
    some = np.argsort(sigmas)[np.linspace(0, num_heads - 1, 8).astype(int)]
    result = compare(lambda: full_filter(points[some], sigmas[some], SIZE), lambda: density_map(points, SIZE, sigmas),
                     rounds=3, peer_share=len(some) / num_heads)
    print(f"\ndensity 1080p, {num_heads} heads, one full filter a head (scaled from {len(some)}) / ours: {result}")
    assert result.ratio >= 1000


@pytest.mark.benchmark
def test_filter_and_ours_are_the_same_map():
    points = np.array([[400, 300], [900.0, 500], [1500, 700], [1510, 705]])
    sigmas = np.array([3.0, 8.125, 20, 1.5])
    np.testing.assert_allclose(density_map(points, SIZE, sigmas), full_filter(points, sigmas, SIZE), atol=3e-7)
