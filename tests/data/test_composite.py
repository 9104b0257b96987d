"""Composites: places without people, perspective, appearance, people, labels, shards, and what a target may be."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest

from crowddist.data.composite import backgrounds, ground, image, match, puppets
from crowddist.data.composite.backgrounds import Background, counted_backgrounds, one_camera
from crowddist.data.composite.dataset import write_composites
from crowddist.data.composite.image import compose
from crowddist.data.config import DataSpec, StreamConfig, parse_data
from crowddist.data.prepare import Prepared, prepare
from crowddist.data.shards import ShardReader, ShardWriter, decode
from crowddist.data.simulator.camera import Camera
from crowddist.data.simulator.crowd import Crowd
from crowddist.data.simulator.figures import ELEVATIONS
from crowddist.data.simulator.light import CLEAR, draw_light
from crowddist.data.simulator.paint import pose_crowd
from crowddist.data.simulator.solids import NUM_MATERIALS, PIXELS_PER_M
from crowddist.errors import InputError
from crowddist.storage.names import MARK

SIZE = (120, 160)


def street(seed: int = 0, level: int = 110) -> np.ndarray:
    """(120, 160, 3): rough ground of one colour under a bright sky."""
    rng = np.random.default_rng(seed)
    picture = np.full((*SIZE, 3), level, np.float32) + rng.normal(0, 3, (*SIZE, 1))
    picture[:20] += 60
    return np.clip(picture, 0, 255).astype(np.uint8)


def coded(picture: np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    PIL.Image.fromarray(picture).save(stream, "JPEG" if options else "PNG", **options)
    return stream.getvalue()


def empty_street(**changes) -> Background:
    cells = (15, 20)
    fields = {"key": "street", "jpeg": coded(street()), "empty": np.ones(cells, bool),
              "crowded": np.zeros(cells, bool), "walked": np.ones(cells, bool)}
    return Background(**{**fields, **changes})


def image_set(folder: Path, pictures: list[np.ndarray]) -> ShardReader:
    with ShardWriter(folder, name="camera", split="all", labelled=False, converter="test") as writer:
        for number, picture in enumerate(pictures):
            writer.add(f"frame_{number}", {"png": coded(picture), "json": {"height": SIZE[0], "width": SIZE[1]}})
    return ShardReader(folder)


def frames(count: int = 12, level: int = 110) -> list[np.ndarray]:
    """Frames of one camera: the same street, a dark block that walks by, and grain."""
    plain, found = street(level=level).astype(np.float32), []
    for number in range(count):
        frame = plain + np.random.default_rng(number).normal(0, 2, plain.shape)
        frame[60:90, 12 * number:12 * number + 12] = level / 3
        found.append(np.clip(frame, 0, 255).astype(np.uint8))
    return found


@pytest.fixture(autouse=True)
def few_puppets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four puppets an elevation in this process: each takes time to be made."""
    monkeypatch.setattr(image, "PUPPETS", 4)
    monkeypatch.setattr(image, "UMBRELLAS", 1)


# What the user writes.


def test_a_line_names_images_and_options() -> None:
    plain = parse_data("composite:/photos")
    assert (plain.format, plain.num_images, plain.seed, plain.counter, plain.heads) == ("composite", 1000, 0, "", None)
    assert plain.background == DataSpec(format="place", place="/photos")
    full = parse_data("composite:shanghaitech:$DATA/part_B_final:train?counter=runs/a&images=20&seed=3&heads=6-60.5")
    assert full.background == DataSpec(format="shanghaitech", place="$DATA/part_B_final", split="train")
    assert (full.counter, full.num_images, full.seed, full.heads) == ("runs/a", 20, 3, (6.0, 60.5))


@pytest.mark.parametrize("text", ["composite:", "composite:/a?people=3", "composite:/a?images=0", "composite:/a?seed=x",
                                  "composite:/a?heads=50-5", "composite:/a?heads=6", "composite:/a?counter=",
                                  "composite:?images=3"])
def test_other_options_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(InputError, match=r"not composites: .*give composite:DATA") as caught:
        parse_data(text)
    assert "\n" not in str(caught.value)


def test_no_composites_of_rendered_images() -> None:
    with pytest.raises(InputError, match="need photographs"):
        parse_data("composite:renderer:broad:10")


