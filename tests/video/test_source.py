"""What names a video, and one line for what does not."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crowddist.errors import InputError
from crowddist.video.source import find_source


@pytest.mark.parametrize("where", [2, "2", "/dev/video2"])
def test_cameras(where: str | int) -> None:
    source = find_source(where)
    assert (source.kind, source.place, source.shown, source.title) == ("camera", 2, "camera 2", "camera 2")


def test_streams_hide_their_passwords() -> None:
    source = find_source("rtsp://admin:s3cret@10.0.0.7:554/ch1?token=abcdefgh")
    assert source.kind == "stream" and source.place == "rtsp://admin:s3cret@10.0.0.7:554/ch1?token=abcdefgh"
    assert source.shown == "rtsp://admin:***@10.0.0.7:554/ch1?token=***" == source.title
    assert find_source("HTTP://host/a.m3u8").kind == "stream"


def test_files_by_path_and_url(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(film.parent)
    os.link(film, film.parent / "10:00:00")
    os.link(film, film.parent / "7")
    for where, path in (("film.avi", film), (film, film), (film.as_uri(), film), ("10:00:00", film.parent / "10:00:00"),
                        ("./7", film.parent / "7")):
        source = find_source(where)
        assert (source.kind, source.place, source.shown, source.title) == ("file", str(path), str(path), path.name)


def test_what_is_no_video_is_one_line(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "a.jpg")
    (tmp_path / "page.mp4").write_bytes(b"<!doctype html><html></html>")
    (tmp_path / "lfs.mp4").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "empty.mp4").touch()
    os.mkfifo(tmp_path / "pipe.mp4")
    for name, words in (("a.jpg", r"an image \(JPEG\), not a video"), ("page.mp4", "not a video, but web page"),
                        ("lfs.mp4", "but Git LFS pointer"), ("empty.mp4", "the file is empty"),
                        ("none.mp4", "there is no such file"), ("pipe.mp4", "a pipe or a device; save"),
                        (".", "a folder, not a video")):
        with pytest.raises(InputError, match=words) as told:
            find_source(tmp_path / name)
        assert str(told.value).startswith(str(tmp_path)) and "\n" not in str(told.value)
    with pytest.raises(InputError, match=r"unknown kind of video gopher:// in gopher://h/a; give a file"):
        find_source("gopher://h/a")
