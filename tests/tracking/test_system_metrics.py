"""The machine's load is tracked during a run, and never disturbs it."""

from __future__ import annotations

import signal
import socket
import sys
import threading
import time
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from crowddist import storage
from crowddist.errors import InputError
from crowddist.tracking import journal, system_metrics
from crowddist.tracking.journal import JournalTracker
from crowddist.tracking.system_metrics import SystemMetrics
from crowddist.tracking.tracker import MlflowTracker, tracked_run

NAMES = {"system/cpu_utilization_percentage", "system/system_memory_usage_percentage",
         "system/disk_available_megabytes",
         "system/network_receive_megabytes"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


def open_run(store: str, folder: Path, name: str, lines: list[str]) -> Any:
    facts: dict[str, Any] = {"experiment": "machine", "run_name": name, "config": {"seed": 0},
                             "tags": {"recipe": "smoke"}}
    return tracked_run(JournalTracker(MlflowTracker(store), lines.append), **facts,
                       state_url=storage.join(str(folder), f"{name}.json"))


def points(store: str, name: str) -> dict[str, list[tuple[int, float]]]:
    """The system metrics of a run: steps and values, in the order they came."""
    from mlflow import MlflowClient

    client = MlflowClient(store)
    (experiment,) = [found for found in client.search_experiments() if found.name == "machine"]
    (run,) = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{name}'")
    keys = [key for key in run.data.metrics if key.startswith("system/")]
    return {key: [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, key)]
            for key in keys}


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "system-metrics"]


@pytest.mark.slow
def test_a_run_has_them_until_its_end_and_goes_on_behind_when_it_is_resumed(store: str, tmp_path: Path,
                                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_metrics, "INTERVAL_S", 0.2)
    lines: list[str] = []
    with open_run(store, tmp_path, "whole", lines):
        while len(points(store, "whole").get("system/cpu_utilization_percentage", ())) < 2:  # which takes a second
            time.sleep(0.2)
        assert len(threads()) == 1
    assert threads() == []
    first = points(store, "whole")
    assert set(first) >= NAMES and len(first["system/cpu_utilization_percentage"]) >= 2
    assert 0 < first["system/system_memory_usage_percentage"][0][1] <= 100
    time.sleep(1.1)
    assert points(store, "whole") == first  # nothing comes after the end
    with open_run(store, tmp_path, "whole", lines):
        pass
    for name, before in first.items():
        after = points(store, "whole")[name]
        assert after[: len(before)] == before and len(after) > len(before)
        steps = [step for step, _ in after]
        assert steps == sorted(set(steps)) and steps[-1] < 60  # seconds since the run began
    assert lines == []


@pytest.mark.parametrize("error", [ValueError("bad"), SystemExit(75), KeyboardInterrupt()])
def test_they_end_with_a_run_that_fails_or_is_ended(store: str, tmp_path: Path, error: BaseException) -> None:
    name = type(error).__name__
    with pytest.raises(type(error)), open_run(store, tmp_path, name, []):
        raise error
    assert threads() == [] and {len(values) for values in points(store, name).values()} == {1}


def test_they_end_at_sigterm(store: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit), open_run(store, tmp_path, "sigterm", []):
        signal.raise_signal(signal.SIGTERM)
    assert threads() == [] and points(store, "sigterm")


