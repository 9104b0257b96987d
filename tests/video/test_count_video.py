"""A video counted: the table against the counter itself, zones against the whole, and every way that a count ends."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from crowddist import storage
from crowddist.errors import InputError
from crowddist.inference.intervals import Calibration, write_calibration
from crowddist.inference.predictor import Predictor
from crowddist.video.capture import Connection
from crowddist.video.count import count_video
from crowddist.video.frames import Frames
from crowddist.video.sampling import parse_every
from crowddist.video.source import find_source
from tests.video.conftest import HOLD, SIZE, StreamServer
from tests.warm_start import ROOT, Started

HALVES = {"left": [[0, 0], [40, 0], [40, 72], [0, 72]], "right": [[40, 0], [96, 0], [96, 72], [40, 72]]}


@pytest.fixture(scope="module")
def counter(tiny_checkpoint: str) -> Predictor:
    return Predictor.from_checkpoint(tiny_checkpoint)


@pytest.fixture
def crowd(films: Callable[..., Path]) -> Path:
    """20 frames of noise, two seconds."""
    rng = np.random.default_rng(0)
    return films("crowd.avi", 20, draw=lambda _: rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8))


def table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "counts.csv", newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_a_film_becomes_a_table_a_chart_a_summary_and_an_overlay(counter: Predictor, crowd: Path,
                                                                 tmp_path: Path) -> None:
    lines: list[str] = []
    out = tmp_path / "out"
    summary = count_video(counter, crowd, out, every=5, zones=HALVES, save_video=True, say=lines.append)
    rows = table(out)
    assert [(row["time"], row["frame"], row["zone"]) for row in rows] == [
        (f"{number / 10:.3f}", str(number), zone) for number in (0, 5, 10, 15) for zone in ("all", "left", "right")]
    with Frames(find_source(crowd), parse_every(5)) as frames:
        counts = [counter.predict(frame.image).count for frame in frames]
    for number, count in enumerate(counts):
        whole, left, right = (float(row["count"]) for row in rows[3 * number : 3 * number + 3])
        assert whole == pytest.approx(count, abs=0.006) and left + right == pytest.approx(whole, abs=0.02) and left > 0
    assert all(row["low"] == row["high"] == "" for row in rows)
    found = summary.places["all"]
    assert (summary.frames, summary.frames_read, summary.first_s, summary.last_s) == (4, 20, 0, 1.5) and summary.whole
    assert (found.mean, found.peak) == pytest.approx((np.mean(counts), max(counts)), abs=0.006)
    assert found.peak_time_s == 0.5 * int(np.argmax(counts)) and list(summary.places) == ["all", "left", "right"]
    assert json.loads((out / "summary.json").read_text()) == summary.record()
    written = ["counts.csv", "counts.png", "overlay.mp4", "summary.json"]
    assert sorted(os.listdir(out)) == sorted(summary.files) == written
    assert cv2.imread(str(out / "counts.png")) is not None
    overlay = cv2.VideoCapture(str(out / "overlay.mp4"))
    assert (overlay.get(cv2.CAP_PROP_FRAME_COUNT), overlay.get(cv2.CAP_PROP_FPS)) == (4, 2)
    assert lines[0] == f"{crowd}: 96 x 72 px, 10 frames a second, 20 frames"
    assert lines[-1] == f"4 frames counted of 20 read: {out}"
    assert lines[-4].startswith("all: ") and lines[-3].startswith("left: ")


def test_intervals_are_those_of_the_whole_image(tiny_checkpoint: str, crowd: Path, tmp_path: Path) -> None:
    place = str(shutil.copy(storage.local_file(tiny_checkpoint), tmp_path / "counter.pt"))
    write_calibration(place, Calibration(scores=(0.5,) * 9, image_size=96, zooms=(1.0,)))
    lines: list[str] = []
    count_video(Predictor.from_checkpoint(place), crowd, tmp_path / "out", every=10, zones=HALVES, say=lines.append)
    for row in table(tmp_path / "out"):
        if row["zone"] == "all":
            assert float(row["low"]) < float(row["count"]) < float(row["high"])
        else:
            assert row["low"] == row["high"] == ""
    assert lines[0] == "no intervals of zones: a counter's errors are measured on whole images"


def test_an_earlier_count_is_kept_unless_told_otherwise(counter: Predictor, crowd: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    count_video(counter, crowd, out, every=10, save_video=True, say=print)
    before = (out / "counts.csv").read_bytes()
    with pytest.raises(InputError, match=r"counts\.csv holds an earlier count; choose another output, or --fresh"):
        count_video(counter, crowd, out, every=5, say=print)
    assert (out / "counts.csv").read_bytes() == before
    count_video(counter, crowd, out, every=5, fresh=True, say=print)
    assert len(table(out)) == 4 and not (out / "overlay.mp4").exists(), "nothing of the earlier count is left"


def test_no_result_replaces_a_file_of_others(counter: Predictor, crowd: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    film = Path(shutil.copy(crowd, out / "overlay.mp4"))
    for name, words in (("counts.csv", "is not a table of this command; choose another output, or move it"),
                        ("overlay.mp4", "is there already; choose another output, or --fresh to replace it")):
        (out / name).touch()
        with pytest.raises(InputError, match=rf"{name} {words}"):
            count_video(counter, crowd, out, every=10, fresh=name == "counts.csv", say=print)
        (out / "counts.csv").unlink(missing_ok=True)
    for fresh in (False, True):
        with pytest.raises(InputError, match=r"overlay\.mp4: a result has its name and would replace it"):
            count_video(counter, film, out, every=10, fresh=fresh, say=print)
    assert film.read_bytes() == crowd.read_bytes() and os.listdir(out) == ["overlay.mp4"]
    count_video(counter, crowd, out, every=10, fresh=True, say=print)
    assert not film.exists(), "as told"


@pytest.mark.parametrize(("how", "words"), [
    ({"every": "often"}, "every must be"), ({"zones": {"a": [[0, 0], [9, 9]]}}, "'a' has 2 different corners"),
    ({"zones": {"a": [[200, 0], [300, 0], [300, 9]]}}, "'a' lies outside the image of 96 x 72 px"),
    ({"zones": "none.json"}, "no such file of zones"), ({"stop_after_s": 0}, "stop_after_s must be positive"),
    ({"source": "none.mp4"}, "there is no such file"), ({"output": __file__}, "a file is in the way"),
])
def test_what_is_wrong_is_told_before_anything_is_written(counter: Predictor, crowd: Path, tmp_path: Path,
                                                          monkeypatch: pytest.MonkeyPatch, how: dict,
                                                          words: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=words):
        count_video(counter, **{"source": crowd, "output": tmp_path / "out", "say": print, **how})
    assert not (tmp_path / "out").exists()


def test_zones_of_a_file_and_a_note_of_what_is_cut(counter: Predictor, crowd: Path, tmp_path: Path) -> None:
    polygon = [[48, 0], [200, 0], [200, 72], [48, 72]]
    (tmp_path / "zones.json").write_text(json.dumps({"zones": [{"name": "Süden", "polygon": polygon}]}))
    lines: list[str] = []
    summary = count_video(counter, crowd, tmp_path / "out", every=5, zones=tmp_path / "zones.json", say=lines.append)
    assert [row["zone"] for row in table(tmp_path / "out")[:2]] == ["all", "Süden"]
    (note,) = summary.notes
    assert "the zone 'Süden' reaches 104 px beyond" in note and lines.count(note) == 1


def test_a_count_ends_after_so_many_seconds(counter: Predictor, crowd: Path, tmp_path: Path) -> None:
    summary = count_video(counter, crowd, tmp_path / "out", every=1, stop_after_s=0.5, say=print)
    assert (summary.frames, summary.last_s, summary.whole) == (5, 0.4, True)


def test_a_cut_video_is_counted_as_far_as_it_goes(counter: Predictor, crowd: Path, tmp_path: Path) -> None:
    os.truncate(crowd, crowd.stat().st_size // 2)
    summary = count_video(counter, crowd, tmp_path / "out", every=1, say=print)
    assert 5 < summary.frames < 15 and "seems cut off" in summary.notes[0]
    assert len(table(tmp_path / "out")) == summary.frames


def test_a_stream_that_dies_leaves_all_that_was_counted(counter: Predictor, streams: StreamServer,
                                                        tmp_path: Path) -> None:
    streams.script, out = [[*range(6), HOLD], []], tmp_path / "out"  # the second has no frames and does not open
    connection = Connection(open_timeout_s=20, read_timeout_s=1, reconnects=1, first_wait_s=0)
    with pytest.raises(InputError, match=r"does not open and did not come back.*; the \d frames counted before are"):
        count_video(counter, streams.address, out, every=1, save_video=True, connection=connection, say=print)
    rows = table(out)
    record = json.loads((out / "summary.json").read_text())
    assert record["frames"] == len(rows) >= 3 and record["whole"] is False and record["frames_read"] == 6
    assert record["frames"] + record["dropped"] == 6
    overlay = cv2.VideoCapture(str(out / "overlay.mp4"))
    assert overlay.get(cv2.CAP_PROP_FRAME_COUNT) == len(rows) and (out / "counts.png").exists()


COUNT = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background ignores it, and so its children
from crowddist.inference.predictor import Predictor
from crowddist.process.cli import one_line_errors
from crowddist.process.host import sigterm_as_exit
from crowddist.video.count import count_video
with one_line_errors(), sigterm_as_exit():
    count_video(Predictor.from_checkpoint(sys.argv[1]), sys.argv[2], sys.argv[3], every=1, save_video=True,
                say=lambda line: print(line, flush=True))
"""


