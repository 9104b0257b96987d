"""Trackers record an adaptation for people to compare: in MLflow, or nowhere."""

from __future__ import annotations

import atexit
import hashlib
import json
import math
import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np

from crowddist import storage
from crowddist.errors import InputError
from crowddist.inference.intervals import Calibration
from crowddist.process import host
from crowddist.tracking import mlflow_store

Ending = Literal["FINISHED", "FAILED", "KILLED"]


class Tracker:
    """Receives everything that the pipeline reports about a run. This base class writes nothing. All trackers raise
    ValueError for a metric that is NaN or infinite and for a picture of the wrong shape or type.

    Only the driver calls it, inside `with tracked_run(...)`. One adaptation is a parent run; each round is a child run,
    created when first named. After a restart everything may be reported again: nothing is duplicated or lost.
    """

    def start(self, *, experiment: str, run_name: str, config: dict[str, Any], tags: Mapping[str, str],
              state_url: str) -> None:
        """Opens the adaptation's run, or resumes the one named in `state_url` (a JSON object on storage)."""

    def metrics(self, values: Mapping[str, float], *, step: int, round: int | None = None) -> None:
        """Points of a round's or (None) the adaptation's curves. A metric keeps its first value at a step."""
        _require_finite(values, f"step {step}, round {round}")

    def round_result(self, round: int, values: Mapping[str, float]) -> None:
        """A round's final metrics, the same in all rounds: on the round's run, and on the parent with step = round."""
        _require_finite(values, f"round {round}")

    def trials(self, round: int, rows: Sequence[Mapping[str, float]]) -> None:
        """All trials of a round's search as children of its run. Names with a dot are parameters, others metrics."""
        for number, row in enumerate(rows):
            _require_finite(row, f"round {round}, trial {number}")

    def describe(self, round: int | None, text: str, params: Mapping[str, str] | None = None) -> None:
        """Describes a run in markdown, unless it has a description, and adds parameters for comparisons."""

    def picture(self, round: int, name: str, image: np.ndarray) -> None:
        """One of the few pictures that every round has under the same `name`: (H, W, 3) uint8 RGB."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"picture {name} must be (H, W, 3) uint8, got {image.shape} {image.dtype}")

    def table(self, round: int | None, name: str, rows: Sequence[Mapping[str, object]]) -> None:
        """A table with one row per image; it replaces an earlier table of that name."""

    def artifact(self, name: str, content: dict[str, Any] | str) -> None:
        """A file of the adaptation: a dict as JSON, or text. It replaces an earlier file of that name."""

    def data(self, context: str, name: str, url: str, digest: str) -> None:
        """A data set that the adaptation reads; `context` is its use: source, target, evaluation."""

    def register(self, checkpoint_file: Path, *, name: str, calibration: Calibration | None = None) -> str:
        """Registers the final counter as a model, each file once; `calibration` gives its counts their intervals.
        Returns its URI, "" where nothing is tracked.
        """
        return ""

    def finish(self, status: Ending) -> None:
        """Ends the run and its rounds; a round with a result is FINISHED in any case."""

    def how_to_open(self) -> str:
        """One line for people: the command or the address that shows the run."""
        return "nothing was tracked"


class NullTracker(Tracker):
    """Tracks nothing, but rejects bad values."""


@contextmanager
def tracked_run(
    tracker: Tracker, *, experiment: str, run_name: str, config: dict[str, Any], tags: Mapping[str, str], state_url: str
) -> Iterator[Tracker]:
    """Starts the tracker and ends it with the block: FINISHED, FAILED (an exception) or KILLED (SIGTERM, Ctrl-C,
    exit).
    """
    with host.sigterm_as_exit():
        try:
            tracker.start(experiment=experiment, run_name=run_name, config=config, tags=tags, state_url=state_url)
            yield tracker
        except BaseException as error:
            try:
                tracker.finish("FAILED" if isinstance(error, Exception) else "KILLED")
            except Exception as second:
                error.add_note(f"nor could the end of the run be tracked: {second}")
            raise
        tracker.finish("FINISHED")


class MlflowTracker(Tracker):
    """Writes to the MLflow store at an address from `mlflow_store.resolve_uri`."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._started = False
        self._page = ""
        self._created_s, self._system_step = 0.0, -1

    def start(self, *, experiment: str, run_name: str, config: dict[str, Any], tags: Mapping[str, str],
              state_url: str) -> None:
        """See Tracker. Raises InputError if the store cannot be reached or refuses."""
        self._store = mlflow_store.Store(self.uri, experiment)
        self._process = {"host": socket.gethostname(), "pid": str(os.getpid()),
                         "pid_started": host.started(os.getpid()) or ""}
        self._active: set[str] = set()  # rounds' runs that this process set RUNNING
        self._seen: set[str] = set()  # rounds' runs known to exist
        self._state_url = state_url
        self._state = self._read_state()
        self._write_state(attempts=self._state["attempts"] + 1)
        self._started = True  # from here on there is a run to end
        atexit.register(self._abandon)
        self._open_parent(run_name, tags)
        self._page = self._store.page(self._state["parent"])
        self._log_config(config)
        self._end_dead_runs()

    def metrics(self, values: Mapping[str, float], *, step: int, round: int | None = None) -> None:
        super().metrics(values, step=step, round=round)
        self._store.log_metrics(self._run_id(round), values, step, replace=False)

    def system_metrics(self, values: Mapping[str, float]) -> None:
        """A point of the driver machine's load, on the adaptation's run; at most one per second.

        The step is the number of whole seconds since the run was created, so a resumed run continues the curve.
        """
        parent = self._run_id(None)
        self._created_s = self._created_s or self._store.client.get_run(parent).info.start_time / 1000
        step = int(time.time() - self._created_s)
        if step > self._system_step:
            self._store.append_metrics(parent, values, step)
            self._system_step = step

    def round_result(self, round: int, values: Mapping[str, float]) -> None:
        super().round_result(round, values)
        # Step 0 on the child: MLflow then compares rounds as bars, not as lines of one dot.
        self._store.log_metrics(self._run_id(round), values, 0, replace=True)
        self._store.log_metrics(self._run_id(None), values, round, replace=True)
        self._write_state(done=sorted({*self._state["done"], round}))

    def trials(self, round: int, rows: Sequence[Mapping[str, float]]) -> None:
        super().trials(round, rows)
        parent, digest = self._run_id(round), hashlib.sha256(json.dumps(list(rows)).encode()).hexdigest()
        if self._state["trials"].get(str(round)) == digest:
            return
        for number, row in enumerate(rows):
            tags = {"kind": "trial", "round": str(round), "trial": str(number), "mlflow.parentRunId": parent,
                    **self._process}
            run_id = self._store.create(f"trial-{number:03d}", tags, unique=["mlflow.parentRunId", "trial"])
            self._store.log_params(run_id, {name: f"{value:.6g}" for name, value in row.items() if "." in name})
            scores = {name: value for name, value in row.items() if "." not in name}
            self._store.log_metrics(run_id, scores, 0, replace=True)
            self._store.client.set_terminated(run_id, "FINISHED")
        self._write_state(trials={**self._state["trials"], str(round): digest})

    def describe(self, round: int | None, text: str, params: Mapping[str, str] | None = None) -> None:
        run_id = self._run_id(round)
        self._store.log_params(run_id, params or {})
        self._store.describe(run_id, text)

    def picture(self, round: int, name: str, image: np.ndarray) -> None:
        """See Tracker. Logged on the round's run, to compare side by side, and on the parent, to browse the rounds."""
        super().picture(round, name, image)
        run_id = self._run_id(round)
        key, digest = f"{round}/{name}", hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()
        if self._state["pictures"].get(key) == digest:
            return
        self._store.log_picture(run_id, name, image, 0)
        self._store.log_picture(self._run_id(None), name, image, round)
        self._write_state(pictures={**self._state["pictures"], key: digest})

    def table(self, round: int | None, name: str, rows: Sequence[Mapping[str, object]]) -> None:
        self._store.log_table(self._run_id(round), name, rows)

    def artifact(self, name: str, content: dict[str, Any] | str) -> None:
        text = content if isinstance(content, str) else json.dumps(content, indent=2, default=str)
        self._store.client.log_text(self._run_id(None), text, name)

    def data(self, context: str, name: str, url: str, digest: str) -> None:
        self._store.log_data(self._run_id(None), context, name, url, digest)

    def register(self, checkpoint_file: Path, *, name: str, calibration: Calibration | None = None) -> str:
        """See Tracker. The model takes (N, H, W, 3) uint8 and returns `count` and `uncertainty` of each image, and
        `low` and `high` with a calibration.
        """
        return self._store.register(self._run_id(None), Path(checkpoint_file), name, calibration)

    def finish(self, status: Ending) -> None:
        """See Tracker. No-op before `start` and the second time."""
        if not self._started:
            return
        for number, run_id in self._state["rounds"].items():
            found = self._store.find(run_id)
            if found is not None and found.info.status == "RUNNING":
                self._store.client.set_terminated(run_id, "FINISHED" if int(number) in self._state["done"] else status)
        if self._state["parent"]:
            self._store.client.set_terminated(self._state["parent"], status)
        self.leave()

    def leave(self) -> None:
        """Stops tracking without a call to the store, if it does not answer; the next start resumes the run."""
        self._started = False
        atexit.unregister(self._abandon)

    def how_to_open(self) -> str:
        return mlflow_store.how_to_open(self.uri, self._page)

    def _read_state(self) -> dict[str, Any]:
        """The ids kept on storage. If the store no longer has that run, a new adaptation begins."""
        fresh: dict[str, Any] = {"adaptation": secrets.token_hex(8), "attempts": 0, "config": "", "done": [],
                                 "parent": "", "pictures": {}, "rounds": {}, "trials": {}}
        if not storage.exists(self._state_url):
            return fresh
        state = storage.read_json(self._state_url)
        if not isinstance(state, dict) or set(state) != set(fresh):
            raise InputError(f"not a tracker's state file: {self._state_url}; remove it to begin a new MLflow run")
        if state["parent"]:
            if self._store.find(state["parent"]) is None:
                return fresh
            self._store.use_experiment_of(state["parent"])
        return state

    def _write_state(self, **changes: Any) -> None:
        self._state.update(changes)
        storage.write_json(self._state_url, self._state)

    def _open_parent(self, run_name: str, tags: Mapping[str, str]) -> None:
        facts = {**tags, **self._process, **host.versions()}
        facts |= {"kind": "adaptation", "adaptation": self._state["adaptation"],
                  "attempt": str(self._state["attempts"])}
        if not self._state["parent"]:
            # `unique` finds the run of a process that was killed after creating it and before keeping its id.
            self._write_state(parent=self._store.create(run_name, facts, unique=["adaptation"]))
        self._store.set_running(self._state["parent"], facts)

    def _log_config(self, config: dict[str, Any]) -> None:
        """Logs the settings as parameters and a file. Parameters cannot change, so an attempt with other settings only
        adds a file.
        """
        digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()
        if self._state["config"] == digest:
            return
        if self._state["config"]:
            attempt = self._state["attempts"]
            self._store.client.set_tag(self._state["parent"], "config_changed", f"in attempt {attempt}")
            self.artifact(f"config-attempt-{attempt:03d}.json", config)
        else:
            self.artifact("config.json", config)
            self._store.log_params(self._state["parent"], config)
        self._write_state(config=digest)

    def _run_id(self, round: int | None) -> str:
        """The parent's run, or a round's, which is created or resumed when first named."""
        if not self._started:
            raise RuntimeError("the tracker is not started: use it inside `with tracked_run(...)`")
        if round is None:
            return self._state["parent"]
        run_id = self._state["rounds"].get(str(round))
        if run_id is not None and run_id in self._seen:
            return run_id
        self._end_done_rounds()
        if run_id is None or self._store.find(run_id) is None:
            run_id = self._create_round(round)
        if round not in self._state["done"]:
            self._store.set_running(run_id, self._process)
            self._active.add(run_id)
        self._seen.add(run_id)
        return run_id

    def _create_round(self, round: int) -> str:
        tags = {"kind": "round", "round": str(round), "mlflow.parentRunId": self._state["parent"], **self._process}
        run_id = self._store.create(f"round-{round:03d}", tags, unique=["mlflow.parentRunId", "round"])
        # If somebody deleted the round's run, its pictures, trials and result are gone with it.
        pictures = {key: digest for key, digest in self._state["pictures"].items() if not key.startswith(f"{round}/")}
        trials = {key: digest for key, digest in self._state["trials"].items() if key != str(round)}
        done = [number for number in self._state["done"] if number != round]
        self._write_state(rounds={**self._state["rounds"], str(round): run_id}, done=done, pictures=pictures,
                          trials=trials)
        return run_id

    def _end_done_rounds(self) -> None:
        """A round ends when the next begins, so that MLflow shows its own duration."""
        for number in self._state["done"]:
            run_id = self._state["rounds"][str(number)]
            if run_id in self._active:
                self._store.client.set_terminated(run_id, "FINISHED")
                self._active.discard(run_id)

    def _end_dead_runs(self) -> None:
        """Ends this experiment's runs whose process on this host died without ending them."""
        own = {self._state["parent"], *self._state["rounds"].values()}
        for found in self._store.running(self._process["host"]):
            pid, started = found.data.tags.get("pid", ""), found.data.tags.get("pid_started", "")
            if found.info.run_id not in own and pid.isdigit() and not host.is_alive(int(pid), started):
                self._store.client.set_terminated(found.info.run_id, "KILLED")

    def _abandon(self) -> None:
        """At the interpreter's end, for a caller that never called `finish`. A forked child has nothing to end."""
        if self._process["pid"] == str(os.getpid()):
            with suppress(Exception):  # nobody is left to read an error
                self.finish("FAILED")


def _require_finite(values: Mapping[str, float], where: str) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise ValueError(f"metric {name} is {value} ({where}): only finite numbers are tracked; leave out others")
