"""The ground of a photograph: a camera with a plausible perspective, and where people can stand in its view."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from crowddist.data.composite.backgrounds import Background
from crowddist.data.simulator.camera import Camera
from crowddist.data.simulator.scene import HEAD_M

# All of these are ours.
HEAD_HEIGHT_M = 1.58  # of the head's centre over the ground
HORIZON = (-0.5, 0.3)  # row over image height; above the image in steep views
FOCAL = (0.75, 1.35)  # focal length over image width
NEAREST_HEAD = (0.03, 0.13)  # head size at the image's bottom over the image's height, log-uniform
SMALLEST_HEAD_PX = 4.0  # nobody stands farther away
BODY_HEADS = 7.0  # height of a body in head sizes
FEET_CELLS = (3, 12)  # below a head's cell, where the ground may be
ALIKE_SHARE = 0.1  # of the examples that a place must be like
MAX_ROLL = 0.03  # radians


@dataclass(frozen=True, kw_only=True)
class Ground:
    """Where people can stand; the fields that `place_crowd` needs, as in `Scene`."""

    camera: Camera
    cells: np.ndarray
    cell_capacity: np.ndarray


def draw_camera(rng: np.random.Generator, size: tuple[int, int], top_row: float | None,
                heads: tuple[float, float] | None) -> Camera:
    """A camera whose heads grow linearly with the row, from nothing at the horizon.

    The size at row y is HEAD_M cos(pitch) (y - horizon) / (height - HEAD_HEIGHT_M).

    Args:
        size: (height, width) of the image, px.
        top_row: the highest row where people were found, px; the horizon is above it. None: unknown.
        heads: smallest and largest head size, px; None: drawn.
    """
    height, width = size
    focal_px = width * rng.uniform(*FOCAL)
    highest = HORIZON[1] if top_row is None else min(HORIZON[1], top_row / height - 0.02)
    horizon = rng.uniform(HORIZON[0], max(highest, HORIZON[0] + 0.1))
    drawn = max(height * float(np.exp(rng.uniform(*np.log(NEAREST_HEAD)))), 2 * SMALLEST_HEAD_PX)
    nearest = heads[1] if heads else drawn
    pitch = float(np.arctan((0.5 - horizon) * height / focal_px))
    above_heads = HEAD_M * np.cos(pitch) * height * (1 - horizon) / nearest
    return Camera(size=size, height_m=float(HEAD_HEIGHT_M + above_heads), pitch=pitch, focal_px=float(focal_px),
                  roll=float(np.clip(rng.normal(0, 0.01), -MAX_ROLL, MAX_ROLL)))


def walkable(image: np.ndarray, background: Background) -> np.ndarray:
    """(h, w) bool: where people were seen to walk in frames of one camera; else the empty cells that are, in colour and
    roughness, like empty cells below found people, or, without any, like those of the image's lower half. Nowhere in an
    image whose lower half is full of people: what is empty above a crowd is trees, walls and sky.
    """
    if not background.walked.all():
        return background.walked
    rows, columns = background.empty.shape
    below = np.zeros((rows, columns), bool)
    for shift in range(FEET_CELLS[0], min(FEET_CELLS[1], rows - 1) + 1):
        below[shift:] |= background.crowded[:-shift]
    known = background.empty & below
    if known.sum() < 20:
        known = background.empty & (np.arange(rows)[:, None] >= rows / 2)
    if known.sum() < 20:
        return np.zeros_like(background.empty)
    from scipy.spatial.distance import cdist

    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32)
    level = np.ascontiguousarray(lab[..., 0])
    rough = cv2.absdiff(level, cv2.GaussianBlur(level, (0, 0), 2))
    means = np.dstack([cv2.resize(part, (columns, rows), interpolation=cv2.INTER_AREA) for part in (lab, rough)])
    linear, logarithmic = np.array([[1 / 16, 1 / 6, 1 / 6, 0], [0, 0, 0, 1.6]], np.float32)
    places = means * linear + np.log1p(means) * logarithmic
    examples = places[known][:: max(int(known.sum()) // 200, 1)]
    apart = cdist(places.reshape(-1, 4), examples, "sqeuclidean")
    alike = ((apart < 1).mean(1) >= ALIKE_SHARE).reshape(rows, columns) & background.empty
    return cv2.medianBlur(alike.astype(np.uint8), 3) > 0


def standing_room(background: Background, walked: np.ndarray, region: np.ndarray, camera: Camera,
                  smallest_px: float) -> Ground:
    """The square metres where a person's head falls into the region and the feet on free ground.

    Args:
        walked: (h, w) bool, see `walkable`.
        region: (H, W) bool, where nobody is.
        smallest_px: heads are at least as large.
    """
    height, width = camera.size
    reach = min(camera.focal_px * HEAD_M / smallest_px, 160.0)
    x, z = (part.ravel() for part in np.meshgrid(np.arange(-60, 60, 1.0) + 0.5,
                                                 np.arange(-4, np.ceil(reach), 1.0) + 0.5))
    keep = (camera.depth(HEAD_HEIGHT_M, z) > 1.0) & (camera.depth(HEAD_HEIGHT_M, z) < reach)
    x, z = x[keep], z[keep]
    free = free_ground(background, walked, camera)
    head = _rounded(*camera.project(x, HEAD_HEIGHT_M, z))
    inside = (head[0] >= 0) & (head[0] < width) & (head[1] >= 0) & (head[1] < height)
    inside[inside] = region[head[1][inside], head[0][inside]]
    x, z = x[inside], z[inside]
    foot = _rounded(*camera.project(x, 0.0, z))
    # Feet below the image or beside it stand on ground that nobody sees.
    seen = (foot[0] >= 0) & (foot[0] < width) & (foot[1] < height)
    stands = np.ones(len(x), bool)
    stands[seen] = free[foot[1][seen], foot[0][seen]]
    x, z = x[stands], z[stands]
    sine = (camera.height_m - HEAD_HEIGHT_M) / np.hypot(camera.height_m - HEAD_HEIGHT_M, np.hypot(x, z))
    return Ground(camera=camera, cells=np.stack([x, z], axis=1), cell_capacity=np.minimum(4.0, 16 * sine))


def free_ground(background: Background, walked: np.ndarray, camera: Camera) -> np.ndarray:
    """(H, W) bool: people can walk there, and no found person's body is there."""
    height, width = camera.size
    taken = np.zeros((height, width), np.uint8)
    rows, columns = background.crowded.shape
    horizon = height * 0.5 - np.tan(camera.pitch) * camera.focal_px
    growth = HEAD_M * np.cos(camera.pitch) / (camera.height_m - HEAD_HEIGHT_M)
    for i, j in np.argwhere(background.crowded):
        y, x = (i + 0.5) * height / rows, (j + 0.5) * width / columns
        size = max(growth * (y - horizon), 3.0)
        cv2.rectangle(taken, (int(x - 1.3 * size), int(y - size)), (int(x + 1.3 * size), int(y + BODY_HEADS * size)), 1,
                      -1)
    return (taken == 0) & (cv2.resize(walked.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0)


def _rounded(columns: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    whole = np.clip(np.floor(np.stack([columns, rows]) + 0.5), -1e6, 1e6).astype(int)
    return whole[0], whole[1]
