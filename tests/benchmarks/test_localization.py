"""Average precision, peaks and merging of points against the usual loops and filters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from crowddist.ops.density import density_map
from crowddist.ops.localization import average_precisions
from crowddist.ops.nms import suppress_points
from crowddist.ops.peaks import local_maxima
from tests.benchmarks.harness import compare

SIZE = (1080, 1920)


def scene(num_heads):
    """Heads, and predictions: most near a head, some twice, a fifth made up."""
    generator = np.random.default_rng(0)
    heads = generator.uniform(0, SIZE[::-1], (num_heads, 2))
    found = np.concatenate([heads, heads[generator.random(num_heads) < 0.1]])
    found = found + generator.normal(0, 8, found.shape)
    made_up = generator.uniform(0, SIZE[::-1], (num_heads // 10, 2))
    points = np.concatenate([found, made_up])
    return np.c_[points, generator.random(len(points))], heads


def precisions_by_loop(predictions, heads, distances):
    """For every distance walk the predictions in score order, with NumPy for the distances of each."""
    order = np.argsort(-predictions[:, 2], kind="stable")
    areas = []
    for limit in distances:
        taken = np.zeros(len(heads), bool)
        hits = np.zeros(len(order), bool)
        for rank, index in enumerate(order):
            gaps = np.hypot(*(heads - predictions[index, :2]).T)
            nearest = gaps.argmin()
            if gaps[nearest] <= limit and not taken[nearest]:
                taken[nearest] = hits[rank] = True
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        areas.append((envelope * hits).sum() / len(heads))
    return np.array(areas)


@pytest.mark.benchmark
def test_mean_average_precision_of_1000_heads():
    predictions, heads = scene(1000)
    some = np.arange(1, 101, 20)
    result = compare(
        lambda: precisions_by_loop(predictions, heads, some),
        lambda: average_precisions([predictions], [heads]),
        agree=lambda peer, ours: np.abs(peer - ours[some - 1]).max() <= 1e-12,
        rounds=5, peer_share=len(some) / 100,
    )
    print(f"\nmAP, 1000 heads, c = 1..100, loop (scaled from {len(some)} distances) / ours: {result}")
    assert result.ratio >= 1000


def peaks_by_pooling(values, share):
    """Peaks the way FIDTM reads them: keep what 3 x 3 max-pooling leaves, cut at a share of the maximum, count, look
    for what is left.
    """
    maps = torch.from_numpy(values)[None, None]
    highest = torch.max(maps).item()
    kept = (functional.max_pool2d(maps, 3, stride=1, padding=1) == maps).float() * maps
    kept[kept < share * highest] = 0
    kept[kept > 0] = 1
    assert int(torch.sum(kept).item()) > 0
    return np.nonzero(kept[0, 0].numpy())


@pytest.mark.benchmark
def test_peaks_of_a_1080p_map():
    _, heads = scene(1000)
    # As a localisation map comes out that was learnt from one pixel a head: about ten pixels above the threshold each.
    values = density_map(heads, SIZE, 1.0)
    values /= values.max()
    threshold = np.float32(0.2)
    result = compare(
        lambda: peaks_by_pooling(values, threshold),
        lambda: local_maxima(values, threshold),
        agree=lambda peer, ours: all((a == b).all() for a, b in zip(peer, ours, strict=True)),
        rounds=15,
    )
    print(f"\npeaks of a 1080p map, 1000 heads, max-pooling / ours: {result}")
    assert result.ratio >= 20


def merge_by_loop(points, radius):
    """Take the best point, drop all within its radius, and so on, with NumPy for the distances."""
    radius = np.broadcast_to(radius, len(points))
    order = np.argsort(-points[:, 2], kind="stable")
    kept = []
    while len(order):
        kept.append(order[0])
        gaps = np.hypot(*(points[order, :2] - points[order[0], :2]).T)
        order = order[gaps > radius[order[0]]]
    return np.array(kept)


@pytest.mark.benchmark
@pytest.mark.parametrize("radii", ["one", "each"])
@pytest.mark.parametrize("num_points, goal", [(2000, 30), (20000, 100)])
def test_merging(num_points, goal, radii):
    """With one radius for all points, and with one for each of them, as heads of all sizes have."""
    generator = np.random.default_rng(0)
    points = np.c_[generator.uniform(0, SIZE[::-1], (num_points, 2)), generator.random(num_points)]
    radius = 10.0 if radii == "one" else generator.uniform(5, 15, num_points)
    result = compare(lambda: merge_by_loop(points, radius), lambda: suppress_points(points, radius), rounds=5,
                     agree=np.array_equal)
    print(f"\nmerging {num_points} points within 10 px, {radii}, greedy loop / ours: {result}")
    assert result.ratio >= goal
