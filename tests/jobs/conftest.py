"""How the tests of jobs start them: as users do, from the project's folder, but with the imports done (warm_start)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import warm_start

ROOT = Path(__file__).resolve().parents[2]
Job = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Job:
    """Runs `python jobs/<name>.py <arguments>` with a home of its own, and returns how it ended; `fresh`: in a Python
    that has imported nothing.
    """

    def run(name: str, *arguments: object, timeout: float = 500, fresh: bool = False,
            **environment: str) -> subprocess.CompletedProcess[str]:
        words = [f"jobs/{name}.py", *map(str, arguments)]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), **environment}
        if fresh:
            return subprocess.run([sys.executable, *words], cwd=ROOT, env=env, capture_output=True, text=True,
                                  timeout=timeout, check=False)
        return warm_start.run(*words, cwd=ROOT, env=env, timeout=timeout)

    return run


@pytest.fixture
def helped() -> Callable[[str], tuple[str, list[str], float]]:
    """What a job answers to --help, the heavy modules it imports for that, and the CPU seconds it takes."""

    def ask(name: str) -> tuple[str, list[str], float]:
        heavy = ["torch", "torchvision", "ray", "mlflow", "scipy", "cv2", "webdataset", "pandas", "matplotlib",
                 "simplejpeg"]
        code = (
            f"import sys, time, runpy\nsys.argv = ['jobs/{name}.py', '--help']\n"
            f"try: runpy.run_path('jobs/{name}.py', run_name='__main__')\nexcept SystemExit as ending: assert not "
            "ending.code\n"
            f"print([name for name in {heavy} if name in sys.modules], time.process_time())"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
            text=True, check=True
        )
        text, _, facts = done.stdout.rstrip().rpartition("\n")
        modules, _, seconds = facts.rpartition(" ")
        return text, [] if modules == "[]" else modules.strip("[]").split(", "), float(seconds)

    return ask
