"""The machines of the fault matrix, its undisturbed run, and the table of what was seen."""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.rig import ROWS, Cluster, Job, cluster, left


@pytest.fixture(scope="session")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three machines; skipped without root or the programs that make them."""
    missing = [name for name in ("ip", "nsenter", "unshare") if shutil.which(name) is None]
    if missing or os.geteuid():
        pytest.skip(f"machines of their own need root and {', '.join(missing) or 'nothing else'}")
    with cluster(tmp_path_factory.mktemp("machines")) as made:
        yield made


@pytest.fixture
def three(machines: Cluster) -> Cluster:
    """The machines, all three up, whatever the test before did."""
    machines.make_whole("n1", "n2", "n3")
    return machines


@pytest.fixture(scope="session")
def storage(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of all runs."""
    return str(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def unbroken(machines: Cluster, storage: str) -> dict[str, Any]:
    """What a run that nobody disturbs leaves, see `left`."""
    job = Job(machines, storage, "unbroken").start()
    assert job.wait() == 0, job.said()[-3000:]
    return left(job.folder)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The rows of docs/results/faults.csv."""
    if ROWS:
        lines = io.StringIO()
        writer = csv.writer(lines, lineterminator="\n")
        machine = f"three machines made of network namespaces, on {os.cpu_count()} cores"
        for fault, promise, seen, seconds in ROWS:
            writer.writerow([fault, promise, seen, "" if seconds is None else f"{seconds:.0f}", 0, "rendered images",
                             machine, "make test-faults"])
        terminalreporter.write_line(f"\n{lines.getvalue()}")
