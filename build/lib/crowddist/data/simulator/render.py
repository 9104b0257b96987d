"""Renders one image: draws place, hour, weather and crowd, paints them, and labels the visible heads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np

from crowddist.data.scenes import LEVEL_MAXIMA
from crowddist.data.simulator.config import Look, RendererConfig
from crowddist.data.simulator.crowd import Crowd, place_crowd
from crowddist.data.simulator.figures import Figure, figure
from crowddist.data.simulator.light import draw_light
from crowddist.data.simulator.paint import Poses, light_place, paint_people_and_props, paint_shadows, pose_crowd
from crowddist.data.simulator.puppets import draw_puppets, puppet
from crowddist.data.simulator.scene import Scene, build_scene
from crowddist.data.simulator.sensor import develop

# Points spread over a head: its centre and two rings, (17, 2) in head radii.
_DISC = np.array([[r * np.cos(a), r * np.sin(a)] for r, n in ((0.0, 1), (0.45, 6), (0.85, 10))
                  for a in np.arange(n) * 2 * np.pi / n])


@dataclass(frozen=True, kw_only=True)
class RenderedImage:
    """An image with its labels and facts."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    points: np.ndarray  # N x 2 float32 centres of heads (x, y), inside the frame
    mask: np.ndarray  # (H, W) uint8, 1 where a person is visible
    scene: dict[str, Any]  # level, hour, minute, weather, location, camera and the camera's geometry
    folder: str  # of the scene, scene_XX_Y
    name: str  # within the folder
    jpeg_quality: int  # to store the image at


Find = Callable[[int, int, int], Figure]
"""(elevation, yaw, variant) -> figure."""


def _puppet(seed: int, elevation: int, _yaw: int, number: int) -> Figure:
    """Puppets face anywhere, each its own way."""
    return puppet(seed, elevation, number)


def _weighted(rng: np.random.Generator, weights: tuple[float, ...]) -> int:
    return int(rng.choice(len(weights), p=np.asarray(weights) / np.sum(weights)))


def _draw_place(config: RendererConfig, look: Look, index: int) -> tuple[int, int]:
    """Location and camera of an image: the look's places in turn, in a random order from the seed."""
    first, last = look.locations
    order = np.random.default_rng([config.seed, 102]).permutation((last - first) * 4)
    number = int(order[index // config.images_per_scene % len(order)])
    return first + number // 4, number % 4


def _draw_count(rng: np.random.Generator, scene: Scene, look: Look) -> tuple[int, int]:
    """A level that the place can hold, and a number of persons above the maximum of the level before."""
    room = int(0.55 * scene.cell_capacity.sum())
    level = _weighted(rng, look.level_weights)
    while level > 0 and LEVEL_MAXIMA[level - 1] >= room:
        level -= 1
    lowest = LEVEL_MAXIMA[level - 1] + 1 if level else 1
    highest = max(min(LEVEL_MAXIMA[level], room), lowest)
    return level, int(np.exp(rng.uniform(np.log(lowest), np.log(highest + 0.99))))


def _inside(poses: Poses, size: tuple[int, int]) -> np.ndarray:
    """(N,) bool: the centre of the head is in the frame."""
    x, y = poses.head[:, 0], poses.head[:, 1]
    return (x >= 0) & (x <= size[1] - 1) & (y >= 0) & (y <= size[0] - 1)


def _within_level(scene: Scene, crowd: Crowd, maximum: int,
                  find: Find = figure) -> tuple[Crowd, Poses]:
    """The crowd and its poses, cut before more than `maximum` heads are in the frame.

    More may be: people are placed by the height of an average head, and those who sit or are small end up lower.
    """
    poses = pose_crowd(scene.camera, crowd, find)
    over = np.flatnonzero(np.cumsum(_inside(poses, scene.camera.size)) > maximum)
    if not len(over):
        return crowd, poses
    crowd = Crowd(**{field.name: getattr(crowd, field.name)[:over[0]] for field in fields(Crowd)})
    return crowd, pose_crowd(scene.camera, crowd, find)


def shown_heads(poses: Poses, ids: np.ndarray, share: float) -> np.ndarray:
    """Indexes of the persons with the head's centre in the frame and at least a share of the head visible."""
    height, width = ids.shape
    inside = _inside(poses, (height, width))
    spots = np.round(poses.head[:, None] + _DISC * np.maximum(poses.head_radius, 0.8)[:, None, None]).astype(int)
    within = (spots[..., 0] >= 0) & (spots[..., 0] < width) & (spots[..., 1] >= 0) & (spots[..., 1] < height)
    owners = ids[np.clip(spots[..., 1], 0, height - 1), np.clip(spots[..., 0], 0, width - 1)]
    seen = owners == np.arange(1, len(inside) + 1)[:, None]
    return np.flatnonzero(inside & ((seen & within).sum(1) >= share * np.maximum(within.sum(1), 1)))


def render_image(config: RendererConfig, index: int) -> RenderedImage:
    """Render image `index` (0 and up); its bytes depend on the config and the index alone.

    A head is labelled where its centre is in the frame and at least the look's share of it is visible; len(points)
    never exceeds the maximum of the level. Raises IndexError on a negative index.
    """
    if index < 0:
        raise IndexError(f"index must be at least 0, got {index}")
    look = config.drawn_look
    location, camera_number = _draw_place(config, look, index)
    scene = build_scene(config.seed, location, camera_number, look, tuple(config.size))
    rng = np.random.default_rng([config.seed, 103, index])
    hour, minute = _weighted(rng, look.hour_weights), int(rng.integers(60))
    weather = _weighted(rng, look.weather_weights)
    light = draw_light(rng, hour + minute / 60, weather)
    level, wanted = _draw_count(rng, scene, look)
    crowd = place_crowd(rng, scene, look, wanted)
    find: Find = figure
    if look.people == "many":
        crowd = replace(crowd, variant=draw_puppets(rng, len(crowd.x), 0.35 if light.rain > 0 else 0.01))
        find = partial(_puppet, config.seed)
    crowd, poses = _within_level(scene, crowd, LEVEL_MAXIMA[level], find)
    cast, contact = paint_shadows(scene, light, crowd, poses)
    image = light_place(rng, scene, light, cast, contact)
    ids = paint_people_and_props(image, scene, light, crowd, poses, cast)
    camera = scene.camera
    facts = {"level": level, "hour": hour, "minute": minute, "weather": weather, "location": location,
             "camera": camera_number, "camera_height_m": round(camera.height_m, 3),
             "camera_pitch": round(camera.pitch, 5), "focal_px": round(camera.focal_px, 2)}
    return RenderedImage(image=develop(rng, image, look, light), mask=(ids > 0).astype(np.uint8), scene=facts,
                         points=poses.head[shown_heads(poses, ids, look.shown)].astype(np.float32),
                         folder=f"scene_{location:02d}_{camera_number}", name=str(1_600_000_000 + index),
                         jpeg_quality=int(rng.integers(look.jpeg_quality[0], look.jpeg_quality[1] + 1)))
