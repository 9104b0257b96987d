"""A journal beside the run: keeps entries for MLflow while its server does not answer, and delivers them in order."""

from __future__ import annotations

import base64
import inspect
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crowddist import storage
from crowddist.data.safe_decode import encode_png, read_png
from crowddist.errors import InputError
from crowddist.inference.intervals import Calibration
from crowddist.tracking import mlflow_store
from crowddist.tracking.system_metrics import SystemMetrics
from crowddist.tracking.tracker import Ending, MlflowTracker, Tracker

RETRY_S = 10.0
"""ours: pause after a call that the server did not answer, so that the run does not wait for it."""
BUSY_SHARE = 4.0
"""ours: a server that lets calls hang gets a pause of this many times the last call's duration."""
CALLS = ("metrics", "round_result", "trials", "describe", "picture", "table", "artifact", "data")
"""The methods of `Tracker` that a journal may hold."""
LAST_WAIT_S = 60.0
"""ours: how long the end of a run waits for the server."""
LAST_RETRY_S = 2.0
"""ours: pause between the tries at the end of a run."""


class JournalTracker(Tracker):
    """An MlflowTracker that survives a server that does not answer for a while.

    Only the end of the run waits for such a server, at most `LAST_WAIT_S`. Calls not delivered by then stay in the
    journal; the same run, started again, delivers them first. `MlflowTracker` may receive everything twice, so a
    journal may be delivered again after the process died half-way.

    It also tracks the machine's load, see `SystemMetrics`, while the server answers: MLflow would give later points
    the wrong time.
    """

    def __init__(self, tracker: MlflowTracker, say: Callable[[str], None]) -> None:
        self.tracker, self.say, self.uri = tracker, say, tracker.uri
        self._waiting: deque[dict[str, Any]] = deque()
        self._lock = threading.RLock()  # curves and system metrics come from threads of their own
        self._next_try_s = 0.0
        self._journal = ""
        self._written = False  # the journal holds something
        self._until_s: float | None = None  # deadline of the last deliveries, once the run ends
        self._system: SystemMetrics | None = None

    def start(self, *, experiment: str, run_name: str, config: dict[str, Any], tags: Mapping[str, str],
              state_url: str) -> None:
        """See Tracker. Raises InputError if the server cannot be reached: a run needs one to begin."""
        self.tracker.start(experiment=experiment, run_name=run_name, config=config, tags=tags, state_url=state_url)
        self._journal = state_url.removesuffix(".json") + "-journal.jsonl"
        self._written = storage.exists(self._journal)
        if self._written:
            self._waiting.extend(_read(self._journal))
            self._deliver()
        self._system = SystemMetrics(self._tell_system, self.say)
        self._system.start()

    def metrics(self, values: Mapping[str, float], *, step: int, round: int | None = None) -> None:
        super().metrics(values, step=step, round=round)
        self._tell("metrics", values=_floats(values), step=step, round=round)

    def round_result(self, round: int, values: Mapping[str, float]) -> None:
        super().round_result(round, values)
        self._tell("round_result", round=round, values=_floats(values))

    def trials(self, round: int, rows: Sequence[Mapping[str, float]]) -> None:
        super().trials(round, rows)
        self._tell("trials", round=round, rows=[_floats(row) for row in rows])

    def describe(self, round: int | None, text: str, params: Mapping[str, str] | None = None) -> None:
        self._tell("describe", round=round, text=text, params=dict(params or {}))

    def picture(self, round: int, name: str, image: np.ndarray) -> None:
        super().picture(round, name, image)
        self._tell("picture", round=round, name=name, image=image)

    def table(self, round: int | None, name: str, rows: Sequence[Mapping[str, object]]) -> None:
        self._tell("table", round=round, name=name,
                   rows=[{key: mlflow_store.cell(value) for key, value in row.items()} for row in rows])

    def artifact(self, name: str, content: dict[str, Any] | str) -> None:
        self._tell("artifact", name=name, content=content)

    def data(self, context: str, name: str, url: str, digest: str) -> None:
        self._tell("data", context=context, name=name, url=url, digest=digest)

    def register(self, checkpoint_file: Path, *, name: str, calibration: Calibration | None = None) -> str:
        """See Tracker. Returns "" also if the server does not answer."""
        return self._at_last(lambda: self.tracker.register(checkpoint_file, name=name, calibration=calibration)) or ""

    def finish(self, status: Ending) -> None:
        if self._system is not None:
            self._system.stop()
        self._at_last(lambda: self.tracker.finish(status))
        self.tracker.leave()
        if self._waiting:
            self.say(f"{len(self._waiting)} entries for MLflow wait in {self._journal}: the same command delivers them "
                     f"when {self.uri} answers again")

    def how_to_open(self) -> str:
        return self.tracker.how_to_open()

    def _tell(self, call: str, **arguments: Any) -> None:
        with self._lock:
            self._waiting.append({"call": call, **arguments})
            behind = len(self._waiting) > 1
            if time.monotonic() >= self._next_try_s:
                self._deliver()
            if self._waiting and self._journal:  # the server did not answer
                if not behind:
                    self.say(f"MLflow at {self.uri} does not answer: the run goes on and delivers its entries later "
                             f"from {self._journal}")
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
                self._postpone(started)

    def _postpone(self, asked_s: float) -> None:
        """Postpones the next try, after one that began at `asked_s`."""
        now = time.monotonic()
        self._next_try_s = now + max(RETRY_S, BUSY_SHARE * (now - asked_s))

    def _deliver(self) -> bool:
        """Delivers the waiting calls, oldest first, until the server fails to answer. Returns True if none is left."""
        with self._lock:
            while self._waiting:
                arguments, started = dict(self._waiting[0]), time.monotonic()
                try:
                    getattr(self.tracker, arguments.pop("call"))(**arguments)
                except Exception as error:
                    if not mlflow_store.is_away(error):
                        self._waiting.popleft()
                        raise
                    self._postpone(started)
                    return False
                self._waiting.popleft()
            self._next_try_s = 0.0
            if self._written:
                storage.remove_file(self._journal)
                self._written = False
                self.say(f"MLflow at {self.uri} has all entries")
            return True

    def _at_last(self, call: Callable[[], Any]) -> Any:
        """Delivers the waiting calls, then makes this one and returns its result; None if the server does not
        answer.
        """
        self._until_s = self._until_s or time.monotonic() + LAST_WAIT_S
        while True:
            try:
                with self._lock:
                    if self._deliver():
                        return call()
            except Exception as error:
                if not mlflow_store.is_away(error):
                    raise
            if time.monotonic() >= self._until_s:
                return None
            time.sleep(LAST_RETRY_S)


