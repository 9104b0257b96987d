"""Attacks by names: of runs, images and data sets, which become files, cells of a table, words of a page and lines on a
terminal.
"""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crowddist import storage
from crowddist.config import RunConfig, to_json
from crowddist.errors import InputError
from crowddist.process.cli import one_line
from crowddist.reports.count_files import predict_files
from crowddist.reports.html_report import write_report
from crowddist.storage.s3_place import S3Place
from crowddist.tracking import journal

MARKUP = """<script>alert(1)</script><img src=x onerror="alert(1)">'"{{ 7*191 }}{% include "report.html" %}"""


class Counter:
    """Counts one person in every image."""

    def checked(self, image: np.ndarray) -> np.ndarray:
        return image

    def predict(self, image: np.ndarray) -> Any:
        density = np.zeros((image.shape[0] // 8, image.shape[1] // 8), np.float32)
        return SimpleNamespace(count=1.0, uncertainty=0.5, density=density, points=np.zeros((0, 3), np.float32),
                               sizes=None, interval=None)


def photo(place: Path) -> Path:
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(place, "JPEG")
    return place


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "=cmd|'!A0'"])
def test_no_name_of_an_image_is_a_formula(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "photos").mkdir()
    photo(tmp_path / "photos" / f"{name}.jpg")
    monkeypatch.chdir(tmp_path / "photos")
    rows = predict_files(Counter(), ["."], str(tmp_path / "out"), say=lambda _: None)  # type: ignore[arg-type]
    assert len(rows) == 1
    cells = [cell for row in csv.reader((tmp_path / "out" / "counts.csv").open()) for cell in row]
    assert not [cell for cell in cells if cell[:1] in ("=", "+", "-", "@", "\t", "\r")]


def test_names_of_images_leave_neither_the_output_nor_act_on_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    names = ["\x1b]0;owned\x07.jpg", "a\nerror: all is lost.jpg", "\u202egpj.exe.jpg", "..jpg.jpg", "%2e%2e%2fx.jpg",
             "~.jpg", "counts.csv.jpg"]
    for name in names:
        photo(tmp_path / "photos" / name)
    said: list[str] = []
    rows = predict_files(Counter(), [str(tmp_path / "photos")], str(tmp_path / "a" / "out"),
                         say=said.append)  # type: ignore[arg-type]
    assert len(rows) == len(names) - 1  # a hidden file is none of them
    assert all(line.isprintable() for line in said) and all(row["file"].isprintable() for row in rows)
    written = sorted(path.relative_to(tmp_path) for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert (len(written) == len(rows) + 1
            and all(path.parts[:2] == ("a", "out") and len(path.parts) == 3 for path in written))


def test_error_lines_hold_nothing_that_acts_on_a_terminal(tmp_path: Path) -> None:
    for name in ("\x1b[2J\x1b]52;c;cm0gLXJm\x07", "a\rb", "\u202egnp", "\udcff", "\x9b31m"):
        line = one_line(FileNotFoundError(2, "No such file or directory", str(tmp_path / name)))
        assert line.encode().isascii() and line.isprintable(), line
    assert one_line(InputError("Größe 中 🙂")) == "Größe 中 🙂"


@pytest.mark.parametrize("name", ["../x", "..", ".", "/etc", "a/b", "data", "mlflow.db", "a\0b", "\x1b[2J", "a\nb"])
def test_a_run_stays_in_its_storage(tiny_config: RunConfig, name: str) -> None:
    with pytest.raises(InputError, match="run_name must be a plain name"):
        replace(tiny_config, run_name=name)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/../../b", "", "a//b", "."])
def test_no_object_of_a_bucket_is_copied_beside_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"can be no file's name|not a relative name"):
        S3Place("s3://bucket/images")._below(name)
    with pytest.raises(InputError, match="not a relative name"):
        storage.join(tmp_path, name)


def test_a_report_shows_markup_as_text(tiny_config: RunConfig, tmp_path: Path) -> None:
    """Everything that a page shows of a run comes from files that others may have written."""
    row = {"round": 0, "title": MARKUP, "stage": "source", "stages": ["source"], "target/mae": 1.0,
           "target/num_images": 1.0, "target/mean_count": 2.0}
    data = {MARKUP: {"url": MARKUP, "name": MARKUP, "digest": MARKUP, "num_images": 1}}
    result = {"run": MARKUP, "recipe": MARKUP, "method": MARKUP, "seed": 1, "version": MARKUP, "rounds": [row],
              "final": row, "stopped": MARKUP,
              "skipped": {MARKUP: [MARKUP]}, "checkpoint": MARKUP, "model": MARKUP, "data": data}
    config = {**json.loads(to_json(tiny_config)), "recipe": "smoke", "target": MARKUP}
    storage.write_json(tmp_path / "result.json", result)
    storage.write_json(tmp_path / "config.json", config)
    page = storage.read_bytes(write_report(tmp_path.as_uri(), say=lambda _: None)).decode()
    assert "<script" not in page and "<img src=x" not in page and "1337" not in page and "&lt;script&gt;" in page
    policy = page[page.index("Content-Security-Policy") :].partition(">")[0]
    assert "default-src 'none'" in policy and "script-src" not in policy and "http:" not in policy


@pytest.mark.parametrize("entry", [
    {"call": "register", "checkpoint_file": "/etc/passwd", "name": "leak"}, {"call": "_write_state", "parent": "x"},
    {"call": "__init__", "uri": "x"},
    {"call": "start"}, {"call": "finish", "status": "FINISHED"}, {"call": "_abandon"}, {"call": ["metrics"]},
    {"name": "x"}, [1], "metrics", None,
])
def test_a_journal_calls_nothing_but_what_tells(tmp_path: Path, entry: object) -> None:
    (tmp_path / "mlflow-journal.jsonl").write_text(json.dumps(entry) + "\n")
    with pytest.raises(InputError, match="not a tracker's journal"):
        journal._read((tmp_path / "mlflow-journal.jsonl").as_uri())
