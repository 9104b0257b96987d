"""Things that are no persons: trees, lamps, cars, stalls, bins, boards, balls, benches, fences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from crowddist.data.simulator.camera import Camera
from crowddist.data.simulator.noise import linear, noise_at

_SUPERSAMPLE = 2
_PAINTS = ((0.85, 0.85, 0.84), (0.1, 0.1, 0.11), (0.5, 0.51, 0.53), (0.55, 0.08, 0.08), (0.1, 0.18, 0.4),
           (0.75, 0.6, 0.1), (0.7, 0.7, 0.65))


@dataclass(frozen=True, kw_only=True)
class Prop:
    """One thing as the camera sees it, ready to be lit and painted."""

    kind: str
    ground: tuple[float, float]  # (x, z) of its foot, metres
    radius_m: float  # nobody stands closer to its foot
    height_m: float  # of its top, for its shadow
    shadow_m: float  # radius of the part at the top that casts the shadow; 0 for a thin pole
    depth_m: float  # from the image plane
    corner: tuple[int, int]  # (left, top) of the patch in the image
    colour: np.ndarray  # (h, w, 3) float32 linear, premultiplied
    alpha: np.ndarray  # (h, w) float32
    glow: np.ndarray  # (h, w, 3) float32: its own light at night, premultiplied


@dataclass(frozen=True)
class _Mark:
    points: Any  # array or lists, N x 3 metres relative to the foot: a polygon; one point: a disc; two: a line
    colour: np.ndarray
    size_m: float = 0.0  # radius of a disc, width of a line
    glow: float = 0.0


_Made = tuple[list[_Mark], float, float, float]  # marks, and `radius_m`, `height_m` and `shadow_m` of the thing


def _box(x: float, y: float, z: float, size: tuple[float, float, float], colour: np.ndarray,
         yaw: float = 0.0) -> list[_Mark]:
    """The faces of a box at (x, z), from height y up, that a viewer in front and above can see."""
    wide, high, long = size
    c, s = np.cos(yaw), np.sin(yaw)

    def corner(i: float, j: float, k: float) -> tuple[float, float, float]:
        dx, dz = i * wide / 2, k * long / 2
        return x + dx * c - dz * s, y + j * high, z + dx * s + dz * c

    sides = []
    for (i0, k0), (i1, k1) in (((-1, 1), (-1, -1)), ((-1, -1), (1, -1)), ((1, -1), (1, 1)), ((1, 1), (-1, 1))):
        points = np.array([corner(i0, 0, k0), corner(i1, 0, k1), corner(i1, 1, k1), corner(i0, 1, k0)])
        sideways = abs((points[1] - points[0])[2]) / (np.linalg.norm((points[1] - points[0])[[0, 2]]) + 1e-6)
        sides.append(_Mark(points, colour * (0.78 - 0.3 * sideways)))
    sides.sort(key=lambda mark: -mark.points[:, 2].mean())
    top = [corner(-1, 1, -1), corner(1, 1, -1), corner(1, 1, 1), corner(-1, 1, 1)]
    return [*sides, _Mark(top, colour * 1.05)]


def _tree(rng: np.random.Generator) -> _Made:
    height, crown = rng.uniform(5.0, 9.5), rng.uniform(1.6, 3.0)
    leaf = linear(np.clip(np.array([0.26, 0.38, 0.16]) * rng.uniform(0.75, 1.2) + rng.normal(0, 0.025, 3), 0.05, 0.7))
    bark = linear((0.3, 0.24, 0.19))
    marks = [_Mark([[0, 0, 0], [0, height - crown, 0]], bark, 0.26),
             _Mark([[0.07, 0, 0], [0.07, height - crown, 0]], bark * 0.5, 0.1)]
    lumps = rng.normal(0, 0.45, (9, 3)) * crown + [0, height - crown * 0.8, 0]
    blobs = lumps[rng.integers(9, size=1800)] + rng.normal(0, 0.27, (1800, 3)) * crown
    for blob in blobs[np.argsort(-blobs[:, 2] + 0.3 * blobs[:, 1])]:
        shade = np.clip(0.75 + 0.35 * (blob[1] - height + crown * 0.8) / crown + 0.2 * blob[0] / crown, 0.2, 1.4)
        shade = shade * rng.uniform(0.55, 1.35)
        marks.append(_Mark([blob], leaf * shade, rng.uniform(0.035, 0.11)))
    return marks, 0.5, height, crown


def _speckle(canvas: np.ndarray, alpha: np.ndarray, scale: float) -> None:
    """Break painted clumps into leaves of a few centimetres, in place."""
    rows, columns = np.mgrid[:alpha.shape[0], :alpha.shape[1]].astype(np.float32)
    leaf = 100 / (scale * _SUPERSAMPLE)
    texture = noise_at(columns * leaf * 0.35, rows * leaf * 0.35)
    canvas *= np.clip(1 + 0.4 * texture, 0.25, 2.2)[..., None]
    holes = noise_at(rows * leaf * 0.3 + 77, columns * leaf * 0.3) > 1.25
    canvas[holes], alpha[holes] = 0, 0


def _lamp(rng: np.random.Generator) -> _Made:
    height = rng.uniform(3.8, 6.5)
    metal = linear(rng.choice([0.2, 0.4]) * np.ones(3))
    marks = [_Mark([[0, 0, 0], [0, height, 0]], metal, 0.13)]
    for side in ([-0.45, 0.45] if rng.random() < 0.5 else [0.0]):
        marks.append(_Mark([[0, height - 0.25, 0], [side, height, 0]], metal, 0.07))
        marks.append(_Mark([[side, height + 0.1, 0]], linear((0.85, 0.85, 0.8)), 0.2, glow=6.0))
    return marks, 0.35, height, 0.0


def _car(rng: np.random.Generator) -> _Made:
    paint = linear(np.array(_PAINTS[rng.integers(len(_PAINTS))]))
    yaw, van = rng.normal(0, 0.15), rng.random() < 0.3
    c, s = np.cos(yaw), np.sin(yaw)
    tyre, rim, glass, under = (linear(grey) for grey in ((0.07,) * 3, (0.5,) * 3, (0.16, 0.18, 0.2), (0.06,) * 3))
    high, glass_y, roof_y, glass_long, roof_long = (0.75, 1.05, 1.8, 3.8, 3.8) if van else (0.5, 0.82, 1.3, 2.4, 2.1)
    marks = _box(0, 0.1, 0, (4.3, 0.25, 1.75), under, yaw) + _box(0, 0.32, 0, (4.4, high, 1.8), paint, yaw)
    for along in (-1.35, 1.35):  # the two wheels on the viewer's side
        marks.append(_Mark([[along * c + 0.9 * s, 0.31, along * s - 0.9 * c]], tyre, 0.3))
        marks.append(_Mark([[along * c + 0.91 * s, 0.31, along * s - 0.91 * c]], rim, 0.16))
    marks += _box(-0.1 * c, glass_y, -0.1 * s, (glass_long, high, 1.6), glass, yaw)
    marks += _box(-0.1 * c, roof_y, -0.1 * s, (roof_long, 0.06, 1.5), paint, yaw)
    return marks, 2.4, 1.4, 1.5


def _stall(rng: np.random.Generator) -> _Made:
    """A market tent or a sunshade: a pyramid of cloth on poles."""
    tent = rng.random() < 0.6
    half, eaves, top = (rng.uniform(1.2, 1.8), 2.2, 3.2) if tent else (rng.uniform(1.1, 1.6), 2.15, 2.7)
    cloth = linear(rng.uniform(0.15, 0.9, 3)), linear(rng.choice([0.9, 0.3]) * np.ones(3))
    steps = 4 if tent else 8
    rim = [np.array([half * 1.3 * np.cos(a), eaves, half * 1.3 * np.sin(a)])
           for a in np.pi / 4 + np.arange(steps) * 2 * np.pi / steps]
    marks = _box(0, 0, 0.3, (half * 1.6, 0.9, 0.7), linear(rng.uniform(0.25, 0.8, 3))) if tent else []
    for corner in rim if tent else [np.array([0.0, eaves, 0.0])]:
        marks.append(_Mark([corner * [1, 0, 1], corner], linear((0.75, 0.75, 0.75)), 0.05))
    for index in sorted(range(steps), key=lambda i: -(rim[i][2] + rim[(i + 1) % steps][2])):
        a, b = rim[index], rim[(index + 1) % steps]
        shade = 0.75 + 0.25 * np.cos(np.arctan2((a + b)[2], (a + b)[0]) - 2.2)
        colour = cloth[index % 2 if not tent or rng.random() < 0.3 else 0] * shade
        marks.append(_Mark([a, b, [0, top, 0]], colour))
        if tent:
            marks.append(_Mark([a, b, b - [0, 0.25, 0], a - [0, 0.25, 0]], cloth[0] * shade * 0.8))
    return marks, half + 0.5, top, half


def _small(rng: np.random.Generator, kind: str) -> _Made:
    if kind == "bin":
        colour = linear(rng.uniform(0.15, 0.5) + rng.normal(0, 0.02, 3))
        marks = _box(0, 0, 0, (0.5, 0.95, 0.45), np.clip(colour, 0.01, 1))
        return marks + _box(0, 0.95, 0, (0.55, 0.08, 0.5), colour * 0.5), 0.6, 1.0, 0.3
    if kind == "ball":
        stone = linear(rng.uniform(0.45, 0.65) * np.ones(3))
        rings = [_Mark([[-0.1 * k / 8, 0.35 + 0.1 * k / 8, 0]], stone * (0.45 + 0.08 * k), 0.36 * (1 - k / 9))
                 for k in range(8)]
        return rings, 0.6, 0.7, 0.35
    if kind == "planter":
        marks = _box(0, 0, 0, (1.8, 0.5, 0.8), linear((0.55, 0.5, 0.45)))
        for blob in rng.uniform((-0.85, 0.5, -0.35), (0.85, 0.95, 0.35), (160, 3)):
            marks.append(_Mark([blob], linear((0.25, 0.4, 0.15)) * rng.uniform(0.4, 1.7), rng.uniform(0.05, 0.1)))
        return marks, 1.1, 0.9, 0.6
    if kind == "board":
        side = rng.uniform(0.9, 1.4)
        corners = [[-side / 2, 0.3, 0], [side / 2, 0.3, 0], [side / 2, 2.2, 0], [-side / 2, 2.2, 0]]
        picture = [_Mark(corners, linear((0.2, 0.2, 0.22)))]
        for _ in range(6):
            x0, y0 = rng.uniform(-side * 0.45, side * 0.2), rng.uniform(0.4, 1.7)
            x1, y1 = x0 + side * 0.25, y0 + 0.4
            corners = [[x0, y0, -0.01], [x1, y0, -0.01], [x1, y1, -0.01], [x0, y1, -0.01]]
            picture.append(_Mark(corners, linear(rng.uniform(0.1, 0.95, 3)), glow=0.6))
        return picture, 0.9, 2.2, 0.5
    if kind == "bench":
        wood = linear((0.42, 0.28, 0.2))
        feet = [mark for side in (-0.7, 0.7) for mark in _box(side, 0, 0, (0.12, 0.38, 0.4), wood * 0.5)]
        return feet + _box(0, 0.38, 0, (1.9, 0.08, 0.5), wood), 1.1, 0.45, 0.5
    if kind == "pillar":
        wide, colour = rng.uniform(0.4, 0.8), linear(np.array([0.5, 0.4, 0.28]) * rng.uniform(0.6, 1.3))
        shaft = _box(0, 0, 0, (wide, rng.uniform(4, 8), wide), colour)
        return shaft + _box(0, 0, 0, (wide * 1.4, 0.4, wide * 1.4), colour * 0.8), 0.9, 5.0, 0.0
    bars = [_Mark([[x, 0, 0], [x, 1.05, 0]], linear((0.6, 0.6, 0.62)), 0.025) for x in np.arange(-1.1, 1.11, 0.14)]
    rails = [_Mark([[-1.1, y, 0], [1.1, y, 0]], linear((0.65, 0.65, 0.67)), 0.045) for y in (0.25, 1.05)]
    return bars + rails, 1.2, 1.0, 0.0


def make_prop(rng: np.random.Generator, camera: Camera, kind: str, x: float, z: float) -> Prop | None:
    """One thing at (x, z) as `camera` sees it; None outside the frame."""
    makers = {"tree": _tree, "lamp": _lamp, "car": _car, "stall": _stall}
    marks, radius, height, shadow = makers[kind](rng) if kind in makers else _small(rng, kind)
    projected, scales = [], []  # pixels, and pixels per metre
    for mark in marks:
        world = np.array(mark.points) + np.array([x, 0.0, z])
        depth = camera.depth(world[:, 1], world[:, 2])
        if depth.min() < 1.0:
            return None
        projected.append(np.stack(camera.project(world[:, 0], world[:, 1], world[:, 2]), axis=1))
        scales.append(camera.focal_px / depth.mean())
    low = np.min([p.min(0) - s * m.size_m for p, s, m in zip(projected, scales, marks, strict=True)], axis=0)
    high = np.max([p.max(0) + s * m.size_m for p, s, m in zip(projected, scales, marks, strict=True)], axis=0)
    left, top = np.maximum(np.floor(low) - 2, -64).astype(int)
    right, bottom = np.minimum(np.ceil(high) + 3, [camera.size[1] + 64, camera.size[0] + 64]).astype(int)
    if right <= max(left, 0) or bottom <= max(top, 0) or left >= camera.size[1] or top >= camera.size[0]:
        return None
    canvas = np.zeros(((bottom - top) * _SUPERSAMPLE, (right - left) * _SUPERSAMPLE, 3), np.float32)
    glow, alpha = np.zeros_like(canvas), np.zeros(canvas.shape[:2], np.float32)
    for mark, points, scale in zip(marks, projected, scales, strict=True):
        at = np.round(((points - [left, top] + 0.5) * _SUPERSAMPLE - 0.5) * 16).astype(np.int32)
        for layer, value in ((canvas, mark.colour.tolist()), (glow, (mark.glow * mark.colour).tolist()), (alpha, 1.0)):
            if len(at) == 1:
                radius_px = max(int(mark.size_m * scale * _SUPERSAMPLE * 16), 8)
                cv2.circle(layer, tuple(at[0].tolist()), radius_px, value, -1, cv2.LINE_8, 4)
            elif len(at) == 2:
                width = max(round(mark.size_m * scale * _SUPERSAMPLE), 1)
                cv2.line(layer, tuple(at[0].tolist()), tuple(at[1].tolist()), value, width, cv2.LINE_8, 4)
            else:
                cv2.fillPoly(layer, [at], value, cv2.LINE_8, 4)
    shrink = (right - left, bottom - top)
    if kind == "tree":
        _speckle(canvas, alpha, scales[0])
    colour, glow, alpha = (cv2.resize(layer, shrink, interpolation=cv2.INTER_AREA) for layer in (canvas, glow, alpha))
    return Prop(kind=kind, ground=(x, z), radius_m=radius, height_m=height, shadow_m=shadow, colour=colour, alpha=alpha,
                glow=glow, depth_m=float(camera.depth(0.5, z)), corner=(int(left), int(top)))
