"""Films as phones, editors and recorders leave them: turned, shortened without a copy, with oblong pixels. OpenCV
writes none of these, so the bytes that say it are put into its own.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from crowddist.video.frames import Frames
from crowddist.video.mp4_length import shown_s
from crowddist.video.sampling import parse_every
from crowddist.video.source import find_source
from tests.video.conftest import number_of

ONE = 0x10000


def patch(path: Path, after: bytes, place: int, new: bytes) -> Path:
    """Puts bytes at a place counted from the end of the only `after`."""
    data = bytearray(path.read_bytes())
    assert data.count(after) == 1, after
    start = data.index(after) + len(after) + place
    data[start : start + len(new)] = new
    path.write_bytes(data)
    return path


def read(path: Path) -> tuple[list[tuple[int, float]], list[np.ndarray], Frames]:
    with Frames(find_source(path), parse_every(1)) as found:
        frames = list(found)
    return [(frame.number, round(frame.time_s, 3)) for frame in frames], [frame.image for frame in frames], found


@pytest.mark.parametrize(("turn", "matrix", "bright"), [
    (90, (0, ONE, 0, -ONE, 0, 0), np.s_[60:, :]), (180, (-ONE, 0, 0, 0, -ONE, 0), np.s_[:, :30]),
    (270, (0, -ONE, 0, ONE, 0, 0), np.s_[:30, :])])
def test_a_film_held_sideways_is_counted_upright(films: Callable[..., Path], turn: int, matrix: tuple[int, ...],
                                                 bright: tuple[slice, slice]) -> None:
    right = np.zeros((72, 96, 3), np.uint8)
    right[:, 48:] = 200
    path = patch(films("turned.mp4", 3, codec="mp4v", draw=lambda _: right), b"tkhd", 40, struct.pack(">6i", *matrix))
    _, images, found = read(path)
    assert {image.shape for image in images} == {(72, 96, 3) if turn == 180 else (96, 72, 3)} and not found.notes
    assert images[0][bright].mean() > 150 and images[0].mean() < 120


def test_a_film_shortened_without_a_copy_is_not_cut_off(films: Callable[..., Path]) -> None:
    path = films("short.mp4", 20, codec="mp4v")
    assert shown_s(path) == 2 and not read(path)[2].notes
    ticks = path.read_bytes().partition(b"mdhd")[2][12:16]
    patch(path, b"elst", 8, struct.pack(">I", 800) + struct.pack(">i", int.from_bytes(ticks, "big") * 12 // 10))
    patch(path, b"tkhd", 20, struct.pack(">I", 800))
    listed, images, found = read(path)
    assert shown_s(path) == 0.8 and listed == [(number, number / 10) for number in range(8)]
    assert [number_of(image) for image in images] == list(range(12, 20))
    assert found.num_frames == 8 and not found.notes


def test_oblong_pixels_are_told(films: Callable[..., Path]) -> None:
    path = patch(films("wide.mp4", 3, codec="mp4v"), b"tkhd", 40, struct.pack(">6i", 4 * ONE, 0, 0, 0, 3 * ONE, 0))
    (note,) = read(path)[2].notes
    assert note.startswith("pixels are 1.33 times as wide as high")


def test_the_length_of_what_is_no_mp4_or_a_damaged_one_is_not_told(films: Callable[..., Path], tmp_path: Path) -> None:
    whole = films("a.mp4", 5, codec="mp4v").read_bytes()
    assert shown_s(films("a.avi", 5)) == 0
    for number, data in enumerate((b"", b"\0" * 100, whole[: len(whole) // 2], whole.replace(b"tkhd", b"free"),
                                   whole.replace(b"mvhd", b"free"), b"\0\0\0\1moov" + b"\xff" * 8)):
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(data)
        assert shown_s(path) == 0
