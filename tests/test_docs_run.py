"""The commands and the Python of the README and docs are run, page by page in their order, on tiny images.

A line of a block runs unless `NOT_RUN` says why not; what does not run is read by the real parsers (`test_docs.py`).
"""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from crowddist import storage
from crowddist.cli.main import main as crowddist
from crowddist.config import RunConfig
from crowddist.launch.local import LocalLauncher
from crowddist.pipeline import adapt
from crowddist.run.record import run_folder
from crowddist.tracking.tracker import NullTracker

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("cluster/**/*.md")),
         ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("crowddist/counters/*.md")))
NOT_RUN = {
    r"s3://|https?://|rtsp://": "needs a network",
    r"^(ray|sbatch|scancel|ssh|kubectl|docker|aws|cluster/\S+|export)\b|\$RUNS\b|ray-token|kustomize |\.log$|\.env\b":
        "needs a cluster, containers or a cloud",
    r"^mlflow |^curl |^(crowddist )?serve |^openssl .* token$":
        "a server; tests/service, tests/tracking and tests/distributed start theirs",
    r"^crowddist video 0 ": "needs a camera",
    r"^(git|make|source|pytest|mkdir)\b": "sets up the machine or runs tests, as CI does",
    r"^(uv|pip|python3 -m venv) ": "builds or installs the package: tests/cli/test_wheel.py does",
    r"^python tests/gpu/check\.py": "needs a GPU; tests/gpu/test_check.py runs it on a CPU",
    r"^python -m (tests\.benchmarks|pytest)": "slow: a benchmark",
    r"CROWDDIST_DATA|sh[ab]_to_\w+": "needs public data",
    r"^crowddist --help": "tests/cli/test_main.py runs it",
    r"jobs/tune\.py": "starts Ray: tests/jobs/test_tune.py runs it",
    r"^crowddist export|counter\.onnx": "slow: tests/inference/test_onnx.py exports, and counts with the file",
    r"jobs/adapt\.py|^crowddist (adapt|check)": "slow: the front door's run below, the others in tests of theirs",
}
"""What a line holds that is not run -> why."""
NOT_PYTHON = {"mlflow.pyfunc": "needs MLflow's registry: tests/tracking/test_tracker.py loads from it"}
YOURS = re.compile(r"(^|[:,])/(photos|my)/")
"""Folders of the reader's, which lie in the page's folder here."""
FRONT_DOOR = ("README.md", "docs/start.md")
TINY = [*("--launcher", "local", "--num-workers", "1", "--threads", "1", "--tracking-uri", "none", "--calibration", ""),
        *("--source", "renderer:wide:4:0:160", "--stream.image-size", "128", "--stream.crop-size", "64"),
        *("--train.steps", "1", "--self-supervision.rounds", "1", "--self-supervision.round-steps", "1")]
"""Behind an adaptation: it trains for a step."""


def shell_lines(text: str) -> Iterator[str]:
    """The commands of a page's blocks without a language, comments and loops left out."""
    for block in re.findall(r"^```\n(.*?)^```", re.sub(r"^```\w+\n.*?^```", "", text, flags=re.DOTALL | re.MULTILINE),
                            re.DOTALL | re.MULTILINE):
        block = re.sub(r"^for .*?^done$", "", block.replace("\\\n", " "), flags=re.DOTALL | re.MULTILINE)
        for line in block.splitlines():
            if words := shlex.split(line, comments=True):
                yield " ".join(line.partition(" # ")[0].split()) if len(words) > 1 else words[0]


def python_blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def why_not(line: str) -> str:
    return next((why for told, why in NOT_RUN.items() if re.search(told, line)), "")