@pytest.mark.parametrize(("stop", "code"), [(signal.SIGINT, 130),
                                            pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)])
def test_a_stopped_count_keeps_what_was_counted(tiny_checkpoint: str, streams: StreamServer, tmp_path: Path,
                                                stop: signal.Signals, code: int) -> None:
    streams.script, out = [[*range(6), HOLD]], tmp_path / "out"
    process = Started("-c", COUNT, tiny_checkpoint, streams.address, out, cwd=ROOT,
                      env={**os.environ, "PYTHONPATH": str(ROOT)})
    while process.poll() is None and not ((out / "counts.csv").exists() and len(table(out)) >= 3):
        time.sleep(0.05)
    process.send_signal(stop)
    words, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    rows, record = table(out), json.loads((out / "summary.json").read_text())
    # The signal may come between a row and its number.
    assert 3 <= record["frames"] <= len(rows) <= record["frames"] + 1 and record["whole"] is False
    overlay = cv2.VideoCapture(str(out / "overlay.mp4"))
    assert overlay.get(cv2.CAP_PROP_FRAME_COUNT) >= len(rows) and (out / "counts.png").exists()
    assert words.splitlines()[-1].startswith(f"stopped: {record['frames']} frames counted of 6 read: ")
    assert "Traceback" not in errors
