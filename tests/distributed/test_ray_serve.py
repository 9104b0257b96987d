"""The service on Ray Serve: what its builder refuses, and a real one of two copies as `serve run` starts it."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from crowddist.cli.serve import Arguments
from crowddist.distributed.ray_serve import Options, RefusedError, app, read_options
from tests.service.conftest import PNG, TOKEN, Running, noise, png

INSTALLED = importlib.util.find_spec("grpc_reflection") is not None
"""What Ray Serve needs beyond crowddist's own packages."""
START_S = 180


def test_what_is_wrong_is_told_in_a_line_before_anything_starts(tiny_checkpoint: str, tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CROWDDIST_TOKEN", raising=False)
    (tmp_path / "token").write_text("short")
    everybody = {"no_token": "true", "model": tiny_checkpoint}
    for given, words in (
        ({}, "no token is set; give token_file=FILE"),
        ({"token_file": f"{tmp_path}/token"}, "holds no token of at least 16"),
        ({"token_file": "a", "no_token": "true"}, "no_token and token_file cannot both"),
        ({**everybody, "replica": "2"}, "there is no option replica; there are max_megabytes"),
        ({**everybody, "replicas": "two"}, "replicas: Input should be a valid integer"),
        ({**everybody, "replicas": 0}, "replicas must be positive, got 0"),
        ({**everybody, "replicas": 3, "max_replicas": 2}, "max_replicas must be at least replicas, 3, got 2"),
        ({**everybody, "queue": "-1"}, "queue must be positive, got -1"),
        ({**everybody, "zooms": "1,x"}, "zooms.1: Input should be a valid number"),
        ({**everybody, "zones": f"{tmp_path}/none.json"}, "none.json"),
        ({**everybody, "model": f"{tmp_path}/none.pt"}, "none.pt: there is no such counter"),
    ):
        with pytest.raises(RefusedError, match=words) as told:
            app(given)
        assert "\n" not in str(told.value) and told.value.exit_code == 2, given
    if INSTALLED:
        assert app(everybody)
    else:
        with pytest.raises(RefusedError, match=r"not installed; run: pip install 'crowddist\[ray-serve\]'"):
            app(everybody)


def test_words_of_a_command_line_become_options_as_those_of_the_command() -> None:
    found = read_options({"zooms": "1,0.5", "allow": "a,b", "max_megabytes": "3", "no_token": "yes", "num_gpus": "0.5"})
    assert (found.zooms, found.allow, found.max_megabytes, found.no_token, found.num_gpus) == (
        (1, 0.5), ("a", "b"), 3, True, 0.5)
    command = Arguments()
    there = {**vars(command), **vars(command.limits), **vars(command.counting)}
    shared = Options.__dataclass_fields__.keys() & there.keys()
    assert {name: getattr(Options(), name) for name in shared} == {name: there[name] for name in shared}
    # The rest is Ray's: where the proxies listen.
    assert there.keys() - shared == {"host", "port", "limits", "counting"}


@pytest.fixture
def served(tiny_checkpoint: str, tmp_path: Path) -> Iterator[Running]:
    """Two copies under /crowd/ in a Ray of their own."""
    if not INSTALLED:
        pytest.skip("Ray Serve is not installed (crowddist[ray-serve])")
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "zones.json").write_text('{"zones": [{"name": "gate", "polygon": [[0, 0], [40, 0], [40, 60]]}]}')
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump({
        "http_options": {"host": "127.0.0.1", "port": port},
        "applications": [{
            "name": "crowd", "route_prefix": "/crowd", "import_path": "crowddist.distributed.ray_serve:app",
            "args": {"model": tiny_checkpoint, "token_file": str(tmp_path / "token"), "replicas": 2, "num_cpus": 0.5,
                     "max_megapixels": 0.3, "zones": str(tmp_path / "zones.json")}}]}))
    environment = {**os.environ, "HOME": str(tmp_path), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN * 2,
                   "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    log = tmp_path / "serve.log"
    process = subprocess.Popen([sys.executable, "-m", "ray.serve.scripts", "run", "--address", "local",
                                str(tmp_path / "serve.yaml")],
                               env=environment, stdout=log.open("wb"), stderr=subprocess.STDOUT)
    service = Running(None, f"http://127.0.0.1:{port}", TOKEN)  # type: ignore[arg-type]
    try:
        wait(process, service, log)
        yield service
        assert TOKEN not in log.read_text()
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def wait(process: subprocess.Popen[bytes], service: Running, log: Path) -> None:
    """Returns once it counts."""
    ends = time.monotonic() + START_S
    while time.monotonic() < ends:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            if service.ask("/crowd/ready").status == 200:
                return
        except OSError:
            pass
        time.sleep(0.5)
    pytest.fail(f"not served within {START_S} s: {log.read_text()[-3000:]}")


@pytest.mark.ray
def test_a_real_one_answers_as_the_command_does(served: Running, tiny_checkpoint: str) -> None:
    import crowddist

    zones = {"gate": [[0, 0], [40, 0], [40, 60]]}
    mine = crowddist.load(tiny_checkpoint, device="cpu").count(noise(), zones=zones).to_dict()
    answers = [served.ask("/crowd/count", png(), PNG) for _ in range(6)]
    assert {answer.status for answer in answers} == {200} and len({answer.body for answer in answers}) == 1
    told = answers[0].json()
    assert told["count"] == pytest.approx(mine["count"], rel=1e-5) and told["zones"] == pytest.approx(mine["zones"])
    cases: list[tuple[str, Any, dict[str, str], int, str]] = [
        ("/crowd/count", b"no image", PNG, 415, "not an image"),
        ("/crowd/count", png(size=(600, 501)), PNG, 413, "too large"),
        ("/crowd/count", png(), {**PNG, "Authorization": "Bearer a-token-of-the-testz"}, 401, "the token is wrong"),
        ("/crowd/count", b'{"url": "/etc/passwd"}', {"Content-Type": "application/json"}, 422, "not an address"),
        ("/crowd/metrics", None, {"Authorization": ""}, 401, "a token is needed"),
        ("/crowd/nothing", None, {}, 404, "Not Found"),
    ]
    for path, body, headers, status, words in cases:
        answer = served.ask(path, body, headers)
        assert answer.status == status and words in answer.error, (path, answer)
    assert served.ask("/crowd/count?format=png", png(), PNG).headers["content-type"] == "image/png"
    assert "<html" in served.ask("/crowd/").body.decode()
    # Each copy has figures of its own, added to after it has answered, and a request comes to one of the two, so we
    # ask until the one that counted tells its own.
    counted = 'crowddist_requests_total{path="/count",status="200"}'
    ends = time.monotonic() + 60
    while counted not in (figures := served.ask("/crowd/metrics").body.decode()):
        assert time.monotonic() < ends, figures
        time.sleep(0.05)
