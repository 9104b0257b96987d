"""Style transfer without a network: photographs take over the colours or the coarse light of others."""

from __future__ import annotations

import numpy as np

BAND = 0.01
"""Part of the shorter side, in frequencies, that is exchanged. P (FDA: beta 0.01)."""


def match_histograms(image: np.ndarray, style: np.ndarray) -> np.ndarray:
    """The image with the histogram of another one in each channel.

    Source: Gonzalez and Woods, Digital Image Processing, Sec. 3.3 (histogram matching by cumulative distributions).

    Args:
        image: (H, W, 3) uint8, 0 to 255
        style: (h, w, 3) uint8, 0 to 255

    Returns:
        (H, W, 3) uint8, 0 to 255.

    Raises:
        ValueError: an array is not an 8-bit image of three channels.
    """
    _check(image, style)
    matched = np.empty_like(image)
    for channel in range(3):
        given, wanted = (np.bincount(part[..., channel].ravel(), minlength=256).cumsum() for part in (image, style))
        # A value of rank r in the image becomes the style's value of that rank.
        table = np.searchsorted(wanted / wanted[-1], given / given[-1] - 1e-9)
        matched[..., channel] = table.clip(0, 255).astype(np.uint8)[image[..., channel]]
    return matched


def swap_amplitude(image: np.ndarray, style: np.ndarray, band: float = BAND) -> np.ndarray:
    """The image with the low-frequency amplitudes of another one and its own phases: it takes over the coarse light.

    Source: Yang and Soatto, CVPR 2020 (FDA), Eq. 1 to 3.

    Args:
        image: (H, W, 3) uint8, 0 to 255
        style: (h, w, 3) uint8, 0 to 255; resized to the image
        band: part of the shorter side, 0 to 0.5; frequencies up to floor(band * side) in both directions are exchanged

    Returns:
        (H, W, 3) uint8, 0 to 255.

    Raises:
        ValueError: an array is not an 8-bit image of three channels, or band is outside 0..0.5.
    """
    import cv2

    _check(image, style)
    if not 0 <= band <= 0.5:
        raise ValueError(f"band must lie in 0..0.5, got {band}")
    height, width = image.shape[:2]
    other = cv2.resize(style, (width, height), interpolation=cv2.INTER_AREA)
    spectrum, wanted = (np.fft.fft2(part.astype(np.float64), axes=(0, 1)) for part in (image, other))
    reach = int(band * min(height, width))
    rows, columns = (np.abs(np.fft.fftfreq(side, 1 / side)) <= reach for side in (height, width))
    low = (rows[:, None] & columns[None, :])[:, :, None]
    mixed = np.where(low, np.abs(wanted), np.abs(spectrum)) * np.exp(1j * np.angle(spectrum))
    return np.clip(np.rint(np.fft.ifft2(mixed, axes=(0, 1)).real), 0, 255).astype(np.uint8)


def _check(*images: np.ndarray) -> None:
    for image in images:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise ValueError(f"an image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
