"""Frames of files and of streams that break, from a real server: none is lost unsaid, and nothing hangs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from crowddist.errors import InputError
from crowddist.video.capture import Connection
from crowddist.video.frames import AHEAD, Frames
from crowddist.video.sampling import parse_every
from crowddist.video.source import Source, find_source
from tests.video.conftest import HOLD, StreamServer, number_of, picture, retime, running, together

PATIENT = Connection(open_timeout_s=20, read_timeout_s=20, reconnects=0)
"""For a slow machine."""
BRIEF = Connection(open_timeout_s=20, read_timeout_s=1, reconnects=0)
"""For streams that stall."""


def frames(where: object, every: str | int = 1, connection: Connection = PATIENT,
           words: list[str] | None = None) -> Frames:
    return Frames(find_source(where), parse_every(every), connection=connection,  # type: ignore[arg-type]
                  say=words.append if words is not None else print)


def read(where: object, every: str | int = 1,
         connection: Connection = PATIENT) -> tuple[list[tuple[int, float]], Frames]:
    with frames(where, every, connection) as found:
        listed = []
        for frame in found:
            assert number_of(frame.image) == frame.number and frame.image.dtype == np.uint8
            listed.append((frame.number, round(frame.time_s, 3)))
    return listed, found


def test_each_nth_frame_and_each_second(film: Path) -> None:
    listed, found = read(film, 3)
    assert listed == [(number, number / 10) for number in range(0, 20, 3)]
    assert (found.num_read, found.num_frames, found.fps, found.live, found.dropped) == (20, 20, 10, False, 0)
    assert not found.notes
    assert read(film, "1s")[0] == [(0, 0), (10, 1)] and read(film, "0.5s")[0] == [(0, 0), (5, 0.5), (10, 1), (15, 1.5)]


def test_frames_are_rgb(films: Callable[..., Path]) -> None:
    red = np.zeros((72, 96, 3), np.uint8)
    red[..., 0] = 250
    with frames(films("red.avi", 1, draw=lambda _: red)) as found:
        (frame,) = found
    assert frame.image[..., 0].mean() > 200 and frame.image[..., 2].mean() < 40


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "mp4v"), ("a.mkv", "MJPG")])
def test_other_containers(films: Callable[..., Path], name: str, codec: str) -> None:
    listed, found = read(films(name, 20, codec=codec), 4)
    assert listed == [(number, number / 10) for number in range(0, 20, 4)] and not found.notes


def test_times_of_a_variable_rate_are_the_containers(films: Callable[..., Path]) -> None:
    times = [0, 30, 60, 700, 740, 1500, 1510, 2600, 2700, 2800]
    path = retime(films("vfr.mkv", 10), times)
    assert read(path)[0] == [(number, time / 1000) for number, time in enumerate(times)]
    listed, found = read(path, "1s")
    assert listed == [(0, 0), (5, 1.5), (7, 2.6)] and not found.notes, "ten frames of ten are no cut video"


@pytest.mark.parametrize("name", ["a.avi", "a.mkv"])
def test_of_a_cut_video_what_is_readable_comes_with_a_note(films: Callable[..., Path], name: str) -> None:
    noise = np.random.default_rng(0).integers(-9, 10, (72, 96, 3))
    path = films(name, 20, draw=lambda number: (picture(number) + noise).astype(np.uint8))  # larger than the header
    os.truncate(path, path.stat().st_size // 2)
    with frames(path) as found:
        listed = list(found)
    assert 5 < len(listed) < 15 and [frame.number for frame in listed] == list(range(len(listed)))
    # The last one may be half there.
    assert [number_of(frame.image) for frame in listed[:-1]] == list(range(len(listed) - 1))
    assert found.notes == [f"the video seems cut off: {len(listed)} of 20 frames could be read and are counted"]


def test_what_cannot_be_read_as_a_video_is_one_line(films: Callable[..., Path], tmp_path: Path) -> None:
    cut, bare, other = films("cut.mp4", 20, codec="mp4v"), films("bare.mkv", 20), tmp_path / "text.mp4"
    os.truncate(cut, cut.stat().st_size // 2)  # its index stood at its end
    os.truncate(bare, 600)
    other.write_text("no video at all\n" * 50)
    for path, words in ((cut, "not a video that can be read, or one that was cut off"), (other, "not a video that can"),
                        (bare, "holds no frames that can be read")):
        with pytest.raises(InputError, match=words) as told:
            read(path)
        assert str(told.value).startswith(str(path)) and "\n" not in str(told.value)


READ_ALL = """
import sys
from crowddist.errors import InputError
from crowddist.video.frames import Frames
from crowddist.video.sampling import Every
from crowddist.video.source import Source, find_source
for where in sys.argv[1:]:
    try:
        with Frames(find_source(where), Every(frames=1)) as frames:
            print(sum(1 for _ in frames))
    except InputError:
        print("refused")
