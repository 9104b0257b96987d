"""The tracker against a real MLflow store on SQLite."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

import crowddist
from crowddist import storage
from crowddist.errors import InputError
from crowddist.tracking import mlflow_store
from crowddist.tracking.tracker import MlflowTracker, NullTracker, Tracker, tracked_run

CONFIG = {"method": {"name": "self_supervision", "rounds": 2}, "seed": 7, "targets": ["a", "b"]}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for the module, for MLflow needs seconds to make its tables; in a folder as people name them."""
    file = tmp_path_factory.mktemp("mlflow") / "my runs #1, 100% é" / "mlflow.db"
    return mlflow_store.resolve_uri(f"sqlite:///{quote(str(file))}", "")


@pytest.fixture(scope="module")
def client(store: str):
    # Through the package first, which keeps MLflow from calling home.
    mlflow_store.Store(store, "first")
    from mlflow import MlflowClient

    return MlflowClient(store)


def open_run(store: str, folder: Path, name: str, config: dict | None = None):
    """An adaptation called `name`, alone in an experiment of that name; entered again, it is the same one."""
    facts = {"experiment": name, "run_name": name, "config": CONFIG if config is None else config,
             "tags": {"recipe": "quickstart"}}
    return tracked_run(MlflowTracker(store), **facts, state_url=storage.join(str(folder), f"{name}.json"))


def runs_of(client, name: str) -> dict[str, list]:
    """The runs of an experiment by kind, oldest first."""
    experiment = client.get_experiment_by_name(name)
    found = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    return {kind: [run for run in found if run.data.tags["kind"] == kind] for kind in ("adaptation", "round")}


def history(client, run_id: str, key: str) -> list[tuple[int, float]]:
    return sorted((metric.step, metric.value) for metric in client.get_metric_history(run_id, key))


def picture(shade: int) -> np.ndarray:
    return np.full((30, 40, 3), shade, np.uint8)


def write_rounds(tracker: Tracker, rounds: range) -> None:
    for number in rounds:
        for step in (0, 10):
            tracker.metrics({"train/loss": 1.0 / (1 + step + number)}, step=step, round=number)
        tracker.picture(number, "street/density", picture(number))
        tracker.table(number, "images",
                      [{"key": "a", "count": np.float32(3.5), "error": float("nan")}, {"key": "b", "count": 4}])
        tracker.round_result(number, {"target/mae": 20.0 - number, "target/rmse": 30.0 - number})


def test_hierarchy_names_and_roll_up(store, client, tmp_path):
    with open_run(store, tmp_path, "hierarchy") as tracker:
        tracker.data("target", "streets", "file:///data/streets", "0123456789abcdef" * 4)
        tracker.metrics({"train/loss": 0.5}, step=3)
        write_rounds(tracker, range(3))
        # The rounds before the last are over; the last may still get pictures.
        assert [run.info.status for run in runs_of(client, "hierarchy")["round"]] == ["FINISHED", "FINISHED", "RUNNING"]
    runs = runs_of(client, "hierarchy")
    (parent,) = runs["adaptation"]
    assert parent.info.run_name == "hierarchy" and parent.info.status == "FINISHED"
    assert parent.data.params == {"method.name": "self_supervision", "method.rounds": "2", "seed": "7",
                                  "targets": '["a", "b"]'}
    expected = {"recipe": "quickstart", "attempt": "1", "pid": str(os.getpid()),
                "data.target.digest": "0123456789abcdef" * 4}
    assert expected.items() <= parent.data.tags.items() and {"host", "crowddist_version"} <= set(parent.data.tags)
    (used,) = parent.inputs.dataset_inputs
    assert (used.dataset.name == "streets" and used.dataset.digest == ("0123456789abcdef" * 4)[:36]
            and used.tags[0].value == "target")
    assert [run.info.run_name for run in runs["round"]] == ["round-000", "round-001", "round-002"]
    for number, run in enumerate(runs["round"]):
        assert run.data.tags["round"] == str(number) and run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.info.status == "FINISHED"
        assert run.data.metrics == {"target/mae": 20.0 - number, "target/rmse": 30.0 - number,
                                    "train/loss": 1 / (11 + number)}
        assert history(client, run.info.run_id, "train/loss") == [(0, 1 / (1 + number)), (10, 1 / (11 + number))]
    page = f"http://127.0.0.1:5000/#/experiments/{parent.info.experiment_id}/runs/{parent.info.run_id}/model-metrics"
    assert tracker.how_to_open().endswith(f"mlflow ui --backend-store-uri {shlex.quote(store)}  # {page}")
    assert history(client, parent.info.run_id, "target/mae") == [(0, 20.0), (1, 19.0), (2, 18.0)]
    assert history(client, parent.info.run_id, "train/loss") == [(3, 0.5)]


