"""Progress of a conversion: plain lines where there is no terminal, a bar where there is one."""

from __future__ import annotations

import sys

from crowddist.process import progress_bar


def test_plain_lines_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    clock = iter([0.0, 1.0, 12.0, 13.0, 25.0])
    monkeypatch.setattr(progress_bar.time, "monotonic", lambda: next(clock))
    assert list(progress_bar.watched("abcd", "images")) == list("abcd")
    assert capsys.readouterr().out == "1 of 4 images, 0.1 a second, 36 s left\n3 of 4 images, 0.1 a second, 8 s left\n"


def test_what_an_earlier_start_did_counts_for_no_rate(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    clock = iter([0.0, 0.0, 20.0])
    monkeypatch.setattr(progress_bar.time, "monotonic", lambda: next(clock))
    progress = progress_bar.Progress(3000, "images")
    for done in (500, 510):
        progress.show(done)
    assert capsys.readouterr().out == "510 of 3000 images, 0.5 a second, 83 min left\n"


def test_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(progress_bar.watched("abcd", "images")) == list("abcd")
    shown = capsys.readouterr()
    assert shown.out == "" and "4/4" in shown.err
