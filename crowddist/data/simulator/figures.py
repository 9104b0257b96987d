"""The human figures: puppets of ellipsoids in many poses, rasterised once as material weights and normals."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import cv2
import numpy as np

from crowddist.data.simulator.noise import NOISE_SIDE, noise_table

# All four are ours.
ELEVATIONS = np.deg2rad([2.0, 12.0, 24.0, 38.0, 54.0, 72.0])  # view angles of each figure, radians above the horizontal
NUM_YAWS = 8  # directions a figure may face; 0 faces the viewer
FIGURES_PER_YAW = 7  # different figures per direction and elevation; each is also used mirrored
PIXELS_PER_M = 80  # resolution of a figure's largest level
SKIN, HAIR, TOP, PATTERN, BOTTOM, SHOES, BAG, DARK = range(8)  # materials; each person has own colours for them
NUM_MATERIALS = 8
HEAD_RADIUS_M = 0.095

_HALF_WIDTH_M, _ABOVE_M, _BELOW_M = 1.0, 2.15, 0.65
_SUPERSAMPLE = 2


@dataclass(frozen=True)
class Figure:
    """One figure seen from one elevation, at halving resolutions."""

    levels: tuple[np.ndarray, ...]
    """Each (h, w, NUM_MATERIALS + 3) uint8: coverage by material, then the normal (right, up, to the viewer) as 128 +
    127 n times coverage."""
    foot: tuple[float, float]  # column and row of the ground point in levels[0], from the edge of its first pixel
    head: tuple[float, float]  # the same for the centre of the head


@dataclass(frozen=True)
class _Part:
    centre: np.ndarray
    axes: np.ndarray
    material: int
    clips: tuple[tuple[int, float, float], ...] = ()
    pattern: bool = False


def _rotation(axis: str, angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    if axis == "x":
        return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    if axis == "y":
        return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def _ball(centre, radii, material: int, *, turn: np.ndarray | None = None, clips=(), pattern: bool = False) -> _Part:
    axes = np.diag(np.asarray(radii, float))
    return _Part(np.asarray(centre, float), axes if turn is None else turn @ axes, material, tuple(clips), pattern)


def _limb(start: np.ndarray, end: np.ndarray, radius: float, material: int, *, pattern: bool = False) -> _Part:
    """A barrel from joint to joint: an ellipsoid longer than the bone, cut at both ends."""
    along = end - start
    length = np.linalg.norm(along) + 1e-6
    along = along / length
    side = np.cross(along, [0.0, 0.0, 1.0] if abs(along[2]) < 0.9 else [1.0, 0.0, 0.0])
    side /= np.linalg.norm(side)
    axes = np.stack([side * radius, along * length * 0.8, np.cross(side, along) * radius], axis=1)
    return _Part((start + end) / 2, axes, material, ((1, -0.68, 0.68),), pattern)


def _legs(rng: np.random.Generator, pose: str, cut: str, girth: float) -> tuple[list[_Part], float]:
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
        parts.append(_limb(hip, knee, 0.088 * girth * wide, SKIN if cut == "skirt" else BOTTOM))
        bare = cut in ("skirt", "shorts")
        parts.append(_limb(knee, ankle, 0.058 * girth * (1.0 if bare else 1.1 * wide), SKIN if bare else BOTTOM))
        parts.append(_ball(knee, [0.062 * girth] * 3, SKIN if bare else BOTTOM))
        parts.append(_ball(ankle + np.array([0.0, -0.035, 0.05]), (0.045, 0.045, 0.125), SHOES))
    if cut == "skirt":
        size = (0.215 * girth, rng.uniform(0.42, 0.75) * 1.25, 0.18 * girth)
        parts.append(_ball((0, hips + 0.12, 0), size, BOTTOM, clips=((1, -0.62, 0.1),)))
    return parts, hips


def _arms(rng: np.random.Generator, pose: str, sleeve: str, shoulders: float, girth: float) -> list[_Part]:
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
        parts.append(_limb(joint, elbow, 0.052 * girth, SKIN if sleeve == "none" else TOP, pattern=True))
        parts.append(_ball(joint, [0.058 * girth] * 3, SKIN if sleeve == "none" else TOP, pattern=True))
        parts.append(_limb(elbow, wrist, 0.042 * girth, TOP if sleeve == "long" else SKIN, pattern=True))
        parts.append(_ball(elbow, [0.045 * girth] * 3, TOP if sleeve == "long" else SKIN, pattern=True))
        parts.append(_ball(wrist + (wrist - elbow) * 0.25, (0.042, 0.055, 0.042), SKIN))
        if kind == "phone" and side == 1:
            parts.append(_ball(wrist + np.array([0.0, 0.09, 0.02]), (0.04, 0.075, 0.012), DARK))
    return parts


def _head(rng: np.random.Generator, centre: np.ndarray, turn: np.ndarray, style: str) -> list[_Part]:
    """Skull, face and hair or hat; `style` is short, long, tail, bald, cap or hat."""
    def at(x: float, y: float, z: float) -> np.ndarray:
        return centre + turn @ np.array([x, y, z])

    parts = [_ball(at(0, 0, 0.0), (0.076, 0.112, 0.096), SKIN, turn=turn),
             _ball(at(0, -0.055, 0.022), (0.058, 0.06, 0.068), SKIN, turn=turn)]
    for side in (-1, 1):
        parts.append(_ball(at(side * 0.077, -0.012, -0.01), (0.014, 0.03, 0.02), SKIN, turn=turn))
        parts.append(_ball(at(side * 0.032, 0.012, 0.083), (0.017, 0.009, 0.012), DARK, turn=turn))
    parts.append(_ball(at(0, -0.022, 0.098), (0.014, 0.026, 0.016), SKIN, turn=turn))
    if style != "bald":
        parts.append(_ball(at(0, 0.03, -0.018), (0.088, 0.1, 0.1), HAIR, turn=turn, clips=((1, -0.75, 1.0),)))
        parts.append(_ball(at(0, 0.066, 0.03), (0.075, 0.052, 0.07), HAIR, turn=turn))
    if style == "long":
        length = rng.uniform(0.14, 0.26)
        parts.append(_ball(at(0, -0.06 - length / 4, -0.045), (0.098, 0.09 + length / 2, 0.066), HAIR, turn=turn))
    if style == "tail":
        parts.append(_ball(at(0, 0.0, -0.125), (0.03, 0.085, 0.04), HAIR, turn=turn))
    if style in ("cap", "hat"):
        parts.append(_ball(at(0, 0.055, -0.004), (0.094, 0.085, 0.108), BAG, turn=turn, clips=((1, -0.15, 1.0),)))
        brim = (0.075, 0.012, 0.075) if style == "cap" else (0.165, 0.014, 0.175)
        parts.append(_ball(at(0, 0.048, 0.115 if style == "cap" else 0.0), brim, BAG, turn=turn))
    return parts


def _puppet(rng: np.random.Generator) -> tuple[list[_Part], np.ndarray, str]:
    """All parts in the body's frame (x left-right, y up, z forward), the centre of the head, and the top's pattern."""
    pose = rng.choice(["stand", "walk", "sit"], p=[0.48, 0.44, 0.08])
    girth = rng.uniform(0.86, 1.12)
    woman = rng.random() < 0.5
    cut = rng.choice(["slim", "skirt", "dress", "shorts", "wide"],
                     p=[0.4, 0.14, 0.2, 0.18, 0.08] if woman else [0.45, 0, 0, 0.3, 0.25])
    legs, hips = _legs(rng, str(pose), "skirt" if cut == "dress" else str(cut), girth)
    if cut == "dress":
        legs[-1] = replace(legs[-1], material=TOP, pattern=True)
    lean = _rotation("x", rng.normal(0.05, 0.05) + (0.12 if pose == "sit" else 0.0))
    waist = np.array([0.0, hips, 0.0])

    def up(x: float, y: float, z: float) -> np.ndarray:
        return waist + lean @ np.array([x, y, z])

    trim = 0.92 if woman else 1.0
    hem = rng.uniform(-0.5, -0.1) if rng.random() < 0.6 else 0.3
    upper = [_ball(up(0, -0.01, 0), (0.152 * girth, 0.17, 0.112 * girth), TOP if cut == "dress" else BOTTOM, turn=lean),
             _ball(up(0, 0.12, 0), (0.168 * girth, 0.34, 0.128 * girth), TOP, turn=lean, clips=((1, hem, 1.0),),
                   pattern=True),
             _ball(up(0, 0.2, 0.005), (0.15 * girth * trim, 0.22, 0.112 * girth), TOP, turn=lean, pattern=True),
             _ball(up(0, 0.35, 0.0), (0.17 * girth * trim, 0.21, 0.118 * girth), TOP, turn=lean, pattern=True),
             _ball(up(0, 0.47, -0.01), (0.172 * girth * trim, 0.075, 0.08 * girth), TOP, turn=lean, pattern=True),
             _ball(up(0, 0.565, 0.0), (0.05, 0.075, 0.052), SKIN, turn=lean)]
    arms = _arms(rng, str(pose), str(rng.choice(["short", "long", "none"], p=[0.45, 0.47, 0.08])), hips + 0.47, girth)
    head = up(0, 0.685, 0.015)
    turn = _rotation("y", rng.normal(0, 0.35)) @ _rotation("x", rng.normal(0.1, 0.15))
    turn = turn @ _rotation("z", rng.normal(0, 0.06))
    style = rng.choice(["short", "long", "tail", "bald", "cap", "hat"],
                       p=[0.22, 0.45, 0.2, 0.0, 0.06, 0.07] if woman else [0.76, 0.02, 0.0, 0.07, 0.12, 0.03])
    extra = []
    luggage = rng.choice(["none", "backpack", "handbag", "satchel"], p=[0.55, 0.2, 0.13, 0.12])
    if luggage == "backpack":
        extra += [_ball(up(x, y, -0.16), (0.1, 0.15, 0.1), BAG, turn=lean) for x in (-0.06, 0.06) for y in (0.17, 0.34)]
        extra += [_limb(up(side * 0.1, 0.5, 0.05), up(side * 0.12, 0.22, 0.115), 0.022, BAG) for side in (-1, 1)]
    elif luggage == "handbag":
        extra += [_ball((0.3 * girth, hips - 0.18 + y, z), (0.05, 0.09, 0.09), BAG) for y in (-0.06, 0.06)
                  for z in (-0.07, 0.09)]
    elif luggage == "satchel":
        extra += [_ball((-0.22 * girth, hips + y, z), (0.05, 0.08, 0.09), BAG) for y in (-0.03, 0.07)
                  for z in (-0.07, 0.07)]
        extra.append(_limb(up(0.12, 0.5, 0.06), up(-0.15, 0.05, 0.115), 0.02, BAG))
    if pose == "sit":
        extra += [_ball((x, 0.21, z), (0.17, 0.21, 0.17), DARK) for x in (-0.1, 0.1) for z in (-0.16, 0.04)]
    pattern = rng.choice(["stripes", "checks", "logo", "yoke", "open", "print"], p=[0.22, 0.12, 0.24, 0.1, 0.22, 0.1])
    return legs + upper + arms + extra + _head(rng, head, turn, str(style)), head, str(pattern)


def _patterned(kind: str, body: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Bool: where the top shows its second colour, at positions (..., 3) in the body's frame."""
    x, y, z = body[..., 0], body[..., 1], body[..., 2]
    if kind == "stripes":
        return (y / 0.085) % 1.0 < 0.45
    if kind == "checks":
        return ((y / 0.07) % 1.0 < 0.35) | (((x + z) / 0.07) % 1.0 < 0.35)
    if kind == "logo":
        return (np.abs(x) < 0.085) & (np.abs(y - 1.22) < 0.07)
    if kind == "yoke":
        return y > 1.25
    if kind == "open":
        return (np.abs(x) < 0.06) & (z > 0)
    return noise > 0.35


