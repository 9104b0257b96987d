"""The ground's own colours: paving, bricks, asphalt, grass, with joints, stains and markings in perspective."""

from __future__ import annotations

import numpy as np

from crowddist.data.simulator.noise import hash_at, linear, noise_at

_KINDS = {"slabs": 0.34, "bricks": 0.13, "bands": 0.15, "asphalt": 0.16, "grass": 0.06, "concrete": 0.1,
          "cobbles": 0.06}  # the weight of each
_STONE = ((0.62, 0.58, 0.53), (0.55, 0.52, 0.5), (0.7, 0.64, 0.56), (0.5, 0.5, 0.53), (0.63, 0.54, 0.47),
          (0.45, 0.44, 0.43), (0.72, 0.7, 0.66))
_BRICK = ((0.55, 0.36, 0.3), (0.5, 0.4, 0.34), (0.47, 0.33, 0.3))


def _joints(coordinate: np.ndarray, period: float, width: float, footprint: np.ndarray) -> np.ndarray:
    """Share of each pixel under joints of `width` every `period`, in [0, 1]; blurred to its mean in the distance."""
    distance = np.abs((coordinate / period) % 1.0 - 0.5) * period
    sharp = np.clip((width / 2 - (period / 2 - distance)) / footprint + 0.5, 0, 1) * np.minimum(1, width / footprint)
    far = np.clip(footprint / period - 0.3, 0, 1)
    return sharp * (1 - far) + far * width / period


def _tiles(rng: np.random.Generator, u, v, size: tuple[float, float], joint: float, spread: float, foot_u, foot_v,
           shift: float):
    """Brightness of tiles of `size` metres, courses shifted by `shift` tiles: own tone of each, dark joints."""
    row = np.floor(v / size[1])
    moved = u + row * shift * size[0]
    column = np.floor(moved / size[0])
    fade = np.clip(1.3 - (foot_u / size[0] + foot_v / size[1]), 0, 1)
    tone = 1 + spread * (hash_at(column, row) - 0.5) * 2 * fade
    lines = np.maximum(_joints(moved, size[0], joint, foot_u), _joints(v, size[1], joint, foot_v))
    return tone * (1 - rng.uniform(0.25, 0.55) * lines)


def _footprints(values: np.ndarray) -> np.ndarray:
    """The change of a coordinate across one pixel."""
    return np.maximum(sum(np.abs(change) for change in np.gradient(values)), 1e-4).astype(np.float32)


def _markings(rng: np.random.Generator, colour: np.ndarray, u, v, foot_u, foot_v) -> None:
    """A zebra crossing and lane lines painted on asphalt, in place."""
    white = linear((0.82, 0.82, 0.8))
    worn = 0.75 + 0.25 * np.clip(noise_at(u * 40, v * 40), -1, 1)
    start, length = rng.uniform(5, 22), rng.uniform(3, 5)
    from_middle = np.abs(v - start - length / 2)
    crossing = np.clip((length / 2 - from_middle) / foot_v + 0.5, 0, 1) * _joints(u, 1.0, 0.5, foot_u)
    lanes = _joints(u + 1.7, rng.uniform(3.2, 3.8), 0.14, foot_u) * (((v / 6) % 1) < 0.5)
    lanes = lanes * (from_middle > length / 2 + 1)
    cover = np.maximum(crossing if rng.random() < 0.7 else 0, lanes if rng.random() < 0.6 else 0) * worn
    colour[:] = colour * (1 - cover[..., None]) + white * cover[..., None]


def ground_colour(rng: np.random.Generator, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Linear colours (H, W, 3) float32 of a random kind of ground at metres (x, z) of each pixel."""
    kind = str(rng.choice(list(_KINDS), p=list(_KINDS.values())))
    turn = rng.choice([0.0, rng.normal(0, 0.15), rng.uniform(-0.8, 0.8)])
    u, v = x * np.cos(turn) + z * np.sin(turn), z * np.cos(turn) - x * np.sin(turn)
    foot_u, foot_v = _footprints(u), _footprints(v)
    near = 1 / (1 + 6 * (foot_u + foot_v))
    base = linear(np.clip(np.array(_STONE[rng.integers(len(_STONE))]) + rng.normal(0, 0.04) + rng.normal(0, 0.008, 3),
                          0.2, 0.85))
    side = rng.uniform(0.4, 1.2)
    if kind == "slabs":
        size = (side * rng.choice([1.0, 1.5, 2.0]), side)
        tone = _tiles(rng, u, v, size, rng.uniform(0.012, 0.03), rng.uniform(0.04, 0.16), foot_u, foot_v,
                      rng.choice([0.0, 0.5]))
    elif kind in ("bricks", "cobbles"):
        base = linear(_BRICK[rng.integers(len(_BRICK))]) if kind == "bricks" and rng.random() < 0.6 else base * 0.8
        size = (0.3, 0.15) if kind == "bricks" else (0.18, 0.18)
        tone = _tiles(rng, u, v, size, 0.018, 0.2, foot_u, foot_v, 0.5)
    elif kind == "bands":
        tone = _tiles(rng, u, v, (side, side), 0.02, 0.08, foot_u, foot_v, 0.0)
        bands = np.maximum(_joints(u, side * rng.integers(4, 9), side, foot_u),
                           _joints(v, side * rng.integers(4, 9), side, foot_v) * (rng.random() < 0.7))
        tone = tone * (1 + rng.choice([-0.5, -0.35, 0.3]) * bands)
    elif kind == "concrete":
        tone = _tiles(rng, u, v, (rng.uniform(3, 5), rng.uniform(3, 5)), 0.025, 0.06, foot_u, foot_v, 0.0)
    else:
        base = (linear(rng.uniform(0.3, 0.46) + rng.normal(0, 0.012, 3)) if kind == "asphalt"
                else linear((0.36, 0.41, 0.25) * rng.uniform(0.85, 1.1, 3)))
        tone = np.ones_like(u)
    stains = noise_at(u * 6, v * 6) * 0.07 + noise_at(u * 1.1 + 90, v * 1.1) * 0.07
    grain = noise_at(u * 55 + 30, v * 55) * near * (0.14 if kind in ("asphalt", "grass", "cobbles") else 0.05)
    colour = base * np.clip(tone * (1 + stains + grain), 0.15, 1.6)[..., None]
    if kind == "grass":
        colour *= 1 + np.array([0.25, 0.1, 0.0]) * np.clip(noise_at(u * 2.5, v * 2.5), -1, 1)[..., None]
    if kind == "asphalt":
        _markings(rng, colour, u, v, foot_u, foot_v)
    return np.clip(colour, 0.01, 0.95).astype(np.float32)
