"""Painting: the lit place, shadows on its ground, then things and people from far to near."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from crowddist.data.simulator.camera import Camera
from crowddist.data.simulator.crowd import Crowd
from crowddist.data.simulator.figures import ELEVATIONS, HEAD_RADIUS_M, NUM_MATERIALS, PIXELS_PER_M, Figure, figure
from crowddist.data.simulator.light import Light
from crowddist.data.simulator.noise import linear, noise_at
from crowddist.data.simulator.scene import FIRST_WALL, GROUND, SKY, Scene

LAMP_COLOUR = (linear((1.0, 0.82, 0.58)) * 0.5).astype(np.float32)  # ours: light of a street lamp close by


@dataclass(frozen=True, kw_only=True)
class Poses:
    """The N figures of a crowd and their places in the image."""

    figures: list[Figure]
    foot: np.ndarray  # (N, 2) pixel column and row
    head: np.ndarray  # (N, 2) pixel column and row of the centre of the head
    head_radius: np.ndarray  # (N,) pixels
    scale: np.ndarray  # (N,) pixels per metre
    basis: np.ndarray  # (N, 2, 2): image vector per pixel of the figure's own patch, columns for its columns and rows
    depth: np.ndarray  # (N,) metres from the image plane


def figure_scale(camera: Camera, crowd: Crowd) -> np.ndarray:
    """(N,) pixels a metre of each person's figure."""
    return camera.focal_px / np.maximum(camera.depth(1.0 * crowd.stature, crowd.z), 0.4) * crowd.stature


def pose_crowd(camera: Camera, crowd: Crowd, find: Callable[[int, int, int], Figure] = figure) -> Poses:
    """Each figure's place, size and tilt in the image; `find` makes a figure of elevation, yaw and variant."""
    foot = np.stack(camera.project(crowd.x, 0.0, crowd.z), axis=1)
    above = np.stack(camera.project(crowd.x, 1.0, crowd.z), axis=1)
    depth = camera.depth(1.0 * crowd.stature, crowd.z)
    scale = figure_scale(camera, crowd)
    up = above - foot
    tilt = np.arctan2(up[:, 0], -up[:, 1])
    step = scale / PIXELS_PER_M
    sign = np.where(crowd.mirrored, -1.0, 1.0)
    basis = np.stack([np.stack([np.cos(tilt) * sign, -np.sin(tilt)], 1),
                      np.stack([np.sin(tilt) * sign, np.cos(tilt)], 1)], axis=1) * step[:, None, None]
    figures = list(map(find, crowd.elevation.tolist(), crowd.yaw.tolist(), crowd.variant.tolist()))
    offset = np.array([np.subtract(f.head, f.foot) for f in figures]).reshape(-1, 2)
    return Poses(figures=figures, foot=foot, head=foot + np.einsum("nij,nj->ni", basis, offset),
                 head_radius=HEAD_RADIUS_M * PIXELS_PER_M * step, scale=scale, basis=basis, depth=depth)


def _paint_sky(rng: np.random.Generator, image: np.ndarray, scene: Scene, light: Light) -> None:
    """Fill the sky's pixels with its gradient and clouds, in place."""
    shift = rng.uniform(0, 500, 2)
    open_air = scene.surface == SKY
    rows = np.flatnonzero(open_air.any(1))
    if not len(rows):
        return
    band = slice(rows[0], rows[-1] + 1)
    ray_x, ray_y, ray_z = (ray[band] for ray in scene.rays)
    height = np.clip(scene.elevation[band], 0, 1)[..., None]
    sky = light.horizon + (light.zenith - light.horizon) * np.sqrt(height)
    over = 60 / np.maximum(ray_y, 0.03)
    cloud = noise_at(ray_x * over + shift[0], ray_z * over + shift[1])
    cover = np.clip(cloud * 0.7 - 0.9 + 1.8 * light.clouds, 0, 1)[..., None] * np.clip(height * 8, 0, 1)
    cover = cover * (0.75 if light.clouds < 0.9 else 0.4)
    detail = np.clip(noise_at(ray_x * over * 2, ray_z * over * 2), -1, 1)[..., None]
    bright = (light.horizon * 0.6 + 0.6 * light.sky_colour + 0.3 * light.sun_colour) * (1 + 0.15 * detail)
    image[band][open_air[band]] = (sky * (1 - cover) + bright * cover)[open_air[band]]


