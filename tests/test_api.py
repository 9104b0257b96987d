"""Counting from Python: what `import crowddist` costs and offers, what a counter takes, and what a result gives."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import crowddist
from crowddist import storage
from crowddist.data.walk import OURS, find_images
from crowddist.inference.intervals import Calibration, write_calibration
from crowddist.inference.predictor import Predictor
from crowddist.reports.sheets import overlay

ROOT = Path(__file__).resolve().parents[1]


def image(seed: int = 0, size: tuple[int, int] = (72, 96)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def counter(tiny_checkpoint: str) -> crowddist.CrowdCounter:
    return crowddist.load(tiny_checkpoint, device="cpu")


def test_import_costs_nothing_and_names_what_there_is() -> None:
    code = ("import sys, crowddist\n"
            "assert not {'torch', 'numpy', 'PIL', 'cv2', 'mlflow', 'ray'} & sys.modules.keys(), 'heavy'\n"
            "assert {'load', 'CrowdCounter', 'CountResult', 'InputError'} <= set(dir(crowddist)) & "
            "set(crowddist.__all__)\n"
            "from crowddist import load, InputError\n"
            "assert load is crowddist.load and 'torch' not in sys.modules, 'heavy'\n"
            "try: crowddist.nothing\nexcept AttributeError as error: print(error)")
    done = subprocess.run([sys.executable, "-P", "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True, check=False)
    assert (done.stderr, done.stdout) == ("", "module 'crowddist' has no attribute 'nothing'\n")


def test_a_count_is_the_predictor_s(counter: crowddist.CrowdCounter, tiny_checkpoint: str) -> None:
    found, wanted = counter.count(image()), Predictor.from_checkpoint(tiny_checkpoint).predict(image())
    assert (found.count, found.uncertainty) == (wanted.count, wanted.uncertainty) and found.count > 1
    assert (found.points == wanted.points).all() and (found.density == wanted.density).all()
    assert found.density.sum(dtype=np.float64) == pytest.approx(found.count)
    assert found.low is found.high is found.level is found.head_sizes is None
    assert counter.about_intervals.startswith("no intervals: ")
    with pytest.raises(FrozenInstanceError):
        found.count = 3.0  # type: ignore[misc]


def test_every_kind_of_image_has_the_same_count(counter: crowddist.CrowdCounter, tmp_path: Path) -> None:
    pixels = image(1)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    kinds = [pixels, pixels / 255, pixels.astype(np.uint16) * 257, str(tmp_path / "a.png"), tmp_path / "a.png",
             (tmp_path / "a.png").as_uri(), Image.fromarray(pixels), torch.from_numpy(pixels.copy()),
             torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255]
    assert len({counter.count(each).count for each in kinds}) == 1
    twelve = (image(2).astype(np.uint16) << 4) + 15
    assert counter.count(twelve, bits=12).count == counter.count(np.round(twelve / 4095 * 255).astype(np.uint8)).count
    for bad, words in ((tmp_path / "missing.jpg", "missing.jpg: cannot be read"), (3, "an image cannot be int"),
                       ("", "the path of the image is empty"),
                       (np.zeros((9, 2000, 3), np.uint8), "too small once shrunk"),
                       (np.zeros((7, 90, 3), np.uint8), "too small: 90 x 7 px; each side needs at"),
                       (pixels.astype(int), "the type")):
        with pytest.raises(crowddist.InputError, match=words):
            counter.count(bad)  # type: ignore[arg-type]


def test_many_are_counted_in_order_each_as_it_comes(counter: crowddist.CrowdCounter) -> None:
    asked: list[int] = []

    def images():  # type: ignore[no-untyped-def]
        for number in range(7):
            asked.append(number)
            yield image(number, (72, 96 if number % 3 else 64))

    results = counter.count_many(images(), batch=3)
    assert asked == [], "nothing is read before it is asked for"
    first = next(results)
    assert asked == [0, 1, 2]
    counts = [first.count, *(result.count for result in results)]
    assert counts == pytest.approx([counter.count(each).count for each in images()], rel=1e-4) and len(set(counts)) == 7
    assert list(counter.count_many([])) == []
    with pytest.raises(crowddist.InputError, match=r"^image 4: an image cannot be str|^image 4: .*cannot be read"):
        list(counter.count_many([image()] * 4 + ["/nowhere.jpg"], batch=2))
    for batch in (0, 1.5, None):
        with pytest.raises(crowddist.InputError, match=f"batch must be at least 1, a whole number, got {batch}"):
            next(counter.count_many([image()], batch=batch))  # type: ignore[arg-type]
    for one in (image(), torch.zeros(3, 72, 96), "a.jpg", Path("a.jpg"), Image.fromarray(image()), None):
        with pytest.raises(crowddist.InputError, match=r"count_many takes several images, got .*; give a list of them"):
            next(counter.count_many(one))  # type: ignore[arg-type]
    assert len(list(counter.count_many(np.stack([image(), image(1)])))) == 2


def test_threads_may_share_a_counter(counter: crowddist.CrowdCounter) -> None:
    wanted = [counter.count(image(number)).count for number in range(8)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda number: counter.count(image(number)).count, range(8))) == wanted


def test_intervals_and_settings_reach_the_counter(tiny_checkpoint: str, tmp_path: Path) -> None:
    place = str(shutil.copy(storage.local_file(tiny_checkpoint), tmp_path / "counter.pt"))
    write_calibration(place, Calibration(scores=(0.5,) * 9, image_size=96, zooms=(1.0,), data="streets"))
    counter = crowddist.load(place, level=0.8)
    result = counter.count(image())
    assert result.low is not None and result.high is not None and result.level == 0.8
    assert result.low < result.count < result.high and "held-out images of streets" in counter.about_intervals
    sized = crowddist.load(Path(place), image_size=64, zooms=(1.0,), one_pass=True, device="cpu")
    assert sized.predictor.image_size == 64 and sized.count(image()).low is None
    for options, words in (({"level": 2}, "level"), ({"device": "gpu"}, "no device"), ({"image_size": 1}, "image_size"),
                           ({"zooms": (-1.0,)}, "zooms"), ({"zooms": 1}, "zooms"), ({"zooms": "1"}, "zooms"),
                           ({"level": "0.9"}, "level"), ({"device": None}, "no device"),
                           ({"image_size": "512"}, "image_size")):
        with pytest.raises(crowddist.InputError, match=words):
            crowddist.load(place, **options)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="no file at"):
        crowddist.load(tmp_path / "missing")


def test_a_result_is_drawn_as_its_overlay(counter: crowddist.CrowdCounter, tmp_path: Path) -> None:
    result = counter.count(image())
    drawn = result.plot(title="gate")
    assert isinstance(drawn, Image.Image) and max(drawn.size) >= 960
    wanted = overlay(result.image, result.density, count=result.count, uncertainty=result.uncertainty,
                     points=result.points, title="gate")
    assert (np.asarray(drawn) == wanted).all() and result.plot(title="two\nlines")
    drawn.save(tmp_path / "overlay.png")
    assert find_images(tmp_path).left_out == {OURS: {tmp_path / "overlay.png"}}


def test_a_result_is_json(counter: crowddist.CrowdCounter) -> None:
    result = counter.count(image(0, (60, 80)))
    told = json.loads(result.to_json())
    assert told == result.to_dict() and (told["height"], told["width"], told["low"]) == (60, 80, None)
    assert told["count"] == result.count and np.array(told["points"], np.float32).reshape(-1, 3).tolist() == (
        result.points.tolist())
    seen_through = Image.fromarray(np.dstack([result.image, np.full((60, 80), 128, np.uint8)]))
    (found,) = counter.count_many([seen_through])
    assert found.to_dict()["notes"] == ["transparent images put on white"] and "notes" not in told


def test_zones_are_counted_and_drawn(counter: crowddist.CrowdCounter, tmp_path: Path) -> None:
    halves = {"left": [[0, 0], [40, 0], [40, 72], [0, 72]], "right": [[40, 0], [96, 0], [96, 72], [40, 72]]}
    (tmp_path / "zones.json").write_text(json.dumps({"zones": [{"name": name, "polygon": polygon}
                                                               for name, polygon in halves.items()]}))
    plain, found = counter.count(image()), counter.count(image(), zones=halves)
    assert list(found.zones) == ["left", "right"] and sum(found.zones.values()) == pytest.approx(found.count, rel=1e-5)
    assert found.count == plain.count and plain.zones == {} and "zones" not in plain.to_dict()
    assert json.loads(found.to_json())["zones"] == found.zones
    assert (np.asarray(found.plot()) != np.asarray(plain.plot())).any()
    for zones in ([halves["left"]], 3, b"zones.json"):
        with pytest.raises(crowddist.InputError, match=r"zones must be a file, or polygons by name as"):
            counter.count(image(), zones=zones)  # type: ignore[arg-type]
    many = list(counter.count_many([image(), image(1)], zones=tmp_path / "zones.json"))
    assert many[0].zones == pytest.approx(found.zones, rel=1e-4) and many[1].zones != many[0].zones
    with pytest.raises(crowddist.InputError, match=r"^image 1: .*zones\.json: the zone 'right' lies outside the image"):
        list(counter.count_many([image(), image(1, (72, 40))], zones=tmp_path / "zones.json"))


def test_heads_go_to_supervision_where_it_is(counter: crowddist.CrowdCounter) -> None:
    result = counter.count(image())
    if find_spec("supervision") is None:
        with pytest.raises(crowddist.InputError, match=r"^supervision is not installed; pip install"):
            result.to_supervision()
        return
    detections = result.to_supervision()
    assert len(detections) == len(result.points)
    centres = (detections.xyxy[:, :2] + detections.xyxy[:, 2:]) / 2
    assert np.abs(centres - 0.5 - result.points[:, :2]).max(initial=0) < 1e-4
    assert (detections.confidence == result.points[:, 2]).all()
