"""Maps on another grid of cells."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crowddist.ops.resizing import resize_sums


def naive(grid: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cuts every cell into as many parts along each axis as the new grid has cells, and counts the parts again."""
    rows, columns = size
    parts = np.kron(grid.astype(np.float64), np.full(size, 1 / (rows * columns)))
    return parts.reshape(rows, grid.shape[0], columns, grid.shape[1]).sum((1, 3))


def test_by_hand() -> None:
    # Three new cells on two old ones: the middle one has a third of each.
    assert resize_sums(torch.tensor([[1.0, 2.0]]), (1, 3)).numpy() == pytest.approx(np.array([[2 / 3, 1.0, 4 / 3]]))
    assert resize_sums(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), (1, 1)).tolist() == [[10.0]]


@pytest.mark.parametrize("size", [(1, 1), (5, 9), (3, 4), (12, 7), (17, 20)])
def test_against_the_naive_way_and_the_sums_stay(size: tuple[int, int]) -> None:
    maps = torch.rand(2, 1, 8, 10, generator=torch.Generator().manual_seed(0))
    resized = resize_sums(maps, size)
    assert resized.shape == (2, 1, *size) and resized.dtype == torch.float32
    for old, new in zip(maps[:, 0].numpy(), resized[:, 0].numpy(), strict=True):
        np.testing.assert_allclose(new, naive(old, size), rtol=1e-5)
        assert new.sum(dtype=np.float64) == pytest.approx(old.sum(dtype=np.float64), rel=1e-6)
    assert resize_sums(maps, (8, 10)) is maps


def test_mixed_precision_rounds_nothing() -> None:
    maps = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = resize_sums(maps, (5, 13))
    assert torch.equal(mixed, resize_sums(maps, (5, 13)))
