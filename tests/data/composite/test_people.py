"""Composites: perspective, appearance, people and labels of one image."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from crowddist.data.composite import backgrounds, ground, image, match
from crowddist.data.composite.image import compose
from crowddist.data.composite.paint import CLOSE_PX_PER_M, paint_people
from crowddist.data.simulator import puppets
from crowddist.data.simulator.camera import Camera
from crowddist.data.simulator.crowd import Crowd
from crowddist.data.simulator.figures import ELEVATIONS
from crowddist.data.simulator.light import CLEAR, draw_light
from crowddist.data.simulator.paint import figure_scale, lit_figure, pose_crowd, warp
from crowddist.data.simulator.solids import NUM_MATERIALS, PIXELS_PER_M
from tests.data.composite.streets import SIZE, coded, empty_street, street

# Perspective.


def test_heads_grow_linearly_with_the_row_to_the_given_size() -> None:
    camera = ground.draw_camera(np.random.default_rng(0), SIZE, None, (4.0, 20.0))
    horizon = SIZE[0] * 0.5 - np.tan(camera.pitch) * camera.focal_px
    assert ground.HORIZON[0] <= horizon / SIZE[0] <= ground.HORIZON[1]
    z = np.linspace(8, 60, 9)
    level = Camera(**{**vars(camera), "roll": 0.0})
    _, rows = level.project(0.0, ground.HEAD_HEIGHT_M, z)
    sizes = ground.HEAD_M * camera.focal_px / camera.depth(ground.HEAD_HEIGHT_M, z)
    np.testing.assert_allclose(sizes, 20.0 * (rows + 0.5 - horizon) / (SIZE[0] - horizon), rtol=1e-2)


def test_a_camera_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    # Horizon in the middle: no pitch. Heads of 10 px at the bottom, 50 px below it: 0.24 m * 50 / 10 above the heads.
    monkeypatch.setattr(ground, "HORIZON", (0.5, 0.5))
    camera = ground.draw_camera(np.random.default_rng(0), (100, 200), None, (4.0, 10.0))
    assert camera.pitch == pytest.approx(0, abs=0.04) and camera.height_m == pytest.approx(1.58 + 1.2, rel=0.12)


def test_the_horizon_is_above_everybody_who_was_found() -> None:
    for seed in range(20):
        camera = ground.draw_camera(np.random.default_rng(seed), SIZE, 12.0, None)
        assert SIZE[0] * 0.5 - np.tan(camera.pitch) * camera.focal_px <= 12.0


def test_nobody_stands_on_found_people_or_where_the_ground_looks_otherwise() -> None:
    picture = street()
    picture[60:, :60] = (20, 160, 30)  # a hedge
    crowded = np.zeros((15, 20), bool)
    crowded[5:7, 9:17] = True
    background = empty_street(pixels=picture, crowded=crowded, empty=~crowded)
    walked = ground.walkable(picture, background)
    assert not walked[8:14, 1:6].any() and walked[8:14, 9:].mean() > 0.8
    camera = ground.draw_camera(np.random.default_rng(1), SIZE, 30.0, (4.0, 12.0))
    free = ground.free_ground(background, walked, camera)
    assert not free[44:60, 96:112].any() and not free[100, 30] and free[115, 150]


# Appearance.


def test_grain_and_softness_are_measured() -> None:
    rng = np.random.default_rng(0)
    flat = np.full((128, 192), 100.0, np.float32)
    assert match.grain_levels(flat).max() == 0
    # The smoothest blocks of 16 x 16 lie a little below the mean.
    noisy = flat + rng.normal(0, 5, flat.shape).astype(np.float32)
    np.testing.assert_allclose(match.grain_levels(noisy), 5.0, rtol=0.2)
    edges = np.where(np.arange(192) // 16 % 2, 200.0, 60.0).astype(np.float32) + np.zeros((128, 1), np.float32)
    for blur in (1.0, 2.0):
        np.testing.assert_allclose(match.softness(cv2.GaussianBlur(edges, (0, 0), blur)), blur, atol=0.2)


def test_people_are_lit_and_coloured_like_the_photograph() -> None:
    day, night = match.measure(street()), match.measure(street(level=25))
    assert day.light.mean() > 4 * night.light.mean() and day.saturation < 0.05  # the street is grey
    painted = {name: compose(empty_street(pixels=street(level=level)), seed=0, index=2, heads=(6, 20))
               for name, level in (("day", 110), ("night", 25))}
    shown = {name: found.image[found.mask > 0].astype(float) for name, found in painted.items() if found is not None}
    assert shown["night"].mean() < 0.5 * shown["day"].mean()
    assert np.ptp(shown["day"], axis=1).mean() < 12
    red = street().astype(np.int16) + np.array([70, -20, -20])
    found = compose(empty_street(pixels=np.clip(red, 0, 255).astype(np.uint8)), seed=0, index=2, heads=(6, 20))
    assert found is not None and np.ptp(found.image[found.mask > 0], axis=1).mean() > 18


# People.


def test_puppets_are_many_and_functions_of_the_seed() -> None:
    first = puppets.puppet(0, 2, 5)
    puppets.puppet.cache_clear()
    np.testing.assert_array_equal(puppets.puppet(0, 2, 5).levels[0], first.levels[0])
    figures = [puppets.puppet(seed, elevation, number)
               for seed, elevation, number in ((0, 2, 5), (1, 2, 5), (0, 3, 5), (0, 2, 6), (0, 2, 127))]
    assert len({figure.levels[0].tobytes() for figure in figures}) == len(figures)
    assert puppets.PUPPETS * len(ELEVATIONS) >= 500


@pytest.mark.parametrize("umbrella", [False, True])
def test_every_style_has_a_head_where_it_says(umbrella: bool) -> None:
    for number in range(0, 12):
        rng = np.random.default_rng([7, number])
        parts, head, _ = puppets.make_body(rng, umbrella=umbrella)
        nearest = min(np.linalg.norm(part.centre - head) for part in parts)
        assert nearest < 1e-9 and 1.0 < head[1] < 1.75
    for woman, styles in ((True, puppets._HAIR_OF_WOMEN), (False, puppets._HAIR_OF_MEN)):
        assert sum(styles.values()) == pytest.approx(1)
        for style in styles:
            assert puppets.make_head(np.random.default_rng(0), np.zeros(3), np.eye(3), style, woman)


@pytest.mark.parametrize(("number", "level"), [(1, 0), (2, 2), (3, 4)])
def test_a_figure_is_lit_as_every_pixel_of_its_patch_would_be(number: int, level: int) -> None:
    """Against the same formula over the whole patch, to the last bit: published images of the renderer rest on it."""
    item, rng = puppets.puppet(0, 3, number), np.random.default_rng(number)
    colours = rng.random((1, NUM_MATERIALS, 3)).astype(np.float32)
    crowd = Crowd(x=np.zeros(1), z=np.zeros(1), stature=np.ones(1), elevation=np.array([3]), yaw=np.zeros(1, int),
                  variant=np.array([number]), mirrored=np.array([number % 2 == 0]), crush=np.array([0.6]),
                  colours=colours)
    light = draw_light(rng, 9.0, CLEAR)
    found = lit_figure(item, level, crowd, 0, light, light.sky_colour, light.sun_colour)
    cosine, sine = np.cos(ELEVATIONS[3]), np.sin(ELEVATIONS[3])
    matrix = np.zeros((NUM_MATERIALS + 3, 6), np.float32)
    matrix[:NUM_MATERIALS, :3], matrix[:NUM_MATERIALS, 3] = colours[0] / 255, 1 / 255
    right, up, forth = light.sun
    matrix[NUM_MATERIALS:, 4] = np.array([-right if number % 2 == 0 else right, up * cosine + forth * sine,
                                          up * sine - forth * cosine]) / 127
    matrix[NUM_MATERIALS:, 5] = np.array([0.0, cosine, sine]) / 127
    mixed = item.levels[level].astype(np.float32) @ matrix - 128 * matrix[NUM_MATERIALS:].sum(0)
    alpha = np.minimum(mixed[..., 3], 1)
    solid = np.maximum(alpha, 0.1)
    rows = (np.arange(len(alpha), dtype=np.float32) + 0.5) * 2**level
    rise = np.clip((item.foot[1] - rows) / max(item.foot[1] - item.head[1], 1.0), 0, 1)
    open_sky = (1 - crowd.crush[0] * 0.75 * (1 - rise) ** 0.8).astype(np.float32)[:, None]
    sky = (0.62 + 0.38 * np.clip(mixed[..., 5] / solid, -1, 1)) * open_sky
    sun = np.maximum(mixed[..., 4] / solid, 0) * open_sky
    lit = mixed[..., :3] * (sky[..., None] * light.sky_colour + sun[..., None] * light.sun_colour)
    np.testing.assert_array_equal(found, np.dstack([lit, alpha]))
    assert 0.1 < (alpha > 0).mean() < 0.9


def test_a_close_puppet_is_the_same_person_with_more_pixels() -> None:
    small, close = puppets.puppet(0, 1, 3), puppets.close_puppet(0, 1, 3)
    scale = puppets.CLOSE_SCALE
    for a, b in ((small.head, close.head), (small.foot, close.foot)):
        offset = np.subtract(b, np.multiply(a, scale))
        np.testing.assert_allclose(np.subtract(close.head, close.foot), scale * np.subtract(small.head, small.foot),
                                   atol=0.01)
        assert np.abs(offset).max() < 12 * scale
    coverage = [figure.levels[0][..., :NUM_MATERIALS].astype(float).sum() / per_m**2
                for figure, per_m in ((small, PIXELS_PER_M), (close, scale * PIXELS_PER_M))]
    assert coverage[0] == pytest.approx(coverage[1], rel=0.03)


# Composites.


def test_a_composite_depends_on_seed_and_index_alone() -> None:
    first, other = (compose(empty_street(), seed=0, index=index, heads=None) for index in (7, 8))
    again = compose(empty_street(), seed=0, index=7, heads=None)
    assert first is not None and again is not None and other is not None
    for name in ("image", "points", "sizes", "mask", "region"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.image, other.image) and len(first.points) >= 1


def test_labels_are_of_visible_heads_in_the_region_and_the_rest_of_the_photograph_stays() -> None:
    empty = np.zeros((15, 20), bool)
    empty[:, 8:] = True
    background = empty_street(empty=empty, crowded=~empty)
    totals = 0
    for index in range(4):
        found = compose(background, seed=0, index=index, heads=(5, 16))
        assert found is not None and found.region[:, 64:].all() and not found.region[:, :64].any()
        columns, rows = np.floor(found.points + 0.5).astype(int).T
        assert found.region[rows, columns].all() and len(found.sizes) == len(found.points)
        assert found.sizes.max() < 1.3 * 16
        totals += found.mask[rows, columns].sum()
        assert found.mask[rows, columns].mean() > 0.6  # most labelled heads are visible at their centre
        near = cv2.dilate(found.mask, np.ones((31, 31), np.uint8)) > 0  # contact shadows lie within
        changed = np.abs(found.image.astype(int) - street()).max(2) > 0
        assert changed[found.mask > 0].mean() > 0.9 and changed[~near].mean() < 0.02
    assert totals >= 5


def test_the_nearer_person_hides_the_farther_one() -> None:
    camera = Camera(size=SIZE, height_m=2.5, pitch=0.15, roll=0.0, focal_px=150.0)
    colours = np.zeros((2, NUM_MATERIALS, 3), np.float32)
    colours[1] = 0.8
    crowd = Crowd(x=np.zeros(2), z=np.array([4.0, 5.0]), stature=np.ones(2), elevation=np.array([1, 1]),
                  yaw=np.zeros(2, int), variant=np.array([3, 3]), mirrored=np.zeros(2, bool), crush=np.zeros(2),
                  colours=colours)
    poses = pose_crowd(camera, crowd, lambda elevation, yaw, variant: puppets.puppet(0, elevation, variant))
    light = draw_light(np.random.default_rng(0), 12.0, CLEAR)
    _, ids = paint_people(street(), crowd, poses, light, match.measure(street()), np.ones(2), seed=0,
                          rng=np.random.default_rng(0))
    both = (ids > 0).sum()
    assert (ids == 1).sum() > (ids == 2).sum() > 0 and both < 1.5 * (ids == 1).sum()
    column, row = np.floor(poses.head[0] + 0.5).astype(int)
    assert ids[row, column] == 1


@pytest.mark.parametrize("variant", [21, 45, 70])
def test_a_near_person_is_drawn_as_the_figure_whose_head_is_labelled(variant: int) -> None:
    camera = Camera(size=(600, 300), height_m=2.5, pitch=0.15, roll=0.0, focal_px=400.0)
    crowd = Crowd(x=np.zeros(1), z=np.full(1, 3.0), stature=np.ones(1), elevation=np.array([1]), yaw=np.zeros(1, int),
                  variant=np.array([variant]), mirrored=np.zeros(1, bool), crush=np.zeros(1),
                  colours=np.full((1, NUM_MATERIALS, 3), 0.4, np.float32))
    poses = pose_crowd(camera, crowd, lambda elevation, yaw, number: puppets.puppet(0, elevation, number))
    assert poses.scale[0] > CLOSE_PX_PER_M
    ground_picture = np.full((600, 300, 3), 110, np.uint8)
    light = draw_light(np.random.default_rng(0), 12.0, CLEAR)
    _, ids = paint_people(ground_picture, crowd, poses, light, match.measure(ground_picture), np.ones(1), seed=0,
                          rng=np.random.default_rng(0))
    item = poses.figures[0]
    cover = item.levels[0][..., :NUM_MATERIALS].sum(-1) / np.float32(255)
    placed = warp(cover.astype(np.float32), poses.basis[0], poses.foot[0], np.array(item.foot), (600, 300))
    assert placed is not None
    patch, (left, top) = placed
    expected = np.zeros((600, 300), bool)
    expected[top:top + len(patch), left:left + patch.shape[1]] = patch > 0.5
    assert ((ids > 0) & expected).sum() > 0.9 * ((ids > 0) | expected).sum() > 1000


def test_near_people_are_those_that_have_a_close_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "draw_puppets", lambda rng, count, umbrella_share: rng.integers(100, size=count))
    camera = Camera(size=SIZE, height_m=3.0, pitch=0.2, roll=0.0, focal_px=300.0)
    x, z = (part.ravel() for part in np.meshgrid(np.arange(-2.0, 3.0), np.arange(2.0, 12.0)))
    place = ground.Ground(camera=camera, cells=np.stack([x, z], axis=1), cell_capacity=np.full(len(x), 4.0))
    crowd = image._place(np.random.default_rng(0), place, 60)
    near = figure_scale(camera, crowd) > CLOSE_PX_PER_M
    assert near.any() and crowd.variant[near].max() < puppets.CLOSE_PUPPETS <= crowd.variant[~near].max()


def test_a_place_without_room_has_no_composite() -> None:
    empty = np.zeros((15, 20), bool)
    empty[0, :3] = True  # the sky
    assert compose(empty_street(empty=empty), seed=0, index=0, heads=(30.0, 40.0)) is None
    empty[:6] = True  # trees and walls above a crowd
    assert compose(empty_street(empty=empty, crowded=~empty), seed=0, index=0, heads=(4.0, 12.0)) is None


def test_the_photographs_own_jpeg_is_nearly_kept() -> None:
    data = coded(street(), quality=60, subsampling=2)
    picture, tables = backgrounds.decode_image(data), backgrounds.jpeg_tables(data)
    still = image.Composite(image=picture, points=np.zeros((0, 2)), sizes=np.zeros(0), mask=np.zeros(SIZE, np.uint8),
                            region=np.ones(SIZE, bool), scene={})
    lost = {name: np.abs(backgrounds.decode_image(still.encode(options)).astype(int) - picture).mean()
            for name, options in (("own", tables), ("other", {"quality": 60 - 20}))}
    assert lost["own"] < 0.5 < lost["other"]
    assert backgrounds.jpeg_tables(coded(street())) == {}  # a PNG
