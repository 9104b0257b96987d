"""Progress of stages under way: the driver follows the curve files that the workers write."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from crowddist import storage
from crowddist.run.engine import read_curve
from crowddist.storage.run_folder import CURVE

if TYPE_CHECKING:
    from crowddist.run.engine import StageData
    from crowddist.tracking.tracker import Tracker

POLL_S = 1.0
LINE_EVERY_S = 20.0
"""Where the output is no terminal, a line this often instead of a bar."""


@contextmanager
def following(stages: Sequence[StageData], tracker: Tracker, say: Callable[[str], None]) -> Iterator[None]:
    """Inside, new points of the stages' curves are shown and tracked as they appear."""
    follower = _Follower(stages, tracker, say)
    thread = threading.Thread(target=follower.run, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        follower.stop.set()
        thread.join()


class _Follower:
    def __init__(self, stages: Sequence[StageData], tracker: Tracker, say: Callable[[str], None]) -> None:
        self.stages, self.tracker, self.say = stages, tracker, say
        self.stop = threading.Event()
        self.shown = {data.folder: 0 for data in stages}
        self.tracked = dict(self.shown)
        self.last_line = time.monotonic()
        self.complained = False

    def run(self) -> None:
        while not self.stop.wait(POLL_S):
            self.look()
        self.look()

    def look(self) -> None:
        """Training goes on whatever becomes of its progress: a failure is told once, and the next look tries again."""
        for data in self.stages:
            try:
                self.follow(data)
            except Exception as error:
                if not self.complained:
                    self.complained = True
                    self.say(f"the progress cannot be followed: {type(error).__name__}: {' '.join(str(error).split())}")

    def follow(self, data: StageData) -> None:
        points = {point.pop("step"): point for point in read_curve(storage.join(data.folder, CURVE))}
        for step in sorted(step for step in points if step > self.shown[data.folder]):
            self.show(data, step, points[step])
            self.shown[data.folder] = step
        for step in sorted(step for step in points if step > self.tracked[data.folder]):
            # Stages of one round share its run: each has names of its own, or one would hide the others.
            own = f"train/{data.stage.name.rpartition('/')[2]}" if data.stage.trains else "train"
            values = {f"{own}/{name}": value for name, value in points[step].items()}
            self.tracker.metrics(values, step=step, round=data.stage.num_round)
            self.tracked[data.folder] = step

    def show(self, data: StageData, step: int, point: dict[str, float]) -> None:
        steps = data.stage.steps
        left_s = (steps - step) * point["seconds_per_step"]
        text = (f"{data.stage.name}: step {step}/{steps}, loss {point['loss']:.4g}, {point['seconds_per_step']:.2f} s "
                f"a step, {left_s:.0f} s left")
        if sys.stderr.isatty():
            filled = 24 * step // steps
            end = "\n" if step >= steps else ""
            print(f"\r[{'#' * filled}{'.' * (24 - filled)}] {text}   ", end=end, file=sys.stderr, flush=True)
        elif step >= steps or time.monotonic() - self.last_line > LINE_EVERY_S:
            self.last_line = time.monotonic()
            self.say(text)
