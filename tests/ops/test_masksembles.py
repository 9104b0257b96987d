"""Masks of Masksembles: exact width, seeded, and the statistics of the published algorithm."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crowddist.ops.masksembles import make_masks


def mean_overlap(masks):
    """The mean over pairs of the share of one mask's ones that the other has too."""
    return float(np.mean([(a & b).sum() / a.sum() for a, b in combinations(masks, 2)]))


def test_statistics_of_the_published_setting():
    draws = [make_masks(512, 3, 2.0, seed) for seed in range(20)]
    # m = int(512 / (2 * (1 - 0.5^3))) = 292 ones; two masks of scale s share 1/s of their ones.
    assert {int(row.sum()) for masks in draws for row in masks} == {292}
    assert np.mean([mean_overlap(masks) for masks in draws]) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("channels, num_masks, scale", [(64, 4, 2.0), (512, 3, 2.0), (512, 8, 3.0), (96, 4, 1.5)])
def test_statistics_of_the_released_library(channels, num_masks, scale):
    common = pytest.importorskip("masksembles.common")
    np.random.seed(0)
    theirs = [common.generation_wrapper(channels, num_masks, scale) for _ in range(5)]
    ours = [make_masks(channels, num_masks, scale, seed) for seed in range(5)]
    assert {masks.shape for masks in ours} == {masks.shape for masks in theirs}
    assert np.mean(ours) == pytest.approx(np.mean(theirs), abs=1e-9)
    expected = np.mean([mean_overlap(masks.astype(bool)) for masks in theirs])
    assert np.mean([mean_overlap(masks) for masks in ours]) == pytest.approx(expected, abs=0.05)


@given(st.integers(1, 80), st.integers(1, 8), st.floats(1, 20), st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_every_channel_is_used_and_masks_are_equally_large(channels, num_masks, scale, seed):
    masks = make_masks(channels, num_masks, scale, seed)
    assert masks.dtype == bool and masks.shape == (num_masks, channels)
    assert masks.any(axis=0).all()
    assert len(set(masks.sum(axis=1).tolist())) == 1


def test_equal_seeds_give_equal_masks_whatever_else_draws():
    first = make_masks(128, 4, 2.0, 7)
    np.random.random(100)
    np.testing.assert_array_equal(first, make_masks(128, 4, 2.0, 7))
    assert (first != make_masks(128, 4, 2.0, 8)).any()


def test_scale_one_is_one_model_and_a_large_scale_an_ensemble():
    assert make_masks(32, 4, 1, 0).all()
    assert make_masks(32, 1, 3.0, 0).all()
    disjoint = make_masks(12, 3, 1e5, 0)
    np.testing.assert_array_equal(disjoint.sum(axis=0), 1)
    overlaps = [mean_overlap(make_masks(256, 4, scale, 0)) for scale in (1, 1.5, 2, 3, 6)]
    assert overlaps == sorted(overlaps, reverse=True)


@pytest.mark.parametrize("channels, num_masks, scale",
                         [(0, 3, 2.0), (8, 0, 2.0), (8, 3, 0.9), (8, 3, float("nan")), (8, 3, float("inf"))])
def test_bad_input_is_refused(channels, num_masks, scale):
    with pytest.raises(ValueError):
        make_masks(channels, num_masks, scale, 0)
