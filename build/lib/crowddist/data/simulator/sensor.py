"""The camera's sensor and processing: rain before the lens, blur, exposure, tone, colour, vignette, noise."""

from __future__ import annotations

import cv2
import numpy as np

from crowddist.data.simulator.config import Look
from crowddist.data.simulator.light import Light

_STEPS, _BRIGHTEST = 8192, 4.0  # ours: entries of the tone table, and the linear light of its last
_GREY = np.array([[0.3, 0.59, 0.11]])  # P: luma weights of ITU-R BT.601


def _expose(rng: np.random.Generator, image: np.ndarray, look: Look, light: Light) -> float:
    """The gain that gives the developed image the mean brightness of the look; less at night."""
    sample = np.minimum(image[::9, ::9], 8.0)
    wanted = rng.uniform(*look.brightness) * (0.72 + 0.28 * light.daylight)
    gain = 1.0
    for _ in range(8):
        gain *= (wanted / max(float(tone(sample * gain).mean()), 1e-4)) ** 1.6
    return gain


def tone(linear_light: np.ndarray) -> np.ndarray:
    """Linear light to display values in [0, 1], highlights rolled off."""
    rolled = np.where(linear_light < 0.6, linear_light, 1 - 0.4 * np.exp(-np.maximum(linear_light - 0.6, 0) / 0.4))
    return rolled ** (1 / 2.2)


def _rain(rng: np.random.Generator, image: np.ndarray, light: Light) -> None:
    """Streaks of falling rain, in place."""
    height, width = image.shape[:2]
    layer = np.zeros((height, width), np.float32)
    slant = rng.normal(0, 0.15)
    for _ in range(int(700 * light.rain)):
        x, y, length = rng.uniform(-0.1, 1.1) * width, rng.uniform(-0.1, 1) * height, rng.uniform(0.01, 0.06) * height
        cv2.line(layer, (int(x), int(y)), (int(x + slant * length), int(y + length)), float(rng.uniform(0.05, 0.3)), 1,
                 cv2.LINE_AA)
    streaks = np.asarray(cv2.GaussianBlur(layer, (0, 0), 0.6), np.float32)[..., None]
    image += streaks * (light.horizon * 0.8 - image * 0.5)


def develop(rng: np.random.Generator, image: np.ndarray, look: Look, light: Light) -> np.ndarray:
    """(H, W, 3) uint8 RGB from linear light."""
    height, width = image.shape[:2]
    if light.rain > 0:
        _rain(rng, image, light)
    blur = rng.uniform(*look.blur_px) * width / 960
    if blur > 0.25:
        image = cv2.GaussianBlur(image, (0, 0), blur)
    gains = np.array(look.tint) * np.exp(rng.normal(0, look.tint_spread, 3))
    rows, columns = (np.linspace(-1, 1, side, dtype=np.float32) for side in (height, width))
    vignette = 1 - np.float32(rng.uniform(0, 0.28)) * (rows[:, None]**2 + columns**2) / 2
    image = image * (gains * _expose(rng, image, look, light) * (_STEPS / _BRIGHTEST)).astype(np.float32)
    image *= vignette[..., None]
    table = tone(np.arange(_STEPS, dtype=np.float32) * (_BRIGHTEST / _STEPS)).astype(np.float32)
    shown = table[np.minimum(image, _STEPS - 1).astype(np.int32)]
    saturation, contrast = rng.uniform(*look.saturation) * (0.8 + 0.2 * light.daylight), rng.uniform(*look.contrast)
    mixing = (np.eye(3) * saturation + (1 - saturation) * _GREY) * contrast
    shown = cv2.transform(shown, np.column_stack([mixing, np.full(3, 0.42 * (1 - contrast))]).astype(np.float32))
    sharpen = rng.uniform(-0.3, 0.8)
    if sharpen > 0:
        soft = cv2.GaussianBlur(shown, (0, 0), 1.0 * width / 960 + 0.2)
        shown = cv2.addWeighted(shown, 1 + sharpen, soft, -sharpen, 0)
    amount = np.exp(rng.uniform(*np.log(look.noise))) * (2.0 - light.daylight)
    luma = rng.standard_normal((height, width), dtype=np.float32)
    chroma = rng.standard_normal((height // 2, width // 2, 3), dtype=np.float32)
    grain = np.asarray(cv2.resize(chroma, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
    grain *= np.float32(0.7 * amount)
    grain += luma[..., None] * np.float32(amount)
    return cv2.convertScaleAbs(np.maximum(shown + grain, 0), alpha=255)
