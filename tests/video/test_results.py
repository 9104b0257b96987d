"""The files of a count: rows as they come, and an overlay that plays."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from crowddist.errors import InputError
from crowddist.reports.charts import counts_chart, pixels
from crowddist.video.results import CountLog, OverlayVideo


def frames_of(path: Path) -> list[np.ndarray]:
    video, frames = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG), []
    while (read := video.read())[0]:
        frames.append(read[1][..., ::-1])
    return frames


def test_rows_are_on_the_disk_as_soon_as_they_are_added(tmp_path: Path) -> None:
    log = CountLog(tmp_path / "counts.csv")
    assert not (tmp_path / "counts.csv").exists()
    log.add([["0.000", 0, "all", "3.50", 1.0, 6.0], ["0.000", 0, 'gate "A", left', "1.00", None, None]])
    expected = [["time", "frame", "zone", "count", "low", "high"], ["0.000", "0", "all", "3.50", "1.0", "6.0"],
                ["0.000", "0", 'gate "A", left', "1.00", "", ""]]
    for more in ([], [["1.000", "10", "all", "2.00", "", ""]]):
        if more:
            log.add(more)
        with open(tmp_path / "counts.csv", newline="", encoding="utf-8") as stream:
            assert list(csv.reader(stream)) == expected + more
    log.close()
    full = CountLog(Path("/dev/full"))
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        full.add([["0.000", 0, "all", "3.50", 1.0, 6.0]])


@pytest.mark.parametrize("size", [(48, 64), (49, 65)])
def test_pictures_become_a_video(tmp_path: Path, size: tuple[int, int]) -> None:
    video = OverlayVideo(tmp_path / "o.mp4", 12.345)
    for number in range(5):
        video.add(np.full((*size, 3), (40 * number, 200, 30), np.uint8))
    assert video.close() == "" and video.num_written == 5
    frames = frames_of(tmp_path / "o.mp4")
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 5
    assert [round(float(frame[..., 0].mean()) / 40) for frame in frames] == list(range(5)), "red comes first"
    assert cv2.VideoCapture(str(tmp_path / "o.mp4")).get(cv2.CAP_PROP_FPS) == pytest.approx(12.35, abs=0.02)


def test_pictures_of_another_size_are_put_on_black(tmp_path: Path) -> None:
    video = OverlayVideo(tmp_path / "o.mp4", 5)
    for size in ((64, 128), (32, 32), (65, 129)):
        video.add(np.full((*size, 3), 200, np.uint8))
    assert video.close() == ""
    _, square, last = frames_of(tmp_path / "o.mp4")
    assert square.shape == (64, 128, 3) and square[:, 40:88].mean() > 190 and square[:, :24].mean() < 10
    assert last.mean() > 190


@pytest.mark.parametrize("fps", [0.001, 1 / 60, 23.976, 29.97003, 59.94, 70.123, 1000])
def test_any_rate_can_be_written(tmp_path: Path, fps: float) -> None:
    video = OverlayVideo(tmp_path / "o.mp4", fps)
    for _ in range(3):
        video.add(np.zeros((32, 32, 3), np.uint8))
    assert video.close() == "" and len(frames_of(tmp_path / "o.mp4")) == 3


def test_a_missing_encoder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="this OpenCV has no encoder none") as told:
        OverlayVideo(tmp_path / "o.mp4", 5, codec="none").add(np.zeros((32, 32, 3), np.uint8))
    assert "\n" not in str(told.value) and not list(tmp_path.iterdir())


def test_a_chart_shows_all_places() -> None:
    line = [(float(time), 10.0 + time % 7) for time in range(300)]
    one = pixels(counts_chart({"all": line}, title="a.mp4", peak=(6.0, 16.0)))
    assert one.ndim == 3 and one.shape[2] == 3 and one.dtype == np.uint8 and (one < 255).any()
    two = pixels(counts_chart({"all": line, "gate": [(time, count / 2) for time, count in line]}, title="a.mp4",
                              peak=(6.0, 16.0)))
    assert two.shape == one.shape and (two != one).any()
    for alone_s in (0.0, 1e6):
        assert pixels(counts_chart({"all": [(alone_s, 0.0)]}, title="", peak=(alone_s, 0.0))).shape == one.shape
    for nothing in ({}, {"all": []}):
        with pytest.raises(ValueError, match="no counts"):
            counts_chart(nothing, title="a.mp4", peak=(0, 0))