def test_descriptions_titles_and_short_parameters(store, client, tmp_path):
    facts = {"experiment": "described", "run_name": "described", "config": CONFIG, "tags": {}}
    for attempt in range(2):
        with tracked_run(MlflowTracker(store), **facts,
                         state_url=storage.join(str(tmp_path), "described.json")) as tracker:
            tracker.describe(1, f"**labels, round 1**, told {attempt}", {"title": "labels, round 1"})
            tracker.describe(None, f"from a to b, told {attempt}")
            tracker.trials(1, [{"method.threshold": 1 / 3, "score": 1 / 3}])
        (parent,), (child,) = runs_of(client, "described").values()
        assert parent.data.tags[mlflow_store.NOTE] == ("a person's words" if attempt else "from a to b, told 0")
        client.set_tag(parent.info.run_id, mlflow_store.NOTE, "a person's words")
    assert client.get_run(parent.info.run_id).data.tags[mlflow_store.NOTE] == "a person's words"
    assert (child.data.tags[mlflow_store.NOTE] == "**labels, round 1**, told 0"
            and child.data.params == {"title": "labels, round 1"})
    experiment = client.get_experiment_by_name("described")
    assert (experiment.tags["mlflow.experimentKind"] == "custom_model_development"
            and "tags.kind = 'round'" in experiment.tags[mlflow_store.NOTE])
    (trial,) = client.search_runs([experiment.experiment_id], "tags.kind = 'trial'")
    assert trial.data.params == {"method.threshold": "0.333333"} and trial.data.metrics == {"score": 1 / 3}


def test_files_of_a_run(store, client, tmp_path):
    with open_run(store, tmp_path, "files") as tracker:
        tracker.table(None, "images", [{"key": "old"}])
        tracker.table(None, "images",
                      [{"key": "a", "count": np.float32(3.5), "error": float("nan")}, {"key": "b", "note": Path("x")}])
        tracker.artifact("notes/recipe.txt", "hello")
        tracker.picture(1, "caméra/density", picture(9))
    (parent,), (child,) = runs_of(client, "files").values()
    assert Path(client.download_artifacts(parent.info.run_id, "notes/recipe.txt")).read_text() == "hello"
    assert json.loads(Path(client.download_artifacts(parent.info.run_id, "config.json")).read_text()) == CONFIG
    table = json.loads(Path(client.download_artifacts(parent.info.run_id, "tables/images.json")).read_text())
    assert table == {"columns": ["key", "count", "error", "note"],
                     "data": [["a", 3.5, None, None], ["b", None, None, "x"]]}
    # The form is the one MLflow itself gives a table.
    client.log_table(parent.info.run_id, {"key": ["a", "b"], "count": [3.5, None]}, "tables/own.json")
    own = json.loads(Path(client.download_artifacts(parent.info.run_id, "tables/own.json")).read_text())
    assert own == {"columns": ["key", "count"], "data": [["a", 3.5], ["b", None]]}
    listed = json.loads(client.get_run(parent.info.run_id).data.tags["mlflow.loggedArtifacts"])
    assert listed == [{"path": f"tables/{name}.json", "type": "table"} for name in ("images", "own")]
    for run, step in ((parent, 1), (child, 0)):
        (file,) = [entry.path
                   for entry in client.list_artifacts(run.info.run_id, "images") if entry.path.endswith(".png")]
        assert f"cam_ra~density+step+{step}+" in file