"""


def test_opencv_and_ffmpeg_say_nothing_of_their_own(films: Callable[..., Path], streams: StreamServer) -> None:
    """In a process of its own: FFmpeg asks once how much it may say, and here others were first."""
    cut, film = films("cut.mp4", 20, codec="mp4v"), films("a.avi", 5)
    os.truncate(cut, cut.stat().st_size // 2)
    done = subprocess.run([sys.executable, "-c", READ_ALL, str(cut), film, "97", streams.address], capture_output=True,
                          text=True, check=True)
    assert (done.stdout, done.stderr) == ("refused\n5\nrefused\nrefused\n", "")


def test_a_slow_reader_loses_no_frame_of_a_file_and_holds_few(films: Callable[..., Path]) -> None:
    size = (360, 640)
    path = films("long.avi", 120, size=size, draw=lambda number: np.full((*size, 3), number, np.uint8))
    tracemalloc.start()
    with frames(path) as found:
        numbers = []
        for frame in found:
            # The thread runs ahead as far as it may.
            while found.num_read < min(frame.number + 1 + AHEAD, 120):
                time.sleep(0.001)
            numbers.append(frame.number)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert numbers == list(range(120)) and found.dropped == 0
    # Held ahead, in the reader's hand, in the thread's hand, and once more while colours are turned.
    assert most < (AHEAD + 4) * 3 * size[0] * size[1]


def test_a_count_that_leaves_early_leaves_no_thread(film: Path) -> None:
    with frames(film) as found:
        next(iter(found))
    assert not found._thread.is_alive()


def test_a_film_on_a_web_server_is_no_live_source(streams: StreamServer, film: Path) -> None:
    streams.files["/film.avi"] = film.read_bytes()
    address = streams.address.replace("/video", "/film.avi")
    listed, found = read(address, 3)
    assert listed == [(number, number / 10) for number in range(0, 20, 3)] and not found.live and not found.notes


def a_live_stream_drops_its_oldest_frames_and_tells_how_many() -> None:
    with running(StreamServer()) as streams:
        streams.script = [[*range(20), HOLD]]
        with frames(streams.address, connection=BRIEF) as found:
            first = next(reading := iter(found))
            while found.num_read < 20:  # the first is being counted
                time.sleep(0.01)
            rest = [frame.number for frame in reading]
        # The newest are left, the one in the thread's hand among them; it may have dropped one to make room for that.
        assert AHEAD - 1 <= len(rest) <= AHEAD + 1 and rest == list(range(20 - len(rest), 20))
        assert first.number < rest[0]
        assert found.live and 1 + found.dropped + len(rest) == 20 and found.notes == ["the stream stalled for 1 s"]


def a_stream_that_breaks_off_is_opened_again() -> None:
    with running(StreamServer()) as streams:
        words: list[str] = []
        # FFmpeg wants to see some frames before it opens a stream.
        streams.script = [[*range(5)], [*range(5, 10), HOLD], [*range(10, 15)], [*range(15, 20)]]
        connection = Connection(open_timeout_s=20, read_timeout_s=1, reconnects=3, first_wait_s=0)
        numbers = []
        with (pytest.raises(InputError, match="the stream ended and did not come back to stay in 3 tries"),
              frames(streams.address, 1, connection, words) as found):
            for frame in found:
                assert number_of(frame.image) == frame.number
                numbers.append(frame.number)
        # Frames that came faster than they were taken may be dropped.
        assert numbers[-1] == 19 and len(numbers) + found.dropped == 20 and found.num_reconnects == 3
        assert words == [f"{streams.address}: the stream {why}; opened again in 0 s ({number} of 3)"
                         for number, why in enumerate(("ended", "stalled for 1 s", "ended"), 1)]


def a_stream_that_stays_away_ends_the_count() -> None:
    with running(StreamServer()) as streams:
        words: list[str] = []
        streams.script = [[*range(5), HOLD]]
        connection = Connection(open_timeout_s=20, read_timeout_s=1, reconnects=2, first_wait_s=0.01)
        with (pytest.raises(InputError, match="the stream does not open and did not come back to stay in 2 tries"),
              frames(streams.address, 1, connection, words) as found):
            for _ in found:
                streams.script = []
        assert [word.rpartition("; ")[2] for word in words] == ["opened again in 0.01 s (1 of 2)",
                                                                "opened again in 0.02 s (2 of 2)"]


def a_stream_that_never_came_is_one_line() -> None:
    with running(StreamServer()) as streams:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            closed = free.getsockname()[1]
        brief, briefest = (Connection(open_timeout_s=seconds, read_timeout_s=3, reconnects=3) for seconds in (3, 1))
        streams.script = [[HOLD]]
        refused = f"0.0.1 cannot be reached at port {closed}: Connection"
        for address, words in ((f"http://127.0.0.1:{closed}/a", refused),
                               (f"rtsp://me:secret@127.0.0.1:{closed}/a", "cannot be reached"),
                               ("http://host.invalid/a", r"no host is called 'host\.invalid'"),
                               ("http://127.0.0.1:99999/a", "its port must be a number"),
                               ("http://", "the address names no host"),
                               (streams.address.replace("/video", "/none"), "the host answers, but gives no video"),
                               (streams.address, "no video came within 1 s")):
            with pytest.raises(InputError, match=words) as told:
                read(address, connection=briefest if "within" in words else brief)  # that time is waited for
            assert "\n" not in str(told.value) and "secret" not in str(told.value)


STALLING = (a_live_stream_drops_its_oldest_frames_and_tells_how_many,
            a_stream_that_breaks_off_is_opened_again, a_stream_that_stays_away_ends_the_count,
            a_stream_that_never_came_is_one_line)


@pytest.fixture(scope="module")
def stalling() -> dict[str, Future[Any]]:
    """They wait for seconds: all at once."""
    return together(*STALLING)


@pytest.mark.parametrize("name", [stream.__name__ for stream in STALLING])
def test_streams_that_stall(stalling: dict[str, Future[Any]], name: str) -> None:
    stalling[name].result()


def test_times_of_a_live_stream_start_at_its_first_frame_and_rise(streams: StreamServer) -> None:
    streams.script = [[*range(6)]]
    with frames(streams.address) as found:
        times = [frame.time_s for frame in found]
    assert times == sorted(times) and found.notes == ["the stream ended"]
    assert times[0] == 0 or found.dropped  # the first one may be, where the reader is slow


def test_a_stream_that_lasted_may_be_opened_again_as_often_as_at_first(streams: StreamServer,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crowddist.video.frames.STEADY_S", 0.0)
    words: list[str] = []
    streams.script = [[*range(5)], [*range(5)], [*range(5)], []]
    connection = Connection(open_timeout_s=20, read_timeout_s=20, reconnects=1, first_wait_s=0)
    with (pytest.raises(InputError, match="the stream does not open and did not come back to stay in 1 try"),
          frames(streams.address, 1, connection, words) as found):
        for _ in found:
            pass
    assert found.num_reconnects == 2 and found.num_read == 15 and all("(1 of 1)" in word for word in words)


def test_a_source_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe that nobody writes to: its opening ends by no time-out of FFmpeg's."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for name, seconds in (("_GRACE_S", 0.2), ("_LEAVE_S", 0.1)):
        monkeypatch.setattr(f"crowddist.video.frames.{name}", seconds)
    found = Frames(Source(kind="file", place=str(pipe), shown="pipe"), parse_every(1),
                   connection=Connection(open_timeout_s=0.3))
    with pytest.raises(InputError, match=r"pipe: the file hangs: no frame and no error for 0\.5 s"), found:
        next(iter(found))
    assert found._thread.is_alive()
    os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    found._thread.join(60)
    assert not found._thread.is_alive()


def test_a_camera_that_is_not_there_is_one_line() -> None:
    with pytest.raises(InputError, match="camera 97 cannot be opened; is it plugged in"):
        read("97")


def test_what_opencv_says_is_as_before_after_a_count(film: Path) -> None:
    before = cv2.utils.logging.getLogLevel()
    read(film, 10)
    assert cv2.utils.logging.getLogLevel() == before


@pytest.mark.parametrize("wrong", [{"open_timeout_s": 0}, {"read_timeout_s": -1}, {"reconnects": -1},
                                   {"first_wait_s": float("inf")}])
def test_settings_of_a_connection_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        Connection(**wrong)  # type: ignore[arg-type]


def test_any_patience_is_kept(film: Path) -> None:
    listed, _ = read(film, 10, Connection(open_timeout_s=1e300, read_timeout_s=1e12))
    assert len(listed) == 2
    waits = [Connection(reconnects=10**6).wait_s(tries) for tries in (0, 1, 4, 5, 5000)]
    assert waits == [1, 2, 16, 30, 30], "a camera may stay away for days"
