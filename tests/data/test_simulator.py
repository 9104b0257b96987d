"""The renderer: the same bytes for the same seed, labels where the heads are, GCC's own layout on disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io

from crowddist.data.scenes import LEVEL_MAXIMA
from crowddist.data.simulator import render_image, write_dataset
from crowddist.data.simulator.camera import Camera
from crowddist.data.simulator.config import LOOKS, Look, RendererConfig
from crowddist.data.simulator.figures import NUM_MATERIALS, figure
from crowddist.data.simulator.noise import linear
from crowddist.errors import InputError

SMALL = RendererConfig(num_images=6, size=(120, 200), seed=5, images_per_scene=2, look="source")


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_camera_projects_a_hand_worked_point():
    level = Camera(size=(101, 201), height_m=2.0, pitch=0.0, roll=0.0, focal_px=100.0)
    # 10 m ahead, 1 m right, on the ground: 2 m below the axis of a level camera.
    column, row = level.project(np.array([1.0]), 0.0, np.array([10.0]))
    assert column[0] == pytest.approx(100 + 10) and row[0] == pytest.approx(50 + 20)


def test_rays_meet_the_points_they_came_from():
    camera = Camera(size=(90, 160), height_m=6.0, pitch=0.4, roll=0.02, focal_px=150.0)
    ray_x, ray_y, ray_z = camera.rays()
    distance = camera.height_m / -ray_y[60, 33]
    column, row = camera.project(np.array([distance * ray_x[60, 33]]), 0.0, np.array([distance * ray_z[60, 33]]))
    assert (column[0], row[0]) == (pytest.approx(33, abs=1e-2), pytest.approx(60, abs=1e-2))


def test_figures_stand_on_their_foot_and_carry_a_head_where_they_say():
    for yaw in range(0, 8, 3):
        item = figure(1, yaw, yaw % 7)
        cover = item.levels[0][..., :NUM_MATERIALS].sum(-1, dtype=int)
        assert cover.max() <= 255 + NUM_MATERIALS
        assert cover[int(item.head[1]), int(item.head[0])] > 200
        below = np.flatnonzero(cover.any(1)).max() - item.foot[1]
        assert -25 < below < 30


@pytest.mark.parametrize("look", sorted(LOOKS))
def test_labels_and_masks_agree_with_the_picture(look: str):
    config = replace(SMALL, look=look)
    for index in (0, 2):
        rendered = render_image(config, index)
        assert rendered.image.shape == (120, 200, 3) and rendered.image.dtype == np.uint8
        assert rendered.mask.shape == (120, 200) and set(np.unique(rendered.mask)) <= {0, 1}
        points = rendered.points
        assert points.dtype == np.float32 and points.shape[1:] == (2,) and len(points) > 0
        assert (points >= 0).all() and (points[:, 0] < 200).all() and (points[:, 1] < 120).all()
        # Heads may be half hidden, so not every centre shows its own person; but someone stands there.
        at_heads = rendered.mask[np.round(points[:, 1]).astype(int), np.round(points[:, 0]).astype(int)]
        assert at_heads.mean() > 0.9
        assert len(points) <= LEVEL_MAXIMA[rendered.scene["level"]]


def test_light_of_a_value_drawn_below_black_is_black():
    assert linear((-0.02, 0.0, 0.5, 1.0)) == pytest.approx([0.0, 0.0, 0.5**2.2, 1.0])


def test_a_crowd_is_cut_before_it_exceeds_its_level():
    from crowddist.data.simulator import render as module

    look = SMALL.drawn_look
    location, number = module._draw_place(SMALL, look, 0)
    scene = module.build_scene(SMALL.seed, location, number, look, SMALL.size)
    crowd = module.place_crowd(np.random.default_rng(1), scene, look, 25)
    everyone = module._inside(module.pose_crowd(scene.camera, crowd), SMALL.size)
    assert everyone.sum() > 10
    cut, poses = module._within_level(scene, crowd, 10)
    assert module._inside(poses, SMALL.size).sum() == 10
    np.testing.assert_array_equal(cut.x, crowd.x[:len(cut.x)])
    assert module._within_level(scene, crowd, 4000)[0] is crowd


def test_masks_cover_people_and_not_the_place():
    """The picture differs from the one without people inside of the mask, far more than outside of it."""
    from crowddist.data.simulator import render as module

    config = replace(SMALL, look=replace(LOOKS["source"], noise=(1e-6, 1e-6), blur_px=(0.0, 0.0),
                                         weather_weights=(0, 0, 0, 0, 0, 1, 0)))
    look = config.drawn_look
    location, number = module._draw_place(config, look, 0)
    scene = module.build_scene(config.seed, location, number, look, config.size)
    rng = np.random.default_rng(0)
    light = module.draw_light(rng, 12.0, 5)
    crowd = module.place_crowd(rng, scene, look, 20)
    poses = module.pose_crowd(scene.camera, crowd)
    cast, contact = module.paint_shadows(scene, light, crowd, poses)
    empty = module.light_place(rng, scene, light, cast, contact)
    full = empty.copy()
    ids = module.paint_people_and_props(full, scene, light, crowd, poses, cast)
    changed = np.abs(full - empty).max(-1) > 0.01
    assert changed[ids > 0].mean() > 0.85
    assert (changed & (ids == 0)).sum() < 0.6 * (ids > 0).sum()


def test_an_image_depends_on_seed_and_index_alone():
    first = render_image(SMALL, 3)
    render_image(SMALL, 0)
    again = render_image(replace(SMALL, num_images=1000), 3)
    for a, b in ((first.image, again.image), (first.points, again.points), (first.mask, again.mask)):
        np.testing.assert_array_equal(a, b)
    assert first.scene == again.scene and first.name == again.name and first.jpeg_quality == again.jpeg_quality
    assert not np.array_equal(first.image, render_image(replace(SMALL, seed=6), 3).image)
    assert not np.array_equal(first.image, render_image(SMALL, 2).image)


def test_images_of_a_scene_share_its_place_and_not_its_people():
    a, b, c = (render_image(SMALL, index) for index in (0, 1, 2))
    assert a.folder == b.folder != c.folder
    assert a.scene["focal_px"] == b.scene["focal_px"]
    assert a.points.shape != b.points.shape or not np.array_equal(a.points, b.points)


def test_dataset_is_gccs_layout_and_the_same_for_any_number_of_processes(tmp_path: Path):
    seen: list[tuple[int, int]] = []
    write_dataset(tmp_path / "one", SMALL, progress=lambda done, total: seen.append((done, total)))
    write_dataset(tmp_path / "two", SMALL, num_workers=2)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    assert seen == [(0, 6), (2, 6), (4, 6), (6, 6)]
    lines = (tmp_path / "one" / "all.txt").read_text().splitlines()
    assert len(lines) == 6
    for index, line in enumerate(lines):
        level, hour, weather, folder, name, count = line.split()
        rendered = render_image(SMALL, index)
        scene = tmp_path / "one" / folder
        record = json.loads((scene / "jsons" / f"{name}.json").read_text())
        assert int(count) == len(record["image_info"]) == len(rendered.points) <= LEVEL_MAXIMA[int(level)]
        # Rows first, columns second: as GCC, and unlike everything else.
        np.testing.assert_allclose(np.array(record["image_info"])[:, ::-1], rendered.points, atol=0.006)
        assert record["weather"] == int(weather) and record["timeInfo"][0] == int(hour) and len(record["roi"]) == 4
        matrix = scipy.io.loadmat(scene / "mats" / f"{name}.mat")["image_info"]["location"][0, 0]
        np.testing.assert_allclose(matrix[:, ::-1], rendered.points, rtol=1e-6)
        raw = np.frombuffer((scene / "segs" / f"{name}.raw").read_bytes(), np.uint8)
        np.testing.assert_array_equal(raw.reshape(120, 200), rendered.mask)
        picture = cv2.imread(str(scene / "jpgs" / f"{name}.jpg"))[..., ::-1]
        assert picture.shape == (120, 200, 3)
        assert np.abs(picture.astype(int) - rendered.image).mean() < 15


def stop(done: int, total: int) -> None:
    if done:
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[RendererConfig, Path]:
    """A data set that is written in one go, and what it shows."""
    config, folder = replace(SMALL, num_images=14), tmp_path_factory.mktemp("unbroken") / "set"
    write_dataset(folder, config)
    return config, folder


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_interrupted_data_set_goes_on_where_it_was(tmp_path: Path, num_workers: int,
                                                      unbroken: tuple[RendererConfig, Path]):
    """Also where an image was half written; the others are not drawn again. It stops at once, and drops what waits."""
    many, fresh = unbroken
    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "set", many, num_workers=num_workers, progress=stop)
    partial = tmp_path / "set.partial"
    (whole, *_), written = sorted(partial.glob("parts/*.txt")), list(partial.rglob("*.jpg"))
    assert len(written) < 12
    names = {line.split()[4] for line in whole.read_text().splitlines()}
    drawn = {path.name: path.stat().st_mtime_ns for path in written if path.stem in names}
    for path in written:
        if path.stem not in names:
            path.write_bytes(path.read_bytes()[:100])
    for other in set(partial.glob("parts/*.txt")) - {whole}:
        other.unlink()
    seen: list[int] = []
    write_dataset(tmp_path / "set", many, progress=lambda done, total: seen.append(done))
    assert seen[0] == len(drawn) == 2 and seen[-1] == 14
    assert drawn.items() <= {path.name: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*.jpg")}.items()
    assert files_of(tmp_path / "set") == files_of(fresh)


def test_an_interrupted_data_set_is_not_taken_for_a_whole_one(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "set", SMALL, progress=stop)
    assert not (tmp_path / "set").exists()
    write_dataset(tmp_path / "set", replace(SMALL, num_images=1))
    assert len((tmp_path / "set" / "all.txt").read_text().splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]
    assert len(list((tmp_path / "set").rglob("*.jpg"))) == 1


def test_looks_show_different_places_seen_from_different_heights():
    source = [render_image(replace(SMALL, images_per_scene=1), index).scene for index in range(4)]
    target = [render_image(replace(SMALL, images_per_scene=1, look="target"), index).scene for index in range(4)]
    assert max(scene["location"] for scene in source) < 60 <= min(scene["location"] for scene in target)
    assert np.mean([scene["camera_height_m"]
                    for scene in source]) < np.mean([scene["camera_height_m"] for scene in target])


@pytest.mark.parametrize("changes", [{"num_images": 0}, {"size": (20, 200)}, {"seed": -1}, {"look": "sepia"},
                                     {"images_per_scene": 0}])
def test_bad_configs_are_refused_in_one_line(changes: dict):
    with pytest.raises(InputError, match="must be") as caught:
        replace(SMALL, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("changes", [{"locations": (50, 50)}, {"level_weights": (1.0,)}, {"hour_weights": (0.0,) * 24},
                                     {"noise": (0.2, 0.1)}])
def test_bad_looks_are_refused(changes: dict):
    with pytest.raises(InputError):
        replace(Look(), **changes)


def test_bad_calls_are_refused(tmp_path: Path):
    with pytest.raises(IndexError):
        render_image(SMALL, -1)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        write_dataset(tmp_path, SMALL)
    with pytest.raises(InputError, match="num_workers"):
        write_dataset(tmp_path / "new", SMALL, num_workers=0)
