"""The people of an image: places, headings, figures and colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from crowddist.data.simulator import figures
from crowddist.data.simulator.camera import Camera
from crowddist.data.simulator.config import Look
from crowddist.data.simulator.noise import linear, noise_at

_SPACING_M = 0.42  # ours: least distance of two people

_SKINS = np.array([[0.87, 0.7, 0.6], [0.82, 0.64, 0.52], [0.76, 0.57, 0.45], [0.7, 0.51, 0.38], [0.56, 0.39, 0.28],
                   [0.4, 0.27, 0.2]])
_SKIN_WEIGHTS = (0.22, 0.28, 0.24, 0.14, 0.07, 0.05)
_HAIRS = np.array([[0.06, 0.055, 0.06], [0.11, 0.09, 0.08], [0.2, 0.14, 0.1], [0.33, 0.23, 0.14], [0.6, 0.48, 0.3],
                   [0.6, 0.59, 0.57], [0.4, 0.17, 0.1]])
_HAIR_WEIGHTS = (0.46, 0.26, 0.12, 0.06, 0.04, 0.04, 0.02)
_CLOTHES = np.array([[0.07, 0.07, 0.08], [0.15, 0.15, 0.17], [0.9, 0.9, 0.9], [0.8, 0.79, 0.76], [0.5, 0.5, 0.52],
                     [0.1, 0.14, 0.28], [0.2, 0.32, 0.58], [0.45, 0.6, 0.8], [0.7, 0.12, 0.14], [0.85, 0.5, 0.6],
                     [0.9, 0.72, 0.75], [0.2, 0.42, 0.28], [0.35, 0.36, 0.25], [0.85, 0.7, 0.25], [0.85, 0.42, 0.15],
                     [0.45, 0.25, 0.45], [0.6, 0.5, 0.4], [0.35, 0.2, 0.15]])
_TOP_WEIGHTS = {
    "mixed": (
        0.17, 0.1, 0.15, 0.09, 0.08, 0.08, 0.07, 0.05, 0.06, 0.03, 0.03, 0.02, 0.02, 0.02, 0.01, 0.02, 0.03, 0.02),
    "bright": (
        0.1, 0.06, 0.22, 0.13, 0.08, 0.06, 0.08, 0.07, 0.07, 0.03, 0.03, 0.02, 0.01, 0.02, 0.01, 0.01, 0.03, 0.01),
    "dark": (0.32, 0.2, 0.04, 0.03, 0.1, 0.14, 0.03, 0.0, 0.03, 0.0, 0.0, 0.02, 0.04, 0.0, 0.0, 0.01, 0.03, 0.04)}
_BOTTOM_WEIGHTS = (
    0.25, 0.15, 0.06, 0.04, 0.08, 0.16, 0.12, 0.04, 0.01, 0.01, 0.01, 0.0, 0.02, 0.0, 0.0, 0.01, 0.07, 0.03)
_BAG_WEIGHTS = (
    0.25, 0.14, 0.08, 0.03, 0.05, 0.1, 0.06, 0.02, 0.08, 0.03, 0.01, 0.01, 0.03, 0.02, 0.01, 0.02, 0.03, 0.03)


class Standing(Protocol):
    """Where people can stand, e.g. a `Scene`; fields as there."""

    @property
    def camera(self) -> Camera: ...
    @property
    def cells(self) -> np.ndarray: ...
    @property
    def cell_capacity(self) -> np.ndarray: ...


@dataclass(frozen=True, kw_only=True)
class Crowd:
    """N people, in the order in which they were placed."""

    x: np.ndarray  # (N,) metres on the ground
    z: np.ndarray
    stature: np.ndarray  # (N,) height over that of the figure; children are below 0.8
    elevation: np.ndarray  # (N,) whole numbers, as yaw and variant: the arguments of `figure`
    yaw: np.ndarray
    variant: np.ndarray
    mirrored: np.ndarray  # (N,) bool
    crush: np.ndarray  # (N,) 0-1, how close the neighbours are
    colours: np.ndarray  # (N, NUM_MATERIALS, 3) float32, linear


def _gatherings(rng: np.random.Generator, cells: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pull of each cell into dense masses, and the heading there (radians, 0 = away from the camera)."""
    pull, heading = np.zeros(len(cells)), np.zeros(len(cells))
    for _ in range(int(rng.integers(1, 5))):
        centre = cells[rng.choice(len(cells), p=weight / weight.sum())]
        angle = rng.uniform(0, np.pi)
        reach = rng.uniform(1.5, 9) * (1 + np.hypot(*centre) / 40)
        offset = cells - centre
        along = offset @ [np.sin(angle), np.cos(angle)]
        across = offset @ [np.cos(angle), -np.sin(angle)]
        if rng.random() < 0.3:
            near = np.exp(-((across / rng.uniform(0.8, 2.5)) ** 2)) * (np.abs(along) < 4 * reach)
        else:
            near = 1 / (1 + np.exp(2.0 * (np.hypot(along / rng.uniform(1, 2), across) - reach)))
        heading = np.where(near > pull, rng.uniform(-np.pi, np.pi), heading)
        pull = np.maximum(pull, near * rng.uniform(0.4, 1.0))
    return pull + 1e-6, heading