def test_resumed_after_success_nothing_is_doubled(store, client, tmp_path):
    with open_run(store, tmp_path, "again") as tracker:
        write_rounds(tracker, range(2))
    # A new process knows only what is on storage; told more, with other settings.
    with open_run(store, tmp_path, "again", CONFIG | {"seed": 8, "new": 1}) as tracker:
        assert runs_of(client, "again")["adaptation"][0].info.status == "RUNNING"
        write_rounds(tracker, range(3))
        tracker.metrics({"train/loss": 99.0}, step=10, round=1)
        tracker.round_result(0, {"target/mae": 19.5, "target/rmse": 30.0})
    runs = runs_of(client, "again")
    (parent,) = runs["adaptation"]
    assert parent.info.status == "FINISHED" and parent.data.tags["attempt"] == "2"
    assert [run.info.status for run in runs["round"]] == ["FINISHED"] * 3
    assert [run.data.tags["round"] for run in runs["round"]] == ["0", "1", "2"]
    ids = [run.info.run_id for run in runs["round"]]
    # A curve keeps its first value at a step; a final figure that changed is written beside the old one and shown.
    assert history(client, ids[1], "train/loss") == [(0, 1 / 2), (10, 1 / 12)]
    assert (history(client, ids[0], "target/mae") == [(0, 19.5), (0, 20.0)]
            and runs["round"][0].data.metrics["target/mae"] == 19.5)
    assert history(client, parent.info.run_id, "target/rmse") == [(0, 30.0), (1, 29.0), (2, 28.0)]
    for run_id, count in [(ids[0], 1), (ids[1], 1), (parent.info.run_id, 3)]:
        assert sum(entry.path.endswith(".png") for entry in client.list_artifacts(run_id, "images")) == count
    # Parameters cannot change: the other settings are a file of their own, and a tag says so.
    assert parent.data.params["seed"] == "7" and "new" not in parent.data.params
    assert json.loads(Path(client.download_artifacts(parent.info.run_id, "config.json")).read_text())["seed"] == 7
    assert json.loads(Path(client.download_artifacts(parent.info.run_id,
                                                     "config-attempt-002.json")).read_text())["seed"] == 8
    assert parent.data.tags["config_changed"] == "in attempt 2"


def test_curves_told_by_another_thread(store, client, tmp_path):
    with open_run(store, tmp_path, "threads") as tracker:
        thread = threading.Thread(target=lambda: [tracker.metrics({"a": float(step)}, step=step, round=0)
                                                  for step in range(3)])
        thread.start()
        thread.join()
    (child,) = runs_of(client, "threads")["round"]
    assert history(client, child.info.run_id, "a") == [(0, 0.0), (1, 1.0), (2, 2.0)]


def test_killed_between_making_a_run_and_keeping_its_id(store, client, tmp_path):
    with open_run(store, tmp_path, "gap") as tracker:
        tracker.metrics({"a": 1.0}, step=0, round=0)
    state_url = storage.join(str(tmp_path), "gap.json")
    storage.write_json(state_url, storage.read_json(state_url) | {"parent": "", "rounds": {}})
    with open_run(store, tmp_path, "gap") as tracker:
        tracker.metrics({"a": 1.0}, step=0, round=0)
    runs = runs_of(client, "gap")
    assert len(runs["adaptation"]) == len(runs["round"]) == 1
    assert history(client, runs["round"][0].info.run_id, "a") == [(0, 1.0)]


def test_runs_deleted_by_hand_are_made_anew(store, client, tmp_path):
    with open_run(store, tmp_path, "deleted") as tracker:
        write_rounds(tracker, range(2))
    client.delete_run(runs_of(client, "deleted")["round"][1].info.run_id)
    with open_run(store, tmp_path, "deleted") as tracker:
        write_rounds(tracker, range(2))
    runs = runs_of(client, "deleted")
    assert [run.data.metrics["target/mae"] for run in runs["round"]] == [20.0, 19.0]
    assert len(client.list_artifacts(runs["round"][1].info.run_id, "images")) == 2
    first = runs["adaptation"][0].info.run_id
    client.delete_run(first)
    with open_run(store, tmp_path, "deleted") as tracker:
        write_rounds(tracker, range(1))
    (parent,) = runs_of(client, "deleted")["adaptation"]
    assert parent.info.run_id != first and parent.data.tags["attempt"] == "1"


def test_endings(store, client, tmp_path):
    with pytest.raises(ZeroDivisionError), open_run(store, tmp_path, "failed") as tracker:
        write_rounds(tracker, range(1))
        tracker.metrics({"a": 1.0}, step=0, round=1)
        raise ZeroDivisionError
    with pytest.raises(KeyboardInterrupt), open_run(store, tmp_path, "interrupted") as tracker:
        tracker.metrics({"a": 1.0}, step=0, round=0)
        raise KeyboardInterrupt
    with pytest.raises(ValueError,
                       match=r"metric a is nan \(step 0, round 2\)"), open_run(
                           store, tmp_path, "not-a-number") as tracker:
        tracker.metrics({"b": 1.0, "a": float("nan")}, step=0, round=2)
    with pytest.raises(RuntimeError, match="use it inside `with tracked_run"):
        tracker.metrics({"a": 1.0}, step=0)
    statuses = {
        name: [run.info.status for kind in runs_of(client, name).values() for run in kind]
        for name in ("failed", "interrupted", "not-a-number")
    }
    # The finished round keeps its status, whatever became of the rest.
    assert statuses == {"failed": ["FAILED", "FINISHED", "FAILED"], "interrupted": ["KILLED", "KILLED"],
                        "not-a-number": ["FAILED"]}


