"""The check for GPUs, on the CPU: it runs without what a machine with a GPU may lack, and reports what is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow  # 20 s of a CPU
ROOT = Path(__file__).resolve().parents[2]
DRIVER = """
import importlib.util, runpy, sys, time

ABSENT = {"ray", "mlflow", "webdataset", "cachetools", "simplejpeg", "pandas", "boto3", "botocore", "tyro", "fastapi",
          "uvicorn", "prometheus_client", "matplotlib", "psutil", "onnx", "onnxruntime", "pytest"}

class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in ABSENT else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
for name in ABSENT:
    assert importlib.util.find_spec(name) is None
check = runpy.run_path(sys.argv[1])
main, parts, usual = check["main"], check["PARTS"], ["--device", "cpu", "--tiny"]

def broken(bench, part):
    part.note(found=1)
    raise ValueError("this part is broken")

codes = [main([*usual, "--output", "all.json"]),
         main([*usual, "--only", "agreement", "resume", "--disturb", "0.05", "--output", "disturbed.json"])]
parts["feed"] = (broken, 5.0)
codes += [main([*usual, "--only", "machine", "feed", "--output", "broken.json"]),
          main([*usual, "--only", "machine", "--seconds", "1", "--output", "late.json"])]
print("codes", codes)
from reporting import guarded
print(guarded(lambda part: time.sleep(60), 0.2)["error"])
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("gpu")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", DRIVER, str(ROOT / "tests" / "gpu" / "check.py")], cwd=folder,
                          env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("codes [0, 1, 1, 0]\nTimeoutError: took more than 0 s\n"), done.stderr[-3000:]
    assert json.loads(done.stdout[: done.stdout.index("\n}\n") + 2]) == json.loads((folder / "all.json").read_text())
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def test_all_parts_pass_on_a_cpu_but_the_one_that_needs_a_gpu(results: dict[str, Any]) -> None:
    parts = results["all"]["parts"]
    assert results["all"]["passed"] and results["all"]["device"] == "cpu"
    assert {name: part["status"] for name, part in parts.items() if part["status"] != "passed"} == {
        "cuda_graph": "skipped"}
    assert parts["cuda_graph"]["error"] == "CUDA graphs need a GPU"
    checks = [check for part in parts.values() for check in part["checks"]]
    assert len(checks) > 50 and all(check["value"] <= check["limit"] for check in checks)
    # The CPU agrees with itself, and a resumed training does to the bit.
    assert all(check["value"] < 1e-6 for check in parts["agreement"]["checks"])
    assert parts["resume"]["figures"]["as in a run"]["same_bits_when_resumed"]
    for name, figures in parts["training"]["figures"].items():
        assert min(figures["images_per_s"].values()) > 0 and figures["plain_against_ours"]["ratio"] > 0, name
        assert figures["tflop_per_image"] > 0 and figures["share_of_peak"]["of"] == "float32"
    labelling = parts["labelling"]["figures"]["compact"]
    assert set(labelling["images_per_s"]) == set(labelling["change_of_the_count"])
    loading = parts["loading"]["figures"]
    assert loading["processes_that_a_step_needs"].keys() == parts["training"]["figures"].keys()
    assert {"OpenCV", "Pillow", "torchvision"} <= loading["decoders"].keys()


def test_a_change_on_the_device_and_a_part_that_breaks_are_told(results: dict[str, Any]) -> None:
    parts = results["disturbed"]["parts"]
    assert not results["disturbed"]["passed"] and [part["status"] for part in parts.values()] == ["failed"] * 2
    assert parts["agreement"]["error"].startswith("losses of self_supervision compact, source: ")
    assert "resumed, as in a run: " in parts["resume"]["error"]
    # Losses alone have no weights; all stages of all methods have some, and each saw the change.
    stages = [check for check in parts["agreement"]["checks"] if check["what"].startswith("gradients of ")]
    assert stages and not any(check["passed"] for check in stages)
    parts = results["broken"]["parts"]
    assert parts["machine"]["status"] == "passed"
    assert (parts["feed"]["status"], parts["feed"]["error"]) == ("failed", "ValueError: this part is broken")
    assert parts["feed"]["figures"] == {"found": 1}
    assert (results["late"]["parts"]["machine"]["status"], results["late"]["passed"]) == ("skipped", True)


def test_without_a_gpu_it_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run([sys.executable, str(ROOT / "tests" / "gpu" / "check.py")], check=False, capture_output=True,
                          text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: torch sees no GPU here; on a CPU give --device cpu --tiny\n"
