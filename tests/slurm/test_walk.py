"""A newcomer's walks: the commands of the READMEs as they are written, but for addresses and folders."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.faults.rig import PROJECT
from tests.slurm.site import LONGEST_S, SUBNET, Site

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(3600)]


def blocks(readme: str, heading: str) -> list[str]:
    """The commands below a heading, a text for each block, without what sets up the clone (which is where this
    runs).
    """
    section = (PROJECT / "cluster" / readme).read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = [block.strip("\n") for block in section.split("```")[1::2]]
    return ["\n".join(line for line in block.splitlines() if not line.startswith("git clone ")) for block in found]


def placed(block: str, folder: Path) -> str:
    """With the folders and addresses of this test, as its reader would put in theirs; and both machines, which say to
    have two cores each, share two.
    """
    block = block.replace("--num-workers 2", "--num-workers 2 --threads 1")
    for written, here in {"/shared/me": str(folder), "/shared": str(folder), "$PWD/..": str(folder),
                          "../ray-token": f"{folder}/ray-token"}.items():
        block = block.replace(written, here)
    return block.replace("FIRST", f"{SUBNET}.1")


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """The folder that all machines share, with a camera's photographs."""
    import cv2

    generator = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(24):
        cv2.imwrite(str(tmp_path / "photos" / f"frame-{number:03d}.jpg"),
                    generator.integers(0, 256, (240, 320, 3), np.uint8))
    return tmp_path


def assert_adapted(shared: Path) -> None:
    assert (shared / "runs" / "camera-1" / "report.html").stat().st_size > 10_000
    counted = (shared / "runs" / "counted" / "counts.csv").read_text().splitlines()
    assert len(counted) == 1 + 24 and len(list((shared / "runs" / "counted").glob("**/*.png"))) == 24


def test_slurm(slurm: Site, shared: Path) -> None:
    walk = placed(blocks("slurm/README.md", "From nothing to the first camera")[0],
                  shared).replace("crowddist-", f"{shared}/crowddist-")
    done = subprocess.run(["bash", "-euxc", walk], env=slurm.environment, cwd=PROJECT, capture_output=True, text=True,
                          timeout=LONGEST_S, check=False)
    assert done.returncode == 0, f"{done.stdout[-3000:]}{done.stderr[-3000:]}"
    assert "FAILED" not in done.stdout
    assert_adapted(shared)


def test_some_machines(slurm: Site, shared: Path) -> None:
    """On the same machines, without Slurm."""
    first, other, again = (placed(block, shared) for block in blocks("README.md", "Some machines"))
    kept = {name: value for name, value in slurm.environment.items() if name != "SLURM_CONF"}

    def on(name: str, text: str) -> str:
        command = slurm.on(name, "bash", "-euxc", text)
        done = subprocess.run(command, env=kept | {"HOME": str(shared)}, cwd=PROJECT, capture_output=True, text=True,
                              timeout=LONGEST_S, check=False)
        assert done.returncode == 0, f"{text}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    try:
        on("n1", first)
        on("n2", other)
        said = on("n1", "\n".join(["source .venv/bin/activate",
                                   "export RAY_AUTH_MODE=token "
                                   f"RAY_AUTH_TOKEN_PATH={shlex.quote(str(shared))}/ray-token", again]))
        assert "FAILED" not in said
        assert_adapted(shared)
        assert os.stat(shared / "ray-token").st_mode & 0o077 == 0
    finally:
        for name in ("n1", "n2"):
            on(name, "source .venv/bin/activate; ray stop --grace-period 10")