def _rasterise(parts: list[_Part], view: np.ndarray, pattern: str,
               shift: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Material (h, w) of the nearest surface, NUM_MATERIALS where there is none, and normal (h, w, 3), supersampled."""
    scale = PIXELS_PER_M * _SUPERSAMPLE
    shape = (round((_ABOVE_M + _BELOW_M) * scale), round(2 * _HALF_WIDTH_M * scale))
    table = noise_table()
    nearest = np.full(shape, -np.inf, np.float32)
    materials = np.full(shape, NUM_MATERIALS, np.int8)
    normals = np.zeros((*shape, 3), np.float32)
    for part in parts:
        centre, axes = view @ part.centre, view @ part.axes
        reach = np.sqrt((axes**2).sum(1))
        left, right = (np.array([centre[0] - reach[0], centre[0] + reach[0]]) + _HALF_WIDTH_M) * scale
        top, bottom = (_ABOVE_M - np.array([centre[1] + reach[1], centre[1] - reach[1]])) * scale
        box = (slice(max(int(top), 0), min(int(bottom) + 2, shape[0])),
               slice(max(int(left), 0), min(int(right) + 2, shape[1])))
        rows, columns = (np.arange(side.start, side.stop, dtype=np.float32) for side in box)
        if rows.size == 0 or columns.size == 0:
            continue
        dx, dy = np.meshgrid((columns + 0.5) / scale - _HALF_WIDTH_M - centre[0],
                             _ABOVE_M - (rows + 0.5) / scale - centre[1])
        dx, dy = dx.astype(np.float32), dy.astype(np.float32)
        inverse = np.linalg.inv(axes).astype(np.float32)
        quadric = inverse.T @ inverse
        half = (quadric[0, 2] * dx + quadric[1, 2] * dy) / quadric[2, 2]
        rest = (quadric[0, 0] * dx * dx + 2 * quadric[0, 1] * dx * dy + quadric[1, 1] * dy * dy - 1) / quadric[2, 2]
        under_root = half * half - rest
        dz = np.sqrt(np.maximum(under_root, 0)) - half
        i, j = np.nonzero((under_root > 0) & (dz > nearest[box] - np.float32(centre[2])))
        offset = np.stack([dx[i, j], dy[i, j], dz[i, j]], axis=-1)
        local = offset @ inverse.T
        if part.clips:
            inside = np.all([(local[:, axis] >= low) & (local[:, axis] <= high) for axis, low, high in part.clips], 0)
            i, j, offset, local = i[inside], j[inside], offset[inside], local[inside]
        normal = offset @ quadric
        material = np.full(len(i), part.material, np.int8)
        if part.material in (TOP, BOTTOM):
            folds = 0.8 * table[(i + box[0].start + shift[0]) % NOISE_SIDE, (j + box[1].start + shift[1]) % NOISE_SIDE]
            if part.pattern and part.material == TOP:
                body = local @ part.axes.T.astype(np.float32) + part.centre.astype(np.float32)
                material[_patterned(pattern, body, folds)] = PATTERN
            normal /= np.sqrt((normal**2).sum(-1, keepdims=True)) + np.float32(1e-6)
            normal[:, 0] += 0.22 * folds
            normal[:, 1] += 0.22 * folds[::-1]
        normal /= np.sqrt((normal**2).sum(-1, keepdims=True)) + np.float32(1e-6)
        materials[box][i, j] = material
        normals[box][i, j] = normal
        nearest[box][i, j] = offset[:, 2] + np.float32(centre[2])
    return materials, normals


@cache
def figure(elevation: int, yaw: int, variant: int) -> Figure:
    """The figure of an elevation (index of ELEVATIONS), a yaw below NUM_YAWS and a variant below FIGURES_PER_YAW."""
    rng = np.random.default_rng([7, yaw, variant])
    parts, head, pattern = _puppet(rng)
    facing = 2 * np.pi * (yaw + rng.uniform(-0.4, 0.4)) / NUM_YAWS
    view = _rotation("x", ELEVATIONS[elevation]) @ _rotation("y", facing)
    scale = PIXELS_PER_M * _SUPERSAMPLE
    shift = (int(rng.integers(NOISE_SIDE)), int(rng.integers(NOISE_SIDE)))
    materials, normals = _rasterise(parts, view, pattern, shift)
    solid = materials < NUM_MATERIALS
    rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    # A transparent rim, and a size that halves evenly at every level.
    step = _SUPERSAMPLE * 16
    top, left = rows[0] - 8, columns[0] - 8
    height, width = -(-(rows[-1] + 9 - top) // step) * step, -(-(columns[-1] + 9 - left) // step) * step
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    patch = np.zeros((height, width, NUM_MATERIALS + 3), np.float32)
    inside = patch[8:8 + len(materials[box]), 8:8 + materials[box].shape[1]]
    inside[..., :NUM_MATERIALS] = np.eye(NUM_MATERIALS + 1, NUM_MATERIALS, dtype=np.float32)[materials[box]]
    inside[..., NUM_MATERIALS:] = normals[box]
    levels, size = [], (width // _SUPERSAMPLE, height // _SUPERSAMPLE)
    for _ in range(5):
        patch = cv2.resize(patch, size, interpolation=cv2.INTER_AREA)
        encoded = np.concatenate([patch[..., :NUM_MATERIALS] * 255, 128 + 127 * patch[..., NUM_MATERIALS:]], axis=-1)
        levels.append(np.clip(encoded + 0.5, 0, 255).astype(np.uint8))
        size = (size[0] // 2, size[1] // 2)
    seen = view @ head
    to_patch = np.array([left, top])
    foot = (np.array([_HALF_WIDTH_M, _ABOVE_M]) * scale - to_patch) / _SUPERSAMPLE
    middle = (np.array([seen[0] + _HALF_WIDTH_M, _ABOVE_M - seen[1]]) * scale - to_patch) / _SUPERSAMPLE
    return Figure(tuple(levels), (float(foot[0]), float(foot[1])), (float(middle[0]), float(middle[1])))
