"""A place: camera, ground, house fronts and things, the same for all its images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from crowddist.data.simulator.camera import Camera, draw_camera
from crowddist.data.simulator.config import Look
from crowddist.data.simulator.facade import TEXELS_PER_M, house_row
from crowddist.data.simulator.ground import ground_colour
from crowddist.data.simulator.noise import linear, noise_at
from crowddist.data.simulator.props import Prop, make_prop
from crowddist.data.simulator.rough import roughen

HEAD_M = 0.24  # ours: height of a head with hair
SKY, GROUND, FIRST_WALL = 0, 1, 2  # surface ids; walls follow in order


@dataclass(frozen=True, kw_only=True)
class Wall:
    """A vertical plane of houses or trees from `point` along `along`; `normal` points to the camera's side."""

    point: tuple[float, float]
    along: tuple[float, float]
    normal: tuple[float, float]
    length_m: float
    height_m: float
    trees: bool


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The constant part of all images of a place."""

    camera: Camera
    albedo: np.ndarray  # (H, W, 3) float32, linear; 0 in the sky
    glow: np.ndarray  # (H, W, 3) float32, own light at night
    surface: np.ndarray  # (H, W) uint8 surface ids
    distance: np.ndarray  # (H, W) float32 metres along the ray's depth; 1e4 in the sky
    ground_xz: tuple[np.ndarray, np.ndarray]  # (H, W) metres x, z of each pixel's ground, valid on GROUND
    rays: tuple[np.ndarray, np.ndarray, np.ndarray]  # (H, W) directions x, y, z through each pixel at unit depth
    elevation: np.ndarray  # (H, W) float32 sine of each ray's angle above the horizon
    lamp_light: np.ndarray  # (H, W) float32: light of the street lamps on the ground, about 0-1
    walls: tuple[Wall, ...]
    props: tuple[Prop, ...]
    cells: np.ndarray  # N x 2 (x, z): centres of square metres for people with heads in the frame or a rim round it
    cell_capacity: np.ndarray  # (N,) persons that a cell may hold so that most heads can be seen


def _treeline(rng: np.random.Generator, length_m: float, height_m: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    shape = (int(height_m * TEXELS_PER_M), int(length_m * TEXELS_PER_M))
    rows, columns = np.mgrid[:shape[0], :shape[1]].astype(np.float32)
    offset = rng.uniform(0, 500)
    edge = shape[0] * (0.3 + 0.16 * noise_at(columns[0] * 0.25 + offset, columns[0] * 0 + offset))
    texture = noise_at(columns * 1.6 + offset, rows * 1.6)
    cover = (rows > edge.reshape(1, -1) + 10 * texture).astype(np.float32)
    leaf = linear(np.array([0.25, 0.35, 0.18]) * rng.uniform(0.7, 1.2))
    shade = 0.8 + 0.4 * texture + 0.25 * noise_at(columns * 0.4, rows * 0.4 + offset)
    colour = leaf * np.clip(shade, 0.15, 2)[..., None]
    return (colour * cover[..., None]).astype(np.float32), np.zeros((*shape, 3), np.float32), cover


def _draw_walls(rng: np.random.Generator, reach: float) -> list[Wall]:
    """A far wall behind the square and, most often, one or two beside it."""
    walls = []
    far, angle = float(np.clip(reach * rng.uniform(0.55, 1.5), 14, 110)), rng.normal(0, 0.2)
    along = np.array([np.cos(angle), np.sin(angle)])
    half = min(60 + far, 120)
    trees = rng.random() < 0.22
    walls.append(Wall(point=tuple(np.array([0.0, far]) - along * half), along=tuple(along),
                      normal=(float(along[1]), float(-along[0])), length_m=2 * half,
                      height_m=rng.uniform(6, 12) if trees else rng.uniform(9, 28), trees=trees))
    for side in (-1, 1):
        if rng.random() < 0.5:
            offset, lean = side * rng.uniform(5, max(0.5 * far, 9)), side * abs(rng.normal(0, 0.12))
            along = np.array([np.sin(lean), np.cos(lean)])
            start = np.array([offset, 0.0]) - along * 5
            normal = np.array([along[1], -along[0]]) * -side
            walls.append(Wall(point=tuple(start), along=tuple(along), normal=tuple(normal), length_m=far + 15.0,
                              height_m=rng.uniform(8, 24), trees=rng.random() < 0.15))
    return walls


def _paint_wall(rng: np.random.Generator, scene: dict, camera: Camera, rays: tuple, wall: Wall, identity: int) -> None:
    """Cast every ray at one wall and keep the hits in front of the scene so far, in place."""
    colour, glow, cover = (_treeline if wall.trees else house_row)(rng, wall.length_m, wall.height_m)
    ray_x, ray_y, ray_z = rays
    (px, pz), (nx, nz), (ax, az) = wall.point, wall.normal, wall.along
    facing = nx * ray_x + nz * ray_z
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = (nx * px + nz * pz) / facing
    hit_y = camera.height_m + distance * ray_y
    along = (distance * ray_x - px) * ax + (distance * ray_z - pz) * az
    visible = (facing < 0) & (distance > 0.5) & (distance < scene["distance"])
    visible &= (hit_y > 0) & (hit_y < wall.height_m) & (along > 0) & (along < wall.length_m)
    if not visible.any():
        return
    texel = np.median(distance[visible]) / camera.focal_px * TEXELS_PER_M
    scale = float(TEXELS_PER_M)
    while texel > 1.3:
        size = (max(colour.shape[1] // 2, 1), max(colour.shape[0] // 2, 1))
        colour, glow, cover = (cv2.resize(layer, size, interpolation=cv2.INTER_AREA) for layer in (colour, glow, cover))
        texel, scale = texel / 2, scale / 2
    u = np.where(visible, along * scale - 0.5, -9).astype(np.float32)
    v = np.where(visible, (wall.height_m - hit_y) * scale - 0.5, -9).astype(np.float32)
    layers = [cv2.remap(layer, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
              for layer in (colour, glow, cover)]
    solid = visible & (layers[2] > 0.5)
    scene["albedo"][solid], scene["glow"][solid] = layers[0][solid], layers[1][solid]
    scene["distance"][solid], scene["surface"][solid] = distance[solid], identity


def _inside(walls: list[Wall], x: np.ndarray, z: np.ndarray, margin: float) -> np.ndarray:
    """Bool: points at least `margin` metres in front of every wall."""
    inside = np.ones(np.shape(x), bool)
    for wall in walls:
        inside &= (x - wall.point[0]) * wall.normal[0] + (z - wall.point[1]) * wall.normal[1] > margin
    return inside


def _draw_props(rng: np.random.Generator, camera: Camera, walls: list[Wall], reach: float) -> list[Prop]:
    """Things along the edges of the square, few in its middle."""
    props = []
    kinds = rng.choice(["tree", "lamp", "car", "stall", "bin", "ball", "planter", "board", "bench", "pillar", "fence"],
                       size=3, replace=False, p=[0.2, 0.16, 0.1, 0.1, 0.1, 0.06, 0.1, 0.06, 0.05, 0.03, 0.04])
    for kind in [*kinds, "lamp"]:
        spacing = rng.uniform(4, 9)
        for number in range(int(rng.integers(1, 6))):
            if rng.random() < 0.75:  # in a row along a wall, or else anywhere in the square
                wall = walls[rng.integers(len(walls))]
                t, off = rng.uniform(0.1, 0.9) * wall.length_m + number * spacing, rng.uniform(1.2, 4.0)
                x, z = np.array(wall.point) + np.array(wall.along) * t + np.array(wall.normal) * off
            else:
                z = rng.uniform(0.25, 1.0) * reach
                x = rng.uniform(-0.7, 0.7) * z
            tall_and_near = kind in ("tree", "stall", "car", "pillar") and z < 12
            if tall_and_near or not _inside(walls, np.array(x), np.array(z), 0.5 if kind != "car" else 1.5):
                continue
            prop = make_prop(rng, camera, str(kind), float(x), float(z))
            if prop is not None:
                props.append(prop)
    return props


def _standing_room(camera: Camera, walls: list[Wall], props: list[Prop], reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Cells for people closer than `reach` metres, and their capacity."""
    x, z = (grid.ravel() for grid in np.meshgrid(np.arange(-90, 90, 1.0) + 0.5, np.arange(0, 160, 1.0) + 0.5))
    columns, rows = camera.project(x, 1.6, z)
    margin = 0.6 * camera.focal_px / np.maximum(camera.depth(1.6, z), 0.5)
    height, width = camera.size
    keep = (camera.depth(1.6, z) > 1.5) & (camera.depth(1.6, z) < reach) & _inside(walls, x, z, 0.7)
    keep &= (columns > -margin) & (columns < width + margin) & (rows > -margin) & (rows < height + margin)
    for prop in props:
        keep &= np.hypot(x - prop.ground[0], z - prop.ground[1]) > prop.radius_m + 0.5
    x, z = x[keep], z[keep]
    sine = (camera.height_m - 1.6) / np.hypot(camera.height_m - 1.6, np.hypot(x, z))
    return np.stack([x, z], axis=1), np.minimum(4.0, 16 * sine)


