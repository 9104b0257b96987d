"""The sum of a map against NumPy's."""

from __future__ import annotations

import numpy as np
import pytest

from crowddist.ops.sums import total


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(0,), (3, 0), (5,), (1, 1), (7, 9), (3, 4, 5), (2, 3, 4, 5), (300, 401)])
def test_a_sum_is_numpys_in_double_precision(shape, kind):
    generator = np.random.default_rng(0)
    values, where = generator.normal(0.1, 1, shape).astype(kind), generator.random(shape) < 0.3
    assert total(values) == pytest.approx(values.sum(dtype=np.float64), rel=1e-12, abs=1e-12)
    assert total(values, where) == pytest.approx(values[where].sum(dtype=np.float64), rel=1e-12, abs=1e-12)


def test_parts_of_maps_and_maps_that_nobody_may_write():
    values = np.arange(60, dtype=np.float32).reshape(6, 10)
    values.flags.writeable = False
    assert total(values[1:3, 2:9]) == values[1:3, 2:9].sum()
    assert total(values[::2, ::-1]) == values[::2].sum()
    assert total(values.T, (values > 7).T) == sum(range(8, 60))


def test_many_small_numbers_do_not_drift():
    values = np.full((2000, 2000), 1e-3, np.float32)
    assert total(values) == pytest.approx(4e6 * float(np.float32(1e-3)), rel=1e-12)


def test_what_is_not_finite_stays_so_but_where_it_is_left_out():
    values = np.ones((4, 5), np.float32)
    values[1, 2] = np.nan
    assert np.isnan(total(values)) and total(values, np.isfinite(values)) == 19


def test_bits_do_not_depend_on_the_place_in_memory():
    values, sums = np.random.default_rng(0).random((272, 480)).astype(np.float32), set()
    for offset in range(0, 64, 4):
        memory = np.zeros(values.nbytes + 64, np.uint8)
        moved = memory[offset:offset + values.nbytes].view(np.float32).reshape(values.shape)
        moved[:] = values
        sums |= {total(moved), total(np.pad(values, 3)[3:-3, 3:-3])}
    assert len(sums) == 1
