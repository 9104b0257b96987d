"""Eq. 8 of bi-knowledge transfer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crowddist.ops.fusion import fuse_density, relative_uncertainty


def test_by_hand():
    fused = fuse_density(np.array([4.0, 4.0, 4.0]), np.array([8.0, 8.0, 8.0]), np.array([0.0, 0.25, 1.0]))
    np.testing.assert_array_equal(fused, [4, 5, 8])


@pytest.mark.parametrize("weight", ["map", 0.3])
def test_equals_the_equation_for_both_kinds(weight):
    generator = np.random.default_rng(0)
    regressed, detected, confidence = generator.random((3, 2, 1, 5, 6)).astype(np.float32)
    weight = confidence if weight == "map" else weight
    expected = (1 - weight) * regressed + weight * detected
    np.testing.assert_allclose(fuse_density(regressed, detected, weight), expected, atol=1e-6)
    as_tensor = torch.from_numpy(weight) if isinstance(weight, np.ndarray) else weight
    result = fuse_density(torch.from_numpy(regressed), torch.from_numpy(detected), as_tensor)
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_equal_maps_stay_what_they_are():
    density = np.random.default_rng(0).random((4, 4)).astype(np.float32)
    np.testing.assert_array_equal(fuse_density(density, density, np.full((4, 4), 0.37, np.float32)), density)


def test_gradients_are_right():
    generator = torch.Generator().manual_seed(0)
    maps = [torch.rand(3, 4, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(fuse_density, maps)


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_into_a_place_given(kind):
    maps = np.random.default_rng(0).random((3, 6, 7)).astype(np.float32)
    expected = fuse_density(*maps)
    regressed, detected, weight = map(kind, maps)
    buffer = regressed * 0
    assert fuse_density(regressed, detected, weight, out=buffer) is buffer
    np.testing.assert_array_equal(buffer, expected)
    assert fuse_density(regressed, detected, weight, out=regressed) is regressed
    np.testing.assert_array_equal(regressed, expected)
    np.testing.assert_array_equal(detected, maps[1])


@pytest.mark.parametrize("out", [
    np.zeros((2, 3), np.float32), np.zeros((2, 2)), np.zeros((2, 4), np.float32)[:, ::2],
    np.zeros((2, 2), np.float32).T[:, ::-1],
])
def test_a_place_that_does_not_fit_is_refused(out):
    ones = np.ones((2, 2), np.float32)
    with pytest.raises(ValueError):
        fuse_density(ones, ones, 0.5, out=out)
    if all(stride > 0 for stride in out.strides):
        with pytest.raises(ValueError):
            fuse_density(torch.from_numpy(ones), torch.from_numpy(ones), 0.5, out=torch.from_numpy(out))


@pytest.mark.filterwarnings("error")
def test_maps_of_any_layout_and_type():
    generator = np.random.default_rng(0)
    wide = generator.random((3, 8, 10)).astype(np.float32)
    regressed, detected, weight = wide[:, ::2, ::-1]
    expected = (1 - weight) * regressed + weight * detected
    regressed.flags.writeable = False  # as Ray hands arrays out
    before = wide.copy()
    fused = fuse_density(regressed, detected, weight)
    np.testing.assert_allclose(fused, expected, atol=1e-6)
    assert fused.dtype == np.float32 and fused.flags.writeable
    np.testing.assert_array_equal(wide, before)
    assert fuse_density(regressed, detected.astype(np.float64), weight).dtype == np.float64
    np.testing.assert_array_equal(fuse_density([[4, 4]], [[8, 8]], [[0.25, 1]]), [[5, 8]])
    assert fuse_density(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 3))).shape == (0, 3)
    assert fuse_density(regressed, detected, 0.3).dtype == np.float32
    np.testing.assert_array_equal(fuse_density(np.array([2, 4]), np.array([4, 8]), 0.5), [3, 6])


@pytest.mark.parametrize("detected, weight", [
    (np.ones((2, 3)), 0.5),
    (np.ones((2, 2)), np.ones((1, 2))),
    (np.ones((2, 2)), 1.01),
    (np.ones((2, 2)), np.full((2, 2), -0.1)),
    (np.ones((2, 2)), np.full((2, 2), np.nan)),
])
def test_bad_input_is_refused(detected, weight):
    with pytest.raises(ValueError):
        fuse_density(np.ones((2, 2)), detected, weight)
    with pytest.raises(ValueError):
        fuse_density(torch.ones(2, 2), torch.tensor(detected), torch.tensor(weight))


def test_relative_uncertainty_by_hand():
    # Two places far apart, with as many persons; the ensemble is twice as unsure of the right one: usual is (1 + 2) / 2
    # times the left's.
    density, spread = np.zeros((1, 200)), np.zeros((1, 200))
    density[0, 20] = density[0, 180] = 500.0
    spread[0, 20], spread[0, 180] = 50.0, 100.0
    factor = relative_uncertainty(density, spread)
    assert factor[0, 20] == pytest.approx(1 / 1.5, rel=1e-2) and factor[0, 180] == pytest.approx(1)
    assert (factor <= 1).all() and (factor >= 0).all()


def test_relative_uncertainty_against_loops():
    rng = np.random.default_rng(0)
    density, spread = rng.random((9, 11)), 0.2 * rng.random((9, 11))
    kernel = np.exp(-np.arange(-8, 9) ** 2 / (2 * 2.0**2))
    kernel /= kernel.sum()

    def blurred(values):
        result = np.zeros_like(values)
        for row in range(9):
            for column in range(11):
                for y in range(-8, 9):
                    for x in range(-8, 9):
                        near = values[min(max(row + y, 0), 8), min(max(column + x, 0), 10)]
                        result[row, column] += kernel[y + 8] * kernel[x + 8] * near
        return result

    # r' by repeating its definition until it stays: the mean over persons of what it is part of.
    usual, spread_near, density_near = 0.0, blurred(spread), blurred(density)
    for _ in range(50):
        relative = (spread_near + 1e-5 * usual) / (density_near + 1e-5)
        usual = (relative * density).sum() / density.sum()
    np.testing.assert_allclose(relative_uncertainty(density, spread, neighbourhood_cells=2.0),
                               np.minimum(relative / usual, 1), rtol=1e-5)


@pytest.mark.parametrize("nearly_nobody", [0.0, 1e-8, 1e-6])
def test_an_ensemble_that_sees_almost_nobody_does_not_silence_the_detector(nearly_nobody):
    """Three places far apart: a crowd that all members see, one that they disagree on, and one that they see almost
    nothing of, with a spread of 30 % of that. Only the sure crowd lowers the detector's weight.
    """
    density, spread = np.zeros((1, 400)), np.zeros((1, 400))
    density[0, [40, 200]], spread[0, [40, 200]] = 20.0, (1.0, 6.0)
    density[0, 300:], spread[0, 300:] = nearly_nobody, 0.3 * nearly_nobody
    factor = relative_uncertainty(density, spread)[0]
    # r is 0.05 and 0.3, so r' is their mean, 0.175.
    assert factor[40] == pytest.approx(0.05 / 0.175, rel=1e-3) and factor[200] == pytest.approx(1)
    assert factor[360:] == pytest.approx(np.ones(40), rel=1e-3)


def test_relative_uncertainty_without_spread_or_persons_and_of_other_shapes():
    zeros = np.zeros((3, 4))
    assert np.array_equal(relative_uncertainty(zeros + 1, zeros), zeros + 1)
    assert np.array_equal(relative_uncertainty(zeros, zeros + 1), zeros + 1)
    with pytest.raises(ValueError, match="one shape"):
        relative_uncertainty(zeros[1:], zeros)
