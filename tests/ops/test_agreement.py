"""Agreement: the count kept minus the doubt kept."""

from __future__ import annotations

import numpy as np
import pytest

from crowddist.ops.agreement import agreement, kept_sums

DENSITY = np.array([[4.0, 3.0], [2.0, 1.0]])
SPREAD = np.array([[0.5, 0.5], [1.0, 2.0]])


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