def _spots(rng: np.random.Generator, chance: np.ndarray, cells: np.ndarray, capacity: np.ndarray, wanted: int,
           in_frame) -> tuple[np.ndarray, np.ndarray]:
    """Places (n, 2) of people in groups of one to five until `wanted` are in the frame, and the cell of each."""
    taken: dict[tuple[int, int], list[tuple[float, float]]] = {}
    load = np.zeros(len(cells))
    limit = np.floor(capacity) + (rng.random(len(cells)) < capacity % 1)
    places, owners, shown = [], [], 0
    for _ in range(12):
        draw = rng.choice(len(cells), size=int(1.3 * (wanted - shown)) + 8, p=chance)
        sizes = rng.choice([1, 2, 3, 4, 5], size=len(draw), p=[0.42, 0.32, 0.14, 0.08, 0.04])
        members = np.repeat(draw, sizes)
        centres = np.repeat(cells[draw] + rng.uniform(-0.5, 0.5, (len(draw), 2)), sizes, axis=0)
        tries = centres + rng.normal(0, 0.5, centres.shape) * np.repeat(sizes > 1, sizes)[:, None]
        visible = in_frame(tries)
        gaps = _SPACING_M * rng.uniform(0.9, 1.4, len(tries))
        for (x, z), owner, gap, counts in zip(tries.tolist(), members.tolist(), gaps.tolist(), visible.tolist(),
                                              strict=True):
            if load[owner] >= limit[owner]:
                continue
            key = (int(x // 0.7), int(z // 0.7))
            close = any((x - a) ** 2 + (z - b) ** 2 < gap * gap
                        for i in (-1, 0, 1) for j in (-1, 0, 1) for a, b in taken.get((key[0] + i, key[1] + j), ()))
            if close:
                continue
            taken.setdefault(key, []).append((x, z))
            load[owner] += 1
            places.append((x, z))
            owners.append(owner)
            shown += counts
            if shown >= wanted:
                return np.array(places), np.array(owners)
    return np.array(places).reshape(-1, 2), np.array(owners, int)


def _colours(rng: np.random.Generator, count: int, look: Look) -> np.ndarray:
    """(count, NUM_MATERIALS, 3) linear colours."""
    def pick(table: np.ndarray, weights: tuple[float, ...], spread: float) -> np.ndarray:
        chosen = table[rng.choice(len(table), size=count, p=np.asarray(weights) / np.sum(weights))]
        return chosen * rng.uniform(0.8, 1.15, (count, 1)) + rng.normal(0, spread, (count, 3))

    colours = np.zeros((count, figures.NUM_MATERIALS, 3))
    tops = _TOP_WEIGHTS[look.clothing]
    colours[:, figures.SKIN] = pick(_SKINS, _SKIN_WEIGHTS, 0.015)
    colours[:, figures.HAIR] = pick(_HAIRS, _HAIR_WEIGHTS, 0.01)
    colours[:, figures.TOP] = top = pick(_CLOTHES, tops, 0.03)
    colours[:, figures.BOTTOM] = pick(_CLOTHES, _BOTTOM_WEIGHTS, 0.03)
    patterned = rng.random((count, 1)) < 0.45
    strength = rng.uniform(0.35, 1.0, (count, 1))
    mixed = top * (1 - strength) + strength * pick(_CLOTHES, tops, 0.03)
    colours[:, figures.PATTERN] = np.where(patterned, mixed, top)
    colours[:, figures.SHOES] = pick(_CLOTHES[:5], (0.4, 0.2, 0.25, 0.1, 0.05), 0.02)
    colours[:, figures.BAG] = pick(_CLOTHES, _BAG_WEIGHTS, 0.03)
    colours[:, figures.DARK] = 0.13
    return linear(np.clip(colours, 0.03, 0.95))


def place_crowd(rng: np.random.Generator, scene: Standing, look: Look, wanted: int) -> Crowd:
    """About `wanted` people with their heads in the frame, and a proportion outside of it."""
    camera, cells, capacity = scene.camera, scene.cells, scene.cell_capacity
    drift = rng.uniform(0, 500, 2)
    patches = noise_at(cells[:, 0] * 5 + drift[0], cells[:, 1] * 5 + drift[1]).ravel()
    weight = capacity / capacity.max() * np.clip(1 + 0.9 * patches, 0.03, 3)
    pull, mass_heading = _gatherings(rng, cells, weight)
    crowding = rng.uniform(*look.crowding)
    chance = (1 - crowding) * weight / weight.sum() + crowding * (pull * capacity) / (pull * capacity).sum()

    def in_frame(places: np.ndarray) -> np.ndarray:
        columns, rows = camera.project(places[:, 0], 1.58, places[:, 1])
        return (columns >= 0) & (columns < camera.size[1]) & (rows >= 0) & (rows < camera.size[0])

    places, owners = _spots(rng, chance, cells, capacity, wanted, in_frame)
    count = len(places)
    in_mass = rng.random(count) < crowding * pull[owners] / np.maximum(pull[owners] + weight[owners], 1e-9) * 1.5
    street = rng.uniform(-np.pi, np.pi)
    walking = street + rng.choice([0.0, np.pi], size=count) + rng.normal(0, 0.5, count)
    # Neighbours share a heading, so that groups walk together.
    shared = walking[np.unique(owners, return_inverse=True)[1]] if count else walking
    strolling = np.where(rng.random(count) < 0.75, shared, rng.uniform(-np.pi, np.pi, count))
    heading = np.where(in_mass, mass_heading[owners] + rng.normal(0, 0.45, count), strolling)
    bearing = np.arctan2(places[:, 0], places[:, 1])
    relative = np.pi - (heading - bearing)
    mirrored = rng.random(count) < 0.5
    turns = np.where(mirrored, -relative, relative) / (2 * np.pi)
    yaw = np.round(turns * figures.NUM_YAWS).astype(int) % figures.NUM_YAWS
    distance = np.maximum(np.hypot(places[:, 0], places[:, 1]), 0.5)
    angle = np.arctan2(camera.height_m - 1.2, distance)
    adult = np.clip(rng.normal(0.985, 0.055, count), 0.85, 1.14)
    stature = adult * np.where(rng.random(count) < 0.05, rng.uniform(0.6, 0.85, count), 1.0)
    neighbours = np.bincount(owners, minlength=len(cells))[owners]
    return Crowd(x=places[:, 0], z=places[:, 1], stature=stature,
                 elevation=np.abs(angle[:, None] - figures.ELEVATIONS).argmin(1), yaw=yaw,
                 variant=rng.integers(figures.FIGURES_PER_YAW, size=count), mirrored=mirrored,
                 crush=np.clip((neighbours - 1) / 3.0, 0, 1), colours=_colours(rng, count, look))
