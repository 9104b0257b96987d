"""Hundreds of puppets whose build, clothes, hair, hats, bags and poses follow from the seed: the people of composites
and of the looks with `people` "many".

The few puppets of the other looks stay as they are (`figures`), because published figures depend on them.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from crowddist.data.simulator.figures import ELEVATIONS, make_arms, make_legs
from crowddist.data.simulator.noise import NOISE_SIDE
from crowddist.data.simulator.solids import (
    BAG,
    BOTTOM,
    DARK,
    HAIR,
    PIXELS_PER_M,
    SHOES,
    SKIN,
    TOP,
    Figure,
    Part,
    ball,
    limb,
    make_figure,
    rotation,
)

# All of these are ours.
PUPPETS = 128  # a view from one elevation; 768 in all, each also mirrored
CLOSE_PUPPETS = 20  # those of them that are also made at a close view's resolution, which takes much longer
CLOSE_SCALE = 3  # times the usual resolution: heads of up to 60 px are shown as made
UMBRELLAS = PUPPETS // 10  # the last puppets of each elevation hold one

_HAIR_OF_WOMEN = {"long": 0.34, "bob": 0.18, "tail": 0.14, "bun": 0.08, "short": 0.06, "curly": 0.03, "cap": 0.05,
                  "hat": 0.05, "beanie": 0.02, "hood": 0.02, "scarf": 0.03}
_HAIR_OF_MEN = {"short": 0.62, "crew": 0.08, "thin": 0.03, "bald": 0.02, "curly": 0.03, "long": 0.02, "cap": 0.11,
                "backward": 0.02, "hat": 0.03, "beanie": 0.01, "hood": 0.02, "helmet": 0.01}
_CUTS_OF_WOMEN = {"slim": 0.34, "skirt": 0.12, "dress": 0.16, "shorts": 0.18, "wide": 0.08, "coat": 0.12}
_CUTS_OF_MEN = {"slim": 0.4, "shorts": 0.28, "wide": 0.24, "coat": 0.08}
_LUGGAGE = {"none": 0.44, "backpack": 0.18, "handbag": 0.12, "satchel": 0.1, "carrier": 0.1, "suitcase": 0.06}
_PATTERNS = {"stripes": 0.16, "checks": 0.12, "logo": 0.26, "yoke": 0.1, "open": 0.22, "print": 0.14}


def pick(rng: np.random.Generator, chances: dict[str, float]) -> str:
    """One of the names by their chances, which sum to 1."""
    return str(rng.choice(list(chances), p=list(chances.values())))


@lru_cache(maxsize=PUPPETS * len(ELEVATIONS))
def puppet(seed: int, elevation: int, number: int) -> Figure:
    """Puppet `number` (below PUPPETS) from an elevation (index of ELEVATIONS), facing anywhere."""
    return _make(seed, elevation, number, PIXELS_PER_M, 2)


@lru_cache(maxsize=CLOSE_PUPPETS * len(ELEVATIONS))
def close_puppet(seed: int, elevation: int, number: int) -> Figure:
    """The same puppet with CLOSE_SCALE times as many pixels a metre."""
    return _make(seed, elevation, number, CLOSE_SCALE * PIXELS_PER_M, 1)


def draw_puppets(rng: np.random.Generator, count: int, umbrella_share: float) -> np.ndarray:
    """(count,) numbers of puppets, of which a share hold an umbrella."""
    umbrella = rng.random(count) < umbrella_share
    plain = rng.integers(PUPPETS - UMBRELLAS, size=count)
    return np.where(umbrella, PUPPETS - UMBRELLAS + rng.integers(UMBRELLAS, size=count), plain)


def _make(seed: int, elevation: int, number: int, pixels_per_m: int, supersample: int) -> Figure:
    rng = np.random.default_rng([seed, 31, elevation, number])
    view = rotation("x", ELEVATIONS[elevation]) @ rotation("y", rng.uniform(0, 2 * np.pi))
    shift = (int(rng.integers(NOISE_SIDE)), int(rng.integers(NOISE_SIDE)))
    parts, head, pattern = make_body(rng, umbrella=number >= PUPPETS - UMBRELLAS)
    return make_figure(parts, head, pattern, view, shift, pixels_per_m=pixels_per_m, supersample=supersample)


def make_body(rng: np.random.Generator, *, umbrella: bool = False) -> tuple[list[Part], np.ndarray, str]:
    """All parts of a person, the centre of the head and the pattern of the top, as `make_figure` takes them."""
    woman = rng.random() < 0.5
    pose = pick(rng, {"stand": 0.48, "walk": 0.44, "sit": 0.08})
    if umbrella and pose == "sit":
        pose = "stand"
    girth = float(np.clip(rng.normal(1.0, 0.1), 0.8, 1.3))
    cut = pick(rng, _CUTS_OF_WOMEN if woman else _CUTS_OF_MEN)
    legs, hips = make_legs(rng, pose, {"dress": "skirt", "coat": "slim"}.get(cut, cut), girth)
    padded = rng.uniform(1.1, 1.3) if (cut == "coat" and rng.random() < 0.6) or rng.random() < 0.08 else 1.0
    tilt = rng.normal(0.05, 0.06) + (rng.uniform(0.0, 0.3) if pose == "sit" else 0.0)
    lean = rotation("x", tilt) @ rotation("z", rng.normal(0, 0.03))

    def up(x: float, y: float, z: float) -> np.ndarray:
        """A place over the hips, on the spine's frame."""
        return np.array([0.0, hips, 0.0]) + lean @ np.array([x, y, z])

    parts = legs + _trunk(rng, up, lean, girth, padded, cut, woman)
    if cut in ("dress", "coat") and pose != "sit":
        length = rng.uniform(0.5, 0.95)
        parts.append(ball((0, hips + 0.12, 0), (0.215 * girth * padded, length, 0.185 * girth * padded), TOP,
                          clips=((1, -0.7, 0.1),), pattern=True))
    sleeve = "long" if padded > 1 or cut == "coat" else pick(rng, {"short": 0.48, "long": 0.42, "none": 0.1})
    parts += make_arms(rng, pose, sleeve, hips + 0.47, girth * padded)
    head = up(0, 0.685, 0.015)
    down = rng.uniform(0.3, 0.7) if rng.random() < 0.18 else rng.normal(0.1, 0.15)  # some look at the telephone
    turn = rotation("y", rng.normal(0, 0.4)) @ rotation("x", down) @ rotation("z", rng.normal(0, 0.07))
    parts += make_head(rng, head, turn, pick(rng, _HAIR_OF_WOMEN if woman else _HAIR_OF_MEN), woman)
    parts += _luggage(rng, up, lean, girth * padded, hips)
    if pose == "sit":
        parts += [ball((x, 0.21, z), (0.17, 0.21, 0.17), DARK) for x in (-0.1, 0.1) for z in (-0.16, 0.04)]
    if umbrella:
        parts += _umbrella(rng, head)
    return parts, head, pick(rng, _PATTERNS)


