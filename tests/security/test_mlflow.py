"""Attacks on MLflow: a server with names and passwords is asked without any, with a wrong one and with the right one,
by our own tracker.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from crowddist.errors import InputError
from crowddist.process.cli import one_line
from crowddist.tracking.tracker import MlflowTracker, tracked_run

pytestmark = pytest.mark.slow
PASSWORD = "a-password-of-this-test-only"
START_S = 240
ROUTES = ("experiments/search", "experiments/create", "runs/create", "runs/search", "runs/log-metric",
          "registered-models/create", "experiments/delete")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """MLflow with its basic authentication on loopback; yields its address."""
    pytest.importorskip("flask_wtf", reason="crowddist[auth] is not installed")
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = NO_PERMISSIONS\ndatabase_uri = sqlite:///{folder}/users.db\nadmin_username = "
        "camera\n"
        f"admin_password = {PASSWORD}\nauthorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    environment = os.environ | {"MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
                                "MLFLOW_FLASK_SERVER_SECRET_KEY": "of this test"}
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--host", "127.0.0.1", "--port",
               str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/runs.db", "--artifacts-destination",
                str(folder / "artifacts")]
    log = folder / "log"
    process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log.open("wb"), stderr=subprocess.STDOUT,
                               start_new_session=True)
    deadline = time.monotonic() + START_S
    while status(f"http://127.0.0.1:{port}/health") != 200:
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(1)
    yield f"http://127.0.0.1:{port}"
    os.killpg(process.pid, 15)
    process.wait(timeout=60)


def status(address: str, data: bytes | None = None) -> int:
    """What is answered to somebody without a name; 0 for nothing."""
    request = urllib.request.Request(address, data=data, headers={"Content-Type": "application/json"})
    try:
        return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def track(address: str, folder: Path) -> None:
    with tracked_run(MlflowTracker(address), experiment="camera", run_name="first", config={"a": 1}, tags={},
                     state_url=folder.as_uri() + "/s.json"
                      ) as tracker:
        tracker.metrics({"loss": 1.0}, step=1)
        tracker.artifact("notes.json", {"a": 1})
        for name in ("../../../outside.txt", "/tmp/outside.txt", "a/../../../b.txt"):
            with pytest.raises(Exception, match=r"(?i)invalid|path"):
                tracker.artifact(name, "outside")


@pytest.mark.parametrize("given",
                         [{}, {"MLFLOW_TRACKING_USERNAME": "camera", "MLFLOW_TRACKING_PASSWORD": "guessed-wrongly"},
                                   {"MLFLOW_TRACKING_TOKEN": "guessed-wrongly"}],
                         ids=["nobody", "wrong password", "wrong token"])
def test_without_the_password_a_run_ends_in_one_line(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                     given: dict[str, str]) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD") as error:
        track(server, tmp_path)
    line = one_line(error.value)
    assert (line.startswith(f"the tracking store {server} requires a login") and "guessed-wrongly" not in line
            and len(line) < 300)


def test_nobody_without_a_name_reads_or_writes(server: str) -> None:
    assert {route: status(f"{server}/api/2.0/mlflow/{route}", b"{}") for route in ROUTES} == dict.fromkeys(ROUTES, 401)
    assert status(f"{server}/") == status(f"{server}/get-artifact?path=a&run_uuid=b") == 401


def test_with_the_password_it_is_tracked(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no artifact leaves the run's folder, whatever it is called."""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "camera")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    track(server, tmp_path)
    from mlflow import MlflowClient

    client = MlflowClient(server)
    experiment = client.get_experiment_by_name("camera")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.metrics == {"loss": 1.0} and run.info.status == "FINISHED"
    assert PASSWORD not in str(run.to_dictionary())
