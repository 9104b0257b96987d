"""The whole of it, as a user has it: real images go to object storage, and the quickstart runs from and to it, steadily
and while all fails by turns.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crowddist import storage
from crowddist.data.manifest import read_manifest
from tests.s3.contents import assert_equal, content
from tests.s3.proxy import TURN_REQUESTS, TURNS, Proxy

LONGEST_S = 1500
pytestmark = [pytest.mark.s3, pytest.mark.slow, pytest.mark.timeout(3 * LONGEST_S)]
COMMAND = ("adapt", "quickstart", "--tracking-uri", "none")


@pytest.fixture
def faulty(real: str, environment: pytest.MonkeyPatch) -> str:
    """An empty place on the real server, behind a proxy that has failed in every way when the test ends."""
    proxy = Proxy(("127.0.0.1", int(os.environ["AWS_ENDPOINT_URL"].rpartition(":")[2])))
    proxy.fault = "all"
    environment.setenv("AWS_ENDPOINT_URL", proxy.url)
    yield real
    assert proxy.num_requests > TURN_REQUESTS * len(TURNS) and proxy.num_faults > TURN_REQUESTS
    proxy.close()


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The quickstart's run on a disk."""
    import subprocess
    import sys

    from tests.s3.conftest import PROJECT

    runs = tmp_path_factory.mktemp("runs")
    command = [sys.executable, "jobs/adapt.py", *COMMAND[1:], "--storage", str(runs)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "HOME": str(runs)}
    subprocess.run(command, cwd=PROJECT, env=environment, check=True, capture_output=True, timeout=LONGEST_S)
    return content(runs, "quickstart")


@pytest.mark.parametrize("kind", ["real", "faulty"])
@pytest.mark.parametrize("part", ["A", "B"])
def test_the_real_images_go_there_whole(request: pytest.FixtureRequest, start: Callable, real_data: Path,
                                        tmp_path: Path, part: str, kind: str) -> None:
    place = request.getfixturevalue(kind)
    source = real_data / "shanghaitech" / f"part_{part}_final"
    for destination in (str(tmp_path / "set"), storage.join(place, "set")):
        done = start("convert", "shanghaitech", source, destination, "--split", "all", timeout=LONGEST_S)
        assert (done.returncode, done.stderr) == (0, "")
    manifest = read_manifest(storage.join(place, "set"))
    assert manifest == read_manifest(tmp_path / "set") and manifest.num_samples in (300, 400)
    checked = start("convert", "verify", storage.join(place, "set"), timeout=LONGEST_S)
    assert (checked.returncode == 0
            and checked.stdout.splitlines()[-1].startswith(f"whole: {manifest.name}")), checked.stderr


@pytest.mark.ray
@pytest.mark.parametrize("kind", ["real", "faulty"])
def test_the_quickstart_from_and_to_object_storage(request: pytest.FixtureRequest, start: Callable,
                                                   on_disk: dict[str, Any], kind: str) -> None:
    place = request.getfixturevalue(kind)
    done = start(*COMMAND, "--storage", place, timeout=LONGEST_S)
    assert done.returncode == 0, done.stderr
    assert_equal(content(place, "quickstart"), on_disk)