def _trunk(rng: np.random.Generator, up, lean: np.ndarray, girth: float, padded: float, cut: str,
           woman: bool) -> list[Part]:
    """Hips, belly, chest, shoulders and neck."""
    trim, wide, thick = (0.92 if woman else 1.0), girth * padded, rng.uniform(0.92, 1.2) * padded * girth
    hem = -0.6 if cut in ("dress", "coat") else (rng.uniform(-0.5, -0.1) if rng.random() < 0.6 else 0.3)
    shoulders = rng.uniform(0.95, 1.06) * (0.93 if woman else 1.03)
    return [ball(up(0, -0.01, 0), (0.152 * girth, 0.17, 0.112 * girth), TOP if cut == "dress" else BOTTOM, turn=lean),
            ball(up(0, 0.12, 0), (0.168 * wide, 0.34, 0.122 * thick), TOP, turn=lean, clips=((1, hem, 1.0),),
                 pattern=True),
            ball(up(0, 0.2, 0.005), (0.15 * wide * trim, 0.22, 0.112 * thick), TOP, turn=lean, pattern=True),
            ball(up(0, 0.35, 0.0), (0.17 * wide * trim, 0.21, 0.118 * thick), TOP, turn=lean, pattern=True),
            ball(up(0, 0.47, -0.01), (0.175 * wide * shoulders, 0.078, 0.08 * thick), TOP, turn=lean, pattern=True),
            ball(up(0, 0.565, 0.0), (0.05, 0.075, 0.052), SKIN, turn=lean)]


