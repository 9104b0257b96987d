"""How the tests of the command start it: as a process of its own, with the imports done (warm_start)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import warm_start

ROOT = Path(__file__).resolve().parents[2]
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def crowddist(tmp_path: Path) -> Command:
    """Runs `crowddist ARGUMENTS` in a folder of its own, which is also its home, and returns how it ended."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), **environment}
        return warm_start.run("-m", "crowddist.cli", *arguments, cwd=tmp_path, env=env, timeout=300)

    return run
