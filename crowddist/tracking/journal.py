"""What MLflow cannot be told while its server is away: kept beside the run, and told later, in order, once."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crowddist import storage
from crowddist.data.safe_decode import read_png
from crowddist.errors import InputError
from crowddist.tracking import mlflow_store
from crowddist.tracking.system_metrics import SystemMetrics
from crowddist.tracking.tracker import Ending, MlflowTracker, require_finite, require_picture

RETRY_S = 10.0
"""ours: how long a server that was away is left alone, so that the run does not wait for it."""
BUSY_SHARE = 4.0
"""ours: a server that lets calls hang is left alone for this many times as long as the last one hung."""
TOLD = ("metrics", "round_result", "trials", "describe", "picture", "table", "artifact", "data")
"""What a journal may hold, as `Tracker` names it."""
LAST_WAIT_S = 60.0
"""ours: how long the end of a run waits for it."""
LAST_RETRY_S = 2.0
"""ours: how often it is asked then."""


class JournalTracker:
    """An MlflowTracker whose server may be away for a while; what each method does, `Tracker` says.

    Nothing of it waits for a server that is away, but for the end of the run, `LAST_WAIT_S` at most. What was not told
    by then lies in the journal, and the same run, started again, tells it first. `MlflowTracker` takes everything twice
    without doubling it, so a journal that was told in part when its process died may be told again.

    Beside that it tells what the machine does, see `SystemMetrics`, as long as the server answers: MLflow would give
    later points the wrong time.
    """

    def __init__(self, tracker: MlflowTracker, say: Callable[[str], None]) -> None:
        self.tracker, self.say = tracker, say
        self._waiting: deque[dict[str, Any]] = deque()
        self._lock = threading.RLock()  # curves and system metrics are told by threads of their own
        self._next_try_s = 0.0
        self._journal = ""
        self._written = False  # whether the journal holds something
        self._until_s: float | None = None  # how long the end of the run may wait, once it has come
        self._system: SystemMetrics | None = None

    @property
    def uri(self) -> str:
        """The address of the store."""
        return self.tracker.uri

    def start(self, *, experiment: str, run_name: str, config: dict[str, Any], tags: Mapping[str, str],
              state_url: str) -> None:
        """See Tracker. Raises InputError where the server cannot be reached: a run begins with one."""
        self.tracker.start(experiment=experiment, run_name=run_name, config=config, tags=tags, state_url=state_url)
        self._journal = state_url.removesuffix(".json") + "-journal.jsonl"
        self._written = storage.exists(self._journal)
        if self._written:
            self._waiting.extend(_read(self._journal))
            self._tell_waiting()
        self._system = SystemMetrics(self._tell_system, self.say)
        self._system.start()

    def metrics(self, values: Mapping[str, float], *, step: int, round: int | None = None) -> None:
        """See Tracker."""
        require_finite(values, f"step {step}, round {round}")
        self._tell("metrics", values=_numbers(values), step=step, round=round)

    def round_result(self, round: int, values: Mapping[str, float]) -> None:
        """See Tracker."""
        require_finite(values, f"round {round}")
        self._tell("round_result", round=round, values=_numbers(values))

    def trials(self, round: int, rows: Sequence[Mapping[str, float]]) -> None:
        """See Tracker."""
        for number, row in enumerate(rows):
            require_finite(row, f"round {round}, trial {number}")
        self._tell("trials", round=round, rows=[_numbers(row) for row in rows])

    def describe(self, round: int | None, text: str, params: Mapping[str, str] | None = None) -> None:
        """See Tracker."""
        self._tell("describe", round=round, text=text, params=dict(params or {}))

    def picture(self, round: int, name: str, image: np.ndarray) -> None:
        """See Tracker."""
        require_picture(name, image)
        self._tell("picture", round=round, name=name, image=image)

    def table(self, round: int | None, name: str, rows: Sequence[Mapping[str, object]]) -> None:
        """See Tracker."""
        self._tell("table", round=round, name=name,
                   rows=[{key: mlflow_store.cell(value) for key, value in row.items()} for row in rows])

    def artifact(self, name: str, content: dict[str, Any] | str) -> None:
        """See Tracker."""
        self._tell("artifact", name=name, content=content)

    def data(self, context: str, name: str, url: str, digest: str) -> None:
        """See Tracker."""
        self._tell("data", context=context, name=name, url=url, digest=digest)

    def register(self, checkpoint_file: Path, *, name: str) -> str:
        """See Tracker; "" too where the server stayed away."""
        return self._at_last(lambda: self.tracker.register(checkpoint_file, name=name)) or ""

    def finish(self, status: Ending) -> None:
        """See Tracker."""
        if self._system is not None:
            self._system.stop()
        self._at_last(lambda: self.tracker.finish(status))
        self.tracker.leave()
        if self._waiting:
            self.say(f"{len(self._waiting)} entries for MLflow wait in {self._journal}: the same command tells them "
                     f"when {self.uri} answers again")

    def how_to_open(self) -> str:
        """See Tracker."""
        return self.tracker.how_to_open()

    def _tell(self, call: str, **arguments: Any) -> None:
        with self._lock:
            self._waiting.append({"call": call, **arguments})
            behind = len(self._waiting) > 1
            if time.monotonic() >= self._next_try_s:
                self._tell_waiting()
            if self._waiting and self._journal:  # what is left could not be told now
                if not behind:
                    self.say(f"MLflow at {self.uri} does not answer: the run goes on, and tells it later from "
                             f"{self._journal}")
                storage.append_line(self._journal, _line(self._waiting[-1]))
                self._written = True

    def _tell_system(self, values: Mapping[str, float]) -> None:
        with self._lock:
            started = time.monotonic()
            if self._waiting or started < self._next_try_s:
                return
            try:
                self.tracker.system_metrics(values)
            except Exception as error:
                if not mlflow_store.is_away(error):
                    raise
                self._leave_alone(started)

    def _leave_alone(self, asked_s: float) -> None:
        """Puts the next try off, after one that began at `asked_s`."""
        now = time.monotonic()
        self._next_try_s = now + max(RETRY_S, BUSY_SHARE * (now - asked_s))

    def _tell_waiting(self) -> bool:
        """Tells what waits, the oldest first, until the server is away; whether all was told."""
        with self._lock:
            while self._waiting:
                arguments, started = dict(self._waiting[0]), time.monotonic()
                try:
                    getattr(self.tracker, arguments.pop("call"))(**arguments)
                except Exception as error:
                    if not mlflow_store.is_away(error):
                        self._waiting.popleft()
                        raise
                    self._leave_alone(started)
                    return False
                self._waiting.popleft()
            self._next_try_s = 0.0
            if self._written:
                storage.remove_file(self._journal)
                self._written = False
                self.say(f"MLflow at {self.uri} has been told everything")
            return True

    def _at_last(self, call: Callable[[], Any]) -> Any:
        """What a call returns that comes behind all that waits; None where the server stays away."""
        self._until_s = self._until_s or time.monotonic() + LAST_WAIT_S
        while True:
            try:
                with self._lock:
                    if self._tell_waiting():
                        return call()
            except Exception as error:
                if not mlflow_store.is_away(error):
                    raise
            if time.monotonic() >= self._until_s:
                return None
            time.sleep(LAST_RETRY_S)


def _numbers(values: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


def _line(entry: dict[str, Any]) -> str:
    if "image" not in entry:
        return json.dumps(entry, default=str)
    import cv2

    png = cv2.imencode(".png", np.ascontiguousarray(entry["image"][:, :, ::-1]))[1].tobytes()
    return json.dumps({**entry, "image": base64.b64encode(png).decode()})


def _read(url: str) -> list[dict[str, Any]]:
    """The entries of a journal: whoever can write to the run's folder can write one, so nothing but what is told may be
    called.
    """
    entries = []
    for line in storage.read_bytes(url).splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):  # being written when its process died
            continue
        if not isinstance(entry, dict) or entry.get("call") not in TOLD:
            raise InputError(f"not what the tracker keeps: a line of {url} is none of {', '.join(TOLD)}; remove the "
                             "file to go on without it")
        if "image" in entry:
            entry["image"] = read_png(base64.b64decode(entry["image"]))
        entries.append(entry)
    return entries