def run_line(line: str) -> None:
    """A line in the current folder; a command of ours in this process. Raises where it fails."""
    words = [YOURS.sub(r"\1\2/", word) for word in shlex.split(line, comments=True)]
    if words[0] == "crowddist":
        if words[1] == "count" and "--model" not in words:
            words += ["--model", "runs/demo"]  # the packaged counter takes seconds an image
        crowddist(words[1:])
    elif words[0] == "python":
        sys.argv = words[1:]
        runpy.run_path(str(ROOT / words[1]), run_name="__main__")
    else:
        subprocess.run(["bash", "-c", line], check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, tiny_source: str, tiny_target: str, tiny_evaluation: str) -> Path:
    """A folder with all files that pages name: photographs, a film, zones, labels, runs."""
    import cv2
    import scipy.io

    from crowddist.config import EngineConfig
    from crowddist.data.config import StreamConfig
    from crowddist.methods.settings.train import TrainConfig

    place = tmp_path_factory.mktemp("shown")
    rng = np.random.default_rng(0)
    photo = cv2.resize(rng.integers(60, 200, (54, 96, 3), dtype=np.uint8), (960, 540))
    for name in ("street.jpg", "photo.jpg", "a.jpg", "b.jpg", "more/photos/1.jpg", "more/2.jpg", "folder/3.jpg",
                 "photos/1.jpg", "photos/4.jpg", "new/photos/5.jpg", "photos/of/my/cameras/6.jpg",
                 "photos/of/my/cameras/7.jpg",
                 *(f"my/labelled/images/{number}.jpg" for number in range(8)),
                 *(f"part_A_final/train_data/images/IMG_{number}.jpg" for number in range(8))):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(place / name), photo)
        if name.startswith("part_A"):
            truth = place / "part_A_final/train_data/ground_truth" / f"GT_{Path(name).stem}.mat"
            truth.parent.mkdir(exist_ok=True)
            scipy.io.savemat(truth, {"image_info": {"location": [[10.0, 20.0], [40.0, 50.0]], "number": 2}})
    (place / "my/labelled/images/heads.csv").write_text(
        "file,x,y\n" + "".join(f"{number}.jpg,{x},30\n" for number in range(8) for x in (20, 50)))
    film = cv2.VideoWriter(str(place / "street.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 1, (960, 540))
    for _ in range(14):
        film.write(photo)
    film.release()
    (zones,) = re.findall(r"^```json\n(.*?)^```", (ROOT / "docs/video.md").read_text(), re.DOTALL | re.MULTILINE)
    (place / "zones.json").write_text(zones)
    config = RunConfig(recipe="tiny", source=tiny_source, target=tiny_target, evaluation=tiny_evaluation,
                       storage=str(place / "runs"), run_name="demo", launcher="local", threads=1, tracking_uri="none",
                       method="source_only", stream=StreamConfig(image_size=96, crop_size=64),
                       train=TrainConfig(steps=2, batch_size=4), engine=EngineConfig(checkpoint_every=2, log_every=2))
    adapt(config, LocalLauncher(config), NullTracker(), say=lambda _: None)
    run = storage.local_folder(run_folder(config))
    for name in ("mine", "first", "source_only", "self_supervision", "semantic_consistency"):
        shutil.copytree(run, run.with_name(name))
    return place


PAGES_THAT_RUN = [page for page in PAGES for text in [page.read_text()]
                  if python_blocks(text) or not all(map(why_not, shell_lines(text)))]


@pytest.mark.parametrize("page", PAGES_THAT_RUN, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_shows_runs(page: Path, shown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # jobs set their own
    text = page.read_text()
    todo = [("shell", [line for line in shell_lines(text) if not why_not(line)]),
            *(("python", [block]) for block in python_blocks(text) if not any(word in block for word in NOT_PYTHON))]
    for number, (kind, parts) in enumerate(todo):
        shutil.copytree(shown, tmp_path / str(number))
        monkeypatch.chdir(tmp_path / str(number))
        for part in parts:
            try:
                if kind == "python":
                    exec(compile(part.replace('load("rendered")', 'load("runs/demo")'), str(page), "exec"), {})
                else:
                    run_line(part)
            except (Exception, SystemExit) as problem:
                if not isinstance(problem, SystemExit) or problem.code:
                    pytest.fail(f"{page.name}: {part}\n{problem!r}", pytrace=False)


def test_every_reason_holds_for_some_line() -> None:
    lines = [line for page in PAGES for line in shell_lines(page.read_text())]
    assert [told for told in NOT_RUN if not any(re.search(told, line) for line in lines)] == []
    ran = {" ".join(line.split()[:2]) for line in lines if not why_not(line)}
    assert {"crowddist count", "crowddist video", "crowddist zones", "crowddist convert", "crowddist evaluate",
            "python jobs/convert.py", "python jobs/compare.py", "python jobs/evaluate.py"} <= ran


@pytest.mark.slow
def test_the_front_door(shown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adaptations that the first pages show, of one step each; counting with what came out, and with the packaged
    counter.
    """
    shutil.copytree(shown, tmp_path / "door", ignore=shutil.ignore_patterns("runs"))
    monkeypatch.chdir(tmp_path / "door")
    todo = dict.fromkeys(line for page in FRONT_DOOR for line in shell_lines((ROOT / page).read_text())
                         if line.startswith(("crowddist adapt", "crowddist check", "crowddist count")))
    assert len(todo) >= 6
    for line in sorted(todo, key=lambda line: "crowddist check" not in line):  # before there is such a run
        words = [YOURS.sub(r"\1\2/", word) for word in shlex.split(line)]
        own = TINY if words[1] in ("adapt", "check") else []
        if "quickstart" in words:
            own = [*own, "--target", "photos/of/my/cameras", "--evaluation", ""]
        try:
            crowddist([*words[1:], *own])
        except SystemExit as ending:
            assert not ending.code, line
    assert Path("counted/counts.csv").exists() and Path("counted-mine/counts.csv").exists()
    assert Path("runs/mine/report.html").exists()


def test_an_alert_is_a_line_of_the_shell(tmp_path: Path) -> None:
    """The block of the page, on a table that has ended."""
    (script,) = re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs/video.md").read_text(), flags=re.DOTALL | re.MULTILINE)
    (tmp_path / "counted").mkdir()
    (tmp_path / "counted" / "counts.csv").write_text(
        "time,frame,zone,count,low,high\n0.000,0,all,90.12,80.00,99.00\n0.000,0,gate,50.99,,\n1.000,30,gate,51.00,,\n")
    done = subprocess.run(["bash", "-c", script.replace(" -F ", " ")], cwd=tmp_path, capture_output=True, text=True,
                          check=True, timeout=20)
    assert (done.stdout, done.stderr) == ("1.000 s: 51.00 people\n", "")
