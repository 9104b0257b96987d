"""Agreement: the count kept minus the doubt kept, and how far densities, heads and zooms are apart."""

from __future__ import annotations

import numpy as np
import pytest

from crowddist.ops.agreement import agreement, block_persons, disagreement_sums, kept_sums, zoom_disagreement

DENSITY = np.array([[4.0, 3.0], [2.0, 1.0]])
SPREAD = np.array([[0.5, 0.5], [1.0, 2.0]])


def apart(density, heads, block):
    return disagreement_sums(block_persons(density, block), heads, density.shape, block)


def of(density, spread, keep):
    return agreement(kept_sums(density, spread, keep))


def test_by_hand():
    keep = np.array([[True, True], [False, False]])
    assert kept_sums(DENSITY, SPREAD, keep) == {
        "persons": 10, "spread": 4, "cells": 4, "kept_persons": 7, "kept_spread": 1, "kept_cells": 2
    }
    assert of(DENSITY, SPREAD, keep) == pytest.approx(7 / 10 - 1 / 4)
    assert of(DENSITY, SPREAD, ~keep) == pytest.approx(3 / 10 - 3 / 4)


def test_nothing_and_everything_are_worth_nothing():
    assert of(DENSITY, SPREAD, np.zeros((2, 2), bool)) == 0
    assert of(DENSITY, SPREAD, np.ones((2, 2), bool)) == 0


def test_scales_do_not_matter():
    keep = DENSITY > 1.5
    assert of(7 * DENSITY, SPREAD, keep) == pytest.approx(of(DENSITY, SPREAD, keep))
    assert of(DENSITY, 0.01 * SPREAD, keep) == pytest.approx(of(DENSITY, SPREAD, keep))


def test_a_cell_more_certain_than_the_whole_raises_it_and_another_lowers_it():
    generator = np.random.default_rng(0)
    density, spread = generator.uniform(0.1, 2, (2, 8, 8))
    keep = generator.random((8, 8)) < 0.5
    before, mean = of(density, spread, keep), spread.sum() / density.sum()
    for place in zip(*np.nonzero(~keep), strict=True):
        more = keep.copy()
        more[place] = True
        assert (of(density, spread, more) > before) == (spread[place] / density[place] < mean)


def test_it_is_largest_where_the_doubt_begins():
    """Crowds of which 30 % of cells are three times as uncertain as the others: best is to keep the other 70 %."""
    generator = np.random.default_rng(1)
    density = generator.uniform(0.5, 2, (40, 40))
    certain = generator.random((40, 40)) < 0.7
    spread = density * np.where(certain, 0.1, 0.3) * generator.uniform(0.95, 1.05, (40, 40))
    shares = np.arange(1, 20) / 20
    doubt = spread / density
    worth = [of(density, spread, doubt <= np.quantile(doubt, share)) for share in shares]
    assert shares[int(np.argmax(worth))] == pytest.approx(certain.mean(), abs=0.05)


def test_parts_of_the_data_add_up():
    parts = [(DENSITY, SPREAD, DENSITY > 1.5), (DENSITY.T, 2 * SPREAD, DENSITY < 3.5)]
    whole = kept_sums(*(np.stack(values) for values in zip(*parts, strict=True)))
    added = [kept_sums(*part) for part in parts]
    assert whole == {name: added[0][name] + added[1][name] for name in whole}


def test_bad_input_is_refused():
    with pytest.raises(ValueError):
        kept_sums(DENSITY, SPREAD, np.ones((2, 3), bool))
    for density, spread in ((0 * DENSITY, SPREAD), (DENSITY, 0 * SPREAD)):
        with pytest.raises(ValueError):
            of(density, spread, DENSITY > 1)


def test_disagreement_by_hand():
    # Blocks of 2 cells: the density holds 1, 2, 0 in those above and 0, 3, 4 below; the last ones are cut off.
    density = np.array([[1, 0, 0, 2, 0], [0, 0, 0, 0, 0], [0, 0, 3, 0, 4]], np.float32)
    # Two heads in the first block, one in the last, and one beyond the left and the lower edge: 2, 0, 0 and 1, 0, 1.
    heads = np.array([[0.5, 0.5], [1.9, 1.9], [4.2, 2.5], [-3, 9]])
    assert apart(density, heads, 2) == {"apart": 1 + 2 + 0 + 1 + 3 + 3, "said": 10 + 4}
    assert apart(density, heads, 9) == {"apart": 6, "said": 14}  # one block
    assert apart(density, np.zeros((0, 2)), 2) == {"apart": 10, "said": 10}


@pytest.mark.parametrize("block", [1, 2, 3, 7])
def test_disagreement_equals_the_loop(block):
    generator = np.random.default_rng(0)
    density, heads = generator.random((6, 9)), generator.uniform(-2, [11, 8], (40, 2))
    cells = [(min(max(int(np.floor(y)), 0), 5), min(max(int(np.floor(x)), 0), 8)) for x, y in heads]
    difference = 0.0
    for top in range(0, 6, block):
        for left in range(0, 9, block):
            found = sum(top <= row < top + block and left <= column < left + block for row, column in cells)
            difference += abs(density[top:top + block, left:left + block].sum() - found)
    assert apart(density, heads, block) == pytest.approx({"apart": difference, "said": density.sum() + 40})


def test_zooms_apart_by_hand():
    assert zoom_disagreement({1.0: 8.0, 1.4: 12.0}) == pytest.approx(2 / 10)
    assert zoom_disagreement({1.0: 0.0, 1.4: 0.5}) == pytest.approx(0.25)  # over one person
    assert zoom_disagreement({1.0: 7.0}) == 0