def _floats(values: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


def _line(entry: dict[str, Any]) -> str:
    if "image" in entry:
        entry = {**entry, "image": base64.b64encode(encode_png(entry["image"])).decode()}
    return json.dumps(entry, default=str)


def _read(url: str) -> list[dict[str, Any]]:
    """The entries of a journal. Anybody who can write to the run's folder can write one, so only `CALLS` are
    accepted.
    """
    entries = []
    for line in storage.read_bytes(url).splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):  # the process died while it wrote the line
            continue
        try:
            entries.append(_checked(entry))
        except InputError:  # a picture that is too large
            raise
        except (AttributeError, KeyError, TypeError, ValueError):
            raise InputError(f"not a tracker's journal: a line of {url} is none of {', '.join(CALLS)}, or not as these "
                             "are written; remove the file to go on without it") from None
    return entries


def _checked(entry: Any) -> dict[str, Any]:
    """An entry as `_line` wrote it. Raises AttributeError, KeyError, TypeError or ValueError for another."""
    call, arguments = entry["call"], {name: value for name, value in entry.items() if name != "call"}
    if call not in CALLS:
        raise ValueError(call)
    inspect.signature(getattr(MlflowTracker, call)).bind(None, **arguments)
    if "image" in arguments:
        arguments["image"] = read_png(base64.b64decode(arguments["image"]))
    return {"call": call, **arguments}
