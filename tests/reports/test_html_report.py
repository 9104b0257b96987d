"""The report of a run: one HTML file, made from files on storage."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from crowddist import storage
from crowddist.config import RunConfig, SearchConfig
from crowddist.data import shard_codec
from crowddist.errors import InputError
from crowddist.inference.metrics import METRICS
from crowddist.launch.local import LocalLauncher
from crowddist.pipeline import adapt
from crowddist.recipes import quickstart
from crowddist.reports.html_report import write_report
from crowddist.run.record import run_folder
from crowddist.tracking.tracker import NullTracker


class Reader(HTMLParser):
    """Collects texts, headings, embedded pictures, and addresses that the page would load from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.sources, self.elsewhere, self.open = "", list[str](), list[str](), list[str]()
        self.headings, self.levels = list[str](), list[int]()
        self.charts, self.told = 0, list[str]()  # what a reader who sees no picture is told

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.charts += tag == "svg"
        if tag in ("h1", "h2", "h3", "h4"):
            self.levels.append(int(tag[1]))
        if tag in ("img", "svg"):
            self.told.append(dict(attributes)["alt" if tag == "img" else "aria-label"] or "")
        for name, value in attributes:
            if name in ("src", "href") and value and not value.startswith("#"):  # a part of a chart
                (self.sources if value.startswith("data:image/") else self.elsewhere).append(value)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, "tags are closed in order"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words += data
            if self.open[-1] in ("h1", "h2", "h3") and data.strip():
                self.headings.append(data.strip())


def read(folder: str) -> Reader:
    reader = Reader()
    text = storage.read_bytes(storage.join(folder, "report.html")).decode()
    reader.feed(text)
    assert '<html lang="en">' in text and "</title>" in text and reader.levels.count(1) == 1
    assert all(later <= level + 1 for level, later in pairwise(reader.levels)), "no level of headings is left out"
    assert not reader.open and reader.elsewhere == [], "one file, which needs no other"
    reader.words = re.sub(r"\s+", " ", reader.words)
    return reader


def quiet(line: str) -> None:
    del line


@pytest.fixture(scope="module")
def config(tiny_settings: RunConfig, tiny_evaluation: str, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """Of a run with an evaluation set of its own; runs of the same storage take its stages over."""
    folder = tmp_path_factory.mktemp("report")
    shutil.copytree(storage.local_folder(tiny_evaluation), folder / "evaluation")
    return replace(tiny_settings, storage=str(folder / "runs"), evaluation=(folder / "evaluation").as_uri(),
                   search=SearchConfig(objective="agreement", trials=3),
                   self_supervision=replace(tiny_settings.self_supervision, rounds=1))


@pytest.fixture(scope="module")
def result(config: RunConfig, little_drawn: None) -> dict[str, Any]:
    """Of that run, which has left its report, with all of its pictures."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("crowddist.reports.round_pictures.NUM_PICTURES", 6)
        return adapt(config, LocalLauncher(config), NullTracker(), say=quiet, report=True)


@pytest.fixture
def copied(config: RunConfig, result: dict[str, Any], tmp_path: Path) -> Path:
    """A copy of the run's folder."""
    return Path(shutil.copytree(storage.local_folder(run_folder(config)), tmp_path / "copy"))


def test_a_run_leaves_its_report(config: RunConfig, result: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run_folder(config)
    page = read(folder)
    assert page.headings[0] == "tiny" and [name for name in page.headings
                                           if not name.startswith(("labels, round", "The "))] == [
        "tiny", "Rounds", "Images", "How far its uncertainty can be trusted", "Search of thresholds", "Time and cost",
        "Training", "Data", "Settings",
    ]
    first, last = result["rounds"][0], result["final"]
    assert f"The counter is wrong by {last['target/mae']:.1f} people an image" in page.words
    assert f"Without adaptation it was wrong by {first['target/mae']:.1f}: " in page.words
    assert re.search(r"Learnt from \d+ labelled images of \S+, adapted to \d+ images of \S+ without labels", page.words)
    assert f"crowddist count photo.jpg --model {storage.shown(folder)}" in page.words
    words, rounds = _spaced(folder), result["rounds"]
    titles = [f"{row['round']} {row['title']}" for row in rounds]
    assert " ".join(["round", *titles, "what it says MAE people"]) in words
    assert all(metric.meaning for metric in METRICS) and "off, on average. Lower is better." in page.words
    for name, key in (("MAE", "target/mae"), ("rmse", "target/rmse")):
        assert " ".join([name, "people", *(f"{row[key]:.2f}" for row in rounds), ""]) in words
    for data in result["data"].values():
        assert data["digest"][:16] in page.words and storage.shown(data["url"]) in page.words
    assert "labels-1/labels, worker 0: count, label" in page.words and "all workers together" in page.words
    assert "labels, round 1: 3 trials, by agreement" in page.words and "rank correlation" in page.words
    # Two images at each end of five, and five that every round shows, by the first round and the last.
    assert len(page.sources) == 4 + 2 * 5 and page.told == [text for text in page.told if len(text) > 20]
    # Errors, calibration, search, curves, how well orientation is told, and where the time went.
    assert page.charts == 6
    assert page.told[0].startswith(f"Error on the target by round: no adaptation {first['target/mae']:.1f}, ")
    before = storage.read_bytes(storage.join(folder, "report.html"))

    def trap(data: bytes) -> Any:
        raise AssertionError("a report opens no label")

    monkeypatch.setitem(shard_codec._DECODERS, "points.npy", trap)
    write_report(folder, say=quiet)
    assert storage.read_bytes(storage.join(folder, "report.html")) == before, "after the fact it is the same"


def _spaced(folder: str) -> str:
    """The page's text with a space where a cell ends."""
    text = storage.read_bytes(storage.join(folder, "report.html")).decode()
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))


