"""The tracker's access to an MLflow store. Every call names its run; MLflow's global active run is not used."""

from __future__ import annotations

import getpass
import hashlib
import json
import logging
import math
import os
import re
import shlex
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import numpy as np

from crowddist import serving, storage
from crowddist.config import flat
from crowddist.errors import InputError
from crowddist.process.safe_text import holds_secret, redacted

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from crowddist.inference.intervals import Calibration

NOTE = "mlflow.note.content"
"""The tag whose markdown MLflow shows as a description."""
_EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",  # MLflow's default pages are about language models
    NOTE: "Each run adapts a crowd counter to unlabelled images. Its children are its rounds (`tags.kind = 'round'`); "
          "compare them by `target/mae`. The children of a round are the trials of a search of thresholds "
          "(`tags.kind = 'trial'`).",
}
_MODEL_NOTE = (
    "Counts people in photographs: takes images as (N, H, W, 3) uint8 RGB, returns `count` and `uncertainty` (its "
    "standard deviation, persons) of each, and where the run had held-out images of its source, `low` and `high` of "
    "the count's 90 % interval. Every version is the final counter of an adaptation; the source run shows its errors."
)

NEWEST = "newest"
"""Alias of the model that was registered last."""
# MLflow's limits (its utils/validation.py).
_MAX_PARAMS_PER_BATCH, _MAX_METRICS_PER_BATCH, _MAX_DIGEST_LENGTH = 100, 1000, 36
_CONNECT_TIMEOUT_S = 10.0
"""ours: MLflow itself retries a dead server for minutes."""
_ADDRESS = re.compile(r"^(sqlite:///|https?://|(postgresql|mysql|mssql)(\+\w+)?://|databricks(://|$))")


def resolve_uri(argument: str, default_path: str | os.PathLike[str]) -> str:
    """The tracking address: the argument, else MLFLOW_TRACKING_URI, else SQLite at `default_path`; SQLite paths become
    absolute.

    Raises InputError for a plain folder or file, which MLflow no longer supports, and for an address with a password:
    messages and config.json show the address.
    """
    uri = (argument or os.environ.get("MLFLOW_TRACKING_URI", "")
           or f"sqlite:///{quote(str(Path(default_path).absolute()))}")
    if not _ADDRESS.match(uri):
        raise InputError(f"not a tracking address: {redacted(uri)}; give sqlite:///path/to/mlflow.db or the http(s):// "
                         "address of an MLflow server")
    if holds_secret(uri):
        raise InputError("the tracking address holds a password or a token, which messages and config.json would show: "
                         "remove it, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD for a server, or "
                         "the variable of the database's client (e.g. PGPASSWORD)")
    database = _sqlite_path(uri)
    return uri if database is None else f"sqlite:///{quote(str(database))}"


def how_to_open(uri: str, page: str = "") -> str:
    """One line for people: a server's address of `page`, or the command that shows a database, and the address then."""
    if uri.startswith(("http:", "https:")):
        return f"{uri.rstrip('/')}/{page}"
    # The script beside this Python, if the shell does not find it by name.
    beside = Path(sys.executable).with_name("mlflow")
    command = str(beside) if shutil.which("mlflow") is None and beside.exists() else "mlflow"
    # The address is a shell comment, so that the whole line can be pasted.
    return f"{shlex.quote(command)} ui --backend-store-uri {shlex.quote(uri)}  # http://127.0.0.1:5000/{page}"


