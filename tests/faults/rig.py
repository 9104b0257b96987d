"""Three machines on this one, with a real Ray between them, that can be killed, cut off and started again; and the job
that runs on them.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch

PROJECT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("host.sh")
BRIDGE = "cdbr"
SUBNET = "10.78.0"
HERE = f"{SUBNET}.254"
"""This machine's address on the machines' network, where stores and servers of the tests are."""
PORT = 6379
ROWS: list[tuple[str, str, str, float | None]] = []
"""The matrix as it was seen: fault, promise, what was seen, seconds until work went on."""
START_S = 240
"""Longest wait for machines to come up: all share two cores."""
LONGEST_S = 900
"""Longest wait for anything a job is to do."""


class Cluster:
    """Machines n1 (Ray's head, where the job's driver runs), n2 and n3, each with one CPU."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.token = folder, secrets.token_hex(32)
        self.settings: dict[str, str] = {}
        """Further environment of machines and jobs."""
        self.machines: dict[str, subprocess.Popen[bytes]] = {}
        subprocess.run([SCRIPT, "network", BRIDGE, f"{HERE}/24"], check=True)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name,
                value in os.environ.items() if not name.startswith(("RAY_", "AWS_", "MLFLOW_", "CROWDDIST_"))}
        return kept | {
            "PYTHONPATH": str(PROJECT), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "CROWDDIST_CACHE": str(self.folder / "cache"),
            **self.settings,
        }

    def boot(self, *names: str) -> None:
        """Starts machines; whether they are up `wait_for_nodes` tells."""
        for name in names:
            address = f"{SUBNET}.{name[1:]}"
            ray = [str(Path(sys.executable).with_name("ray")), "start", f"--node-ip-address={address}", "--num-cpus=1",
                   "--block",
                   f"--object-store-memory={80 * 2**20}"]
            ray += ["--head", f"--port={PORT}",
                    "--include-dashboard=false"] if name == "n1" else [f"--address={SUBNET}.1:{PORT}"]
            command = [str(SCRIPT), "boot", BRIDGE, name, f"{address}/24", str(self.folder / name), *ray]
            log = (self.folder / f"{name}.log").open("ab")
            self.machines[name] = subprocess.Popen(command, env=self.environment, cwd=PROJECT, stdout=log, stderr=log,
                                                   start_new_session=True)

    def kill(self, *names: str) -> None:
        """A machine loses its power: all of its processes are gone at once."""
        for name in names:
            machine = self.machines.pop(name)
            for child in psutil.Process(machine.pid).children():  # its process 1: unshare forked it
                os.kill(child.pid, signal.SIGKILL)
            machine.wait(30)

    def is_up(self, name: str) -> bool:
        return name in self.machines and self.machines[name].poll() is None

    def link(self, name: str, state: str) -> None:
        """Cuts a machine off ("down"), or connects it ("up")."""
        subprocess.run(["ip", "link", "set", f"{BRIDGE}-{name}", state], check=True)

    def processes(self, name: str, title: str) -> list[psutil.Process]:
        """The processes of a machine whose command line holds a word, oldest first."""
        found = []
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(self.machines[name].pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if title in " ".join(process.cmdline()):
                        found.append(process)
        return sorted(found, key=lambda process: process.create_time())

    def on(self, name: str, *command: str, **options: object) -> list[str]:
        """The command line that runs a command on a machine."""
        first = psutil.Process(self.machines[name].pid).children()[0].pid
        return ["nsenter", "-t", str(first), "-m", "-u", "-i", "-n", "-p", "--", *command]

    def alive(self) -> int:
        """How many machines Ray knows to be alive; 0 where it does not answer."""
        if not self.is_up("n1"):
            return 0
        code = (f"import ray; ray.init(address='{SUBNET}.1:{PORT}', log_to_driver=False, logging_level='ERROR'); "
                "print(sum(n['Alive'] for n in ray.nodes()))")
        command = self.on("n1", sys.executable, "-c", code)
        with contextlib.suppress(subprocess.TimeoutExpired):
            environment = self.environment | {"HOME": str(self.folder / "n1" / "home")}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
            return int(done.stdout.split()[0]) if done.returncode == 0 else 0  # Ray may add what it has noticed
        return 0

    def make_whole(self, *names: str) -> None:
        """Boots the machines of these names that are gone, ends the others, and waits until Ray knows the right
        number.
        """
        for name in ("n1", "n2", "n3"):
            if self.is_up(name) and name not in names:
                self.kill(name)
        for name in names:
            if not self.is_up(name):
                self.machines.pop(name, None)
                self.boot(name)
                time.sleep(3 if name == "n1" else 0)
        wait_for(lambda: self.alive() == len(names), START_S, "the machines are up")

    def close(self) -> None:
        for name in list(self.machines):
            with contextlib.suppress(Exception):
                self.kill(name)
        subprocess.run([SCRIPT, "gone", BRIDGE, "n1", "n2", "n3"], check=False)


class Job:
    """`adapt.py smoke` on the machines, with a stage long enough to be disturbed."""

    def __init__(self, cluster: Cluster, storage: str, name: str, *options: str) -> None:
        self.cluster, self.storage, self.name, self.options = cluster, storage, name, options
        self.shown = Path(storage)
        """Where its storage is seen as a folder."""
        self.log = cluster.folder / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.shown / self.name

    def start(self) -> Job:
        command = [sys.executable, str(PROJECT / "jobs" / "adapt.py"), "smoke", "--launcher", "ray", "--storage",
                   self.storage, "--run-name", self.name, "--fresh",
                   "--threads", "1", "--num-workers", "3", "--num-labellers", "3", "--train.batch-size", "6",
                   "--train.steps", "300",
                   "--self-supervision.target-batch-size", "6", "--self-supervision.orientation-steps", "0",
                   "--self-supervision.rounds", "1",
                   "--engine.checkpoint-every", "25", "--tracking-uri", "none", *self.options]
        environment = self.cluster.environment | {"RAY_ADDRESS": f"{SUBNET}.1:{PORT}",
                                                  "HOME": str(self.cluster.folder / "n1" / "home")}
        with self.log.open("ab") as log:
            # nsenter forks for the new process space: the driver is its child.
            self.process = subprocess.Popen(self.cluster.on("n1", *command), env=environment, cwd=PROJECT, stdout=log,
                                            stderr=log)
        return self

    def driver(self) -> psutil.Process:
        assert self.process is not None
        return psutil.Process(self.process.pid).children()[0]

    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(LONGEST_S)

    def said(self) -> str:
        return self.log.read_text()

    def error(self) -> str:
        """The line that it ended with; "" where there is none. Ray may have added what it has noticed."""
        return next((line for line in reversed(self.said().splitlines()) if line.startswith("error: ")), "")

    def until(self, condition: Callable[[], object], what: str) -> float:
        """Waits while the job runs. Returns: how long, s."""
        return wait_for(lambda: condition() or not self.running(), LONGEST_S, what, said=self.said)

    def steps(self) -> int:
        """Steps of the source stage's newest checkpoint."""
        return steps(self.folder)

    def curve(self) -> int:
        """Steps that the source stage's learning curve has come to."""
        return curve(self.folder)

    def group(self) -> list[dict[str, Any]]:
        """Rank, machine, and process there, of each training worker of the newest start."""
        starts = sorted((self.folder / ".ray-train").glob("*/workers.json"), key=lambda path: path.stat().st_mtime)
        return json.loads(starts[-1].read_text())

    def worker(self, rank: int) -> tuple[str, psutil.Process]:
        """Machine and process of a training worker of the newest start."""
        found = self.group()[rank]
        return found["host"], self._outer(found["host"], found["pid"])

    def _outer(self, host: str, pid: int) -> psutil.Process:
        """The process that its machine knows by another number."""
        for process in self.cluster.processes(host, ""):
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{process.pid}/status").read_text()
                if next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1] == str(pid):
                    return process
        raise LookupError(f"no process {pid} on {host}")