@pytest.mark.usefixtures("tiny_config", "result")  # draws little, and takes over what that run has trained
def test_where_nothing_was_evaluated_it_says_so_and_names_are_text_not_markup(config: RunConfig) -> None:
    config = replace(config, evaluation="", run_name="<script>alert(1)</script>".replace("/", "|"))
    adapt(config, LocalLauncher(config), NullTracker(), say=quiet, report=True, reuse=True)
    text = storage.read_bytes(storage.join(run_folder(config), "report.html")).decode()
    assert "<script" not in text and "&lt;script&gt;" in text
    page = read(run_folder(config))
    assert "How wrong the counter is on the target is not known" in page.words
    assert not {"The largest errors", "The smallest errors"} & set(page.headings)
    assert "Compared with the evaluation" not in page.words


def test_intervals_stand_beside_the_counts(tiny_config: RunConfig, make_images: Callable[..., str],
                                           tmp_path: Path) -> None:
    short = replace(tiny_config, method="source_only", train=replace(tiny_config.train, steps=2))
    config = replace(short, calibration=make_images(tmp_path / "held", count=12, seed=5))
    result = adapt(config, LocalLauncher(config), NullTracker(), say=quiet)
    folder = run_folder(config)
    write_report(folder, say=quiet)
    words = read(folder).words
    assert "True counts that lie in the 90 % interval" in words and "Without adaptation" not in words
    assert f"For {result['final']['target/interval_coverage']:.0%} of them the true count lies in the 90 %" in words
    assert f"{100 * result['final']['target/interval_coverage']:.1f}" in words
    worst = storage.read_json(storage.join(folder, "source", "images.json"))[0]
    told = f"90 % interval {worst['low']:.0f} to {worst['high']:.0f}"
    assert f"{worst['image']}: {worst['count']:.0f} counted ({told}), {worst['true_count']:.0f} there" in words
    adapt(replace(short, run_name="without"), LocalLauncher(short), NullTracker(), say=quiet)
    write_report(run_folder(replace(short, run_name="without")), say=quiet)
    words = read(run_folder(replace(short, run_name="without"))).words
    assert "True counts" not in words and "90 % interval" not in words


@pytest.mark.usefixtures("tiny_config")  # draws little
def test_what_is_gone_is_left_out_and_told(config: RunConfig, copied: Path, tmp_path: Path) -> None:
    evaluation, said = storage.local_folder(config.evaluation), list[str]()
    evaluation.rename(tmp_path / "away")
    try:
        write_report(copied.as_uri(), say=said.append)
    finally:
        (tmp_path / "away").rename(evaluation)
    assert len(said) == 1 and said[0].startswith("the report shows no images of the evaluation: ")
    assert "The largest errors" not in read(copied.as_uri()).headings


def test_a_run_that_has_not_ended_has_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a report needs a run that has ended"):
        write_report(tmp_path.as_uri(), say=quiet)


@pytest.mark.usefixtures("tiny_config")  # draws little
def test_the_settings_that_are_not_the_recipes_are_named(copied: Path) -> None:
    written = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps({
        **written, "recipe": "quickstart", "bi_knowledge": {**written["bi_knowledge"], "detector_steps": 123}}))
    write_report(copied.as_uri(), say=quiet)
    shown = _spaced(copied.as_uri()).partition("setting recipe this run")[2].partition("The whole")[0]
    assert f"train.steps {quickstart().train.steps} 6" in shown and "seed 0" not in shown
    assert "bi_knowledge" not in shown, "settings of a method that the run does not use"
