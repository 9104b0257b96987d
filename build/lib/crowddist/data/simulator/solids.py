"""Bodies of ellipsoids, rasterised once as material weights and normals: what all human figures are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from crowddist.data.simulator.noise import NOISE_SIDE, noise_table

PIXELS_PER_M = 80  # ours: resolution of a figure's largest level
SKIN, HAIR, TOP, PATTERN, BOTTOM, SHOES, BAG, DARK = range(8)  # materials; each person has own colours for them
NUM_MATERIALS = 8

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
class Part:
    centre: np.ndarray
    axes: np.ndarray
    material: int
    clips: tuple[tuple[int, float, float], ...] = ()
    pattern: bool = False


def rotation(axis: str, angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    if axis == "x":
        return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    if axis == "y":
        return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def ball(centre, radii, material: int, *, turn: np.ndarray | None = None, clips=(), pattern: bool = False) -> Part:
    axes = np.diag(np.asarray(radii, float))
    return Part(np.asarray(centre, float), axes if turn is None else turn @ axes, material, tuple(clips), pattern)


def limb(start: np.ndarray, end: np.ndarray, radius: float, material: int, *, pattern: bool = False) -> Part:
    """A barrel from joint to joint: an ellipsoid longer than the bone, cut at both ends."""
    along = end - start
    length = np.linalg.norm(along) + 1e-6
    along = along / length
    side = np.cross(along, [0.0, 0.0, 1.0] if abs(along[2]) < 0.9 else [1.0, 0.0, 0.0])
    side /= np.linalg.norm(side)
    axes = np.stack([side * radius, along * length * 0.8, np.cross(side, along) * radius], axis=1)
    return Part((start + end) / 2, axes, material, ((1, -0.68, 0.68),), pattern)


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


def _rasterise(parts: Sequence[Part], view: np.ndarray, pattern: str, shift: tuple[int, int],
               scale: int) -> tuple[np.ndarray, np.ndarray]:
    """Material (h, w) of the nearest surface, NUM_MATERIALS where there is none, and normal (h, w, 3), at `scale` px a
    metre.
    """
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
            fold_rows, fold_columns = ((side + start) * (PIXELS_PER_M * _SUPERSAMPLE) // scale  # of one size on a body
                                       for side, start in ((i, box[0].start), (j, box[1].start)))
            folds = 0.8 * table[(fold_rows + shift[0]) % NOISE_SIDE, (fold_columns + shift[1]) % NOISE_SIDE]
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


def make_figure(parts: Sequence[Part], head: np.ndarray, pattern: str, view: np.ndarray, shift: tuple[int, int], *,
                pixels_per_m: int = PIXELS_PER_M, supersample: int = _SUPERSAMPLE) -> Figure:
    """The figure of a body seen from one direction.

    Args:
        parts: the body, in its own frame: x to its left, y up, z forward, metres; its ground point is the origin.
        head: centre of the head.
        pattern: of the top.
        view: the rotation from the body's frame to the viewer's, 3 x 3.
        shift: place of the cloth's folds in the noise table.
        pixels_per_m: resolution of the largest level.
        supersample: rays a pixel and side; 1 is four times as fast as 2, with hard edges in the largest level.
    """
    scale = pixels_per_m * supersample
    materials, normals = _rasterise(parts, view, pattern, shift, scale)
    solid = materials < NUM_MATERIALS
    rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    # A transparent rim, and a size that halves evenly at every level.
    step = supersample * 16
    top, left = rows[0] - 8, columns[0] - 8
    height, width = -(-(rows[-1] + 9 - top) // step) * step, -(-(columns[-1] + 9 - left) // step) * step
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    patch = np.zeros((height, width, NUM_MATERIALS + 3), np.float32)
    inside = patch[8:8 + len(materials[box]), 8:8 + materials[box].shape[1]]
    inside[..., :NUM_MATERIALS] = np.eye(NUM_MATERIALS + 1, NUM_MATERIALS, dtype=np.float32)[materials[box]]
    inside[..., NUM_MATERIALS:] = normals[box]
    levels, size = [], (width // supersample, height // supersample)
    for _ in range(5):
        patch = cv2.resize(patch, size, interpolation=cv2.INTER_AREA)
        encoded = np.concatenate([patch[..., :NUM_MATERIALS] * 255, 128 + 127 * patch[..., NUM_MATERIALS:]], axis=-1)
        levels.append(np.clip(encoded + 0.5, 0, 255).astype(np.uint8))
        size = (size[0] // 2, size[1] // 2)
    seen = view @ head
    to_patch = np.array([left, top])
    foot = (np.array([_HALF_WIDTH_M, _ABOVE_M]) * scale - to_patch) / supersample
    middle = (np.array([seen[0] + _HALF_WIDTH_M, _ABOVE_M - seen[1]]) * scale - to_patch) / supersample
    return Figure(tuple(levels), (float(foot[0]), float(foot[1])), (float(middle[0]), float(middle[1])))
