"""Attacks on Ray, which executes what whoever reaches its ports sends: every port of a private one is asked without its
token.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from crowddist.distributed import runtime
from crowddist.errors import InputError

PROJECT = Path(__file__).resolve().parents[2]
METHODS = (
    "NodeInfoGcsService/GetAllNodeInfo", "InternalKVGcsService/InternalKVKeys", "ActorInfoGcsService/GetAllActorInfo",
    "JobInfoGcsService/GetAllJobInfo",
    "NodeManagerService/GetNodeStats", "NodeManagerService/RequestWorkerLease", "NodeManagerService/ShutdownRaylet",
    "CoreWorkerService/PushTask",
    "CoreWorkerService/Exit", "ObjectManagerService/Push", "ObjectManagerService/Pull",
)
QUESTIONS = (("GET", "/api/job_agent/jobs/"), ("POST", "/api/job_agent/jobs/"), ("GET", "/api/jobs/"),
             ("POST", "/api/jobs/"),
             ("POST", "/get_or_create_runtime_env"), ("GET", "/logs"))


def ask(port: int, method: str, token: str = "") -> str:
    """The code that a port answers a remote call with."""
    import grpc

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            call = channel.unary_unary(f"/ray.rpc.{method}")
            call(b"", timeout=5, metadata=[("authorization", f"Bearer {token}")] if token else None)
        except grpc.RpcError as error:
            return error.code().name
    return "OK"


def visit(host: str, port: int, method: str, path: str) -> int:
    """The status that a port answers a request of the web with; 0 for none, and for numbers for Prometheus, which Ray
    gives to anybody.
    """
    data = b'{"entrypoint": "touch /tmp/owned"}' if method == "POST" else None
    request = urllib.request.Request(f"http://{host}:{port}{path}", data=data, method=method,
                                     headers={"Content-Type": "application/json"})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5) as answer:
            return 0 if answer.headers.get("Content-Type", "").startswith("text/plain; version=") else answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
    except Exception:  # it does not speak HTTP
        return 0


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What a job starts where no cluster is named; yields its home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    import ray

    ray.shutdown()  # the one of other tests
    runtime.connect(2)
    yield tmp_path
    ray.shutdown()


@pytest.mark.ray
def test_a_private_ray_does_nothing_without_its_token(private: Path) -> None:
    import psutil
    import ray

    token, me = os.environ["RAY_AUTH_TOKEN"], psutil.Process()
    processes = [me, *me.children(recursive=True)]
    listening = {(each.laddr.ip, each.laddr.port) for process in processes
                 for each in process.net_connections(kind="inet") if each.status == "LISTEN"}
    ports = {port for _, port in listening}
    assert (len(ports) >= 5
            and not ports & {6379, 8265, 10001}), "no dashboard, no client's port, and nowhere a known number"
    gcs = ray.get_runtime_context().gcs_address
    assert ask(int(gcs.rpartition(":")[2]), METHODS[0], token) == "OK" and not runtime.is_open(gcs)
    answers = {(port, method): ask(port, method, wrong) for port in ports for method in METHODS
               for wrong in ("", secrets.token_hex(32))}
    assert "OK" not in answers.values(), answers
    # head, node, objects, workers
    assert len({port for (port, _), code in answers.items() if code == "UNAUTHENTICATED"}) >= 4
    for ip, port in listening:
        host = "127.0.0.1" if ip in ("::", "0.0.0.0") else ip
        for method, path in QUESTIONS:
            assert visit(host, port, method, path) in (0, 401, 403, 404, 405), (port, method, path)
    assert not [process for process in processes
                if token in " ".join(process.cmdline())], "everybody on a machine sees command lines"
    session = Path(ray._private.worker._global_node.get_session_dir_path())  # type: ignore[attr-defined]
    written = [path for folder in (session, private)
               for path in folder.rglob("*") if path.is_file() and path.stat().st_size < 2**24]
    assert written and not [path for path in written if token.encode() in path.read_bytes()]
    # Another driver of this machine, without the token and with a wrong one, by the job's own way.
    program = ("from crowddist.process.cli import one_line_errors\nfrom crowddist.distributed.runtime import "
               "*\nprepare_environment()\n")
    program += "with one_line_errors():\n    connect()\n    print('JOINED')\n"
    for given in ({}, {"RAY_AUTH_TOKEN": secrets.token_hex(32)}):
        environment = {name: value for name,
                       value in os.environ.items() if not name.startswith("RAY_AUTH")} | {"RAY_ADDRESS": gcs, **given}
        done = subprocess.run([sys.executable, "-c", program], env=environment | {"PYTHONPATH": str(PROJECT)},
                              capture_output=True, text=True, timeout=120)
        assert (done.returncode == 2 and "JOINED" not in done.stdout
                and f"error: no Ray at {gcs}, or no token for it" in done.stderr), done.stderr


@pytest.mark.parametrize("given", [{}, {"RAY_AUTH_MODE": "token"}, {"RAY_ADDRESS": ""}])
def test_a_token_is_made_where_nobody_gives_one(monkeypatch: pytest.MonkeyPatch, given: dict[str, str]) -> None:
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    tokens = []
    for _ in range(2):
        monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        runtime.prepare_environment()
        assert os.environ["RAY_AUTH_MODE"] == "token"
        tokens.append(os.environ["RAY_AUTH_TOKEN"])
    assert len(tokens[0]) >= 32 and tokens[0] != tokens[1]


def test_of_a_cluster_a_token_is_asked_for_and_never_made(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    runtime.prepare_environment()
    assert os.environ["RAY_AUTH_MODE"] == "token" and "RAY_AUTH_TOKEN" not in os.environ
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    runtime.prepare_environment()
    assert os.environ["RAY_AUTH_MODE"] == "disabled"


class Anybody:
    """Answers every remote call."""

    def service(self, details: object) -> object:
        import grpc

        return grpc.unary_unary_rpc_method_handler(lambda request, context: b"")


def test_a_cluster_that_is_open_to_anybody_is_not_worked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import ThreadPoolExecutor
    from types import SimpleNamespace

    import grpc
    import ray

    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers([Anybody()])  # type: ignore[list-item]
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    left = []
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    for name, fake in {"is_initialized": lambda: False, "init": lambda **options: None,
                       "shutdown": lambda: left.append(True),
                       "get_runtime_context": lambda: SimpleNamespace(gcs_address=address),
                       "cluster_resources": lambda: {"CPU": 1}}.items():
        monkeypatch.setattr(ray, name, fake)
    try:
        with pytest.raises(InputError, match="takes work from anybody who reaches it"):
            runtime.connect()
        assert left
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        runtime.connect()
    finally:
        server.stop(None)