def test_turned_off(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    with open_run(store, tmp_path, "off", []):
        assert threads() == []
    assert points(store, "off") == {}


def test_a_store_that_is_away_is_neither_asked_all_the_time_nor_waited_for(store: str, tmp_path: Path,
                                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_metrics, "INTERVAL_S", 0.05)
    monkeypatch.setattr(journal, "RETRY_S", 60.0)
    asked: list[float] = []

    def away(*_: Any) -> None:
        from requests.exceptions import ConnectionError

        asked.append(time.monotonic())
        raise ConnectionError("nobody there")

    lines: list[str] = []
    with open_run(store, tmp_path, "away", lines) as tracker:
        monkeypatch.setattr(MlflowTracker, "system_metrics", away)
        deadline = time.monotonic() + 30
        while not asked and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        assert len(asked) == 1
        tracker.metrics({"train/loss": 1.0}, step=1)  # is kept, for the store is known to be away
        assert (lines == [f"MLflow at {store} does not answer: the run goes on and delivers its entries later "
                          f"from {(tmp_path / 'away-journal.jsonl').as_uri()}"])
    assert lines[1:] == [f"MLflow at {store} has all entries"] and threads() == []


def test_a_store_that_hangs_holds_up_the_end_for_a_while_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_metrics, "LAST_WAIT_S", 0.3)
    let_go = threading.Event()
    system = SystemMetrics(lambda values: let_go.wait(30) and None, [].append)
    system.start()
    started = time.monotonic()
    system.stop()
    assert 0.3 <= time.monotonic() - started < 5
    let_go.set()
    system.stop()
    assert threads() == []


def test_what_goes_wrong_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_metrics, "INTERVAL_S", 0.02)
    told: list[Mapping[str, float]] = []
    lines: list[str] = []

    def tell(values: Mapping[str, float]) -> None:
        told.append(values)
        raise ValueError("not\nnow")

    system = SystemMetrics(tell, lines.append)
    system.start()
    deadline = time.monotonic() + 30
    while len(told) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    system.stop()
    assert len(told) >= 3 and lines == ["system metrics are missing: ValueError: not now"]


def test_a_gpu_is_measured_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.system_metrics.metrics import gpu_monitor

    fake: Any = types.ModuleType("pynvml")
    fake.NVMLError = RuntimeError
    fake.nvmlInit = lambda: None
    fake.nvmlDeviceGetCount = lambda: 1
    fake.nvmlDeviceGetHandleByIndex = lambda index: index
    fake.nvmlDeviceGetMemoryInfo = lambda handle: types.SimpleNamespace(used=20e9, total=80e9)
    fake.nvmlDeviceGetUtilizationRates = lambda handle: types.SimpleNamespace(gpu=90)
    fake.nvmlDeviceGetPowerUsage = lambda handle: 350_000
    fake.nvmlDeviceGetEnforcedPowerLimit = lambda handle: 700_000
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(gpu_monitor, "pynvml", fake, raising=False)
    told: list[Mapping[str, float]] = []
    system = SystemMetrics(told.append, [].append)
    system.start()
    system.stop()
    gpu = {name: value for name, value in told[0].items() if "gpu" in name}
    assert gpu == {"system/gpu_0_memory_usage_percentage": 25.0, "system/gpu_0_memory_usage_megabytes": 20_000.0,
                   "system/gpu_0_utilization_percentage": 90.0,
                   "system/gpu_0_power_usage_watts": 350.0, "system/gpu_0_power_usage_percentage": 50.0}


def test_a_run_still_begins_with_a_server(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    with pytest.raises(InputError,
                       match="no MLflow server answers"), open_run(f"http://127.0.0.1:{port}", tmp_path, "none", []):
        pass
    assert threads() == []


@pytest.mark.slow
def test_the_result_is_the_same_with_and_without_them(tiny_config: Any, tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    from crowddist.launch.local import LocalLauncher
    from crowddist.pipeline import adapt

    monkeypatch.setattr(system_metrics, "INTERVAL_S", 0.1)
    rounds = []
    for name in ("with", "without"):
        if name == "without":
            monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
        config = dataclasses.replace(tiny_config, method="source_only", run_name=name, experiment="machine")
        uri = f"sqlite:///{tmp_path}/mlflow.db"
        result = adapt(config, LocalLauncher(config), JournalTracker(MlflowTracker(uri), [].append),
                       say=lambda line: None)
        rounds.append([{key: value for key, value in row.items() if key not in ("train/seconds", "checkpoint")}
                       for row in result["rounds"]])
        assert bool(points(uri, name)) == (name == "with")
    assert rounds[0] == rounds[1]
