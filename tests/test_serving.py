"""The registered model, loaded by MLflow as anybody would load it, against the predictor it wraps."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas
import PIL.Image
import pytest

from crowddist import serving, storage
from crowddist.config import RunConfig, to_json
from crowddist.inference.intervals import Calibration
from crowddist.inference.predictor import Predictor
from crowddist.methods.build import build_method
from crowddist.run import checkpoint


@pytest.fixture(scope="module")
def counter_file(tmp_path_factory):
    """A checkpoint of a counter that knows nothing yet."""
    config = RunConfig(recipe="quickstart", source="renderer:source:4", target="renderer:target:4")
    content = {"config": to_json(config), "method": build_method(config).state_dict()}
    return storage.local_file(checkpoint.save(str(tmp_path_factory.mktemp("stage")), 1, content))


def test_the_stored_model_counts_like_the_predictor(counter_file, tmp_path):
    logged = SimpleNamespace(artifact_location=str(tmp_path), source_run_id="0" * 32, model_id="m-1")
    serving.save_model(tmp_path / "model", counter_file, logged)
    import mlflow.pyfunc

    model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)
    rows = model.predict(images)
    expected = [Predictor.from_checkpoint(str(counter_file)).predict(image) for image in images]
    assert list(rows.columns) == list(serving.COLUMNS) and (rows.dtypes == np.float64).all()
    assert rows["count"].tolist() == pytest.approx([found.count for found in expected], rel=1e-6)
    assert rows["uncertainty"].tolist() == pytest.approx([found.uncertainty for found in expected], rel=1e-6)
    counts = rows["count"].tolist()
    assert model.predict(images / 255)["count"].tolist() == counts
    assert model.predict(images.astype(np.int64))["count"].tolist() == counts, "as of JSON"
    # What `crowddist count` takes, in every form that MLflow hands on.
    file, other = tmp_path / "a.png", tmp_path / "b.png"
    for place, image in zip((file, other), images, strict=True):
        PIL.Image.fromarray(image).save(place)
    written = f"data:image/png;base64,{base64.b64encode(other.read_bytes()).decode()}"
    for given in ([str(file), other.as_uri()], [file.read_bytes(), images[1]], np.array([str(file), written]),
                  pandas.DataFrame({"image": [str(file), other.read_bytes()], "camera": ["north", "south"]}),
                  pandas.DataFrame({"any": [images[0], images[1].tolist()]}), pandas.Series([str(file), str(other)]),
                  [PIL.Image.fromarray(image) for image in images]):
        assert model.predict(given)["count"].tolist() == counts
    assert model.predict(str(other))["count"].tolist() == counts[1:]


def test_a_calibrated_counter_is_served_with_its_intervals(counter_file, tmp_path):
    logged = SimpleNamespace(artifact_location=str(tmp_path), source_run_id="0" * 32, model_id="m-1")
    stream = Predictor.from_checkpoint(str(counter_file)).method.stream
    few, enough = (Calibration(scores=(1.5,) * number, image_size=stream.image_size, zooms=stream.zooms)
                   for number in (8, 9))
    import mlflow.pyfunc

    images = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), dtype=np.uint8)
    for name, calibration in (("few", few), ("enough", enough)):
        serving.save_model(tmp_path / name, counter_file, logged, calibration)
        rows = mlflow.pyfunc.load_model(str(tmp_path / name)).predict(images)
        assert list(rows.columns) == ["count", "uncertainty", *(["low", "high"] if name == "enough" else [])]
    expected = [enough.around(*row, 0.9) for row in rows[["count", "uncertainty"]].to_numpy()]
    assert rows["low"].tolist() == pytest.approx([found.low for found in expected])
    assert rows["high"].tolist() == pytest.approx([found.high for found in expected]) and rows["high"].min() > 0
    assert not list(counter_file.parent.glob("*.intervals.json")), "nothing is written beside the run's own checkpoint"


def test_what_is_no_image_is_one_line_with_its_number(counter_file, tmp_path):
    served = serving._load_pyfunc(str(counter_file))
    good = np.zeros((64, 96, 3), np.uint8)
    for wrong, message in (
        (good, r"images must be \(N, H, W, 3\) uint8 RGB, or a list of single ones, got \(64, 96, 3\) uint8"),
        (np.full((1, 64, 96, 3), 1.5), "image 0: an image of float64 must have numbers from 0 to 1"),
        (np.full((1, 64, 96, 3), 256), "image 0: whole numbers of pixels must be 0 to 255, got 256 to 256"),
        ([good, str(tmp_path / "no.jpg")], r"image 1: .*no\.jpg: cannot be read"),
        ([good, b"bytes"], "image 1: the image: not an image"),
        ("data:image/png,abc", "image 0: its data: address is not of the form data:image/jpeg;base64"),
        ([None], "image 0: an image cannot be NoneType"),
        (pandas.DataFrame({"a": [1], "b": [2]}), "a table of images has a column image, got a, b"),
    ):
        with pytest.raises(ValueError, match=message):
            served.predict(wrong)
    assert served.predict(np.zeros((0, 64, 96, 3), np.uint8)).shape == (0, 2)


@pytest.mark.slow
def test_mlflow_serves_the_registered_model_over_http(tiny_checkpoint: str, real_data: Path, tmp_path: Path) -> None:
    """`mlflow models serve` of what a run registers, by its alias; a real photograph is posted, and the answer is the
    predictor's.
    """
    import cv2

    from crowddist.tracking.tracker import MlflowTracker, tracked_run

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    facts = {"experiment": "served", "run_name": "served", "config": {}, "tags": {},
             "state_url": (tmp_path / "state.json").as_uri()}
    with tracked_run(MlflowTracker(uri), **facts) as tracker:
        tracker.register(storage.local_file(tiny_checkpoint), name="crowd-counter")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", "models:/crowd-counter@newest",
               "--env-manager", "local",
               "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    photograph = cv2.imread(str(next((real_data / "shanghaitech" / "part_B_final").rglob("IMG_1.jpg"))),
                            cv2.IMREAD_COLOR_RGB)
    assert photograph is not None
    image = cv2.resize(photograph, (160, 120), interpolation=cv2.INTER_AREA)  # as text a photograph is long
    log = (tmp_path / "log").open("wb")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # it looks for uvicorn there
    server = subprocess.Popen(command, env=os.environ | {"MLFLOW_TRACKING_URI": uri, "PATH": path}, stdout=log,
                              stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()[-2000:]
                time.sleep(0.5)
        PIL.Image.fromarray(image).save(tmp_path / "photograph.png")
        data = base64.b64encode((tmp_path / "photograph.png").read_bytes()).decode()
        address = f"data:image/png;base64,{data}"
        rows = []
        for given in ({"inputs": image[None].tolist()}, {"inputs": [address]},
                      {"dataframe_split": {"columns": ["image"], "data": [[address]]}}):
            request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", json.dumps(given).encode(),
                                             {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=60) as answer:
                rows += json.loads(answer.read())["predictions"]
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
        log.close()
    found = Predictor.from_checkpoint(tiny_checkpoint).predict(image)
    assert len(rows) == 3 and found.count > 0
    for row in rows:
        assert row == pytest.approx({"count": found.count, "uncertainty": found.uncertainty}, rel=1e-5)
