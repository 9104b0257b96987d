"""Selected cells: their share of cells and persons; when rounds settle."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crowddist.ops.selection import change_sums, kept_shares, ratio_of_sums


def test_kept_shares_by_hand():
    shares = kept_shares(np.array([[1.0, 3.0], [0.0, 0.0]]), np.array([[True, False], [True, True]]))
    assert shares == {"kept_pixels": 0.75, "kept_mass": 0.25}
    assert kept_shares(torch.tensor([[1.0, 3.0]]), torch.tensor([[0, 1]])) == {"kept_pixels": 0.5, "kept_mass": 0.75}
    assert kept_shares(np.zeros((1, 4)), np.array([[1, 0, 0, 0]])) == {"kept_pixels": 0.25, "kept_mass": 0.25}
    assert kept_shares(np.ones((1, 1)), np.ones((1, 1))) == {"kept_pixels": 1, "kept_mass": 1}
    for shapes in (((2, 2), (2, 3)), ((0, 2), (0, 2))):
        with pytest.raises(ValueError):
            kept_shares(*map(np.zeros, shapes))


def test_relative_change_by_hand():
    previous, current = np.array([[1.0, 2.0], [0.0, 1.0]]), np.array([[2.0, 1.0], [0.0, 1.0]])
    assert change_sums(previous, current) == change_sums(torch.tensor(previous), torch.tensor(current)) == (2.0, 4.0)
    assert change_sums(previous, torch.tensor(current, requires_grad=True)) == (2.0, 4.0)
    assert change_sums(previous, previous) == (0.0, 4.0)
    assert ratio_of_sums(3.0, 6.0) == 0.5
    assert ratio_of_sums(0.0, 0.0) == 0 and ratio_of_sums(4.0, 0.0) == float("inf")


def test_change_of_unequal_maps_is_refused():
    with pytest.raises(ValueError):
        change_sums(np.zeros((2, 2)), np.zeros((2, 3)))