def wait_for(condition: Callable[[], object], seconds: float, what: str, said: Callable[[], str] = str) -> float:
    """Waits until a condition holds. Returns: how long, s."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"not within {seconds} s: {what}\n{said()[-3000:]}"
        time.sleep(0.1)
    return time.monotonic() - started


def steps(run: Path, stage: str = "source") -> int:
    """Steps of a stage's newest checkpoint, 0 before the first."""
    with contextlib.suppress(OSError, ValueError, LookupError):
        return json.loads((run / stage / "checkpoints" / "latest.json").read_text())["checkpoints"][-1]["step"]
    return 0


def curve(run: Path, stage: str = "source") -> int:
    """Steps that a stage's learning curve has come to."""
    with contextlib.suppress(OSError, ValueError, LookupError):
        return json.loads((run / stage / "curve.jsonl").read_text().splitlines()[-1])["step"]
    return 0


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """The machines, as a context."""
    (folder / "cache").mkdir(parents=True)
    made = Cluster(folder)
    try:
        made.make_whole("n1", "n2", "n3")
        yield made
    finally:
        made.close()
        shutil.rmtree(folder / "cache", ignore_errors=True)


def left(folder: Path) -> dict[str, Any]:
    """What a run has left that must not depend on what happened to it: weights, moments, samples seen, labels, and the
    figures of its rounds.
    """
    from crowddist.run import checkpoint

    found: dict[str, Any] = {}
    for latest in sorted(folder.glob("*/checkpoints/latest.json")):
        newest = checkpoint.load_latest(latest.parent.as_uri())
        assert newest is not None
        found[latest.parent.parent.name] = {name: newest[name] for name in ("step", "samples_seen", "method")}
    for record in sorted(folder.glob("*/labels/*.done.json")):
        found[record.name] = json.loads(record.read_text())
    rounds = json.loads((folder / "result.json").read_text())["rounds"]
    found["rounds"] = [{name: value for name, value in row.items() if name not in ("train/seconds", "checkpoint")}
                       for row in rounds]
    return found


def equal(one: Any, other: Any) -> bool:
    """Whether two trees of tensors and plain values are equal, bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(equal(value, other[name]) for name, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def check_bits(job: Job, unbroken: Mapping[str, Any]) -> None:
    """Asserts that what the job has left is what the undisturbed run has, bit for bit, as far as both went."""
    mine = left(job.folder)
    for name, value in mine.items():
        theirs = unbroken[name] if name != "rounds" else unbroken[name][: len(value)]
        assert equal(value, theirs), name


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own, mounted at a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=False)
