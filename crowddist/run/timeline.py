"""Where a run's time went: step by step, worker by worker, over all of its starts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from crowddist import storage
from crowddist.process.stopwatch import added
from crowddist.run.engine import StageData, read_done
from crowddist.run.record import read_record
from crowddist.storage.run_folder import CONFIG, RESULT, TIMELINE

Times = Mapping[str, Mapping[str, float]]
"""Name of a worker -> phase (`stopwatch.PHASES`) -> seconds."""
DRIVER = "driver"
"""The process that runs the pipeline."""


class Timeline:
    """Times the steps of a run. Its file is written after each step of a run that has claimed its folder, also one that
    fails, so that a run which was stopped adds to it when it goes on; of a driver that is killed the step under way is
    lost. Training workers keep their times in the checkpoints, so of them only the time since the last checkpoint is.

    Args:
        folder: URL of the run's folder. Nothing is added to the times of a run that has ended.
        start_up_s: seconds that starting the launcher took.
        take_times: returns what the workers of jobs did since it was called before, see `Launcher.take_times`.
    """

    def __init__(self, folder: str, start_up_s: float, take_times: Callable[[], Times]) -> None:
        self._take_times = take_times
        self._claimed = storage.exists(storage.join(folder, CONFIG))
        self._url, self._ended = storage.join(folder, TIMELINE), bool(read_record(folder, RESULT))
        self._steps: dict[str, dict[str, dict[str, float]]] = {}
        for row in read_record(folder, TIMELINE).get("rows", ()):
            self._steps.setdefault(row["step"], {})[row["worker"]] = row["seconds"]
        self._add("launcher", {DRIVER: {"start_up": start_up_s}})

    def claim(self) -> None:
        """From now on the file is kept: the run is accepted. One that is refused leaves nothing in its folder."""
        self._claimed = True

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Times the block as the step `name`: what the workers of its jobs did; the rest is the driver's."""
        started = time.perf_counter()
        try:
            yield
        finally:
            workers = self._take_times()
            spent = max((sum(times.values()) for times in workers.values()), default=0.0)
            self._add(name, {**workers, DRIVER: {"other": max(time.perf_counter() - started - spent, 0.0)}})

    def trained(self, chains: Iterable[Sequence[StageData]], seconds: float) -> None:
        """Keeps the times of the workers of finished stages; those that another run has trained have none.

        Args:
            seconds: that this start waited for them. What no worker says it did is the launcher's.
        """
        longest = 0.0
        for chain in chains:
            spent = 0.0
            for data in chain:
                workers = (read_done(data.folder) or {}).get("workers", ())
                self._keep(data.stage.name, {f"worker {rank}": times for rank, times in enumerate(workers)})
                spent += max((sum(times.values()) for times in workers), default=0.0)
            longest = max(longest, spent)
        self._add("launcher", {DRIVER: {"other": max(seconds - longest, 0.0)}})

    def metrics(self, round_name: str) -> dict[str, float]:
        """time/PHASE_s of a round: over its steps, of each the mean over its workers, and the driver's."""
        total: dict[str, float] = {}
        for name, step in self._steps.items():
            if name.partition("/")[0] == round_name:
                workers = [times for worker, times in step.items() if worker != DRIVER]
                mean = {phase: value / len(workers) for phase, value in added(*workers).items()}
                total = added(total, mean, step.get(DRIVER, {}))
        return {f"time/{phase}_s": value for phase, value in _rounded(total).items()}

    def rows(self) -> list[dict[str, Any]]:
        """`step`, `worker` and `seconds` by phase of each worker of each step, in the order in which they began."""
        return [{"step": name, "worker": worker, "seconds": times} for name, workers in self._steps.items()
                for worker, times in workers.items()]

    def _add(self, name: str, workers: Times) -> None:
        before = self._steps.get(name, {})
        self._keep(name, {worker: added(before.get(worker, {}), workers.get(worker, {}))
                          for worker in {**before, **workers}})

    def _keep(self, name: str, workers: Times) -> None:
        if not self._ended:
            self._steps[name] = {worker: _rounded(times) for worker, times in workers.items()}
            if self._claimed:
                storage.write_json(self._url, {"rows": self.rows()})


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    """To milliseconds."""
    return {phase: round(value, 3) for phase, value in seconds.items()}