# Places without people.


def test_a_place_is_empty_where_no_view_finds_anybody_near(tmp_path: Path) -> None:
    reader = image_set(tmp_path / "set", [street()])
    views = np.zeros((2, 15, 20), np.float32)
    views[1, 7, 10] = 0.11  # one view alone, just above the threshold
    views[:, 2, 2] = 0.09
    found = counted_backgrounds(reader, [0], [views])[0]
    crowded, empty = np.zeros((15, 20), bool), np.ones((15, 20), bool)
    crowded[6:9, 9:12] = True
    empty[5:10, 8:13] = False
    np.testing.assert_array_equal(found.crowded, crowded)
    np.testing.assert_array_equal(found.empty, empty)


def test_crowds_everywhere_are_one_clear_line(tmp_path: Path) -> None:
    reader = image_set(tmp_path / "set", [street(), street(1)])
    crowds = [np.full((1, 15, 20), 0.1, np.float32)] * 2
    with pytest.raises(InputError, match=r"finds less than 8% of each of 2 images of camera empty") as caught:
        counted_backgrounds(reader, [0, 1], crowds)
    assert "\n" not in str(caught.value)
    nobody = np.zeros((1, 15, 20), np.float32)
    assert [found.key for found in counted_backgrounds(reader, [0, 1], [crowds[0], nobody])] == ["frame_1"]


def test_one_camera_is_told_from_many_also_when_the_light_changes() -> None:
    grey = [frame[..., 0].astype(np.float32) for frame in frames()]
    assert one_camera(grey) and one_camera([frame + 30 * (number % 3) for number, frame in enumerate(grey)])
    others = [np.roll(np.asarray(cv2.GaussianBlur(np.random.default_rng(number).normal(110, 250, SIZE), (0, 0), 4)), 0)
              for number in range(12)]
    assert not one_camera([frame.astype(np.float32) for frame in others])
    assert not one_camera([*grey[:-1], grey[0].T])


def test_the_median_of_frames_is_empty_and_has_their_grain(tmp_path: Path) -> None:
    reader = image_set(tmp_path / "set", frames())
    found = backgrounds.camera_backgrounds(reader, range(len(reader)))
    assert len(found) == 1 and found[0].pixels is not None and not found[0].crowded.any() and found[0].empty.all()
    picture, plain = found[0].image().astype(float), street().astype(float)
    assert np.abs(picture - plain).mean() < 4  # the block, 70 levels darker, is nowhere
    assert (picture - plain)[60:90].mean() > -2
    assert 1.5 < (picture - plain).std() < 3  # frames had 2
    assert found[0].walked[8:11, 1:16].all() and not found[0].walked[:5].any()


def test_what_moves_in_most_frames_is_not_called_empty(tmp_path: Path) -> None:
    pictures = frames()
    for number, picture in enumerate(pictures):
        picture[30:50, 30:60] = 40 if number % 2 else 220
    found = backgrounds.camera_backgrounds(image_set(tmp_path / "set", pictures), range(12))[0]
    assert not found.empty[5, 5] and found.empty[12, 15]


@pytest.mark.parametrize(("pictures", "line"), [
    ([street()], "at least 8 frames of one fixed camera, camera has 1 images"),
    ([np.random.default_rng(number).integers(0, 255, (6, 8, 3)).repeat(20, 0).repeat(20, 1).astype(np.uint8)
      for number in range(9)], "camera is not one fixed camera"),
])
def test_without_a_counter_other_images_are_one_clear_line(tmp_path: Path, pictures: list[np.ndarray],
                                                           line: str) -> None:
    reader = image_set(tmp_path / "set", pictures)
    with pytest.raises(InputError, match=line) as caught:
        backgrounds.camera_backgrounds(reader, range(len(reader)))
    assert "counter=RUN" in str(caught.value) and "\n" not in str(caught.value)