@lru_cache(maxsize=2)
def build_scene(seed: int, location: int, camera_number: int, look: Look, size: tuple[int, int]) -> Scene:
    """The place `location` as camera `camera_number` (0-3) sees it; the last two are cached."""
    rng = np.random.default_rng([seed, 101, location, camera_number])
    while True:  # until a view shows ground where people can stand
        camera = draw_camera(rng, look, size)
        # Nobody stands farther away: heads would be too small.
        smallest_px = max(look.min_head_px * size[1] / 960, 2.5)
        if look.nearest_end > 1:
            # Else all crowds would end in the smallest heads, and a counter would take any far end for that.
            smallest_px *= look.nearest_end ** rng.random()
        reach = min(camera.focal_px * HEAD_M / smallest_px, 160.0)
        walls = _draw_walls(rng, reach)
        props = _draw_props(rng, camera, walls, reach)
        cells, capacity = _standing_room(camera, walls, props, reach)
        if capacity.sum() > 40:
            break
    rays = camera.rays()
    ray_x, ray_y, ray_z = rays
    with np.errstate(divide="ignore", invalid="ignore"):
        ground_distance = np.where(ray_y < -1e-4, camera.height_m / -ray_y, 1e4).astype(np.float32)
    span = np.minimum(ground_distance, 2000)
    x, z = span * ray_x, span * ray_z
    # Behind the far wall, over its roofs, there is mist.
    on_ground = (ground_distance < 2000) & _inside(walls[:1], x, z, 0.0)
    albedo = ground_colour(rng, x, z)
    albedo[~on_ground] = 0
    scene = {"albedo": albedo, "glow": np.zeros_like(albedo), "surface": on_ground.astype(np.uint8) * GROUND,
             "distance": np.where(on_ground, ground_distance, 1e4).astype(np.float32)}
    for number, wall in enumerate(walls):
        _paint_wall(rng, scene, camera, rays, wall, FIRST_WALL + number)
    sine = ray_y / np.sqrt(ray_x**2 + ray_y**2 + ray_z**2)
    flatness = np.where(scene["surface"] == GROUND, np.clip(-sine, 0.05, 1), 1).astype(np.float32)
    roughen(rng, look, scene["albedo"], scene["surface"], scene["distance"], flatness, camera.focal_px)
    lamps = ([prop.ground for prop in props if prop.kind == "lamp"]
             + [tuple(cells[i]) for i in rng.integers(len(cells), size=5)])
    lamp_light = np.minimum(sum(1 / (1 + ((x - lx) ** 2 + (z - lz) ** 2) / 20) for lx, lz in lamps), 1.5)
    return Scene(camera=camera, ground_xz=(x, z), rays=rays, elevation=sine, cells=cells, cell_capacity=capacity,
                 lamp_light=lamp_light.astype(np.float32), walls=tuple(walls), props=tuple(props), **scene)
