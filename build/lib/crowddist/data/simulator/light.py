"""The light of an hour and a weather: sun, sky, haze and street lamps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crowddist.data.simulator.noise import linear

CLEAR, CLOUDS, RAIN, FOGGY, THUNDER, OVERCAST, EXTRA_SUNNY = range(7)


@dataclass(frozen=True, kw_only=True)
class Light:
    """The light on a scene, linear; a white wall under a full noon sun has about 1. Colours are (3,) RGB."""

    sun: np.ndarray  # unit direction to the sun (x, y, z)
    sun_colour: np.ndarray  # on a surface that faces the sun; 0 without direct light
    sky_colour: np.ndarray  # from the whole sky on level ground
    zenith: np.ndarray  # of the sky overhead
    horizon: np.ndarray  # of the sky at the horizon, and of haze
    haze_per_m: float  # extinction along the view
    clouds: float  # part of the sky under clouds, 0-1
    lamps: float  # strength of street lamps and windows, 0-1
    wet: float  # wetness of the ground, 0-1
    rain: float  # density of the streaks, 0-1
    daylight: float  # 1 by day, 0 by night


def draw_light(rng: np.random.Generator, hour: float, weather: int) -> Light:
    """The light at `hour` (0-24, with minutes as a fraction) in a weather of code 0-6."""
    altitude = np.deg2rad(62) * np.sin(np.pi * (hour - 5.6) / 14.0) if 2 < hour < 23 else -0.6
    azimuth = rng.uniform(0, 2 * np.pi)
    shown = max(altitude, 0.12)
    sun = np.array([np.cos(shown) * np.sin(azimuth), np.sin(shown), np.cos(shown) * np.cos(azimuth)])
    day = float(np.clip((altitude + 0.1) / 0.3, 0, 1))
    low = float(np.clip(1 - altitude / 0.5, 0, 1))
    direct, cloudy, strength = {
        CLEAR: (0.9, 0.25, 0.36), CLOUDS: (0.45, 0.6, 0.5), RAIN: (0.0, 1.0, 0.45), FOGGY: (0.04, 1.0, 0.6),
        THUNDER: (0.0, 1.0, 0.3), OVERCAST: (0.03, 1.0, 0.6), EXTRA_SUNNY: (1.15, 0.08, 0.33)}[weather]
    if weather == CLOUDS:
        direct *= rng.choice([0.15, 1.0, 1.4])
    warm = linear(np.array([1.0, 0.95 - 0.16 * low, 0.9 - 0.38 * low]))
    sun_colour = direct * warm * np.clip(altitude / 0.25, 0, 1) * (1 - 0.35 * low)
    blue, grey = linear((0.62, 0.76, 1.0)), linear((0.86, 0.89, 0.93))
    tone = blue * (1 - cloudy) + grey * cloudy
    dusk = np.array([0.75, 0.62, 0.85]) * low * day + (1 - low * day)
    sky_colour = strength * tone * dusk * max(day, 0.05) + (1 - day) * np.array([0.02, 0.022, 0.035])
    dark_above, dark_ahead = {THUNDER: (0.5, 0.6), RAIN: (0.8, 0.85)}.get(weather, (1.0, 1.0))
    zenith = linear((0.3, 0.48, 0.78)) * (1 - cloudy) + linear((0.74, 0.76, 0.79)) * cloudy * dark_above
    horizon = linear((0.75, 0.83, 0.92)) * (1 - cloudy) + linear((0.84, 0.85, 0.86)) * cloudy * dark_ahead
    glow = linear((0.98, 0.66, 0.42))
    horizon = horizon * (1 - 0.6 * low + 0.42 * low * cloudy) + glow * 0.6 * low * (1 - 0.7 * cloudy)
    horizon = horizon * max(day, 0.02) + (1 - day) * linear((0.13, 0.13, 0.2))
    haze = rng.uniform(*{FOGGY: (0.003, 0.012), RAIN: (0.001, 0.005), THUNDER: (0.001, 0.005)}.get(
        weather, (0.0003, 0.0015)))
    wet = {RAIN: rng.uniform(0.6, 1.0), THUNDER: rng.uniform(0.5, 1.0)}.get(weather, 0.0)
    rain = {RAIN: rng.uniform(0.3, 1.0), THUNDER: rng.uniform(0.2, 0.8)}.get(weather, 0.0)
    return Light(sun=sun, sun_colour=sun_colour.astype(np.float32), sky_colour=sky_colour.astype(np.float32),
                 zenith=(zenith * max(day, 0.015)).astype(np.float32),
                 horizon=horizon.astype(np.float32), haze_per_m=float(haze), clouds=cloudy,
                 lamps=float(np.clip(1.25 - 1.6 * day, 0, 1)), wet=float(wet), rain=float(rain), daylight=day)
