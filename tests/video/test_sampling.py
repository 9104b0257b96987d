"""Which frames are counted, and their times: by hand, and against counting along."""

from __future__ import annotations

import math

import pytest

from crowddist.errors import InputError
from crowddist.video.sampling import ASSUMED_FPS, Clock, Every, clock_text, parse_every


def taken(every: Every, times: list[float]) -> list[int]:
    slots = [every.slot(number, time - times[0]) for number, time in enumerate(times)]
    return [number for number, slot in enumerate(slots) if number == 0 or slot > max(slots[:number])]


def test_frames_by_hand() -> None:
    times = [number / 10 for number in range(25)]
    assert taken(parse_every(10), times) == [0, 10, 20] == taken(parse_every("1s"), times)
    assert taken(parse_every("1"), times) == list(range(25)) == taken(parse_every("0.01s"), times)
    # A gap takes no more than one frame, and the turns do not move by it.
    assert taken(parse_every("1s"), [5.0, 5.9, 7.4, 7.9, 8.1, 8.9, 9.0]) == [0, 2, 4, 6]


@pytest.mark.parametrize("fps", [24000 / 1001, 25, 30000 / 1001, 50, 60])
def test_seconds_of_n_frames_take_each_nth_also_with_rounded_times(fps: float) -> None:
    for number in (1, 2, 7, 30):
        for digits in (3, 9):
            times = [round(frame / fps, digits) for frame in range(2000)]
            assert taken(Every(seconds=number / fps), times) == taken(Every(frames=number), times)


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "s", "0s", "nan", "1m", "1e3", "inf", "2 frames", "9999999999"])
def test_what_is_no_number_of_frames_or_seconds_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"every must be a number of frames, e\.g\. 10, or of seconds"):
        parse_every(text)


def test_rates() -> None:
    assert Every(frames=10).rate(25) == 2.5 and Every(seconds=2).rate(25) == 0.5
    assert Every(seconds=0.01).rate(25) == 25, "no more than there are"


def test_times_of_the_container_are_taken_while_they_rise() -> None:
    clock = Clock(10)
    assert [clock.time(stamp) for stamp in (40, 140, 900, 900, 300, 1500, math.nan)] == pytest.approx(
        [0.04, 0.14, 0.9, 1.0, 1.1, 1.5, 1.6])
    assert clock.num_guessed == 3 and not clock.is_assumed and clock.last_s == pytest.approx(1.6)


@pytest.mark.parametrize(("fps", "expected"), [(50, 50), (0, ASSUMED_FPS), (math.nan, ASSUMED_FPS),
                                               (90_000, ASSUMED_FPS), (-1, ASSUMED_FPS)])
def test_without_times_the_rate_gives_them(fps: float, expected: float) -> None:
    clock = Clock(fps)
    assert [clock.time(0) for _ in range(4)] == pytest.approx([number / expected for number in range(4)])
    assert clock.is_assumed == (fps != expected)


def test_times_are_written_as_clocks_do() -> None:
    assert [clock_text(time) for time in (0, 65.9, 3600, -1)] == ["0:00:00", "0:01:05", "1:00:00", "0:00:00"]