def test_pixels_alone_are_opened(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "set", name="a", split="all", labelled=True, converter="test") as writer:
        writer.add("a", {"png": coded(street()), "points.npy": np.zeros((1, 2)), "json": b"{"})
    key, data = backgrounds.read_image(ShardReader(tmp_path / "set"), 0)
    assert key == "a" and np.array_equal(backgrounds.decode_image(data), street())


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
    background = empty_street(jpeg=coded(picture), crowded=crowded, empty=~crowded)
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
    painted = {name: compose(empty_street(jpeg=coded(street(level=level))), seed=0, index=2, heads=(6, 20))
               for name, level in (("day", 110), ("night", 25))}
    shown = {name: found.image[found.mask > 0].astype(float) for name, found in painted.items() if found is not None}
    assert shown["night"].mean() < 0.5 * shown["day"].mean()
    assert np.ptp(shown["day"], axis=1).mean() < 12
    red = street().astype(np.int16) + np.array([70, -20, -20])
    found = compose(empty_street(jpeg=coded(np.clip(red, 0, 255).astype(np.uint8))), seed=0, index=2, heads=(6, 20))
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
    from crowddist.data.composite.paint import paint_people

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


def test_a_place_without_room_has_no_composite() -> None:
    empty = np.zeros((15, 20), bool)
    empty[0, :3] = True  # the sky
    assert compose(empty_street(empty=empty), seed=0, index=0, heads=(30.0, 40.0)) is None


def test_the_photographs_own_jpeg_is_nearly_kept() -> None:
    data = coded(street(), quality=60, subsampling=2)
    picture, tables = backgrounds.decode_image(data), backgrounds.jpeg_tables(data)
    still = image.Composite(image=picture, points=np.zeros((0, 2)), sizes=np.zeros(0), mask=np.zeros(SIZE, np.uint8),
                            region=np.ones(SIZE, bool), scene={})
    lost = {name: np.abs(backgrounds.decode_image(still.encode(options)).astype(int) - picture).mean()
            for name, options in (("own", tables), ("other", {"quality": 60 - 20}))}
    assert lost["own"] < 0.5 < lost["other"]
    assert backgrounds.jpeg_tables(coded(street())) == {}  # a PNG


# Shards, and a run's data.


