"""Composites: the images that give backgrounds, and their places without people."""

from __future__ import annotations

import contextlib
import io
import pickle
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest

from crowddist.data.composite import backgrounds
from crowddist.data.composite.backgrounds import counted_backgrounds, one_camera
from crowddist.data.shards import ShardReader, ShardWriter
from crowddist.errors import InputError
from tests.data.composite.streets import SIZE, coded, frames, image_set, street


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


def test_pixels_alone_are_opened(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "set", name="a", split="all", labelled=True, converter="test") as writer:
        writer.add("a", {"png": coded(street()), "points.npy": np.zeros((1, 2)), "json": b"{"})
    key, data = backgrounds.read_image(ShardReader(tmp_path / "set"), 0)
    assert key == "a" and np.array_equal(backgrounds.decode_image(data), street())


BLACK = np.random.default_rng(0).integers(0, 5, (*SIZE, 3)).astype(np.uint8)
"""Of a covered lens: people in it would be labelled, and seen by nobody."""
TINY, STRIP = street()[:16, :20], np.full((120, 2400, 3), 90, np.uint8)
GREY = np.repeat(street()[..., :1], 3, 2)
CROWD, NOBODY = np.full((1, 15, 20), 0.1, np.float32), np.zeros((1, 15, 20), np.float32)


@pytest.mark.parametrize(("pictures", "maps", "serve", "line"), [
    ([street()], [NOBODY], [0], ""),
    ([street(level=12), GREY], [NOBODY, NOBODY], [0, 1], ""),
    ([street(), street(1)], [CROWD, NOBODY], [1], ""),
    ([street(), TINY, STRIP, BLACK, street(1)[:70]], [NOBODY] * 5, [0, 4], ""),
    ([street(), street(1), BLACK, TINY], [CROWD, CROWD, NOBODY, NOBODY], [],
     "none of 4 images of camera serves: 2 crowded (the counter finds less than 8% of the area empty), 1 black, "
     "1 too small or narrow (below 64 px); add images of emptier or lighter hours, or take a rendered source"),
    ([TINY], [NOBODY], [], "none of 1 images of camera serves: 1 too small"),
], ids=["one image", "night and grey", "crowds in one", "mixed sizes", "crowds everywhere", "too small"])
def test_any_target_with_a_counter_serves_or_is_one_clear_line(tmp_path: Path, pictures: list[np.ndarray], serve,
                                                               maps: list[np.ndarray], line: str) -> None:
    reader, found = image_set(tmp_path / "set", pictures), []
    with contextlib.ExitStack() as stack:
        caught = None if serve else stack.enter_context(pytest.raises(InputError))
        found = counted_backgrounds(reader, range(len(reader)), maps)
    assert caught is None or (line in str(caught.value) and "\n" not in str(caught.value))
    assert [background.key for background in found] == [f"frame_{number}" for number in serve]
    for background, number in zip(found, serve, strict=True):
        np.testing.assert_array_equal(background.image(), pictures[number])
    assert len(pickle.dumps(found)) < 10_000, "processes read the images themselves: a thousand would fill the memory"


OTHERS = [np.random.default_rng(number).integers(0, 255, (6, 8, 3)).repeat(20, 0).repeat(20, 1).astype(np.uint8)
          for number in range(9)]


@pytest.mark.parametrize(("pictures", "line"), [
    (frames(), ""),
    (frames(level=12), ""),
    ([np.repeat(frame[..., :1], 3, 2) for frame in frames()], ""),
    ([frame if number % 3 else cv2.resize(frame, (128, 96), interpolation=cv2.INTER_AREA)
      for number, frame in enumerate(frames())], ""),
    ([*frames(), BLACK, TINY, *frames()], ""),
    ([street(number) for number in range(9)], ""),
    ([street()], "at least 8 different frames of one fixed camera, camera has 1; add frames of other hours"),
    ([street()] * 12, "camera has 1 beside 11 repeated; add frames"),
    ([BLACK, BLACK + 1] * 6, "camera has 0 beside 12 black; add frames"),
    ([frame[:16, :20] for frame in frames()], "camera has 0 beside 12 too small or narrow (below 64 px); add frames"),
    ([*frames(5), BLACK, street()[:50]], "camera has 5 beside 1 black, 1 too small"),
    (OTHERS, "camera is not one fixed camera, or most of its view moves"),
], ids=["a camera", "night", "grey", "two sizes", "some bad ones", "nobody", "one frame", "a stream that hangs",
        "black", "too small", "too few", "cameras"])
def test_any_target_without_a_counter_serves_or_is_one_clear_line(tmp_path: Path, pictures: list[np.ndarray],
                                                                  line: str) -> None:
    reader = image_set(tmp_path / "set", pictures)
    if line:
        with pytest.raises(InputError) as caught:
            backgrounds.camera_backgrounds(reader, range(len(reader)))
        assert line in str(caught.value) and "counter=rendered" in str(caught.value) and "\n" not in str(caught.value)
    else:
        found = backgrounds.camera_backgrounds(reader, range(len(reader)))
        assert len(found) == 1 and found[0].empty.mean() > 0.9
        assert found[0].image().shape in ((*SIZE, 3), (96, 128, 3))


def test_a_large_jpeg_is_shrunk_while_it_is_read() -> None:
    large = np.full((64, 3000, 3), 90, np.uint8)
    assert backgrounds.decode_image(coded(large, quality=90), 1024).shape == (32, 1500, 3)
    assert backgrounds.shrunk(coded(large, quality=90)).shape == (22, 1024, 3)


def test_any_tables_of_a_photographs_jpeg_can_be_used_again() -> None:
    """A grey JPEG's only table may have any number."""
    data = bytearray(coded(street()[..., 0], quality=60))
    data[data.index(b"\xff\xdb") + 4] = data[data.index(b"\xff\xc0") + 12] = 1
    tables = backgrounds.jpeg_tables(bytes(data))
    again = PIL.Image.open(io.BytesIO(coded(street(), **tables)))
    assert list(again.quantization[0]) == tables["qtables"][0]  # type: ignore[attr-defined]