def _house_shadow(scene: Scene, light: Light) -> np.ndarray:
    """(H, W) float32: 1 where a wall keeps the sun off the ground."""
    x, z = scene.ground_xz
    shadow = np.zeros(x.shape, np.float32)
    for wall in scene.walls:
        facing = wall.normal[0] * light.sun[0] + wall.normal[1] * light.sun[2]
        if facing >= -1e-3:
            continue
        gap = (x - wall.point[0]) * wall.normal[0] + (z - wall.point[1]) * wall.normal[1]
        distance = gap / -facing
        hit_x, hit_z = x + distance * light.sun[0], z + distance * light.sun[2]
        along = (hit_x - wall.point[0]) * wall.along[0] + (hit_z - wall.point[1]) * wall.along[1]
        roof = wall.height_m * (0.75 + 0.25 * np.sign(noise_at(np.floor(along / 12) * 7, along * 0 + 3)))
        below = np.clip((roof - light.sun[1] * distance) * 2 + 0.5, 0, 1)
        shadow = np.maximum(shadow, below * (along > 0) * (along < wall.length_m) * (gap > 0))
    return shadow


def _tip(light: Light, x, z, height_m) -> tuple[np.ndarray, np.ndarray]:
    """Ground x, z in metres under the shadow of a point at `height_m` over (x, z)."""
    reach = np.minimum(height_m / light.sun[1], 12.0)
    return x - light.sun[0] * reach, z - light.sun[2] * reach


