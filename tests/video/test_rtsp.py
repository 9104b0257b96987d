"""Frames of a real RTSP stream, as cameras send it: whole, cut off, stalling, and with a password. The streams are
read all at once, for reading them is waiting.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest

from crowddist.errors import InputError
from crowddist.video.capture import Connection
from crowddist.video.frames import Frames
from crowddist.video.sampling import parse_every
from crowddist.video.source import find_source
from tests.video.conftest import HOLD, number_of, running, together
from tests.video.rtsp import RtspServer, camera  # noqa: F401

FIRST, SECOND = [*range(0, 12)], [*range(12, 24)] * 2
"""FFmpeg wants to see 20 frames before it opens a stream, or waits for them until its time is over: the one that stalls
has more."""


def read(address: str, connection: Connection) -> tuple[list[int], Frames, list[str], str]:
    """The numbers in the pictures, and how it ended."""
    numbers: list[int] = []
    words: list[str] = []
    with Frames(find_source(address), parse_every(1), connection=connection, say=words.append) as found:
        try:
            for frame in found:
                numbers.append(number_of(frame.image))
        except InputError as error:
            return numbers, found, words, str(error)
    return numbers, found, words, ""


def a_stream_is_read_and_opened_again_where_it_ends_or_stalls() -> None:
    with running(RtspServer()) as server:
        server.script = [FIRST, [*SECOND, HOLD], FIRST]
        numbers, found, words, error = read(server.address(), Connection(
            open_timeout_s=8, read_timeout_s=1, reconnects=2, first_wait_s=0))
    left = iter(FIRST + SECOND + FIRST)
    assert all(number in left for number in numbers), f"in their order: {numbers}"
    assert len(numbers) + found.dropped == 48 and found.live and found.num_reconnects == 2
    assert [each.partition(": ")[2].partition(";")[0] for each in words] == [
        "the stream ended", "the stream stalled for 1 s"]
    assert "the stream ended and did not come back to stay in 2 tries" in error and server.num_plays == 3


def a_password_is_given_and_shown_nowhere() -> None:
    with running(RtspServer()) as server:
        server.script, server.login = [FIRST], "me:secret"
        once = Connection(open_timeout_s=20, read_timeout_s=5, reconnects=0)
        numbers, found, _, error = read(server.address("me:secret"), once)
        assert (numbers[-1], len(numbers) + found.dropped, error) == (FIRST[-1], len(FIRST), "")
        assert "secret" not in found.source.shown
        numbers, _, _, error = read(server.address("me:wrong"), once)
    assert not numbers and "check its path, user and password" in error and "wrong" not in error


def a_stream_without_a_frame_is_one_line() -> None:
    with running(RtspServer()) as server:
        server.script = [[HOLD]]
        numbers, _, _, error = read(server.address(), Connection(open_timeout_s=1, read_timeout_s=1, reconnects=0))
    assert not numbers and "\n" not in error and "gives no frames that can be read: it stalled for 1 s" in error


STREAMS = (a_stream_is_read_and_opened_again_where_it_ends_or_stalls, a_password_is_given_and_shown_nowhere,
           a_stream_without_a_frame_is_one_line)


@pytest.fixture(scope="module")
def streams() -> dict[str, Future[Any]]:
    return together(*STREAMS)


@pytest.mark.parametrize("name", [stream.__name__ for stream in STREAMS])
def test_streams(streams: dict[str, Future[Any]], name: str) -> None:
    streams[name].result()


def test_a_stream_that_does_not_open_is_one_line(camera: RtspServer) -> None:  # noqa: F811
    """By itself, for OpenCV opens one stream after the other, and this one is in time."""
    numbers, _, _, error = read(camera.address(), Connection(open_timeout_s=3, read_timeout_s=1, reconnects=0))
    assert not numbers and "\n" not in error and "the host answers, but gives no video" in error
