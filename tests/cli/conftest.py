"""How the tests of the command start it: as a process of its own, as its script does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def crowddist(tmp_path: Path) -> Command:
    """Runs `crowddist ARGUMENTS` in a folder of its own, which is also its home, and returns how it ended."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-P", "-m", "crowddist.cli", *map(str, arguments)], cwd=tmp_path,
                              env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), **environment},
                              capture_output=True, text=True, timeout=300, check=False)

    return run
