"""Style without a network: histograms and low frequencies taken from another image."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from crowddist.ops.style import match_histograms, swap_amplitude


def noise(seed: int, size: tuple[int, int], low: int = 0, high: int = 256) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, (*size, 3), np.uint8)


def test_histograms_by_hand() -> None:
    """Four pixels of the values 0, 1, 2, 2; the style has as many 10 as 20: the lower half becomes 10, the upper half
    20.
    """
    image = np.repeat(np.array([[0, 1], [2, 2]], np.uint8)[:, :, None], 3, axis=2)
    style = np.repeat(np.array([[10, 20]], np.uint8)[:, :, None], 3, axis=2)
    assert match_histograms(image, style)[:, :, 0].tolist() == [[10, 10], [20, 20]]


def test_an_image_in_its_own_style_stays() -> None:
    image = noise(0, (40, 60))
    np.testing.assert_array_equal(match_histograms(image, image), image)
    np.testing.assert_array_equal(swap_amplitude(image, image), image)


def test_channels_take_the_quantiles_of_the_style() -> None:
    image, style = noise(1, (80, 80)), noise(2, (50, 70), 100, 140)
    shown = match_histograms(image, style)
    for channel in range(3):
        for share in (0.1, 0.5, 0.9):
            assert np.quantile(shown[..., channel], share) == pytest.approx(np.quantile(style[..., channel], share),
                                                                            abs=1)
    order = image[..., 0].ravel().argsort(kind="stable")
    assert (np.diff(shown[..., 0].ravel()[order].astype(int)) >= 0).all(), "brighter stays brighter"


def naive_swap(image: np.ndarray, style: np.ndarray, band: float) -> np.ndarray:
    """As the paper's formula: shift the spectra so that frequency 0 is in the middle, and cut a square out of it."""
    other = cv2.resize(style, image.shape[1::-1], interpolation=cv2.INTER_AREA)
    height, width = image.shape[:2]
    reach, row, column = int(band * min(height, width)), height // 2, width // 2
    result = np.empty(image.shape)
    for channel in range(3):
        ours, theirs = (np.fft.fftshift(np.fft.fft2(part[..., channel].astype(float))) for part in (image, other))
        amplitude = np.abs(ours)
        for y in range(row - reach, row + reach + 1):
            for x in range(column - reach, column + reach + 1):
                amplitude[y, x] = np.abs(theirs[y, x])
        result[..., channel] = np.fft.ifft2(np.fft.ifftshift(amplitude * np.exp(1j * np.angle(ours)))).real
    return np.clip(np.rint(result), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("size", "band"), [((60, 90), 0.05), ((61, 45), 0.1), ((32, 32), 0.0)])
def test_amplitudes_against_the_formula(size: tuple[int, int], band: float) -> None:
    image, style = noise(3, size, 40, 200), noise(4, (70, 50), 90, 250)
    np.testing.assert_array_equal(swap_amplitude(image, style, band), naive_swap(image, style, band))


def test_the_lowest_frequency_is_the_mean() -> None:
    image, style = noise(5, (50, 50), 100, 140), noise(6, (50, 50), 60, 100)
    shown = swap_amplitude(image, style, 0.0)
    np.testing.assert_allclose(shown.mean((0, 1)), style.mean((0, 1)), atol=0.5)
    details = [part.astype(float) - part.mean((0, 1)) for part in (image, shown)]
    np.testing.assert_allclose(details[0], details[1], atol=1.0)


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_what_is_no_image_is_refused(bad: np.ndarray) -> None:
    for function in (match_histograms, swap_amplitude):
        with pytest.raises(ValueError, match="uint8"):
            function(bad, noise(0, (4, 4)))
    with pytest.raises(ValueError, match="band"):
        swap_amplitude(noise(0, (4, 4)), noise(0, (4, 4)), 0.6)
