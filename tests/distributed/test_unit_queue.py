"""Units of work: done again where an actor dies, tried image by image where actors keep dying, and no more images
skipped than can explain the deaths.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from crowddist.distributed.unit_queue import MAX_TRIES, NUM_PROBES, Probe, Unit, Work
from crowddist.errors import InputError

DEATH = RuntimeError("the actor died")


def schedule(num_images: int, length: int) -> Work:
    units = [range(first, min(first + length, num_images)) for first in range(0, num_images, length)]
    return Work(units, data="file:///images", key=lambda image: f"image-{image:03d}")


def work_off(work: Work, kills: Callable[[Unit | Probe], bool]) -> tuple[dict[int, list[int]], int]:
    """Does all work with one actor at a time. Returns: unit -> the images it was done with, and how many actors
    died.
    """
    done, num_lost = {}, 0
    while work.waiting:
        taken = work.waiting.popleft()
        if kills(taken):
            num_lost += 1
            work.lost(taken, DEATH)
        elif isinstance(taken, Probe):
            work.probed(taken)
        else:
            done[taken.number] = [image for image in taken.images if image not in taken.skip]
    return done, num_lost


def poison(*images: int) -> Callable[[Unit | Probe], bool]:
    def kills(taken: Unit | Probe) -> bool:
        shown = {taken.image} if isinstance(taken, Probe) else set(taken.images) - set(taken.skip)
        return bool(shown & set(images))

    return kills


def test_an_image_that_kills_actors_is_skipped_and_all_others_are_done_once(caplog: pytest.LogCaptureFixture) -> None:
    work = schedule(100, 8)
    done, num_lost = work_off(work, poison(13, 14, 70))
    assert sorted(image for images in done.values()
                  for image in images) == [image for image in range(100) if image not in (13, 14, 70)]
    assert [unit.skip for unit in work.units if unit.skip] == [(13, 14), (70,)]
    assert num_lost == 2 * MAX_TRIES + 3 * NUM_PROBES
    assert "image image-013 of file:///images is skipped: actors die over it" in caplog.text


def test_deaths_of_another_cause_skip_nothing() -> None:
    # three at the first unit, and one at the first of its images
    work, deaths = schedule(40, 8), iter([True] * (MAX_TRIES + 1))
    done, num_lost = work_off(work, lambda taken: next(deaths, False))
    assert sorted(done) == list(range(5)) and num_lost == MAX_TRIES + 1 and not any(unit.skip for unit in work.units)


def test_where_many_images_kill_it_is_not_the_images() -> None:
    with pytest.raises(RuntimeError,
                       match=r"actors die over 2 images of file:///images, the last of them image-001: the actor died"):
        work_off(schedule(20, 8), lambda taken: True)


def test_a_unit_that_kills_as_a_whole_alone_stops() -> None:
    with pytest.raises(RuntimeError,
                       match=r"3 actors died over images 8 to 15 of file:///images, over none of them alone"):
        work_off(schedule(40, 8), lambda taken: isinstance(taken, Unit) and taken.number == 1)


def test_one_image_may_always_be_skipped() -> None:
    done, _ = work_off(schedule(3, 1), poison(1))
    assert done == {0: [0], 1: [], 2: [2]}


def test_probes_that_end_in_another_order_bring_the_unit_back_once() -> None:
    work = schedule(4, 4)
    for _ in range(MAX_TRIES):
        work.lost(work.waiting.popleft(), DEATH)
    probes = [work.waiting.popleft() for _ in range(4)]
    for probe in reversed(probes):
        assert isinstance(probe, Probe) and not work.waiting
        work.probed(probe)
    assert list(work.waiting) == work.units


def test_out_of_memory_is_tried_once_more_with_one_image_at_a_time() -> None:
    work = schedule(16, 8)
    unit = work.waiting.popleft()
    work.out_of_memory(unit, MemoryError())
    assert (work.waiting.popleft() is unit and isinstance(unit, Unit) and unit.one_at_a_time
            and not work.units[1].one_at_a_time)
    with pytest.raises(InputError,
                       match=r"out of memory over images 0 to 7 of file:///images, also one at a time: give a smaller "
                             r"--stream.image-size"):
        work.out_of_memory(unit, MemoryError())
    with pytest.raises(InputError, match="out of memory"):
        work.out_of_memory(Probe(unit, 3), MemoryError())
