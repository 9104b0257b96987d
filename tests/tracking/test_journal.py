"""A real MLflow server that is down for a while: the run goes on, and all entries arrive later, in order, once."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crowddist import storage
from crowddist.errors import InputError
from crowddist.tracking import journal
from crowddist.tracking.journal import JournalTracker
from crowddist.tracking.tracker import MlflowTracker, Tracker, tracked_run

START_S = 120
pytestmark = pytest.mark.faults


class Server:
    """An MLflow server over one database, which can be killed and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as found:
            self.port = found.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
                   "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db", "--artifacts-destination",
                    f"{self.folder}/artifacts"]
        log = (self.folder / "server.log").open("ab")
        self.process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=subprocess.STDOUT,
                                        start_new_session=True)
        deadline = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert (time.monotonic() < deadline
                        and self.process.poll() is None), (self.folder / "server.log").read_text()[-3000:]
                time.sleep(0.2)

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
            self.process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "RETRY_S", 0.5)
    monkeypatch.setattr(journal, "BUSY_SHARE", 0.0)
    monkeypatch.setattr(journal, "LAST_WAIT_S", 2.0)
    monkeypatch.setattr(journal, "LAST_RETRY_S", 0.2)


def open_run(server: Server, folder: Path, lines: list[str]) -> Any:
    tracker = JournalTracker(MlflowTracker(server.uri), lines.append)
    facts: dict[str, Any] = {"experiment": "away", "run_name": "a", "config": {"seed": 0}, "tags": {"recipe": "smoke"}}
    return tracked_run(tracker, **facts, state_url=storage.join(str(folder), "mlflow.json"))


def picture(shade: int) -> np.ndarray:
    return np.stack([np.full((30, 40), value, np.uint8) for value in (shade, 0, 255 - shade)], axis=2)


def held(server: Server) -> dict[str, Any]:
    """The server's content: the points of the loss in order of arrival, the rounds' errors, pictures and files."""
    from mlflow import MlflowClient

    client = MlflowClient(server.uri)
    (experiment,) = [found for found in client.search_experiments() if found.name == "away"]
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    (parent,) = [run for run in runs if run.data.tags["kind"] == "adaptation"]
    rounds = [run for run in runs if run.data.tags["kind"] == "round"]
    loss = [(run.data.tags["round"], metric.step, metric.value) for run in rounds
            for metric in client.get_metric_history(run.info.run_id, "train/loss")]
    images = [name.path for name in client.list_artifacts(parent.info.run_id, "images")]
    return {
        "status": parent.info.status,
        "loss": loss,
        "mae": [(metric.step, metric.value) for metric in client.get_metric_history(parent.info.run_id, "target/mae")],
        "pictures": sorted(name for name in images if name.endswith(".png")),
        "files": sorted(name.path for name in client.list_artifacts(parent.info.run_id) if not name.is_dir),
    }


def tell(tracker: Tracker, number: int) -> None:
    for step in (10, 20):
        tracker.metrics({"train/loss": np.float32(1 / (number + step))}, step=step, round=number)
    tracker.picture(number, "street", picture(50 * number))
    tracker.table(number, "images", [{"key": "a", "count": np.float32(3.5), "error": float("nan")}])
    tracker.round_result(number, {"target/mae": 20.0 - number})
    tracker.artifact("result.json", {"rounds": number})


def expected(last: int) -> dict[str, Any]:
    return {
        "status": "FINISHED",
        "loss": [(str(number), step, pytest.approx(1 / (number + step))) for number in range(last + 1)
                 for step in (10, 20)],
        "mae": [(number, 20.0 - number) for number in range(last + 1)],
        "files": ["config.json", "result.json"],
    }


def test_what_was_told_while_the_server_was_away_arrives_later_in_order_and_once(server: Server, tmp_path: Path,
                                                                                 impatient: None) -> None:
    lines: list[str] = []
    kept = tmp_path / "mlflow-journal.jsonl"
    with open_run(server, tmp_path, lines) as tracker:
        tell(tracker, 0)
        assert lines == []
        server.kill()
        started = time.monotonic()
        tell(tracker, 1)
        with pytest.raises(ValueError, match="only finite numbers"):
            tracker.metrics({"train/loss": float("nan")}, step=30, round=1)
        tell(tracker, 2)
        assert time.monotonic() - started < 20
        assert (lines == [f"MLflow at {server.uri} does not answer: the run goes on and delivers its entries later "
                          f"from {kept.as_uri()}"])
        assert len(kept.read_text().splitlines()) == 12
        server.start()
        time.sleep(journal.RETRY_S)
        tell(tracker, 3)
        assert not kept.exists() and lines[1:] == [f"MLflow at {server.uri} has all entries"]
    found = held(server)
    assert {name: found[name] for name in expected(3)} == expected(3)
    assert len(found["pictures"]) == 4


def test_a_run_that_ends_while_the_server_is_away_tells_it_when_it_is_started_again(server: Server, tmp_path: Path,
                                                                                    impatient: None) -> None:
    lines: list[str] = []
    with open_run(server, tmp_path, lines) as tracker:
        tell(tracker, 0)
        server.kill()
        tell(tracker, 1)
        assert tracker.register(tmp_path / "no such file", name="counter") == ""  # not even tried
    journal = (tmp_path / "mlflow-journal.jsonl").as_uri()
    assert lines[-1] == (
        f"6 entries for MLflow wait in {journal}: the same command delivers them when {server.uri} answers again"
    )
    with pytest.raises(InputError, match="no MLflow server answers"), open_run(server, tmp_path, lines):
        pass
    with (tmp_path / "mlflow-journal.jsonl").open("ab") as stream:
        stream.write(b'{"call": "metr')  # the process died while it wrote
    server.start()
    lines.clear()
    with open_run(server, tmp_path, lines) as tracker:
        assert lines == [f"MLflow at {server.uri} has all entries"]
        tell(tracker, 2)
    found = held(server)
    assert {name: found[name] for name in expected(2)} == expected(2) and len(found["pictures"]) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow.json", "server"]


def test_what_the_store_refuses_is_an_error_as_ever(server: Server, tmp_path: Path, impatient: None) -> None:
    with open_run(server, tmp_path, []) as tracker:
        with pytest.raises(Exception, match="Names may only contain alphanumerics"):
            tracker.metrics({"train/loss: {what}": 1.0}, step=0)
        tell(tracker, 0)
    assert held(server)["mae"] == [(0, 20.0)]
