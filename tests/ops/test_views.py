"""Merging of views."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from crowddist.ops.views import average_counters, certainty, merge_heads, merge_views


def test_by_hand():
    # Even maps: the neighbourhood changes nothing. With 0.01 persons a cell of uncertainty 0.3 beside its own, a view
    # of 1.99 +- 0.997 has the uncertainty (0.997 + 0.003) / 2 = 0.5, one of 3.99 +- 0.997 has 0.25: weights 1 / 5 and
    # 4 / 5.
    density, spread, certain = merge_views([np.full((5, 7), 1.99), np.full((5, 7), 3.99)], [np.full((5, 7), 0.997)] * 2)
    assert density == pytest.approx(np.full((5, 7), 3.59), rel=1e-6)
    # 0.997^2 + 1 / 5 * 1.99^2 + 4 / 5 * 3.99^2 - 3.59^2 = 0.997^2 + 0.64
    assert spread == pytest.approx(np.full((5, 7), (0.997**2 + 0.64) ** 0.5), rel=1e-6)
    # The views differ by 0.8, their members by 0.997.
    assert certain == pytest.approx(np.full((5, 7), 3.6 / (3.6 + (0.997**2 + 0.64) ** 0.5)), rel=1e-6)


def test_certainty_by_hand():
    # 0.19 persons a cell beside the 0.01 of each neighbourhood, members 0.05 apart: 0.2 / 0.25.
    crowd = np.full((6, 6), 0.19)
    assert certainty(crowd, np.full((6, 6), 0.05)) == pytest.approx(np.full((6, 6), 0.8), rel=1e-6)
    # Views 0.12 apart beside it: sqrt(0.05^2 + 0.12^2) = 0.13.
    assert certainty(crowd, np.full((6, 6), 0.05), 0.12) == pytest.approx(np.full((6, 6), 0.2 / 0.33), rel=1e-6)
    assert (certainty(np.zeros((6, 6)), np.zeros((6, 6))) == 1).all()  # nobody, all agree


def test_certainty_does_not_keep_a_share_whatever_it_is():
    """Maps that differ in their relative spread alone, 5 and 0.01: none and all of the cells reach 0.7."""
    density = np.random.default_rng(0).random((64, 64))
    assert [(certainty(density, relative * density) >= 0.7).mean() for relative in (5.0, 0.01)] == [0, 1]


def test_heads_side_by_side_agree_and_heads_that_one_view_sees_do_not():
    there, beside, nobody = (np.zeros((30, 30)) for _ in range(3))
    there[2::6, 2::6], beside[2::6, 3::6] = 1, 1
    _, _, agreeing = merge_views([there, beside], [0.1 * there, 0.1 * beside])
    _, _, alone = merge_views([there, nobody], [0.1 * there, nobody])
    assert agreeing.min() > 0.9 and alone.max() < 0.83


@pytest.mark.parametrize("persons", [1e-4, 1e-5, 0.0])
def test_a_view_that_sees_nobody_does_not_erase_a_crowd(persons: float) -> None:
    """0.2 persons a cell, 10 % apart: 0.11 of uncertainty beside the 0.3 of an empty view: 88 % of the crowd stay."""
    crowd, empty = np.full((20, 20), 0.2), np.full((20, 20), persons)
    density, _, _ = merge_views([crowd, empty], [0.1 * crowd, 0.3 * empty])
    uncertainty = 0.023 / 0.21
    assert density == pytest.approx(np.full((20, 20), 0.2 * uncertainty**-2 / (uncertainty**-2 + 0.3**-2)), rel=2e-3)
    assert density.mean() > 0.17


def test_a_doubtful_crowd_gives_way_to_views_that_see_nobody() -> None:
    """Members that differ by as much as they see: what is left is less than the mean of the views."""
    crowd, empty = np.full((20, 20), 0.2), np.zeros((20, 20))
    density, _, _ = merge_views([crowd, empty], [crowd, empty])
    assert density.mean() == pytest.approx(0.2 * 0.967**-2 / (0.967**-2 + 0.3**-2), rel=1e-3)


def by_loop(densities, spreads, sigma):
    """Cell by cell, the Gaussian mean as a sum over all cells of a map that goes on beyond its edge as its edge is."""
    reach = int(4 * sigma + 0.5)
    height, width = densities[0].shape

    def near(part, row, column):
        total = weight = 0.0
        for i in range(-reach, reach + 1):
            for j in range(-reach, reach + 1):
                kernel = np.exp(-(i * i + j * j) / (2 * sigma * sigma))
                total += kernel * part[min(max(row + i, 0), height - 1), min(max(column + j, 0), width - 1)]
                weight += kernel
        return total / weight

    mean, deviation, certain = (np.zeros((height, width)) for _ in range(3))
    shares = np.zeros((len(densities), height, width))
    for row in range(height):
        for column in range(width):
            relative = [(near(s, row, column) + 0.003) / (near(d, row, column) + 0.01)
                        for d, s in zip(densities, spreads, strict=True)]
            weights = [u**-2 for u in relative]
            here = [(w / sum(weights), d[row, column], s[row, column])
                    for w, d, s in zip(weights, densities, spreads, strict=True)]
            mean[row, column] = sum(w * d for w, d, _ in here)
            deviation[row, column] = np.sqrt(sum(w * (s * s + d * d) for w, d, s in here) - mean[row, column] ** 2)
            shares[:, row, column] = [w for w, _, _ in here]
    members = sum(share * spread for share, spread in zip(shares, spreads, strict=True))
    for row in range(height):
        for column in range(width):
            # (share of the view here, persons around here)
            nearby = [(w, near(d, row, column)) for w, d in zip(shares[:, row, column], densities, strict=True)]
            middle = sum(w * d for w, d in nearby)
            doubt = np.sqrt(near(members, row, column) ** 2 + sum(w * (d - middle) ** 2 for w, d in nearby))
            seen = near(mean, row, column) + 0.01
            certain[row, column] = seen / (seen + doubt)
    return mean, deviation, certain


def test_equals_the_loop():
    generator = np.random.default_rng(0)
    densities, spreads = generator.random((3, 6, 9)), 0.3 * generator.random((3, 6, 9))
    maps = merge_views(list(densities), list(spreads), 1.3)
    for found, expected in zip(maps, by_loop(list(densities), list(spreads), 1.3), strict=True):
        assert found == pytest.approx(expected, rel=1e-4) and found.dtype == np.float32


def test_each_place_takes_the_view_that_is_certain_there():
    left = np.arange(60)[None, :].repeat(20, 0) < 30
    densities = [np.full((20, 60), 1.0), np.full((20, 60), 3.0)]
    density, _, _ = merge_views(densities, [np.where(left, 0.01, 1.0), np.where(left, 3.0, 0.03)], 3.0)
    assert density[:, :15] == pytest.approx(np.ones((20, 15)), abs=0.02)
    assert density[:, 45:] == pytest.approx(np.full((20, 15), 3.0), abs=0.02)


def test_one_view_stays_as_it_is_and_views_without_spread_weigh_alike():
    generator = np.random.default_rng(1)
    one, doubt = generator.random((2, 8, 8)).astype(np.float32)
    density, spread, certain = merge_views([one], [doubt])
    assert density == pytest.approx(one, rel=1e-5) and spread == pytest.approx(doubt, rel=1e-3)
    assert certain == pytest.approx(certainty(one, doubt), rel=1e-6)
    density, spread, _ = merge_views([np.zeros((4, 4)), np.full((4, 4), 2.0)], [np.zeros((4, 4))] * 2)
    assert density == pytest.approx(np.ones((4, 4))) and spread == pytest.approx(np.ones((4, 4)))


@pytest.mark.parametrize("densities, spreads, cells", [
    ([], [], 6.0),
    ([np.zeros((3, 4))], [np.zeros((4, 3))], 6.0),
    ([np.zeros((3, 4))] * 2, [np.zeros((3, 4))], 6.0),
    ([np.zeros((3, 4))], [np.zeros((3, 4))], 0.0),
])
def test_bad_input_is_refused(densities, spreads, cells):
    with pytest.raises(ValueError):
        merge_views(densities, spreads, cells)


def test_heads_of_views_by_hand():
    first = np.array([[10, 10, 6, 0.8], [50, 10, 6, 0.4]], np.float32)
    second = np.array([[13, 14, 5, 0.6], [90, 10, 4, 0.5], [92, 10, 4, 0.3]], np.float32)
    # The first is seen twice, 5 px apart; the others in one view each, and the last one within the size of a surer one.
    assert merge_heads([first, second]).tolist() == pytest.approx(np.array([[10, 10, 6, 0.7], [90, 10, 4, 0.25],
                                                                            [50, 10, 6, 0.2]]))


def test_heads_of_views_against_a_loop():
    rng = np.random.default_rng(0)
    views = [np.column_stack([rng.uniform(0, 200, (count, 2)), rng.uniform(3, 25, count), rng.uniform(0.1, 1, count)])
             for count in (80, 120, 0)]
    found = sorted((tuple(np.float32(head)) for view in views for head in view), key=lambda head: -head[3])
    heads: list[list[float]] = []
    for x, y, size, _ in found:
        if all(np.hypot(x - head[0], y - head[1]) > head[2] for head in heads):
            best = [max((one[3] for one in view if np.hypot(one[0] - x, one[1] - y) <= size), default=0.0)
                    for view in views]
            heads.append([x, y, size, sum(best) / 3])
    merged = merge_heads(views)
    assert 20 < len(merged) < 150
    assert merged == pytest.approx(np.array(sorted(heads, key=lambda head: -head[3])), rel=1e-4)


def test_heads_of_one_view_and_of_none():
    heads = np.array([[10, 10, 6, 0.4], [40, 10, 6, 0.9]], np.float32)
    assert merge_heads([heads]).tolist() == heads[::-1].tolist()
    assert merge_heads([np.zeros((0, 4), np.float32)] * 2).shape == (0, 4)
    with pytest.raises(ValueError, match="at least one view"):
        merge_heads([])


def test_two_counters_by_hand():
    """Even maps: 0.39 and 0.19 persons a cell, members 0.05 and 0.12 apart, so certain by 0.4 / 0.45 and 0.2 / 0.32."""
    one, other = np.full((5, 7), 0.39), np.full((5, 7), 0.19)
    certainties = [certainty(part, np.full((5, 7), spread)) for part, spread in ((one, 0.05), (other, 0.12))]
    density, spread, certain = average_counters([one, other], [np.full((5, 7), 0.05), np.full((5, 7), 0.12)],
                                                certainties)
    assert density == pytest.approx(np.full((5, 7), 0.29), rel=1e-6)
    # (0.05^2 + 0.12^2) / 2 + (0.39^2 + 0.19^2) / 2 - 0.29^2 = 0.00845 + 0.01
    assert spread == pytest.approx(np.full((5, 7), 0.01845**0.5), rel=1e-5)
    # Their doubts are 0.05 and 0.12 again, and they are 0.1 from their mean.
    assert certain == pytest.approx(np.full((5, 7), 0.3 / (0.3 + 0.01845**0.5)), rel=1e-5)


def test_counters_that_disagree_are_uncertain_however_certain_each_is():
    crowd, nobody, sure = np.full((9, 9), 0.49), np.zeros((9, 9)), np.ones((9, 9), np.float32)
    _, spread, certain = average_counters([crowd, nobody], [nobody, nobody], [sure, sure])
    # (0.245 + 0.01) / (0.255 + 0.245)
    assert certain == pytest.approx(np.full((9, 9), 0.51), rel=1e-6) and spread == pytest.approx(crowd / 2)
    for same in (crowd, nobody):
        density, spread, certain = average_counters([same, same], [nobody, nobody], [sure, sure])
        assert (certain == 1).all() and (spread == 0).all() and density == pytest.approx(same)


def test_counters_against_a_loop():
    random = np.random.default_rng(0)
    densities, spreads, certainties = random.random((3, 3, 20, 30))
    density, spread, certain = average_counters(densities, spreads, certainties, 2.0)
    near = [gaussian_filter(part, 2.0, mode="nearest") for part in densities]
    for y, x in ((0, 0), (7, 19), (19, 29)):
        told = [part[y, x] for part in densities]
        mean = sum(told) / 3
        assert density[y, x] == pytest.approx(mean, rel=1e-6)
        assert spread[y, x] ** 2 == pytest.approx(
            sum(part[y, x] ** 2 for part in spreads) / 3 + sum((each - mean) ** 2 for each in told) / 3, rel=1e-5)
        around = [part[y, x] for part in near]
        doubts = [(persons + 0.01) / part[y, x] - (persons + 0.01)
                  for persons, part in zip(around, certainties, strict=True)]
        u = (sum(each**2 for each in doubts) / 3 + sum((each - sum(around) / 3) ** 2 for each in around) / 3) ** 0.5
        assert certain[y, x] == pytest.approx((sum(around) / 3 + 0.01) / (sum(around) / 3 + 0.01 + u), rel=1e-4)


def test_counters_of_other_shapes_are_refused():
    for wrong in (([], [], []), ([np.ones((2, 2))], [np.ones((2, 3))], [np.ones((2, 2))]),
                  ([np.ones((2, 2))] * 2, [np.ones((2, 2))], [np.ones((2, 2))] * 2)):
        with pytest.raises(ValueError, match="equally many maps of one shape"):
            average_counters(*wrong)
