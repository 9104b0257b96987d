"""Progress of running stages: the driver follows the curve files that the workers write."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from crowddist import storage
from crowddist.process.cli import one_line
from crowddist.process.progress_bar import Progress, in_words
from crowddist.run.engine import read_curve, read_done
from crowddist.storage.run_folder import CURVE

if TYPE_CHECKING:
    from crowddist.run.engine import StageData
    from crowddist.tracking.tracker import Tracker

POLL_S = 1.0


@contextmanager
def following(stages: Sequence[StageData], tracker: Tracker, say: Callable[[str], None]) -> Iterator[None]:
    """Inside the block, shows and tracks new points of the stages' curves; of those taken over, only tracks them."""
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
        self.bars: dict[str, Progress] = {}
        self.shown = {data.folder: math.inf if "taken_over" in (read_done(data.folder) or {}) else 0 for data in stages}
        self.tracked = {data.folder: 0 for data in stages}
        self.complained = False

    def run(self) -> None:
        while not self.stop.wait(POLL_S):
            self.poll()
        self.poll()
        for bar in self.bars.values():
            bar.close()

    def poll(self) -> None:
        """An error never stops the training: it is reported once, and the next poll tries again."""
        for data in self.stages:
            try:
                self.follow(data)
            except Exception as error:
                if not self.complained:
                    self.complained = True
                    self.say(f"the progress cannot be followed: {type(error).__name__}: {one_line(error)}")

    def follow(self, data: StageData) -> None:
        points = {point.pop("step"): point for point in read_curve(storage.join(data.folder, CURVE))}
        for step in sorted(step for step in points if step > self.shown[data.folder]):
            self.show(data, step, points[step])
            self.shown[data.folder] = step
        for step in sorted(step for step in points if step > self.tracked[data.folder]):
            # Stages of one round share its run: separate names keep their curves apart.
            prefix = f"train/{data.stage.name.rpartition('/')[2]}" if data.stage.trains else "train"
            values = {f"{prefix}/{name}": value for name, value in points[step].items()}
            self.tracker.metrics(values, step=step, round=data.stage.num_round)
            self.tracked[data.folder] = step

    def show(self, data: StageData, step: int, point: dict[str, float]) -> None:
        name, steps, step_s = data.stage.name, data.stage.steps, point["seconds_per_step"]
        if name not in self.bars:
            self.bars[name] = Progress(steps, "steps", self.say, title=name)
        facts = f"loss {point['loss']:.4g}, {step_s:.2f} s a step, {in_words((steps - step) * step_s)} left"
        self.bars[name].show(step, facts)
