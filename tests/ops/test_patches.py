"""Patches that lie side by side, and which of them are worth training on."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from crowddist.ops.patches import medium_density, most_confident, patch_grid


def test_a_grid_by_hand():
    # 5 holds two patches of 2, 9 holds four; what is left, one px, is at the end.
    expected = [[top, left, 2, 2] for top in (0, 2) for left in (0, 2, 4, 6)]
    np.testing.assert_array_equal(patch_grid((5, 9), 2), expected)
    # Too low for a patch: one, that reaches beyond the edges.
    np.testing.assert_array_equal(patch_grid((2, 10), 4), [[-1, 1, 4, 4], [-1, 5, 4, 4]])
    # A unit may be large: sides of less than one of it.
    np.testing.assert_array_equal(patch_grid((1, 0.5), 0.5), [[0, 0, 0.5, 0.5], [0.5, 0, 0.5, 0.5]])


@pytest.mark.parametrize("size", [(224, 224), (223.5, 900), (768, 1024), (448, 100)])
def test_patches_share_no_px_and_leave_equal_margins(size):
    patches = patch_grid(size, 224)
    top, left = (np.unique(patches[:, axis]) for axis in (0, 1))
    assert len(patches) == len(top) * len(left) and (patches[:, 2:] == 224).all()
    for starts, length in ((top, size[0]), (left, size[1])):
        assert (np.diff(starts) == 224).all()
        assert starts[0] == int(starts[0]) and 0 <= length - starts[-1] - 224 - starts[0] < 2
        assert starts[0] < 112 and (starts[0] >= 0) == (length >= 224)


@pytest.mark.parametrize("size, patch", [((4, 4), 0), ((4, 4), -1), ((4, 4), np.nan), ((0, 4), 2), ((4, -1), 2)])
def test_a_grid_of_nothing_is_refused(size, patch):
    with pytest.raises(ValueError, match="patches need"):
        patch_grid(size, patch)


def medium_by_overlap(persons, low, high):
    """Patch i of P covers the ranks i / P to (i + 1) / P, in exact arithmetic; touching is no overlap."""
    from_the_sparsest = sorted(range(len(persons)), key=lambda i: persons[i])
    low, high, number = Fraction(str(low)), Fraction(str(high)), len(persons)
    return [index for rank, index in enumerate(from_the_sparsest)
            if min(high, Fraction(rank + 1, number)) - max(low, Fraction(rank, number)) > 0]


def test_medium_density_by_hand():
    assert medium_density([7.0]).tolist() == [0]
    assert medium_density([9.0, 1.0]).tolist() == [0]
    assert medium_density([3, 0, 9, 1]).tolist() == [0]  # the third of four: ranks 0.5 to 0.75
    assert medium_density([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]).tolist() == [5, 6]
    assert medium_density([0, 0, 0, 0, 0, 0]).tolist() == [3, 4]


@pytest.mark.parametrize("number", range(1, 13))
@pytest.mark.parametrize("low, high", [(0.5, 0.7), (0, 1), (0, 0.5), (0.25, 0.3), (0.9, 1)])
def test_medium_density_equals_the_overlap_of_ranks(number, low, high):
    persons = np.random.default_rng(number).permutation(number) // 2  # some are equal
    assert medium_density(persons, low, high).tolist() == medium_by_overlap(persons, low, high)


def test_every_number_of_patches_has_a_medium_one():
    for number in range(1, 150):
        chosen = medium_density(np.arange(number))
        assert chosen.tolist() == medium_by_overlap(np.arange(number), 0.5, 0.7) and len(chosen) >= 1


@pytest.mark.parametrize("persons, low, high",
                         [([], 0.5, 0.7), ([[1, 2]], 0.5, 0.7), ([1], 0.7, 0.7), ([1], 0.7, 0.5), ([1], -0.1, 0.5),
                          ([1], 0.5, 1.1)])
def test_medium_density_refuses_bad_input(persons, low, high):
    with pytest.raises(ValueError, match="ranks"):
        medium_density(persons, low, high)


def test_most_confident_by_hand():
    inside = np.array([[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]], bool)
    # Means 0.5, 0.6, none and 0.2.
    assert most_confident([0.9, 0.1, 0.6, 0.2], inside, 2).tolist() == [1, 0]
    assert most_confident([0.9, 0.1, 0.6, 0.2], inside, 9).tolist() == [1, 0, 3]
    assert most_confident([0.5, 0.5, 0.5, 0.5], inside, 2).tolist() == [0, 1]
    assert most_confident([], np.zeros((3, 0), bool), 2).tolist() == []


def test_most_confident_equals_the_loop():
    generator = np.random.default_rng(0)
    scores, inside = generator.random(40), generator.random((25, 40)) < 0.05
    means = {}
    for patch in range(25):
        held = [scores[index] for index in range(40) if inside[patch, index]]
        if held:
            means[patch] = np.mean(held)
    expected = sorted(means, key=lambda patch: -means[patch])
    assert 0 < len(means) < 25
    assert most_confident(scores, inside, 5).tolist() == expected[:5]
    assert most_confident(scores, inside, 25).tolist() == expected
