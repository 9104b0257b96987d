"""SSIM and dilated multi-scale SSIM against naive windows, with gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crowddist.ops import ssim as ssim_module
from crowddist.ops.density import density_map
from crowddist.ops.ssim import ms_ssim_dilated, ssim


def gaussian_window(side, sigma):
    offsets = np.arange(side) - side // 2
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * sigma**2))
    return window / window.sum()


def similarity_at(a, b, window, row, column, dilation):
    """SSIM of one place, from the definition of weighted moments; what lies outside is 0."""
    reach = len(window) // 2
    values = []
    for i in range(len(window)):
        for j in range(len(window)):
            y, x = row + (i - reach) * dilation, column + (j - reach) * dilation
            inside = 0 <= y < a.shape[0] and 0 <= x < a.shape[1]
            values.append((window[i, j], a[y, x] if inside else 0.0, b[y, x] if inside else 0.0))
    weight, x, y = np.array(values).T
    mean_x, mean_y = (weight * x).sum(), (weight * y).sum()
    variance_x, variance_y = (weight * (x - mean_x) ** 2).sum(), (weight * (y - mean_y) ** 2).sum()
    covariance = (weight * (x - mean_x) * (y - mean_y)).sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return (2 * mean_x * mean_y + c1) * (2 * covariance + c2) / ((mean_x**2 + mean_y**2 + c1)
                                                                 * (variance_x + variance_y + c2))


def naive_ssim(a, b, side=11):
    a, b = 255 * a / b.max(), 255 * b / b.max()
    window, reach = gaussian_window(side, 1.5), side // 2
    places = [(i, j) for i in range(reach, a.shape[0] - reach) for j in range(reach, a.shape[1] - reach)]
    return np.mean([similarity_at(a, b, window, i, j, 1) for i, j in places])


def halved(values):
    """Means of squares of four; an odd last row or column falls out."""
    return np.array([[values[i:i + 2, j:j + 2].mean() for j in range(0, values.shape[1] - 1, 2)]
                     for i in range(0, values.shape[0] - 1, 2)])


def naive_dilated(a, b, pool=False):
    a, b = 255 * a / b.max(), 255 * b / b.max()
    window = gaussian_window(5, 1.0)
    product = 1.0
    for dilation, exponent in zip((1, 2, 3, 6, 9), (0.0448, 0.2856, 0.3001, 0.2363, 0.1333), strict=True):
        if pool and dilation > 1 and min(a.shape) >= 2:
            a, b = halved(a), halved(b)
        level = np.mean([similarity_at(a, b, window, i, j, dilation) for i in range(a.shape[0])
                         for j in range(a.shape[1])])
        product *= max(level, 1e-6) ** exponent
    return product


@pytest.fixture
def maps():
    generator = np.random.default_rng(0)
    truth = density_map(generator.uniform(0, [24, 20], (12, 2)), (20, 24), 1.5).astype(np.float64)
    return truth * generator.uniform(0.5, 1.3, truth.shape) + 0.002 * generator.random(truth.shape), truth


def test_ssim_equals_the_definition(maps):
    assert ssim(*maps) == pytest.approx(naive_ssim(*maps), abs=1e-9)


def test_ssim_of_some_places_is_their_mean(maps):
    generator = np.random.default_rng(1)
    inside = generator.random((20, 24)) < 0.3
    a, b = (255 * part / maps[1].max() for part in maps)
    window = gaussian_window(11, 1.5)
    central = [(i, j) for i, j in np.argwhere(inside).tolist() if 5 <= i < 15 and 5 <= j < 19]
    assert ssim(*maps, inside) == pytest.approx(np.mean([similarity_at(a, b, window, i, j, 1) for i, j in central]),
                                                abs=1e-9)
    assert ssim(*maps, np.ones((20, 24), bool)) == pytest.approx(ssim(*maps), abs=1e-12)
    corner = np.zeros((20, 24), bool)
    corner[:2, 3] = True  # where the window reaches beyond the maps
    assert ssim(*maps, corner) == pytest.approx(np.mean([similarity_at(a, b, window, i, 3, 1) for i in range(2)]),
                                                abs=1e-9)
    assert ssim(*map(torch.from_numpy, maps), inside).item() == pytest.approx(ssim(*maps, inside))
    for wrong in (np.zeros((20, 24), bool), np.ones((24, 20), bool)):
        with pytest.raises(ValueError, match="inside must be"):
            ssim(*maps, wrong)


@pytest.mark.parametrize("pool", [False, True])
def test_dilated_equals_the_definition(maps, pool):
    assert ms_ssim_dilated(*maps, pool) == pytest.approx(naive_dilated(*maps, pool), abs=1e-9)


@pytest.mark.parametrize("pool", [False, True])
def test_dilated_by_hand(pool):
    # On 2 x 2 pixels of a = 1/2, b = 1 the first window reaches two places along each side, all wider ones the centre
    # alone; pooled, the second level has one pixel and so have those after it. With a weight w inside, the means are
    # w/2 and w, and the squares alike.
    line = np.exp(-np.array([4.0, 1, 0, 1, 4]) / 2)
    line /= line.sum()

    def level(w, c1=0.0001, c2=0.0009):
        return (w * w + c1) * ((w - w * w) + c2) / ((1.25 * w * w + c1) * (1.25 * (w - w * w) + c2))

    expected = level((line[2] + line[1]) ** 2) ** 0.0448 * level(line[2] ** 2) ** (0.2856 + 0.3001 + 0.2363 + 0.1333)
    assert ms_ssim_dilated(np.full((2, 2), 0.5), np.ones((2, 2)), pool) == pytest.approx(expected, rel=1e-12)


def test_single_precision_is_good_to_a_millionth(maps):
    a, b = (m.astype(np.float32) for m in maps)
    assert ssim(a, b) == pytest.approx(naive_ssim(*maps), abs=1e-6)
    assert ms_ssim_dilated(a, b) == pytest.approx(naive_dilated(*maps), abs=1e-6)


def test_constant_maps_by_hand():
    # a = 0.5, b = 1, no variance inside: (2 * 0.5 + C1) / (0.25 + 1 + C1), C1 = 0.0001.
    assert ssim(np.full((15, 15), 3.0), np.full((15, 15), 6.0)) == pytest.approx(1.0001 / 1.2501, rel=1e-9)


@pytest.mark.parametrize("measure", [ssim, ms_ssim_dilated])
def test_equal_maps_are_alike_and_noise_is_less(measure, maps):
    _, truth = maps
    noise = np.random.default_rng(1).random(truth.shape) * truth.max()
    assert measure(truth, truth) == pytest.approx(1, abs=1e-12)
    values = [measure(truth + share * noise, truth) for share in (0, 0.01, 0.1, 1)]
    assert values == sorted(values, reverse=True) and values[-1] < 0.6
    assert measure(maps[0] * 1000, truth * 1000) == pytest.approx(measure(*maps), abs=1e-9)


@pytest.mark.parametrize("measure", [ssim, ms_ssim_dilated])
def test_a_batch_is_the_mean_of_its_maps(measure, maps):
    a, b = (torch.tensor(m) for m in maps)
    stack_a, stack_b = torch.stack([a, b * 0.7]), torch.stack([b, b * 5])
    each = [measure(x, y) for x, y in zip(stack_a, stack_b, strict=True)]
    assert measure(stack_a[:, None], stack_b[:, None]) == pytest.approx(float(sum(each) / 2), abs=1e-12)
    assert measure(stack_a, stack_b).shape == ()
    assert isinstance(measure(*maps), float)


@pytest.mark.parametrize("measure", [ssim, ms_ssim_dilated])
def test_empty_truth_has_an_answer(measure):
    empty = np.zeros((20, 20))
    assert measure(empty, empty) == pytest.approx(1, abs=1e-12)
    values = [measure(np.full((20, 20), level), empty) for level in (1e-6, 1e-4, 1e-2, 1.0)]
    assert values == sorted(values, reverse=True)
    assert values[0] > 0.99 and 0 <= values[-1] < 0.01


def test_an_empty_truth_is_compared_on_the_scale_of_a_head_drawn_with_4_cells():
    scaled = 0.01 * 2 * np.pi * 16  # of the map, by the head's peak 1 / (2 pi 4^2)
    expected = (0 + 0.01**2) / (scaled**2 + 0.01**2)  # luminance alone: neither map varies
    assert ssim(np.full((20, 20), 0.01), np.zeros((20, 20))) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (3, 4), (10, 12)])
def test_maps_smaller_than_the_window(shape):
    generator = np.random.default_rng(0)
    a, b = generator.random((2, *shape))
    side = min(11, *shape) - 1 + min(11, *shape) % 2
    assert ssim(a, b) == pytest.approx(naive_ssim(a, b, side), abs=1e-9)
    for pool in (False, True):
        assert ms_ssim_dilated(a, b, pool) == pytest.approx(naive_dilated(a, b, pool), abs=1e-9)


def test_opposite_maps_have_a_value_and_a_finite_gradient():
    truth = torch.zeros(1, 1, 24, 24, dtype=torch.float64)
    truth[..., ::2, ::2] = 1
    opposite = (1 - truth).requires_grad_()
    value = ms_ssim_dilated(opposite, truth)
    value.backward()
    assert 0 <= value <= 1 and torch.isfinite(opposite.grad).all()


def test_large_constants_have_no_negative_variance():
    # In single precision 57^2 is known to 2e-4 and C2 is 9e-4: the variance, truly 0, used to come out negative and
    # turned the sign.
    for level in np.geomspace(1, 1e5, 60):
        a, b = np.full((30, 30), level, np.float32), np.ones((30, 30), np.float32)
        expected = ssim(a.astype(np.float64), b.astype(np.float64))
        assert -1e-6 <= ssim(a, b) == pytest.approx(expected, abs=0.05)
        assert 0 <= ms_ssim_dilated(a, b) <= 1


def test_gradients_are_right():
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(2, 1, 13, 12, generator=generator, dtype=torch.float64, requires_grad=True)
    b = torch.rand(2, 1, 13, 12, generator=generator, dtype=torch.float64)
    b = 0.5 * a.detach() + 0.5 * b
    assert torch.autograd.gradcheck(lambda x: ssim(x, b), a)
    assert torch.autograd.gradcheck(lambda x: ms_ssim_dilated(x, b), a)
    assert torch.autograd.gradcheck(lambda x: ms_ssim_dilated(x, b, pool=True), a)


@pytest.mark.parametrize("pool", [False, True])
def test_maps_worked_out_in_several_goes_have_the_gradient_that_autograd_finds(pool, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 5, 40, 30, generator=generator, dtype=torch.float64)
    a[1, :20] = b[1, :20] = 0  # no variance
    weight = torch.rand(5, generator=generator, dtype=torch.float64)
    window = (0.1, 0.2, 0.4, 0.2, 0.1)
    monkeypatch.setattr(ssim_module, "CHUNK_CELLS", 2 * 40 * 30)
    whole = float(ms_ssim_dilated(a, b, pool))
    assert whole == pytest.approx(np.mean([float(ms_ssim_dilated(*one, pool)) for one in zip(a, b, strict=True)]))
    for dilation in ssim_module.DILATIONS:
        said, same = (a.clone().requires_grad_() for _ in range(2))
        (weight * ssim_module._similarity(said, b, window, dilation).mean((1, 2))).sum().backward()
        (weight * ssim_module._MeanSimilarity.apply(same, b, window, dilation)).sum().backward()
        torch.testing.assert_close(same.grad, said.grad, rtol=1e-9, atol=1e-12)


def test_following_the_gradient_raises_similarity():
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(1, 1, 32, 32, generator=generator)
    guess = torch.full_like(truth, 0.5, requires_grad=True)
    before = ms_ssim_dilated(guess, truth)
    (gradient,) = torch.autograd.grad(before, guess)
    assert ms_ssim_dilated(guess + gradient / gradient.norm(), truth) > before + 0.01


@pytest.mark.parametrize("measure", [ssim, ms_ssim_dilated])
@pytest.mark.parametrize("a, b", [
    (np.ones((5, 5)), np.ones((5, 6))),
    (np.ones(5), np.ones(5)),
    (np.ones((1, 1, 1, 5, 5)), np.ones((1, 1, 1, 5, 5))),
    (np.ones((0, 5)), np.ones((0, 5))),
])
def test_bad_input_is_refused(measure, a, b):
    with pytest.raises(ValueError):
        measure(a, b)


def test_images_are_compared_channel_by_channel_on_their_own_scale():
    """The peak is white, not the brightest pixel: in a dark image the constants weigh as much as in a bright one."""
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 3, 14, 15)), 0.2 * rng.random((2, 3, 14, 15))
    window = gaussian_window(11, 1.5)
    places = [(i, j) for i in range(5, 9) for j in range(5, 10)]
    expected = [similarity_at(255 * x, 255 * y, window, i, j, 1)
                for x, y in zip(a.reshape(6, 14, 15), b.reshape(6, 14, 15), strict=True) for i, j in places]
    assert ssim(a, b, peak=1.0) == pytest.approx(np.mean(expected), rel=1e-9)
    assert ssim(a, b) != pytest.approx(ssim(a, b, peak=1.0), rel=1e-3)
    assert ssim(b, b, peak=1.0) == pytest.approx(1)
    first, second = (torch.tensor(part[:1], requires_grad=True) for part in (a, b))
    assert torch.autograd.gradcheck(lambda x, y: ssim(x, y, peak=1.0), (first, second))
    assert isinstance(ssim(first[0, 0], b[0, 0]), torch.Tensor) and isinstance(ssim(a[0, 0], b[0, 0]), float)
    half = ssim(torch.tensor(a).bfloat16(), torch.tensor(b).bfloat16(), peak=1.0)
    assert half.dtype == torch.float32
    with pytest.raises(ValueError, match="peak must be positive, got 0"):
        ssim(a, b, peak=0.0)