def paint_shadows(scene: Scene, light: Light, crowd: Crowd, poses: Poses) -> tuple[np.ndarray, np.ndarray]:
    """The parts of the sun's and the sky's light kept off the ground, (H, W) float32 in [0, 1] each."""
    height, width = scene.camera.size
    half = (-(-height // 2), -(-width // 2))
    cast, contact = np.zeros(half, np.float32), np.zeros(half, np.float32)
    camera = scene.camera
    sunny = light.sun_colour.max() > 0.04
    tip_x, tip_z = _tip(light, crowd.x, crowd.z, 1.0)
    tips = np.stack(camera.project(tip_x, 0.0, tip_z), axis=1)
    flat = np.hypot(light.sun[0], light.sun[2])
    side = np.stack(camera.project(crowd.x + light.sun[2] / flat, 0.0, crowd.z - light.sun[0] / flat), axis=1)
    squash = np.clip((camera.height_m / np.maximum(np.hypot(crowd.z, camera.height_m), 1)), 0.06, 1)
    for index, item in enumerate(poses.figures):
        scale = poses.scale[index]
        x, y = poses.foot[index] / 2
        if not (-200 < x < half[1] + 200 and -200 < y < half[0] + 200):
            continue
        spot = (round(max(0.24 * scale / 2, 0.8) * 8), round(max(0.24 * scale / 2 * squash[index], 0.5) * 8))
        cv2.ellipse(contact, (round(x * 8), round(y * 8)), spot, 0, 0, 360, 1.0, -1, cv2.LINE_8, 3)
        if not sunny:
            continue
        level = min(max(int(np.log2(2 * PIXELS_PER_M / max(scale, 1))), 1), 4)
        patch = item.levels[level]
        alpha = np.minimum(patch[..., :NUM_MATERIALS].sum(-1, dtype=np.uint16), 255).astype(np.uint8)
        metre = PIXELS_PER_M / 2**level
        up = (tips[index] - poses.foot[index]) / 2 / metre / np.cos(ELEVATIONS[crowd.elevation[index]])
        up = up * crowd.stature[index]
        across = (side[index] - poses.foot[index]) / 2 / metre
        matrix = np.array([[across[0], -up[0]], [across[1], -up[1]]])
        placed = warp(alpha, matrix, poses.foot[index] / 2, np.array(item.foot) / 2**level, half)
        if placed:
            warped, (left, top) = placed
            view = cast[top:top + len(warped), left:left + warped.shape[1]]
            np.maximum(view, warped.astype(np.float32) / 255, out=view)
    for prop in scene.props:
        reach = max(prop.shadow_m, 0.12)
        x, z = _tip(light, *prop.ground, max(prop.height_m - prop.shadow_m, 0.2))
        for (px, pz), radius, layer in ((prop.ground, max(prop.radius_m * 0.55, 0.2), contact), ((x, z), reach, cast)):
            depth = float(camera.depth(0.0, pz))
            if depth > 1 and (layer is contact or sunny):
                column, row = camera.project(px, 0.0, pz)
                wide = radius * camera.focal_px / depth / 2
                flatness = np.clip(camera.height_m / np.hypot(pz, camera.height_m), 0.05, 1)
                if abs(column) < 1e4 and abs(row) < 1e4:
                    axes = (max(int(wide), 1), max(int(wide * flatness), 1))
                    cv2.ellipse(layer, (int(column / 2), int(row / 2)), axes, 0, 0, 360, 0.9, -1)
    blurred = cv2.GaussianBlur(cast, (0, 0), 0.8), cv2.GaussianBlur(contact, (0, 0), max(width / 500, 0.7))
    sun_kept, sky_kept = (np.asarray(cv2.resize(layer, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
                          for layer in blurred)
    sun_kept *= 0.92
    if sunny:
        sun_kept = np.maximum(sun_kept, _house_shadow(scene, light)).astype(np.float32)
    return sun_kept, sky_kept


def warp(patch: np.ndarray, matrix: np.ndarray, at: np.ndarray, anchor: np.ndarray,
         shape: tuple[int, ...]) -> tuple[np.ndarray, tuple[int, int]] | None:
    """A patch warped with its `anchor` to `at` and cut to a frame of `shape`, and its (left, top); None if outside."""
    height, width = patch.shape[:2]
    corners = (np.array([[0, 0], [width, 0], [0, height], [width, height]]) - anchor) @ matrix.T + at
    left, top = np.maximum(np.floor(corners.min(0)).astype(int), 0).tolist()
    right, bottom = np.minimum(np.ceil(corners.max(0)).astype(int) + 1, [shape[1], shape[0]]).tolist()
    if left >= right or top >= bottom:
        return None
    shift = matrix @ (0.5 - anchor) + at - [left, top]
    size = (right - left, bottom - top)
    return cv2.warpAffine(patch, np.column_stack([matrix, shift]), size, flags=cv2.INTER_LINEAR), (left, top)


def _surface_light(scene: Scene, light: Light) -> np.ndarray:
    """(number of surfaces, 3) light on each wall; 0 for sky and ground, whose light varies."""
    table = np.zeros((FIRST_WALL + len(scene.walls), 3), np.float32)
    for number, wall in enumerate(scene.walls):
        facing = max(wall.normal[0] * light.sun[0] + wall.normal[1] * light.sun[2], 0.0)
        table[FIRST_WALL + number] = (0.6 * light.sky_colour + facing * light.sun_colour
                                      + 0.12 * light.sun_colour * light.sun[1] + 0.3 * light.lamps * LAMP_COLOUR)
    return table


def light_place(rng: np.random.Generator, scene: Scene, light: Light, cast: np.ndarray,
                contact: np.ndarray) -> np.ndarray:
    """(H, W, 3) the empty place under the light, with shadows, wetness, glow and haze."""
    ground = (scene.surface == GROUND).astype(np.float32)
    sunny, open_sky = (1 - cast) * ground, (1 - 0.6 * contact) * ground
    lamps = scene.lamp_light * ground * np.float32(light.lamps)
    colours = np.stack([light.sun_colour * light.sun[1], light.sky_colour, LAMP_COLOUR], axis=1).astype(np.float32)
    image = np.asarray(cv2.transform(cv2.merge([sunny, open_sky, lamps]), colours), np.float32)
    image += _surface_light(scene, light)[scene.surface]
    image *= scene.albedo
    if light.wet > 0:
        x, z = scene.ground_xz
        puddles = np.clip(0.45 + 0.2 * noise_at(x * 5, z * 5) + 0.1 * noise_at(x * 30, z * 30), 0.05, 1)
        grazing = np.clip(1 + scene.elevation, 0, 1) ** 3
        mirror = (light.wet * 0.6 * puddles * (0.15 + grazing) * ground)[..., None]
        reflected = light.horizon * 0.55 + light.zenith * 0.25 + light.lamps * 0.12 * LAMP_COLOUR
        image = image * (1 - 0.4 * light.wet * ground[..., None]) * (1 - mirror) + mirror * reflected.astype(np.float32)
    if light.lamps > 0:
        image += scene.glow * np.float32(light.lamps * 1.1)
    through = np.exp(np.minimum(scene.distance, 3000) * np.float32(-light.haze_per_m))[..., None]
    image *= through
    image += light.horizon * (1 - through)
    _paint_sky(rng, image, scene, light)
    return image


def lit_figure(item: Figure, level: int, crowd: Crowd, index: int, light: Light, ambient: np.ndarray,
               sun: np.ndarray) -> np.ndarray:
    """(h, w, 4) float32 premultiplied linear colour and alpha of one figure."""
    covered, lit = lit_pixels(item, level, crowd, index, light, ambient, sun)
    return placed_pixels(covered, lit, item, level)


def lit_pixels(item: Figure, level: int, crowd: Crowd, index: int, light: Light, ambient: np.ndarray,
               sun: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The N pixels of a figure's patch that it covers, as flat indexes, and (4, N) float32: their premultiplied linear
    colour and alpha. Most of a patch is empty, and rows of one kind of value are many times as fast as pixels of four.
    """
    angle = ELEVATIONS[crowd.elevation[index]]
    cosine, sine = np.cos(angle), np.sin(angle)
    lx, ly, lz = light.sun
    # One matrix takes material weights and normal to red, green, blue, alpha, normal x sun and normal x up.
    matrix = np.zeros((NUM_MATERIALS + 3, 6), np.float32)
    matrix[:NUM_MATERIALS, :3] = crowd.colours[index] / 255
    matrix[:NUM_MATERIALS, 3] = 1 / 255
    to_sun = np.array([-lx if crowd.mirrored[index] else lx, ly * cosine + lz * sine, ly * sine - lz * cosine])
    matrix[NUM_MATERIALS:, 4] = to_sun / 127
    matrix[NUM_MATERIALS:, 5] = np.array([0.0, cosine, sine]) / 127
    # Row by row: such small products never run on several threads of the linear algebra library, so bits never change.
    mixed = item.levels[level].astype(np.float32) @ matrix
    height, width = mixed.shape[:2]
    flat = mixed.reshape(-1, 6)
    covered = np.flatnonzero(flat[:, 3] > 0)
    red, green, blue, weight, to_light, upward = flat[covered].T - (128 * matrix[NUM_MATERIALS:].sum(0))[:, None]
    alpha = np.minimum(weight, 1)
    solid = np.maximum(alpha, 0.1)
    rows = (np.arange(height, dtype=np.float32) + 0.5) * 2**level
    rise = np.clip((item.foot[1] - rows) / max(item.foot[1] - item.head[1], 1.0), 0, 1)
    open_sky = (1 - crowd.crush[index] * 0.75 * (1 - rise) ** 0.8).astype(np.float32)[covered // width]
    sky_part = (0.62 + 0.38 * np.clip(upward / solid, -1, 1)) * open_sky
    sun_part = np.maximum(to_light / solid, 0) * open_sky
    lit = [colour * (sky_part * ambient[channel] + sun_part * sun[channel])
           for channel, colour in enumerate((red, green, blue))]
    return covered, np.stack([*lit, alpha])


def placed_pixels(covered: np.ndarray, pixels: np.ndarray, item: Figure, level: int) -> np.ndarray:
    """Pixels as of `lit_pixels` in their (h, w, 4) patch, which is 0 elsewhere."""
    height, width = item.levels[level].shape[:2]
    patch = np.zeros((height * width, 4), np.float32)
    patch[covered] = pixels.T
    return patch.reshape(height, width, 4)


def paint_people_and_props(image: np.ndarray, scene: Scene, light: Light, crowd: Crowd, poses: Poses,
                           cast: np.ndarray) -> np.ndarray:
    """Paint from far to near, in place; returns (H, W) int32 ids: 0 place, n + 1 person n, -1 thing."""
    ids = np.zeros(image.shape[:2], np.int32)
    height, width = image.shape[:2]
    ground_sun = light.sun_colour * light.sun[1]
    queue = ([(poses.depth[i], i, None) for i in range(len(poses.figures))]
             + [(prop.depth_m, -1, prop) for prop in scene.props])
    queue.sort(key=lambda item: (-item[0], item[1]))
    for depth, index, prop in queue:
        through = np.float32(np.exp(-light.haze_per_m * max(depth, 0)))
        if prop is not None:
            ambient = light.sky_colour * 0.8 + light.sun_colour * 0.5 + 0.25 * light.lamps * LAMP_COLOUR
            lit = prop.colour * ambient + prop.glow * light.lamps
            lit = lit * through + light.horizon * (1 - through) * prop.alpha[..., None]
            _blend(image, ids, lit, prop.alpha, prop.corner, -1)
            continue
        column, row = np.clip(poses.foot[index], 0, [width - 1, height - 1]).astype(int)
        on_ground = scene.surface[row, column] == GROUND and poses.foot[index, 1] < height
        sunlit = 1 - (cast[row, column] if on_ground else 0.0) * 0.5
        lamp = scene.lamp_light[row, column] * light.lamps * 1.2
        ambient = (light.sky_colour + lamp * LAMP_COLOUR + 0.12 * ground_sun * sunlit).astype(np.float32)
        level = min(max(int(np.floor(np.log2(1.15 * PIXELS_PER_M / max(poses.scale[index], 1e-3)))), 0), 4)
        lit = lit_figure(poses.figures[index], level, crowd, index, light, ambient,
                         (light.sun_colour * sunlit).astype(np.float32))
        if through < 0.99:
            lit[..., :3] = lit[..., :3] * through + light.horizon * (1 - through) * lit[..., 3:]
        _lay_figure(image, ids, lit, poses, index, level)
    return ids


def _lay_figure(image: np.ndarray, ids: np.ndarray, lit: np.ndarray, poses: Poses, index: int, level: int) -> None:
    """Warp one lit figure to its place and blend it in, in place."""
    matrix = poses.basis[index] * 2**level
    anchor = np.array(poses.figures[index].foot) / 2**level
    placed = warp(lit, matrix, poses.foot[index], anchor, image.shape)
    if placed:
        warped, corner = placed
        _blend(image, ids, warped[..., :3], warped[..., 3], corner, index + 1)


def _blend(image: np.ndarray, ids: np.ndarray, patch: np.ndarray, alpha: np.ndarray, corner: tuple[int, int],
           identity: int) -> None:
    """Lay a premultiplied patch over the image at `corner` (left, top), and its id where it covers most, in place."""
    left, top = corner
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + patch.shape[1], image.shape[1]), min(top + patch.shape[0], image.shape[0])
    if x0 >= x1 or y0 >= y1:
        return
    cut = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    under, cover = image[y0:y1, x0:x1], alpha[cut]
    under *= 1 - cover[..., None]
    under += patch[cut]
    ids[y0:y1, x0:x1][cover > 0.5] = identity
