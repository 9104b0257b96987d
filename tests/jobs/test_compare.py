"""The job that compares runs: its help, its table of a run, and its one-line errors."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from crowddist import storage


def test_help_comes_at_once(helped: Callable) -> None:
    text, heavy, seconds = helped("compare")
    assert seconds < 5 and heavy == [] and "RUN ..." in text


def test_a_table_or_a_line(start: Callable, tmp_path: Path) -> None:
    rounds = [{"round": 0, "stage": "source", "target/mae": 4.0, "target/rmse": 5.0, "target/num_images": 3.0}]
    storage.write_json(
        storage.join(tmp_path.as_uri(), "result.json"),
        {"run": "mine", "recipe": "smoke", "method": "source_only", "seed": 1, "rounds": rounds}
    )
    done = start("compare", tmp_path)
    assert done.returncode == 0 and "4.0 / 5.0" in done.stdout.splitlines()[2] and "uncertainty" not in done.stdout
    rows = [{"image": f"IMG_{number}", "count": 10.0 + error, "true_count": 10.0, "error": error, "uncertainty": doubt}
            for number, error, doubt in ((1, 3.0, 2.0), (2, 4.0, 6.0))]
    storage.write_json(storage.join(tmp_path.as_uri(), "source", "images.json"), rows)
    done = start("compare", tmp_path, "--calibration", tmp_path / "calibration.png")
    assert (done.returncode == 0
            and done.stdout.splitlines()[7].split() == ["mine", "2", "3.5", "4.5", "0.43", "0.000"]), done.stdout
    assert (tmp_path / "calibration.png").read_bytes().startswith(b"\x89PNG")
    storage.write_json(
        storage.join(tmp_path.as_uri(), "other", "result.json"),
        {"run": "other", "recipe": "smoke", "method": "source_only", "seed": 1,
         "rounds": [{**rounds[0], "target/mae": 6.0, "target/rmse": 9.0}]}
    )
    for run, digest in ((tmp_path, "a"), (tmp_path / "other", "a")):
        result = json.loads((run / "result.json").read_text())
        result["data"] = {"evaluation": {"digest": digest, "name": "yard"}}
        storage.write_json(storage.join(run.as_uri(), "result.json"), result)
        storage.write_json(storage.join(run.as_uri(), "config.json"), {"seed": 1, "train": {"steps": len(str(run))},
                                                                        "bi_knowledge": {"cycles": len(str(run))}})
    for run in (tmp_path, tmp_path / "other"):
        picture = run / "pictures" / "IMG_1" / "round-0.png"
        picture.parent.mkdir(parents=True)
        cv2.imwrite(str(picture), np.zeros((8, 8, 3), np.uint8))
    written = ("--html", tmp_path / "runs.html", "--csv", tmp_path / "runs.csv")
    done = start("compare", tmp_path, tmp_path / "other", "--mean", *written)
    assert done.returncode == 0 and "\nmean of 2 runs, MAE / rmse: 5.0 / 7.0\n" in done.stdout
    page = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", (tmp_path / "runs.html").read_text()))
    assert "mine is wrong by 4.0 people an image: the least of 2 runs" in page and "different sets" not in page
    assert "change of the MAE" not in page, "a column that says nothing is left out"
    assert "The same images, by each run" in page and "IMG_1 mine: 13 counted, 10 there" in page
    assert f"train.steps {len(str(tmp_path))} {len(str(tmp_path)) + 6}" in page and " seed 1" not in page
    assert "bi_knowledge" not in page, "no run uses that method's settings"
    assert list(csv.DictReader((tmp_path / "runs.csv").open()))[1] | {"run": "other", "mae": "6.0", "images": "3"} == {
        "run": "other", "recipe": "smoke", "method": "source_only", "seed": "1", "images": "3", "mae_without": "",
        "rmse_without": "", "mae": "6.0", "rmse": "9.0", "bias": "", "in_interval": "", "version": ""}
    result["data"]["evaluation"]["digest"] = "of other images with the same names"
    storage.write_json(storage.join((tmp_path / "other").as_uri(), "result.json"), result)
    assert start("compare", tmp_path, tmp_path / "other", *written).returncode == 0
    page = (tmp_path / "runs.html").read_text()
    assert "2 different sets of images" in page and page.count("<h2>On yard, 3 images</h2>") == 2
    assert "Mean absolute error of each run" not in page and "IMG_1" not in page, "nothing to compare"
    (tmp_path / "source" / "images.json").unlink()
    done = start("compare", tmp_path, "--calibration", tmp_path / "calibration.png")
    assert done.returncode == 2 and "no run has an uncertainty" in done.stderr
    for runs, words in (((tmp_path / "nowhere",), "no result.json in"), ((), "no run is given"),
                        ((tmp_path, "--calibration", "a.jpg"), "let its name end in .png")):
        done = start("compare", *runs)
        assert (done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
                and words in done.stderr)
