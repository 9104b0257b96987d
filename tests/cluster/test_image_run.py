"""The image, built and run as a cluster would run it: not root, with a root file system that cannot be written to
(`make test-image`).

CROWDDIST_IMAGE names an image that is there already; else it is built. CROWDDIST_CONTAINERS is the program, `docker` or
`podman`, with what it needs.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import time
import tomllib
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.image, pytest.mark.timeout(7200)]
ROOT = Path(__file__).resolve().parents[2]
SAFE = ("--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges", "--network", "none", "--shm-size",
        "1g",
        "--tmpfs", "/tmp:size=4g,mode=1777", "--env", "HOME=/tmp")


@pytest.fixture(scope="module")
def program() -> list[str]:
    """What runs containers."""
    if wanted := os.environ.get("CROWDDIST_CONTAINERS"):
        return shlex.split(wanted)
    for name in ("docker", "podman"):
        if shutil.which(name) and subprocess.run([name, "info"], capture_output=True, timeout=60).returncode == 0:
            return [name]
    pytest.skip("neither Docker nor Podman runs here")


@pytest.fixture(scope="module")
def image(program: list[str]) -> str:
    """The image's name."""
    if name := os.environ.get("CROWDDIST_IMAGE"):
        return name
    subprocess.run([str(ROOT / "cluster/image/build.sh")], check=True, timeout=5400,
                   env={"BUILDER": Path(program[-1]).name, **os.environ})
    return "crowddist:" + tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder that uid 1000 may write to."""
    folder = tmp_path / "runs"
    folder.mkdir()
    folder.chmod(0o777)
    return folder


@pytest.fixture
def name(program: list[str]) -> Iterator[str]:
    """A container's name; the container is gone after the test."""
    made = f"crowddist-test-{uuid.uuid4().hex[:8]}"
    yield made
    subprocess.run([*program, "rm", "--force", made], capture_output=True, timeout=120)


def command(program: list[str], image: str, runs: Path, *words: str, name: str = "") -> list[str]:
    """The words that run a command in the image."""
    return [*program, "run", *(["--name", name] if name else ["--rm"]), *SAFE, "--volume", f"{runs}:/runs", image,
            *words]


def test_who_and_what_is_in_it(program: list[str], image: str, runs: Path) -> None:
    check = ("id -u; for tool in uv gcc pytest ruff mypy; do command -v $tool && exit 1; done; touch /home/crowddist/x "
             "2>/dev/null && exit 1; cat /proc/1/comm")
    ended = subprocess.run(command(program, image, runs, "sh", "-c", check), capture_output=True, text=True,
                           timeout=300)
    assert ended.returncode == 0 and ended.stdout.split() == ["1000", "tini"], ended.stdout + ended.stderr
    compiled = ("import crowddist.config, ray, sys; sys.exit(not all(m.__cached__ and open(m.__cached__) for m in "
                "(crowddist.config, ray)))")
    assert subprocess.run(command(program, image, runs, "python", "-c", compiled), timeout=300).returncode == 0


def test_smoke(program: list[str], image: str, runs: Path) -> None:
    """A whole adaptation in one process, without a network."""
    words = ("python", "jobs/adapt.py", "smoke", "--storage", "/runs", "--run-name", "smoke")
    ended = subprocess.run(command(program, image, runs, *words), capture_output=True, text=True, timeout=1800)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    assert len(json.loads((runs / "smoke/result.json").read_text())["rounds"]) > 1


def test_told_to_stop_it_leaves_a_checkpoint_and_code_75(program: list[str], image: str, runs: Path, name: str) -> None:
    """tini hands the signal on; with a Ray of its own."""
    words = ("python", "jobs/adapt.py", "quickstart", "--storage", "/runs", "--run-name", "stopped")
    running = subprocess.Popen(command(program, image, runs, *words, name=name), stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
    until = time.monotonic() + 1200
    while (not list(runs.glob("stopped/source/checkpoints/*.pt")) and running.poll() is None
           and time.monotonic() < until):
        time.sleep(1)
    assert running.poll() is None, running.stdout and running.stdout.read()[-3000:]
    subprocess.run([*program, "kill", "--signal", "TERM", name], check=True, timeout=60)
    said, _ = running.communicate(timeout=300)
    assert running.returncode == 75 and "stopped by SIGTERM" in said, said[-3000:]


def test_mlflow_answers(program: list[str], image: str, runs: Path, name: str) -> None:
    """The image is also MLflow's server."""
    server = ("mlflow", "server", "--host=127.0.0.1", "--port=5000", "--workers=1",
              "--backend-store-uri=sqlite:////tmp/mlflow.db")
    words = command(program, image, runs, *server, name=name)
    words.insert(words.index("run") + 1, "--detach")
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, timeout=120)
    ask = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:5000/health', timeout=5).read().decode())"
    until, said = time.monotonic() + 300, ""
    while said != "OK" and time.monotonic() < until:
        time.sleep(3)
        said = subprocess.run([*program, "exec", name, "python", "-c", ask], capture_output=True, text=True,
                              timeout=60).stdout.strip()
    assert said == "OK", subprocess.run([*program, "logs", name], capture_output=True, text=True,
                                        timeout=60).stdout[-3000:]