CHILD = """
import sys, time
from crowddist.tracking.tracker import MlflowTracker, Tracker, tracked_run
store, folder = sys.argv[1:]
def facts(name):
    return dict(experiment="processes", run_name=name, config={}, tags={}, state_url=f"{folder}/{name}.json")
abandoned = MlflowTracker(store)
abandoned.start(**facts(folder[-1] + "-abandoned"))
with tracked_run(MlflowTracker(store), **facts(folder[-1] + "-inside")) as tracker:
    tracker.metrics({"a": 1.0}, step=0, round=0)
    print("ready", flush=True)
    time.sleep(300)
"""


def start_process(store: str, folder: Path) -> subprocess.Popen:
    folder.mkdir()
    child = subprocess.Popen([sys.executable, "-c", CHILD, store, str(folder)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    return child


@pytest.mark.slow
def test_processes_that_are_ended_from_outside(store, client, tmp_path):
    def statuses() -> dict[str, str]:
        found = runs_of(client, "processes")
        return {run.info.run_name: run.info.status for run in found["adaptation"] + found["round"]}

    client.create_experiment("processes", artifact_location=tmp_path.as_uri())
    child = start_process(store, tmp_path / "t")
    assert statuses() == {"t-abandoned": "RUNNING", "t-inside": "RUNNING", "round-000": "RUNNING"}
    # SIGTERM: the block writes KILLED; what was started outside a block is FAILED at the interpreter's end.
    child.send_signal(signal.SIGTERM)
    assert child.wait(120) == 128 + signal.SIGTERM
    assert statuses() == {"t-abandoned": "FAILED", "t-inside": "KILLED", "round-000": "KILLED"}

    child = start_process(store, tmp_path / "k")
    try:
        experiment = {"experiment": "processes", "config": {}, "tags": {}}
        with tracked_run(MlflowTracker(store), **experiment, run_name="other", state_url=f"{tmp_path}/other.json"):
            # The process lives: its runs are its own business.
            assert statuses()["k-inside"] == statuses()["k-abandoned"] == "RUNNING"
    finally:
        child.kill()
    # A killed process dies a little later. This waits for its end and leaves it a zombie, whose number still exists.
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    with tracked_run(MlflowTracker(store), **experiment, run_name="other", state_url=f"{tmp_path}/other.json"):
        after = statuses()
        assert (after["other"] == "RUNNING"
                and after["k-inside"] == after["k-abandoned"] == after["round-000"] == "KILLED")
    child.wait(120)
    with tracked_run(MlflowTracker(store), **experiment, run_name="k-inside",
                     state_url=f"{tmp_path}/k/k-inside.json") as tracker:
        tracker.metrics({"a": 1.0}, step=0, round=0)
        assert statuses()["k-inside"] == "RUNNING"
        tracker.round_result(0, {"target/mae": 1.0})
    assert statuses()["k-inside"] == "FINISHED"
    rounds = [run for run in runs_of(client, "processes")["round"] if run.data.tags["pid"] == str(os.getpid())]
    assert ([run.info.status for run in rounds] == ["FINISHED"]
            and history(client, rounds[0].info.run_id, "a") == [(0, 1.0)])


def test_addresses(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert mlflow_store.resolve_uri("", "runs/mlflow.db") == f"sqlite:///{tmp_path}/runs/mlflow.db"
    for uri in ("http://me:hidden@mlflow.example:5000", "postgresql://me:hidden@db.example/mlflow"):
        with pytest.raises(InputError, match="MLFLOW_TRACKING_PASSWORD") as refused:
            mlflow_store.resolve_uri(uri, "x.db")
        assert "hidden" not in str(refused.value)
    assert mlflow_store.resolve_uri("sqlite:///here.db", "x.db") == f"sqlite:///{tmp_path}/here.db"
    assert mlflow_store.resolve_uri("",
                                    "/a b#/100%.db") == mlflow_store.resolve_uri("sqlite:////a b#/100%25.db", "x.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example:5000")
    assert mlflow_store.resolve_uri("", "runs/mlflow.db") == "http://mlflow.example:5000"
    assert mlflow_store.resolve_uri("postgresql+psycopg2://user@host/db",
                                    "x.db") == "postgresql+psycopg2://user@host/db"
    for wrong in ("mlruns", "file:///tmp/mlruns", "ftp://host", "sqlite://x.db"):
        with pytest.raises(InputError, match="not a tracking address"):
            mlflow_store.resolve_uri(wrong, "x.db")
    assert MlflowTracker("http://mlflow.example:5000/").how_to_open() == "http://mlflow.example:5000/"
    words = shlex.split(MlflowTracker("sqlite:////a'b/mlflow.db").how_to_open(), comments=True)
    assert words[0].endswith("mlflow") and words[1:] == ["ui", "--backend-store-uri", "sqlite:////a'b/mlflow.db"]


def test_stores_that_cannot_be_used(store, client, tmp_path):
    (tmp_path / "text.db").write_text("this is not a database, whatever its name says " * 100)
    for address, message in (
        (f"sqlite:///{tmp_path}/text.db", "cannot use the tracking store"),
        ("http://127.0.0.1:9", "no MLflow server answers"),
    ):
        with pytest.raises(InputError, match=message), open_run(address, tmp_path, "a"):
            pass
    client.delete_experiment(client.create_experiment("gone"))
    with pytest.raises(InputError, match="mlflow experiments restore"), open_run(store, tmp_path, "gone"):
        pass
    storage.write_json(storage.join(str(tmp_path), "odd.json"), {"parent": "x"})
    with pytest.raises(InputError, match="not a tracker's state file"), open_run(store, tmp_path, "odd"):
        pass


def test_null_tracker_takes_everything_but_nonsense():
    with tracked_run(NullTracker(), experiment="e", run_name="r", config={}, tags={}, state_url="") as tracker:
        write_rounds(tracker, range(1))
        tracker.data("target", "streets", "file:///x", "0")
        tracker.artifact("a.json", {})
        assert tracker.register(Path("missing.pt"), name="counter") == ""
        with pytest.raises(ValueError, match="target/mae is inf"):
            tracker.round_result(0, {"target/mae": float("inf")})
        with pytest.raises(ValueError, match="must be"):
            tracker.picture(0, "x", np.zeros((3, 4), np.uint8))
    assert tracker.how_to_open()


def test_importing_is_cheap():
    code = ("import sys, crowddist.tracking.tracker; print([name for name in ('mlflow', 'torch', 'pandas', 'cv2') if "
            "name in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_model_is_registered_once_with_its_signature(store, client, tmp_path):
    file = tmp_path / "counter.pt"
    file.write_bytes(b"weights")
    with open_run(store, tmp_path, "model") as tracker:
        first = tracker.register(file, name="crowd-counter")
    with open_run(store, tmp_path, "model") as tracker:
        assert tracker.register(file, name="crowd-counter") == first == "models:/crowd-counter/1"
        file.write_bytes(b"other weights")
        assert tracker.register(file, name="crowd-counter") == "models:/crowd-counter/2"
    version = client.get_model_version("crowd-counter", "1")
    (parent,) = runs_of(client, "model")["adaptation"]
    assert version.run_id == parent.info.run_id and version.status == "READY" and len(parent.outputs.model_outputs) == 2
    assert int(client.get_model_version_by_alias("crowd-counter", "newest").version) == 2
    assert client.get_registered_model("crowd-counter").description.startswith("Counts people")
    logged = [client.get_logged_model(output.model_id) for output in parent.outputs.model_outputs]
    assert sorted(model.tags["mlflow.modelVersions"]
                  for model in logged) == [f'[{{"name": "crowd-counter", "version": {number}}}]' for number in (1, 2)]
    folder = storage.local_folder(version.source)
    assert (folder / "data" / "counter.pt").read_bytes() == b"weights"
    from mlflow.models import Model

    model = Model.load(str(folder))
    assert model.signature.inputs is None  # arrays and tables: no schema lets both through
    assert model.signature.outputs.input_names() == ["count", "uncertainty"]
    assert model.flavors["python_function"]["loader_module"] == "crowddist.serving"
    assert (not list(folder.rglob("*.pkl"))
            and f"crowddist=={crowddist.__version__}" in (folder / "requirements.txt").read_text())
