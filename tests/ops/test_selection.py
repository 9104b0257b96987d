"""Selected cells: near the share at every density, never background alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crowddist.ops.density import density_map
from crowddist.ops.selection import change_sums, keep_most_certain, kept_shares, ratio_of_sums


@pytest.fixture
def crowd():
    """A 64 x 64 map of 300 heads, dense below, and a spread of up to half the density."""
    generator = np.random.default_rng(0)
    points = np.stack([generator.uniform(0, 64, 300), 64 * generator.uniform(0, 1, 300) ** 0.4], axis=1)
    density = density_map(points, (64, 64), 0.75).astype(np.float64)
    density[density < 1e-4] = 0
    return density, density * generator.uniform(0, 0.5, density.shape)


def test_one_stratum_by_hand():
    # Eight occupied cells, one stratum; relative uncertainties in order 0.4 0.1 0.3 0.2 0.8 0.7 0.6 0.5: half = the
    # first four.
    density = np.array([[1.0, 1.1, 1.2, 1.3], [1.4, 1.5, 1.6, 1.7]])
    spread = density * [[0.4, 0.1, 0.3, 0.2], [0.8, 0.7, 0.6, 0.5]]
    np.testing.assert_array_equal(keep_most_certain(density, spread, 0.5), [[True] * 4, [False] * 4])
    np.testing.assert_array_equal(keep_most_certain(density, spread, 0.25), [[False, True, False, True], [False] * 4])


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.75, 0.9])
def test_share_holds_for_cells_and_for_mass(crowd, share):
    density, spread = crowd
    keep = keep_most_certain(density, spread, share)
    assert abs(keep.sum() - share * keep.size) <= 0.5
    assert kept_shares(density, keep)["kept_mass"] == pytest.approx(share, abs=0.05)


def test_every_density_keeps_its_share(crowd):
    density, spread = crowd
    keep = keep_most_certain(density, spread, 0.5)
    occupied = density[density > 0.01]
    for low, high in zip(np.quantile(occupied, [0, 0.25, 0.5, 0.75]), np.quantile(occupied, [0.25, 0.5, 0.75, 1]),
                         strict=True):
        assert keep[(density >= low) & (density <= high)].mean() == pytest.approx(0.5, abs=0.1)
    by_density = np.argsort(density.ravel(), kind="stable")
    background = by_density[np.cumsum(density.ravel()[by_density]) <= 0.01 * density.sum()]
    assert keep.ravel()[background].mean() == pytest.approx(0.5, abs=0.01)


def test_within_a_density_the_certain_cells_win(crowd):
    density, spread = crowd
    keep = keep_most_certain(density, spread, 0.5)
    relative = np.where(density > 0.01, spread / np.maximum(density, 1e-9), np.nan)
    assert np.nanmean(relative[keep]) < 0.6 * np.nanmean(relative[~keep])


def test_the_trap_it_avoids(crowd):
    """The plain rankings fail on the same map: spread keeps background only, and the mass goes with it."""
    density, spread = crowd
    plain = np.zeros(density.size, bool)
    plain[np.argsort(spread.ravel(), kind="stable")[:density.size // 2]] = True
    assert kept_shares(density, plain.reshape(density.shape))["kept_mass"] < 0.1
    assert kept_shares(density, keep_most_certain(density, spread, 0.5))["kept_mass"] > 0.4


def test_an_empty_map_keeps_cells_all_over_it():
    keep = keep_most_certain(np.zeros((64, 64)), np.zeros((64, 64)), 0.5)
    quarters = keep.reshape(4, 16, 4, 16).mean((1, 3))
    np.testing.assert_allclose(quarters, 0.5, atol=0.05)


@pytest.mark.parametrize("share, expected", [(0, 0), (1, 64)])
def test_none_and_all(share, expected):
    density = np.random.default_rng(0).random((8, 8))
    assert keep_most_certain(density, density, share).sum() == expected


def test_images_are_chosen_one_by_one_and_kinds_agree(crowd):
    density, spread = crowd
    empty = np.zeros_like(density)
    batch = keep_most_certain(torch.tensor(np.stack([density, empty])[:, None]),
                              torch.tensor(np.stack([spread, empty])[:, None]), 0.4)
    assert batch.dtype == torch.bool and batch.shape == (2, 1, 64, 64)
    np.testing.assert_array_equal(batch[0, 0],
                                  keep_most_certain(density.astype(np.float32), spread.astype(np.float32), 0.4))
    np.testing.assert_array_equal(batch[1, 0], keep_most_certain(empty, empty, 0.4))


def test_scale_of_the_counts_does_not_matter(crowd):
    density, spread = crowd
    np.testing.assert_array_equal(keep_most_certain(density * 1024, spread * 1024, 0.5).mean(), 0.5)
    near = keep_most_certain(density * 1024, spread * 1024, 0.5) == keep_most_certain(density, spread, 0.5)
    assert near.mean() > 0.98


@pytest.mark.parametrize("density, spread, share", [
    (np.ones((4, 4)), np.ones((4, 5)), 0.5),
    (np.ones((2, 4, 4)), np.ones((2, 4, 4)), 0.5),
    (np.ones((1, 2, 4, 4)), np.ones((1, 2, 4, 4)), 0.5),
    (-np.ones((4, 4)), np.ones((4, 4)), 0.5),
    (np.ones((4, 4)), np.full((4, 4), np.nan), 0.5),
    (np.ones((4, 4)), np.ones((4, 4)), 1.1),
    (np.ones((4, 4)), np.ones((4, 4)), np.nan),
])
def test_bad_input_is_refused(density, spread, share):
    with pytest.raises(ValueError):
        keep_most_certain(density, spread, share)


def test_kept_shares_by_hand():
    shares = kept_shares(np.array([[1.0, 3.0], [0.0, 0.0]]), np.array([[True, False], [True, True]]))
    assert shares == {"kept_pixels": 0.75, "kept_mass": 0.25}
    assert kept_shares(torch.tensor([[1.0, 3.0]]), torch.tensor([[0, 1]])) == {"kept_pixels": 0.5, "kept_mass": 0.75}
    assert kept_shares(np.zeros((1, 4)), np.array([[1, 0, 0, 0]])) == {"kept_pixels": 0.25, "kept_mass": 0.25}
    with pytest.raises(ValueError):
        kept_shares(np.zeros((2, 2)), np.zeros((2, 3)))


def test_relative_change_by_hand():
    previous, current = np.array([[1.0, 2.0], [0.0, 1.0]]), np.array([[2.0, 1.0], [0.0, 1.0]])
    assert change_sums(previous, current) == change_sums(torch.tensor(previous), torch.tensor(current)) == (2.0, 4.0)
    assert change_sums(previous, previous) == (0.0, 4.0)
    assert ratio_of_sums(3.0, 6.0) == 0.5
    assert ratio_of_sums(0.0, 0.0) == 0 and ratio_of_sums(4.0, 0.0) == float("inf")


def test_change_of_unequal_maps_is_refused():
    with pytest.raises(ValueError):
        change_sums(np.zeros((2, 2)), np.zeros((2, 3)))