class Store:
    """One experiment of an MLflow store. Raises InputError if the store cannot be reached or refuses."""

    def __init__(self, uri: str, experiment: str) -> None:
        self.client = _connect(uri)
        self._experiment_id = _experiment_id(self.client, experiment, uri)
        self._metrics: dict[tuple[str, str], dict[int, float]] = {}  # (run, name) -> value by step
        self._created: set[str] = set()  # runs created here: `_metrics` holds all their values

    def find(self, run_id: str) -> Run | None:
        """The run; None if it does not exist or was deleted."""
        from mlflow.exceptions import MlflowException

        try:
            found = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return found if found.info.lifecycle_stage == "active" else None

    def use_experiment_of(self, run_id: str) -> None:
        """Switches to the run's experiment, for a run that began under another experiment name."""
        self._experiment_id = self.client.get_run(run_id).info.experiment_id

    def page(self, run_id: str) -> str:
        """The page of a run's charts and pictures; MLflow's front page is about language models."""
        return f"#/experiments/{self._experiment_id}/runs/{run_id}/model-metrics"

    def create(self, name: str, tags: Mapping[str, str], *, unique: Sequence[str]) -> str:
        """The id of a new RUNNING run, or of the run whose tags named in `unique` have these values already."""
        condition = " and ".join(f"tags.`{key}` = '{tags[key]}'" for key in unique)
        for found in self.client.search_runs([self._experiment_id], condition, max_results=1):
            return found.info.run_id
        own = {"mlflow.user": _user(), "mlflow.source.name": sys.argv[0]}
        run_id = self.client.create_run(self._experiment_id, run_name=name, tags=own | dict(tags)).info.run_id
        self._created.add(run_id)
        return run_id

    def set_running(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Sets a run RUNNING, also after its end, and adds the tags."""
        from mlflow.entities import RunTag

        self.client.update_run(run_id, status="RUNNING")
        self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def describe(self, run_id: str, text: str) -> None:
        """Markdown that MLflow shows with the run; an existing text, perhaps by a person, stays."""
        if NOTE not in self.client.get_run(run_id).data.tags:
            self.client.set_tag(run_id, NOTE, text)

    def running(self, host: str) -> Sequence[Run]:
        """The experiment's runs (at most 1,000) with status RUNNING and this tag `host`."""
        condition = f"attributes.status = 'RUNNING' and tags.host = '{host}'"
        return self.client.search_runs([self._experiment_id], condition)

    def log_params(self, run_id: str, config: Mapping[str, Any]) -> None:
        """Nested settings as flat parameters; existing ones stay, as MLflow does not allow changes."""
        from mlflow.entities import Param

        known = self.client.get_run(run_id).data.params
        texts = {re.sub(r"[^\w\-. /:]", "_", name): value if isinstance(value, str) else json.dumps(value, default=str)
                 for name, value in flat(config).items()}  # MLflow allows only these characters
        params = [Param(name, text) for name, text in texts.items() if name not in known]
        for start in range(0, len(params), _MAX_PARAMS_PER_BATCH):
            self.client.log_batch(run_id, params=params[start : start + _MAX_PARAMS_PER_BATCH])

    def log_metrics(self, run_id: str, values: Mapping[str, float], step: int, *, replace: bool) -> None:
        """Logs the metrics that have no value at `step` yet; with `replace` also those with another value, of which
        MLflow shows the later.
        """
        new = {}
        for name, value in values.items():
            history = self._history(run_id, name)
            if step not in history or (replace and history[step] != float(value)):
                new[name] = float(value)
        self.append_metrics(run_id, new, step)
        for name, value in new.items():  # only after the store has them
            self._history(run_id, name)[step] = value

    def append_metrics(self, run_id: str, values: Mapping[str, float], step: int) -> None:
        """Logs metrics at a new step, without a look at earlier values."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        metrics = [Metric(name, float(value), now_ms, step) for name, value in values.items()]
        for start in range(0, len(metrics), _MAX_METRICS_PER_BATCH):
            self.client.log_batch(run_id, metrics=metrics[start : start + _MAX_METRICS_PER_BATCH])

    def _history(self, run_id: str, name: str) -> dict[int, float]:
        key = (run_id, name)
        if key not in self._metrics:
            past = [] if run_id in self._created else self.client.get_metric_history(run_id, name)
            self._metrics[key] = {metric.step: metric.value
                                  for metric in sorted(past, key=lambda metric: metric.timestamp)}
        return self._metrics[key]

    def log_picture(self, run_id: str, name: str, image: np.ndarray, step: int) -> None:
        """A picture that MLflow shows by name and step."""
        key = re.sub(r"[^A-Za-z0-9_\-./ ]", "_", name)  # MLflow allows only these characters
        self.client.log_image(run_id, image, key=key, step=step, synchronous=True)

    def log_table(self, run_id: str, name: str, rows: Sequence[Mapping[str, object]]) -> None:
        """A table that MLflow shows. It replaces one of the same name; MLflow's own `log_table` would append."""
        columns = list(dict.fromkeys(column for row in rows for column in row))
        entry = {"path": f"tables/{name}.json", "type": "table"}
        content = {"columns": columns, "data": [[cell(row.get(column)) for column in columns] for row in rows]}
        self.client.log_text(run_id, json.dumps(content), entry["path"])
        listed = json.loads(self.client.get_run(run_id).data.tags.get("mlflow.loggedArtifacts", "[]"))
        if entry not in listed:
            self.client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps([*listed, entry]))

    def log_data(self, run_id: str, context: str, name: str, url: str, digest: str) -> None:
        """A data set as an input of the run, and its full digest as a tag (MLflow cuts it to 36 characters)."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source_type = url.partition(":")[0]
        dataset = Dataset(name=name, digest=digest[:_MAX_DIGEST_LENGTH], source_type=source_type,
                          source=json.dumps({"url": url}))
        self.client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])
        self.client.set_tag(run_id, f"data.{context}.digest", digest)

    def register(self, run_id: str, checkpoint_file: Path, name: str, calibration: Calibration | None = None) -> str:
        """Registers the counter in `checkpoint_file`, the same file of a run once, also as `models:/<name>@newest`.
        Returns `models:/<name>/<version>`.
        """
        from mlflow.entities import LoggedModelOutput

        facts = {"checkpoint_sha256": hashlib.sha256(checkpoint_file.read_bytes()).hexdigest()}
        _unless_there(lambda: self.client.create_registered_model(name, description=_MODEL_NOTE))
        for known in self.client.search_model_versions(f"name = '{name}'"):
            if known.run_id == run_id and facts.items() <= known.tags.items():
                return f"models:/{name}/{known.version}"
        logged = self.client.create_logged_model(self._experiment_id, name=name, source_run_id=run_id, tags=facts)
        with tempfile.TemporaryDirectory() as folder:
            serving.save_model(Path(folder) / "model", checkpoint_file, logged, calibration)
            self.client.log_model_artifacts(logged.model_id, str(Path(folder) / "model"))
        self.client.finalize_logged_model(logged.model_id, "READY")
        self.client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
        version = self.client.create_model_version(name, logged.artifact_location, run_id=run_id, tags=facts,
                                                    model_id=logged.model_id).version
        self.client.set_registered_model_alias(name, NEWEST, version)
        # As `mlflow.register_model` does, for the page of the run.
        shown = json.dumps([{"name": name, "version": int(version)}])
        self.client.set_logged_model_tags(logged.model_id, {"mlflow.modelVersions": shown})
        return f"models:/{name}/{version}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user id without a name
        return ""


def _connect(uri: str) -> MlflowClient:
    # ours: no telemetry to MLflow's makers unless the user turns it on.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # ours: MLflow itself would retry for minutes while the run waits; `journal` tries again later.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    if uri.startswith(("http:", "https:")):
        _require_answer(uri)
    from filelock import FileLock
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    # Hides messages about the creation of tables.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    database = _sqlite_path(uri)
    try:
        if database is None:
            return MlflowClient(uri)
        # MLflow itself retries a file that is no database for minutes.
        database.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA schema_version").fetchone()
        # Two processes that create the tables of one file at the same time break each other.
        with FileLock(f"{database}.lock"):
            return MlflowClient(uri)
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise InputError(f"cannot use the tracking store {uri}: {_first_line(error)}") from error


def _require_answer(uri: str) -> None:
    import requests

    try:
        requests.get(uri, timeout=_CONNECT_TIMEOUT_S)
    except (requests.exceptions.SSLError, requests.exceptions.ReadTimeout):
        return  # a server is there; MLflow has its own settings for certificates and timeouts
    except requests.exceptions.RequestException as error:
        raise InputError(f"no MLflow server answers at {uri} ({type(error).__name__}); start it or correct the "
                         "tracking address") from error


def _experiment_id(client: MlflowClient, name: str, uri: str) -> str:
    """The id of the experiment called `name`, created if it is missing."""
    from mlflow.exceptions import MlflowException

    database = _sqlite_path(uri)
    # MLflow would put files into the current folder of the process.
    location = None if database is None else storage.normalise(database.with_name(f"{database.stem}-artifacts"))
    try:
        if client.get_experiment_by_name(name) is None:
            _unless_there(lambda: client.create_experiment(name, artifact_location=location, tags=_EXPERIMENT_TAGS))
        found = client.get_experiment_by_name(name)
        assert found is not None
    except MlflowException as error:
        raise _refusal(error, uri) from error
    if found.lifecycle_stage != "active":
        restore = f"mlflow experiments restore -x {found.experiment_id}"
        raise InputError(f"experiment {name} was deleted in {uri}; restore it ({restore}) or use another name")
    return found.experiment_id


def experiment_state(uri: str, name: str) -> str:
    """State of an experiment: "active", "deleted", or "" if it does not exist. Creates nothing, not even a database.
    Raises InputError if the store cannot be reached or refuses.
    """
    from mlflow.exceptions import MlflowException

    database = _sqlite_path(uri)
    try:
        if database is not None:
            if not database.exists():
                return ""
            with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True,
                                         timeout=_CONNECT_TIMEOUT_S)) as connection:
                row = connection.execute("SELECT lifecycle_stage FROM experiments WHERE name = ?", (name,)).fetchone()
            return row[0] if row else ""
        found = _connect(uri).get_experiment_by_name(name)
    except (MlflowException, sqlite3.Error) as error:
        raise _refusal(error, uri) from error
    return found.lifecycle_stage if found else ""


def _refusal(error: Exception, uri: str) -> InputError:
    if "failed with error code 401" in str(error):
        return InputError(f"the tracking store {uri} requires a login: set MLFLOW_TRACKING_USERNAME and "
                          "MLFLOW_TRACKING_PASSWORD to those of one of its users")
    return InputError(f"the tracking store {uri} refuses: {_first_line(error)}; correct the tracking address, or "
                      "repair the store")


def _unless_there(create: Callable[[], object]) -> None:
    """Creates something, unless another process created it under the same name."""
    from mlflow.exceptions import MlflowException

    try:
        create()
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _sqlite_path(uri: str) -> Path | None:
    """The absolute path of a (percent-encoded) SQLite address; None for any other address."""
    return Path(unquote(uri.removeprefix("sqlite:///"))).absolute() if uri.startswith("sqlite:///") else None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def is_away(error: Exception) -> bool:
    """True if a call failed because the store does not answer or has an internal error; it may work later."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import HTTPError, RequestException

    if isinstance(error, MlflowException):
        return error.get_http_status_code() >= 500
    if isinstance(error, HTTPError) and error.response is not None:
        return error.response.status_code >= 500
    return isinstance(error, RequestException)


def cell(value: object) -> object:
    """A table's cell as JSON: no NaN, no NumPy types."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
