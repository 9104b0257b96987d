"""The wheel alone, in an environment of its own: the tour of docs/start.md, and what users do wrong, as processes."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.cli.conftest import ROOT
from tests.video.conftest import HOLD, write_film
from tests.video.rtsp import RtspServer, camera  # noqa: F401

pytestmark = pytest.mark.slow
TOUR = re.search(r"^A tour .*?^```\n(.*?)^```", (ROOT / "docs" / "start.md").read_text(), re.DOTALL | re.MULTILINE)
assert TOUR
LINES = TOUR[1].splitlines()
SIZE = (120, 160)


@pytest.fixture(scope="module")
def bin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with the wheel. What it needs comes from this environment; the checkout is not in
    reach.
    """
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "crowddist", folder / "crowddist", ignore=shutil.ignore_patterns("__pycache__"))
    code = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    built = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    wheel = folder / built.stdout.splitlines()[-1]
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    purelib = next((folder / "env").glob("lib/python*/site-packages"))
    (purelib / "needs.pth").write_text(sysconfig.get_path("purelib"))  # a .pth within it, as of a checkout, is not read
    subprocess.run([sys.executable, "-m", "uv", "pip", "install", "--quiet", "--offline", "--no-deps", "--python",
                    folder / "env" / "bin" / "python", wheel], check=True)
    shutil.rmtree(folder / "crowddist")
    return folder / "env" / "bin"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs, a film and zones."""
    folder = tmp_path_factory.mktemp("home")
    generator = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for name in ("1.jpg", "2.jpg"):
        cells = generator.integers(0, 255, (15, 20, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / "photos" / name), cv2.resize(cells, SIZE[::-1], interpolation=cv2.INTER_CUBIC))
    write_film(folder / "street.mp4", 30, codec="mp4v", size=SIZE,
               draw=lambda _: generator.integers(0, 255, (*SIZE, 3), dtype=np.uint8))
    zones = [{"name": "gate", "polygon": [[0, 0], [80, 0], [80, 120], [0, 120]]}]
    (folder / "zones.json").write_text(json.dumps({"width": 160, "height": 120, "zones": zones}))
    return folder


def environment(home: Path, programs: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**kept, "HOME": str(home), "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}


def run(line: str, home: Path, programs: Path) -> subprocess.CompletedProcess[str]:
    """How a shell ended; a new home has no list of fonts yet, which Matplotlib tells where it takes long."""
    done = subprocess.run(["bash", "-c", line], cwd=home, env=environment(home, programs), capture_output=True,
                          text=True, timeout=550, check=False)
    done.stderr = re.sub(r"^Matplotlib is building the font cache.*\n", "", done.stderr, flags=re.MULTILINE)
    return done


def test_the_tour(bin_folder: Path, home: Path) -> None:
    where = run("python -c 'import crowddist; print(crowddist.__file__)'", home, bin_folder)
    assert where.stdout.startswith(str(bin_folder.parent)), "the checkout was imported"
    for line in LINES:
        if "crowddist serve" not in line and not line.startswith("curl"):
            done = run(line, home, bin_folder)
            assert (done.returncode, done.stderr) == (0, ""), line
    assert {path.name for path in (home / "counted").iterdir()} == {
        "counts.csv", "zones.csv", "points.csv", "points.json", "labelme", "1.png", "2.png"}
    assert {path.name for path in (home / "counted-film").iterdir()} == {
        "counts.csv", "counts.png", "overlay.mp4", "summary.json"}
    assert json.loads((home / "counted-film" / "summary.json").read_text())["frames"] == 2
    assert (home / "checked.png").stat().st_size and (home / "shards" / "manifest.json").is_file()


@pytest.fixture
def served(bin_folder: Path, home: Path) -> Iterator[str]:
    """The tour's service, at a free port, with a token."""
    words = shlex.split(next(line for line in LINES if "crowddist serve" in line), comments=True)
    words[words.index("--port") + 1] = "0"
    token = {"CROWDDIST_TOKEN": "a-token-of-the-tests"}
    with subprocess.Popen(words, cwd=home, env={**environment(home, bin_folder), **token}, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        for line in process.stdout:
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                break
        else:
            pytest.fail(process.stderr.read())
        yield found[0]
        process.send_signal(signal.SIGTERM)
        told, errors = process.communicate(timeout=60)
    assert (process.returncode, told, errors) == (0, "stopped\n", "")


def ask(url: str, body: bytes | None = None, token: str = "a-token-of-the-tests") -> tuple[int, str]:
    request = urllib.request.Request(url, body, {"Content-Type": "image/jpeg", "Authorization": f"Bearer {token}"})
    for _ in range(600):
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except urllib.error.URLError:
            time.sleep(0.1)
    pytest.fail("it does not answer")


def test_the_service(served: str, home: Path) -> None:
    photo = (home / "photos" / "1.jpg").read_bytes()
    status, text = ask(f"{served}/count", photo)
    answer = json.loads(text)
    assert status == 200 and answer["zones"].keys() == {"gate"} and (answer["height"], answer["width"]) == SIZE
    assert "<script>" in ask(served)[1]
    large = cv2.imencode(".png", np.zeros((14_200, 14_200), np.uint8))[1].tobytes()  # 200 megapixels in few bytes
    for body, token, code, words in ((photo, "wrong", 401, "the token is wrong"), (b"", "", 401, "a token is needed"),
                                     (large, "a-token-of-the-tests", 413, "pixels"),
                                     (photo[:999], "a-token-of-the-tests", 422, ""),
                                     (b"no image", "a-token-of-the-tests", 415, "not an image")):
        status, text = ask(f"{served}/count", body, token)
        error = json.loads(text)["error"]
        assert status == code and words in error and "\n" not in error
    status, text = ask(f"{served}/count", b"")
    assert status == 422 and "the body is empty" in text
    assert ask(f"{served}/count", photo)[0] == 200


def test_a_stream_that_breaks_keeps_what_was_counted(bin_folder: Path, home: Path,
                                                     camera: RtspServer) -> None:  # noqa: F811
    """It stalls, comes back, and ends."""
    camera.script = [[*range(12), HOLD], [*range(12)]]
    done = run(f"crowddist video {camera.address()} --output stream --every 4 --zooms 1 --read-timeout-s 2 "
               "--reconnects 1 --first-wait-s 0.1", home, bin_folder)
    assert done.returncode == 2 and "the stream stalled for 2 s; opened again in 0.1 s (1 of 1)" in done.stdout
    number = json.loads((home / "stream" / "summary.json").read_text())["frames"]
    assert done.stderr.startswith(f"error: {camera.address()}: the stream ended and did not come back to stay in "
                                  f"1 try; the {number} frames counted before are kept in ")
    assert done.stderr.count("\n") == 1 and number >= 2
    assert len((home / "stream" / "counts.csv").read_text().splitlines()) == 1 + number


CROSSING = {"zones": [{"name": "gate", "polygon": [[0, 0], [80, 80], [80, 0], [0, 80]]}]}
OUTSIDE = {"zones": [{"name": "far", "polygon": [[500, 500], [600, 500], [600, 600]]}]}


def test_bad_input_is_one_line(bin_folder: Path, home: Path) -> None:
    (home / "crossing.json").write_text(json.dumps(CROSSING))
    (home / "outside.json").write_text(json.dumps(OUTSIDE))
    (home / "empty.mp4").touch()
    (home / "none.mkv").write_bytes(write_film(home / "all.mkv", 9, size=SIZE).read_bytes()[:600])
    (home / "cut.mp4").write_bytes((home / "street.mp4").read_bytes()[:9000])
    for words, message in (
            ("count photos --zones crossing.json", "the zone 'gate' crosses itself"),
            ("count photos --zones outside.json", "the zone 'far' lies outside the image of 160 x 120 px"),
            ("video street.mp4 --zones outside.json", "the zone 'far' lies outside the image of 160 x 120 px"),
            ("video empty.mp4", "the file is empty"), ("video none.mkv", "holds no frames that can be read"),
            ("video cut.mp4", "not a video that can be read, or one that was cut off"),
            ("video rtsp://127.0.0.1:9/street", "127.0.0.1 cannot be reached at port 9"),
            ("video 97", "camera 97 cannot be opened"), ("count photos/3.jpg", "no file or folder at photos/3.jpg")):
        done = run(f"crowddist {words} --output bad", home, bin_folder)
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1, words
        assert done.stderr.startswith("error: ") and not (home / "bad").exists(), words
