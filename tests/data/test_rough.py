"""Rough surfaces of rendered places: noise with the spectrum of photographs, litter by distance, looks without them."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from crowddist.data.simulator import render_image, rough
from crowddist.data.simulator.config import LOOKS, Look, RendererConfig


@pytest.mark.parametrize("slope", [0.5, 1.0])
def test_noise_falls_with_frequency_as_asked(slope: float) -> None:
    noise = rough._natural_noise(np.random.default_rng(3), (256, 256), slope, coarsest_px=64)
    assert noise.dtype == np.float32 and abs(noise.mean()) < 1e-5 and noise.std() == pytest.approx(1, abs=1e-5)
    amplitude = np.abs(np.fft.fft2(noise))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256)))
    means = [amplitude[np.abs(frequency - at) < 0.005].mean() for at in (0.05, 0.1, 0.2, 0.4)]
    fitted = -np.polyfit(np.log([0.05, 0.1, 0.2, 0.4]), np.log(means), 1)[0]
    assert fitted == pytest.approx(slope, abs=0.05)
    coarse = [amplitude[np.abs(frequency - at) < 0.002].mean() for at in (0.006, 0.012)]
    assert coarse[0] == pytest.approx(coarse[1], rel=0.25)


def test_litter_gets_smaller_with_distance_and_leaves_the_sky() -> None:
    albedo = np.full((200, 300, 3), 0.3, np.float32)
    albedo[:40] = 0  # sky
    surface = np.ones((200, 300), np.uint8)
    distance = np.repeat(np.geomspace(60, 3, 200, dtype=np.float32)[:, None], 300, axis=1)
    look = replace(Look(), litter=(0.9, 0.9))
    rough.roughen(np.random.default_rng(0), look, albedo, surface, distance, np.full((200, 300), 0.4, np.float32), 300)
    assert (albedo[:40] == 0).all() and (albedo[40:] > 0).all()

    def edges(rows: slice) -> float:
        return float((np.abs(np.diff(albedo[rows], axis=1)).max(-1) > 0.02).mean())

    assert edges(slice(60, 90)) > 1.2 * edges(slice(160, 190)) > 0.01


def test_rough_places_show_what_smooth_ones_do_not() -> None:
    """The same place and people without its texture and litter: smoother where nobody is."""
    look = replace(LOOKS["wide"], noise=(1e-6, 1e-6), blur_px=(0.0, 0.0), texture=(0.4, 0.4), litter=(0.5, 0.5))
    sharpness = []
    for kind in (look, replace(look, texture=(0.0, 0.0), litter=(0.0, 0.0))):
        found = render_image(RendererConfig(num_images=1, size=(120, 200), seed=4, look=kind), 0)
        grey = cv2.cvtColor(found.image, cv2.COLOR_RGB2GRAY).astype(np.float32)
        sharpness.append(float((grey - cv2.GaussianBlur(grey, (0, 0), 1))[found.mask == 0].std()))
    assert sharpness[0] > 1.3 * sharpness[1]


def test_other_looks_have_neither() -> None:
    rough_ones = [name for name, look in LOOKS.items() if look.texture[1] or look.litter[1] or look.people != "few"]
    assert rough_ones == ["wide"]
