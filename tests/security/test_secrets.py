"""Attacks on secrets: canaries in the environment and in addresses, and everything that is said and left behind looked
through for them.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from crowddist.config import RunConfig
from crowddist.data.config import parse_data
from crowddist.data.prepare import expand
from crowddist.errors import InputError
from crowddist.preflight.checks import check
from crowddist.process.cli import one_line, one_line_errors
from crowddist.process.safe_text import is_secret_name, redacted
from crowddist.storage import normalise
from crowddist.tracking.mlflow_store import resolve_uri

PROJECT = Path(__file__).resolve().parents[2]
CANARY = "canary5a7b1c9d3e"
VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "RAY_AUTH_TOKEN",
             "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN",
             "PGPASSWORD", "HF_TOKEN")
ADDRESSES = (
    f"https://user:{CANARY}@mlflow.example.org", f"https://{CANARY}@mlflow.example.org/path",
    f"postgresql://user:{CANARY}@db/mlflow",
    f"postgresql://db/mlflow?user=a&password={CANARY}", f"ftp://user:{CANARY}@host/x", f"s3://key:{CANARY}@bucket/runs",
    f"https://bucket.s3.amazonaws.com/a.tar?X-Amz-Algorithm=AWS4&X-Amz-Credential={CANARY}&X-Amz-Signature={CANARY}",
    f"https://host/a?sig={CANARY}&se=1", f"https://host/a?a=1&access_token={CANARY}",
    f"mysql+x://user:{CANARY}@db/mlflow",
)


@pytest.fixture
def canaries(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, f"{CANARY}-{name}")


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_with_a_secret_is_refused_without_repeating_it(tiny_config: RunConfig, tmp_path: Path,
                                                                  address: str) -> None:
    for refuse in (lambda: resolve_uri(address, tmp_path / "mlflow.db"),
                   lambda: replace(tiny_config, tracking_uri=address),
                   lambda: replace(tiny_config, target=address),
                   lambda: replace(tiny_config, more_sources=(f"0.2 {address}",)),
                   lambda: replace(tiny_config, counter=replace(tiny_config.counter, weights=address))):
        with pytest.raises(InputError) as error:
            refuse()
        assert CANARY not in str(error.value)
    if not address.startswith(("postgresql", "mysql")):
        with pytest.raises(InputError) as error:
            normalise(address)
        assert CANARY not in str(error.value)
    assert CANARY not in one_line(OSError(f"cannot reach {address}"))


@pytest.mark.parametrize("address", [
    "https://mlflow.example.org:5000/path?page=1", "postgresql://user@db/mlflow", "s3://bucket/runs",
    "sqlite:////a/b@c.db", "see https://a.org, me@b.org",
    "http://127.0.0.1:8265/#/jobs", "file:///a/b?token", "IMG_1.jpg?x=1",
])
def test_addresses_without_secrets_stay_as_they_are(address: str) -> None:
    assert redacted(address) == address


def test_values_of_secret_variables_are_in_no_line(canaries: None, capsys: pytest.CaptureFixture[str]) -> None:
    everything = " ".join(os.environ[name] for name in VARIABLES if name != "AWS_ACCESS_KEY_ID")
    assert CANARY not in one_line(InputError(everything))
    with pytest.raises(SystemExit), one_line_errors():
        raise OSError(everything)
    with one_line_errors():
        record = logging.LogRecord("crowddist", logging.WARNING, "", 0, "%s waits", (everything,), None)
        assert logging.lastResort is not None
        logging.lastResort.handle(record)
        sys.excepthook(RuntimeError, RuntimeError(everything), None)
    told = capsys.readouterr()
    assert CANARY not in told.out + told.err and told.err.count("***") >= 3 * (len(VARIABLES) - 1)


@pytest.mark.parametrize(("name", "secret"), [
    *((name, True) for name in VARIABLES), ("CROWDDIST_DATA", False), ("RAY_AUTH_MODE", False),
    ("RAY_AUTH_TOKEN_PATH", False), ("HOME", False),
    ("AWS_WEB_IDENTITY_TOKEN_FILE", False), ("AWS_DEFAULT_REGION", False),
])
def test_which_variables_are_secret(name: str, secret: bool) -> None:
    assert is_secret_name(name) == secret


@pytest.mark.parametrize("place",
                         ["s3://elsewhere/$AWS_SECRET_ACCESS_KEY", "folder:/a/${RAY_AUTH_TOKEN}", "gcc:$HF_TOKEN:all"])
def test_no_place_is_made_of_a_secret(canaries: None, place: str) -> None:
    """A configuration that somebody else has written would carry it out in the address that is asked."""
    with pytest.raises(InputError, match="holds a secret") as error:
        expand(parse_data(place))
    assert CANARY not in str(error.value)


def test_the_dry_run_tells_no_secret(canaries: None, tiny_config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"https://user:{CANARY}@mlflow.example.org")
    said: list[str] = []
    assert not check(replace(tiny_config, tracking_uri="", target="$HF_TOKEN/images"), None, say=said.append)
    assert CANARY not in "\n".join(said)


@pytest.mark.slow
def test_a_whole_run_leaves_no_secret(tmp_path: Path, tiny_source: str, tiny_target: str, tiny_evaluation: str) -> None:
    """With MLflow: its database, its artifacts, and all that the run writes and says."""
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(PROJECT),
                   **{name: f"{CANARY}-{name}" for name in VARIABLES}}
    command = [sys.executable, "jobs/adapt.py", "smoke", "--launcher", "local", "--num-workers", "1", "--source",
               tiny_source, "--target", tiny_target]
    command += ["--evaluation", tiny_evaluation, "--storage", str(tmp_path / "runs"), "--run-name", "canary"]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    again = subprocess.run([*command, "--seed", "7"], cwd=PROJECT, env=environment, capture_output=True, text=True,
                           timeout=500)
    assert again.returncode == 2  # another configuration
    assert CANARY not in done.stdout + done.stderr + again.stdout + again.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"report.html", "result.json", "config.json", "mlflow.db"} <= {path.name for path in files}
    look: Callable[[Path], bool] = lambda path: CANARY.encode() in path.read_bytes()  # noqa: E731
    assert not [path for path in files if look(path)]