def make_head(rng: np.random.Generator, centre: np.ndarray, turn: np.ndarray, style: str, woman: bool) -> list[Part]:
    """Skull, face, and hair or what covers it; `style` as in the tables of chances above."""
    def at(x: float, y: float, z: float) -> np.ndarray:
        return centre + turn @ np.array([x, y, z])

    def lump(x: float, y: float, z: float, radii: tuple[float, float, float], material: int,
             clips: tuple[tuple[int, float, float], ...] = ()) -> Part:
        return ball(at(x, y, z), radii, material, turn=turn, clips=clips)

    jaw = rng.uniform(0.053, 0.064)
    parts = [lump(0, 0, 0, (0.076, 0.112, 0.096), SKIN), lump(0, -0.055, 0.022, (jaw, 0.06, 0.068), SKIN),
             lump(0, -0.022, 0.098, (0.014, 0.026, 0.016), SKIN)]
    for side in (-1, 1):
        parts += [lump(side * 0.077, -0.012, -0.01, (0.014, 0.03, 0.02), SKIN),
                  lump(side * 0.032, 0.012, 0.083, (0.017, 0.009, 0.012), DARK),
                  lump(side * 0.034, 0.035, 0.082, (0.022, 0.006, 0.014), HAIR)]
    parts.append(lump(0, -0.062, 0.085, (0.024, 0.007, 0.01), DARK))
    worn = rng.random()
    if worn < 0.12:  # glasses
        parts += [lump(side * 0.035, 0.012, 0.09, (0.026, 0.018, 0.008), DARK) for side in (-1, 1)]
    elif worn < 0.2:  # a mask before the mouth, in the colours of shoes: mostly white, grey or black
        parts.append(lump(0, -0.052, 0.05, (0.066, 0.052, 0.062), SHOES))
    elif worn < 0.3 and not woman:
        parts.append(lump(0, -0.085, 0.045, (0.052, 0.042, 0.05), HAIR))
    return parts + _hair(rng, lump, style)


def _hair(rng: np.random.Generator, lump, style: str) -> list[Part]:
    above = ((1, -0.75, 1.0),)  # the lower end of a cap of hair is cut off
    full = [lump(0, 0.03, -0.018, (0.088, 0.1, 0.1), HAIR, above), lump(0, 0.066, 0.03, (0.075, 0.052, 0.07), HAIR)]
    length = rng.uniform(0.1, 0.28)
    back = lump(0, -0.06 - length / 4, -0.045, (0.098, 0.09 + length / 2, 0.066), HAIR)
    sides = [lump(side * 0.07, -0.05, 0.0, (0.03, 0.11, 0.06), HAIR) for side in (-1, 1)]
    crown = lump(0, 0.055, -0.004, (0.094, 0.085, 0.108), BAG, ((1, -0.15, 1.0),))
    kinds: dict[str, list[Part]] = {
        "short": full, "crew": [lump(0, 0.024, -0.012, (0.08, 0.096, 0.098), HAIR, ((1, 0.0, 1.0),))],
        "thin": [lump(0, 0.0, -0.03, (0.083, 0.07, 0.08), HAIR)], "bald": [],
        "curly": [lump(0, 0.05, -0.02, (0.115, 0.11, 0.12), HAIR, ((1, -0.6, 1.0),))],
        "long": [*full, back, *(sides if rng.random() < 0.5 else [])],
        "bob": [*full, lump(0, -0.05, -0.035, (0.1, 0.095, 0.075), HAIR), *sides],
        "tail": [*full, lump(0, rng.uniform(-0.03, 0.05), -0.125, (0.03, rng.uniform(0.06, 0.11), 0.04), HAIR)],
        "bun": [*full, lump(0, 0.1, -0.07, (0.045, 0.042, 0.045), HAIR)],
        "cap": [*full, crown, lump(0, 0.048, 0.115, (0.075, 0.012, 0.075), BAG)],
        "backward": [*full, crown, lump(0, 0.04, -0.12, (0.07, 0.012, 0.06), BAG)],
        "hat": [*full, crown, lump(0, 0.048, 0.0, (0.165, 0.014, 0.175), BAG)],
        "beanie": [lump(0, 0.045, -0.008, (0.096, 0.1, 0.112), BAG, ((1, -0.1, 1.0),)), back],
        "hood": [lump(0, 0.015, -0.025, (0.115, 0.135, 0.115), TOP, ((2, -1.0, 0.55),))],
        "scarf": [lump(0, 0.01, -0.022, (0.098, 0.128, 0.108), BAG, ((2, -1.0, 0.62),)),
                  lump(0, -0.13, 0.0, (0.12, 0.09, 0.1), BAG)],
        "helmet": [lump(0, 0.045, -0.005, (0.112, 0.112, 0.13), BAG, ((1, -0.25, 1.0),))]}
    return kinds[style]