def spec(**changes) -> DataSpec:
    return DataSpec(**{"format": "composite", "num_images": 6, "heads": (6.0, 20.0), "seed": 0, **changes})


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_shards_are_the_same_from_one_process_and_from_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Other processes have all puppets, so this one has, too; few people, who are large.
    monkeypatch.undo()
    empty = np.ones((15, 20), bool)
    empty[:, :5] = False
    places = [empty_street(), empty_street(key="half", empty=empty, crowded=~empty)]
    few = spec(num_images=4, heads=(14.0, 30.0))
    write_composites(str(tmp_path / "one"), places, few, name="composite-a")
    write_composites(str(tmp_path / "two"), places, few, name="composite-a", num_workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")
    reader = ShardReader(tmp_path / "one")
    assert len(reader) == 4 and reader.manifest.labelled and reader.manifest.converter.startswith("composite ")
    samples = [decode(*reader.read(index)) for index in range(4)]
    assert {sample.scene["background"] for sample in samples} == {"street", "half"}
    for sample in samples:
        half = sample.scene["background"] == "half"
        assert (sample.region is not None) == half and sample.mask is None  # unknown people have no mask
        assert sample.points is not None and sample.boxes is not None and sample.scene["count"] == len(sample.points)
        np.testing.assert_allclose(sample.boxes[:, :2] + sample.boxes[:, 2:] / 2 - 0.5, sample.points, atol=1e-3)


def test_training_leaves_out_what_lies_outside_the_region(tmp_path: Path) -> None:
    from crowddist.data.stream import CropDataset, collate

    empty = np.zeros((15, 20), bool)
    empty[:, 10:] = True
    write_composites(str(tmp_path / "set"), [empty_street(empty=empty, crowded=~empty)], spec(), name="a")
    config = StreamConfig(image_size=160, crop_size=64, scale_jitter=(1.0, 1.0), noisy_share=0.0)
    crops = CropDataset(str(tmp_path / "set"), config, plan_seed=0, name="source")
    shares = [crops[position]["keep"].mean() for position in range(40)]
    assert min(shares) == 0 and max(shares) == 1 and 0.2 < np.mean(shares) < 0.8
    whole = CropDataset(str(tmp_path / "set"), config, plan_seed=0, name="source", whole_px=160)[0]
    columns = whole["keep"][:, ::-1] if whole["keep"][:, :9].any() else whole["keep"]
    assert (columns[:, 11:] == 1).all() and (columns[:, :9] == 0).all()
    batch = collate([crops[0], {name: value for name, value in crops[1].items() if name != "keep"}])
    assert batch.keep is not None and (batch.keep[1] == 1).all()  # mixed with images without regions


def shanghaitech(folder: Path, pictures: list[np.ndarray]) -> Path:
    """Images in ShanghaiTech's layout, with labels that nobody can read."""
    train = folder / "part_B_final" / "train_data"
    (train / "ground_truth").mkdir(parents=True)
    (train / "images").mkdir()
    for number, picture in enumerate(pictures):
        PIL.Image.fromarray(picture).save(train / "images" / f"IMG_{number}.jpg", quality=92)
        (train / "ground_truth" / f"GT_IMG_{number}.mat").write_bytes(b"no labels")
    return folder / "part_B_final"


def prepared(text: str, place: Path, **options) -> tuple[Prepared, list[str]]:
    lines: list[str] = []
    return prepare(parse_data(text), str(place), **{"role": "source", "say": lines.append, **options}), lines


@pytest.fixture
def one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """No processes, which would import everything again."""
    monkeypatch.setattr("os.cpu_count", lambda: 1)


@pytest.mark.parametrize("level", [110, 12])
@pytest.mark.usefixtures("one_worker")
def test_a_run_makes_composites_once_and_opens_no_label_of_the_target(tmp_path: Path, level: int) -> None:
    """By day and by night."""
    place = shanghaitech(tmp_path, frames(level=level))
    with pytest.raises(InputError, match=r"GT_IMG_\d+\.mat"):
        prepared(f"shanghaitech:{place}:all", tmp_path / "labelled", role="evaluation")
    text = f"composite:shanghaitech:{place}:all?images=4&heads=6-20"
    found, lines = prepared(text, tmp_path / "runs", masks=True)  # on medians everybody is known
    assert found.manifest.num_samples == 4 and found.manifest.labelled
    assert any("putting people into 1 images" in line for line in lines)
    again, lines = prepared(text, tmp_path / "runs")
    assert again == found and not any("putting" in line for line in lines)
    other, _ = prepared(text.replace("images=4", "images=3"), tmp_path / "runs")
    assert other.url != found.url and other.manifest.num_samples == 3


@pytest.mark.usefixtures("one_worker")
def test_a_counter_tells_where_nobody_is(tmp_path: Path, tiny_checkpoint: str) -> None:
    from crowddist.inference.crowd_maps import VIEWS, crowd_maps

    (tmp_path / "photos").mkdir()
    PIL.Image.fromarray(street()).save(tmp_path / "photos" / "only.png")
    reader = image_set(tmp_path / "set", [street()])
    maps = next(iter(crowd_maps(tiny_checkpoint, reader, [0])))
    assert maps.shape == (len(VIEWS), 9, 12) and not np.array_equal(maps[0], maps[2])  # 72 x 96 px, cells of 8
    text = f"composite:{tmp_path / 'photos'}?counter={tiny_checkpoint}&images=2&heads=6-20"

    def nobody(checkpoint: str, images: ShardReader, indexes) -> list[np.ndarray]:
        assert checkpoint == tiny_checkpoint
        return [np.zeros((3, 9, 12), np.float32) for _ in indexes]

    found, _ = prepared(text, tmp_path / "runs", crowd_maps=nobody)
    assert found.manifest.num_samples == 2  # of a target of one image
    prepared(text.replace("/photos?", "/set?"), tmp_path / "of shards", crowd_maps=nobody)
    assert (tmp_path / "of shards" / "data" / MARK).exists(), "nothing there is taken for a user's image"
    with pytest.raises(InputError, match=r"made by jobs/adapt\.py"):
        prepared(text, tmp_path / "other")


def test_composites_are_a_source_alone(tmp_path: Path) -> None:
    for role in ("target", "evaluation", "boxes"):
        with pytest.raises(InputError, match=f"a source of labelled images, not a {role}"):
            prepared("composite:/photos", tmp_path, role=role)


def test_a_counter_that_is_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(InputError, match="not the folder of a run that has ended"):
        prepared(f"composite:/photos?counter={tmp_path / 'run'}", tmp_path)
