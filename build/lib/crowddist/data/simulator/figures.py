"""The human figures: puppets of ellipsoids in many poses."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from crowddist.data.simulator.noise import NOISE_SIDE
from crowddist.data.simulator.solids import (
    BAG,
    BOTTOM,
    DARK,
    HAIR,
    NUM_MATERIALS,
    PATTERN,
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

__all__ = ["BAG", "BOTTOM", "DARK", "ELEVATIONS", "FIGURES_PER_YAW", "HAIR", "HEAD_RADIUS_M", "NUM_MATERIALS",
           "NUM_YAWS", "PATTERN", "PIXELS_PER_M", "SHOES", "SKIN", "TOP", "Figure", "figure"]

# All four are ours.
ELEVATIONS = np.deg2rad([2.0, 12.0, 24.0, 38.0, 54.0, 72.0])  # view angles of each figure, radians above the horizontal
NUM_YAWS = 8  # directions a figure may face; 0 faces the viewer
FIGURES_PER_YAW = 7  # different figures per direction and elevation; each is also used mirrored
HEAD_RADIUS_M = 0.095


def make_legs(rng: np.random.Generator, pose: str, cut: str, girth: float) -> tuple[list[Part], float]:
    """The legs, and the height of the hips."""
    hips = 0.47 if pose == "sit" else 0.9
    swing = rng.uniform(0.15, 0.36) if pose == "walk" else rng.uniform(0.0, 0.08)
    parts = []
    for side, sign in ((-1, 1), (1, -1)):
        hip = np.array([side * 0.085 * girth, hips, 0.0])
        if pose == "sit":
            thigh_angle, shin_angle = rng.uniform(1.25, 1.5), rng.uniform(-0.25, 0.15)
        else:
            thigh_angle = sign * swing
            shin_angle = thigh_angle - (rng.uniform(0.2, 0.6) if pose == "walk" and sign < 0 else 0.05)
        spread = side * rng.uniform(0.0, 0.1)
        knee = hip + 0.43 * np.array([np.sin(spread), -np.cos(thigh_angle), np.sin(thigh_angle)])
        ankle = knee + 0.41 * np.array([0.0, -np.cos(shin_angle), np.sin(shin_angle)])
        wide = {"wide": 1.25, "slim": 0.9}.get(cut, 1.0)
        parts.append(limb(hip, knee, 0.088 * girth * wide, SKIN if cut == "skirt" else BOTTOM))
        bare = cut in ("skirt", "shorts")
        parts.append(limb(knee, ankle, 0.058 * girth * (1.0 if bare else 1.1 * wide), SKIN if bare else BOTTOM))
        parts.append(ball(knee, [0.062 * girth] * 3, SKIN if bare else BOTTOM))
        parts.append(ball(ankle + np.array([0.0, -0.035, 0.05]), (0.045, 0.045, 0.125), SHOES))
    if cut == "skirt":
        size = (0.215 * girth, rng.uniform(0.42, 0.75) * 1.25, 0.18 * girth)
        parts.append(ball((0, hips + 0.12, 0), size, BOTTOM, clips=((1, -0.62, 0.1),)))
    return parts, hips


def make_arms(rng: np.random.Generator, pose: str, sleeve: str, shoulders: float, girth: float) -> list[Part]:
    parts = []
    swing = rng.uniform(0.2, 0.5) if pose == "walk" else rng.uniform(0.0, 0.15)
    kind = rng.choice(["down", "bent", "phone", "up"],
                      p=[0.75, 0.25, 0.0, 0.0] if pose == "walk" else [0.66, 0.16, 0.12, 0.06])
    for side, sign in ((-1, -1), (1, 1)):
        joint = np.array([side * 0.168 * girth, shoulders, 0.0])
        out = rng.uniform(0.08, 0.3)
        if kind == "up" and (side == 1 or rng.random() < 0.5):
            elbow = joint + 0.28 * np.array([side * 0.55, 0.8, 0.25])
            wrist = elbow + 0.25 * np.array([-side * rng.uniform(-0.2, 0.4), 0.9, 0.2])
        elif kind in ("bent", "phone") and (side == 1 or rng.random() < 0.5):
            elbow = joint + 0.28 * np.array([side * out, -0.95, 0.1])
            wrist = elbow + 0.25 * np.array([-side * 0.4, 0.35 if kind == "phone" else 0.05, 0.85])
        else:
            angle = sign * swing
            elbow = joint + 0.28 * np.array([side * out, -np.cos(angle), np.sin(angle)])
            wrist = elbow + 0.25 * np.array([side * out * 0.4, -np.cos(angle + 0.25), np.sin(angle + 0.25)])
        parts.append(limb(joint, elbow, 0.052 * girth, SKIN if sleeve == "none" else TOP, pattern=True))
        parts.append(ball(joint, [0.058 * girth] * 3, SKIN if sleeve == "none" else TOP, pattern=True))
        parts.append(limb(elbow, wrist, 0.042 * girth, TOP if sleeve == "long" else SKIN, pattern=True))
        parts.append(ball(elbow, [0.045 * girth] * 3, TOP if sleeve == "long" else SKIN, pattern=True))
        parts.append(ball(wrist + (wrist - elbow) * 0.25, (0.042, 0.055, 0.042), SKIN))
        if kind == "phone" and side == 1:
            parts.append(ball(wrist + np.array([0.0, 0.09, 0.02]), (0.04, 0.075, 0.012), DARK))
    return parts


def _head(rng: np.random.Generator, centre: np.ndarray, turn: np.ndarray, style: str) -> list[Part]:
    """Skull, face and hair or hat; `style` is short, long, tail, bald, cap or hat."""
    def at(x: float, y: float, z: float) -> np.ndarray:
        return centre + turn @ np.array([x, y, z])

    parts = [ball(at(0, 0, 0.0), (0.076, 0.112, 0.096), SKIN, turn=turn),
             ball(at(0, -0.055, 0.022), (0.058, 0.06, 0.068), SKIN, turn=turn)]
    for side in (-1, 1):
        parts.append(ball(at(side * 0.077, -0.012, -0.01), (0.014, 0.03, 0.02), SKIN, turn=turn))
        parts.append(ball(at(side * 0.032, 0.012, 0.083), (0.017, 0.009, 0.012), DARK, turn=turn))
    parts.append(ball(at(0, -0.022, 0.098), (0.014, 0.026, 0.016), SKIN, turn=turn))
    if style != "bald":
        parts.append(ball(at(0, 0.03, -0.018), (0.088, 0.1, 0.1), HAIR, turn=turn, clips=((1, -0.75, 1.0),)))
        parts.append(ball(at(0, 0.066, 0.03), (0.075, 0.052, 0.07), HAIR, turn=turn))
    if style == "long":
        length = rng.uniform(0.14, 0.26)
        parts.append(ball(at(0, -0.06 - length / 4, -0.045), (0.098, 0.09 + length / 2, 0.066), HAIR, turn=turn))
    if style == "tail":
        parts.append(ball(at(0, 0.0, -0.125), (0.03, 0.085, 0.04), HAIR, turn=turn))
    if style in ("cap", "hat"):
        parts.append(ball(at(0, 0.055, -0.004), (0.094, 0.085, 0.108), BAG, turn=turn, clips=((1, -0.15, 1.0),)))
        brim = (0.075, 0.012, 0.075) if style == "cap" else (0.165, 0.014, 0.175)
        parts.append(ball(at(0, 0.048, 0.115 if style == "cap" else 0.0), brim, BAG, turn=turn))
    return parts


def _puppet(rng: np.random.Generator) -> tuple[list[Part], np.ndarray, str]:
    """All parts in the body's frame (x left-right, y up, z forward), the centre of the head, and the top's pattern."""
    pose = rng.choice(["stand", "walk", "sit"], p=[0.48, 0.44, 0.08])
    girth = rng.uniform(0.86, 1.12)
    woman = rng.random() < 0.5
    cut = rng.choice(["slim", "skirt", "dress", "shorts", "wide"],
                     p=[0.4, 0.14, 0.2, 0.18, 0.08] if woman else [0.45, 0, 0, 0.3, 0.25])
    legs, hips = make_legs(rng, str(pose), "skirt" if cut == "dress" else str(cut), girth)
    if cut == "dress":
        legs[-1] = replace(legs[-1], material=TOP, pattern=True)
    lean = rotation("x", rng.normal(0.05, 0.05) + (0.12 if pose == "sit" else 0.0))
    waist = np.array([0.0, hips, 0.0])

    def up(x: float, y: float, z: float) -> np.ndarray:
        return waist + lean @ np.array([x, y, z])

    trim = 0.92 if woman else 1.0
    hem = rng.uniform(-0.5, -0.1) if rng.random() < 0.6 else 0.3
    upper = [ball(up(0, -0.01, 0), (0.152 * girth, 0.17, 0.112 * girth), TOP if cut == "dress" else BOTTOM, turn=lean),
             ball(up(0, 0.12, 0), (0.168 * girth, 0.34, 0.128 * girth), TOP, turn=lean, clips=((1, hem, 1.0),),
                   pattern=True),
             ball(up(0, 0.2, 0.005), (0.15 * girth * trim, 0.22, 0.112 * girth), TOP, turn=lean, pattern=True),
             ball(up(0, 0.35, 0.0), (0.17 * girth * trim, 0.21, 0.118 * girth), TOP, turn=lean, pattern=True),
             ball(up(0, 0.47, -0.01), (0.172 * girth * trim, 0.075, 0.08 * girth), TOP, turn=lean, pattern=True),
             ball(up(0, 0.565, 0.0), (0.05, 0.075, 0.052), SKIN, turn=lean)]
    sleeve = str(rng.choice(["short", "long", "none"], p=[0.45, 0.47, 0.08]))
    arms = make_arms(rng, str(pose), sleeve, hips + 0.47, girth)
    head = up(0, 0.685, 0.015)
    turn = rotation("y", rng.normal(0, 0.35)) @ rotation("x", rng.normal(0.1, 0.15))
    turn = turn @ rotation("z", rng.normal(0, 0.06))
    style = rng.choice(["short", "long", "tail", "bald", "cap", "hat"],
                       p=[0.22, 0.45, 0.2, 0.0, 0.06, 0.07] if woman else [0.76, 0.02, 0.0, 0.07, 0.12, 0.03])
    extra = []
    luggage = rng.choice(["none", "backpack", "handbag", "satchel"], p=[0.55, 0.2, 0.13, 0.12])
    if luggage == "backpack":
        extra += [ball(up(x, y, -0.16), (0.1, 0.15, 0.1), BAG, turn=lean) for x in (-0.06, 0.06) for y in (0.17, 0.34)]
        extra += [limb(up(side * 0.1, 0.5, 0.05), up(side * 0.12, 0.22, 0.115), 0.022, BAG) for side in (-1, 1)]
    elif luggage == "handbag":
        extra += [ball((0.3 * girth, hips - 0.18 + y, z), (0.05, 0.09, 0.09), BAG) for y in (-0.06, 0.06)
                  for z in (-0.07, 0.09)]
    elif luggage == "satchel":
        extra += [ball((-0.22 * girth, hips + y, z), (0.05, 0.08, 0.09), BAG) for y in (-0.03, 0.07)
                  for z in (-0.07, 0.07)]
        extra.append(limb(up(0.12, 0.5, 0.06), up(-0.15, 0.05, 0.115), 0.02, BAG))
    if pose == "sit":
        extra += [ball((x, 0.21, z), (0.17, 0.21, 0.17), DARK) for x in (-0.1, 0.1) for z in (-0.16, 0.04)]
    pattern = rng.choice(["stripes", "checks", "logo", "yoke", "open", "print"], p=[0.22, 0.12, 0.24, 0.1, 0.22, 0.1])
    return legs + upper + arms + extra + _head(rng, head, turn, str(style)), head, str(pattern)


@cache
def figure(elevation: int, yaw: int, variant: int) -> Figure:
    """The figure of an elevation (index of ELEVATIONS), a yaw below NUM_YAWS and a variant below FIGURES_PER_YAW."""
    rng = np.random.default_rng([7, yaw, variant])
    parts, head, pattern = _puppet(rng)
    facing = 2 * np.pi * (yaw + rng.uniform(-0.4, 0.4)) / NUM_YAWS
    view = rotation("x", ELEVATIONS[elevation]) @ rotation("y", facing)
    shift = (int(rng.integers(NOISE_SIDE)), int(rng.integers(NOISE_SIDE)))
    return make_figure(parts, head, pattern, view, shift)