def _luggage(rng: np.random.Generator, up, lean: np.ndarray, girth: float, hips: float) -> list[Part]:
    kind, side = pick(rng, _LUGGAGE), float(rng.choice([-1.0, 1.0]))
    if kind == "backpack":
        size = rng.uniform(0.8, 1.25)
        bulk = [ball(up(x, y, -0.15 * girth), (0.1 * size, 0.15 * size, 0.1), BAG, turn=lean)
                for x in (-0.06, 0.06) for y in (0.17, 0.34)]
        return bulk + [limb(up(s * 0.1, 0.5, 0.05), up(s * 0.12, 0.22, 0.115), 0.022, BAG) for s in (-1, 1)]
    if kind == "handbag":
        return [ball((side * 0.3 * girth, hips - 0.18 + y, z), (0.05, 0.09, 0.09), BAG)
                for y in (-0.06, 0.06) for z in (-0.07, 0.09)]
    if kind == "satchel":
        bulk = [ball((side * -0.22 * girth, hips + y, z), (0.05, 0.08, 0.09), BAG)
                for y in (-0.03, 0.07) for z in (-0.07, 0.07)]
        return [*bulk, limb(up(side * 0.12, 0.5, 0.06), up(side * -0.15, 0.05, 0.115), 0.02, BAG)]
    if kind == "carrier":  # a shopping bag in the hand
        deep = rng.uniform(0.12, 0.2)
        return [ball((side * 0.28 * girth, hips - 0.3, z), (0.05, deep, 0.1), BAG) for z in (-0.05, 0.08)]
    if kind == "suitcase":
        bulk = [ball((side * 0.25, y, -0.4 + z), (0.12, 0.16, 0.1), BAG) for y in (0.2, 0.42) for z in (-0.06, 0.06)]
        bar = np.array([[side * 0.25, 0.55, -0.4], [side * 0.26, hips - 0.1, -0.1]])
        return [*bulk, limb(bar[0], bar[1], 0.015, DARK)]
    return []


def _umbrella(rng: np.random.Generator, head: np.ndarray) -> list[Part]:
    """An open umbrella at the side of the head or over it; from above it hides the head, as umbrellas do."""
    middle = head + np.array([rng.uniform(-0.3, 0.3), rng.uniform(0.18, 0.28), rng.uniform(-0.1, 0.3)])
    wide = rng.uniform(0.42, 0.55)
    turn = rotation("z", rng.normal(0, 0.15)) @ rotation("x", rng.normal(0, 0.15))
    return [ball(middle, (wide, rng.uniform(0.2, 0.26), wide), BAG, turn=turn, clips=((1, 0.0, 1.0),)),
            limb(middle + np.array([0, 0.15, 0]), middle - np.array([0, 0.75, 0]), 0.014, DARK)]
