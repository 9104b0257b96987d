"""Composes one image: a background of the target, a camera, a crowd of the seed, and labels of what is visible."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import cv2
import numpy as np

from crowddist.data.composite.backgrounds import Background
from crowddist.data.composite.ground import SMALLEST_HEAD_PX, Ground, draw_camera, standing_room, walkable
from crowddist.data.composite.match import measure
from crowddist.data.composite.paint import CLOSE_PX_PER_M, paint_people
from crowddist.data.images import JPEG_QUALITY
from crowddist.data.scenes import LEVEL_MAXIMA
from crowddist.data.simulator.config import Look
from crowddist.data.simulator.crowd import Crowd, place_crowd
from crowddist.data.simulator.light import CLEAR, CLOUDS, EXTRA_SUNNY, OVERCAST, draw_light
from crowddist.data.simulator.paint import figure_scale, pose_crowd
from crowddist.data.simulator.puppets import CLOSE_PUPPETS, draw_puppets, puppet
from crowddist.data.simulator.render import shown_heads
from crowddist.data.simulator.scene import HEAD_M
from crowddist.data.simulator.solids import Figure

# All of these are ours.
COUNTS = (5, 3000)
"""Fewest and most people asked for, log-uniform: half of the images ask for more than 122. A place holds what it has
room for, so most images show fewer than they ask for."""
FILLED = 0.75  # of a place's capacity that is asked for at most
MOST_TRIED = 3  # times as many people as are wanted
CAMERAS = 6  # tried for a background before it is given up
RAINY_SHARE = 0.08  # of the images: every third person has an umbrella; elsewhere one in a hundred has


Find = Callable[[int, int, int], Figure]
"""(elevation, yaw, variant) -> figure."""


@dataclass(frozen=True, kw_only=True)
class Composite:
    """An image with its labels."""

    image: np.ndarray
    """(H, W, 3) uint8 RGB."""
    points: np.ndarray
    """N x 2 float32 x, y of the visible heads of painted people, all in the region."""
    sizes: np.ndarray
    """(N,) float32 head sizes, px."""
    mask: np.ndarray
    """(H, W) uint8, 1 where a painted person is visible."""
    region: np.ndarray
    """(H, W) bool, where every person is labelled: elsewhere the target's own people are unknown."""
    scene: dict[str, Any]
    """Of the sample's json: level, background, camera."""

    def encode(self, tables: dict[str, Any]) -> bytes:
        """The image as a JPEG made as the target's are, so that people get their artefacts and the rest stays."""
        import PIL.Image

        stream = io.BytesIO()
        options = tables or {"quality": JPEG_QUALITY, "subsampling": 0}
        PIL.Image.fromarray(self.image).save(stream, "JPEG", **options)
        return stream.getvalue()


def compose(background: Background, *, seed: int, index: int, heads: tuple[float, float] | None) -> Composite | None:
    """Composite `index` of a seed on a background; None where no camera of several leaves room for people.

    Args:
        heads: smallest and largest head size, px; None: drawn for each image.
    """
    rng = np.random.default_rng([seed, 104, index])
    image = background.image()
    size = image.shape[:2]
    region = _enlarged(background.empty, size)
    top_row = _top_row(background.crowded, size)
    smallest = heads[0] if heads else SMALLEST_HEAD_PX
    walked = walkable(image, background)
    for _ in range(CAMERAS):
        camera = draw_camera(rng, size, top_row, heads)
        ground = standing_room(background, walked, region, camera, smallest)
        room = int(FILLED * ground.cell_capacity.sum())
        if room >= COUNTS[0]:
            break
    else:
        return None
    wanted = int(min(np.exp(rng.uniform(*np.log(COUNTS))), rng.uniform(0.5, 1.0) * room))
    find = _finder(seed)
    crowd = _crowd(rng, ground, region, max(wanted, COUNTS[0]), find)
    poses = pose_crowd(camera, crowd, find)
    weather = int(rng.choice([CLEAR, CLOUDS, OVERCAST, EXTRA_SUNNY]))
    light = draw_light(rng, rng.uniform(8.0, 17.0), weather)
    squash = np.clip(camera.height_m / np.hypot(crowd.z, camera.height_m), 0.06, 1.0)
    painted, ids = paint_people(image, crowd, poses, light, measure(image), squash, seed=seed, rng=rng)
    shown = shown_heads(poses, ids, Look().shown)
    level = int(np.searchsorted(LEVEL_MAXIMA, len(shown)))
    facts = {"level": level, "background": background.key,
             "camera": {"height_m": round(camera.height_m, 3), "pitch": round(camera.pitch, 5),
                        "focal_px": round(camera.focal_px, 2)}}
    return Composite(image=painted, points=poses.head[shown].astype(np.float32),
                     sizes=(HEAD_M * poses.scale[shown]).astype(np.float32), mask=(ids > 0).astype(np.uint8),
                     region=region, scene=facts)


def _finder(seed: int) -> Find:
    return lambda elevation, yaw, variant: puppet(seed, elevation, variant)


def _crowd(rng: np.random.Generator, ground: Ground, region: np.ndarray, wanted: int, find: Find) -> Crowd:
    """About `wanted` people with their heads in the region. More are tried where many fall out of a ragged region."""
    crowd = _place(rng, ground, wanted)
    inside = _inside(pose_crowd(ground.camera, crowd, find).head, region)
    if inside.sum() < 0.8 * wanted:
        more = int(wanted * min(wanted / max(int(inside.sum()), 1), MOST_TRIED))
        crowd = _place(rng, replace(ground, cell_capacity=MOST_TRIED * ground.cell_capacity), more)
        inside = _inside(pose_crowd(ground.camera, crowd, find).head, region)
    return _chosen(crowd, np.flatnonzero(inside)[:wanted])


def _place(rng: np.random.Generator, ground: Ground, wanted: int) -> Crowd:
    """A crowd as the renderer places it, of these puppets; near people are of those that have a close view."""
    crowd = place_crowd(rng, ground, Look(), wanted)
    count = len(crowd.x)
    variant = draw_puppets(rng, count, 0.33 if rng.random() < RAINY_SHARE else 0.01)
    near = figure_scale(ground.camera, crowd) > CLOSE_PX_PER_M
    return replace(crowd, variant=np.where(near, variant % CLOSE_PUPPETS, variant))


def _chosen(crowd: Crowd, which: np.ndarray) -> Crowd:
    return Crowd(**{entry.name: getattr(crowd, entry.name)[which] for entry in fields(Crowd)})


def _inside(heads: np.ndarray, region: np.ndarray) -> np.ndarray:
    """(N,) bool: the head's centre is in the image and the region, or the head is outside the image."""
    columns, rows = np.floor(heads + 0.5).astype(int).T
    height, width = region.shape
    framed = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    return ~framed | region[np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)]


def _enlarged(cells: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(cells.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST) > 0


def _top_row(crowded: np.ndarray, size: tuple[int, int]) -> float | None:
    """The row above which hardly anybody was found, px; None where nobody was."""
    rows = crowded.sum(1)
    if rows.sum() < 4:
        return None
    return float(np.searchsorted(np.cumsum(rows), 0.03 * rows.sum())) * size[0] / len(rows)
