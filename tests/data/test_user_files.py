"""The files that a user names: patterns, ~ and addresses become images, in order; what is missing is one line."""

from __future__ import annotations

import functools
import re
import threading
import unicodedata
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crowddist.data.user_files import UserFile, find_user_files, label_names, read_place
from crowddist.errors import InputError
from tests.video.conftest import write_film


def photo(place: Path, shade: int = 9) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (shade, 0, 0)).save(place, "PNG")
    return place


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("b.png", "a.png", "in/c.png", "in/deep/d.png"):
        photo(tmp_path / "photos" / name)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    return tmp_path / "photos"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """A web server over a folder of images."""
    photo(tmp_path / "web" / "square.png", 77)
    (tmp_path / "web" / "page.jpg").write_text("<html>sign in")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path / "web"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def names(*inputs: object) -> list[str]:
    return [file.name for file in find_user_files(list(map(str, inputs)), say=lambda _: None)]


def test_files_folders_and_patterns_keep_their_order(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = [str(photos / "in" / name) for name in ("c.png", "deep/d.png")]
    assert names(photos / "b.png", photos / "in", photos / "a.png") == [str(photos / "b.png"), *inner,
                                                                        str(photos / "a.png")]
    assert names(photos / "*.png") == [str(photos / "a.png"), str(photos / "b.png")]
    assert names(photos / "**" / "*.png") == [str(photos / name) for name in ("a.png", "b.png", "in/c.png",
                                                                              "in/deep/d.png")]
    assert sorted(names(photos / "**")) == sorted([*names(photos), str(photos / "notes.txt")]), "folders match, too"
    assert names(photos / "i[n]") == inner, "a folder that a pattern matches is searched"
    assert names(photos.as_uri()) == [str(photos / name) for name in ("a.png", "b.png", "in/c.png", "in/deep/d.png")]
    monkeypatch.setenv("HOME", str(photos.parent))
    assert names("~/photos/?.png") == [str(photos / "a.png"), str(photos / "b.png")]


def test_images_that_are_given_twice_are_told(photos: Path) -> None:
    said: list[str] = []
    (photos / "in" / "link.png").symlink_to(photos / "a.png")
    assert len(find_user_files([str(photos / "in"), str(photos / "in" / "*.png")], say=said.append)) == 5
    assert said[-1] == "2 of 5 images are given, or linked to, more than once: each counts as often"


def test_what_is_called_like_a_pattern_or_a_home_is_taken_as_it_is(tmp_path: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    photo(tmp_path / "a[1].png")
    photo(tmp_path / "a1.png")
    photo(tmp_path / "~" / "x.png")
    monkeypatch.chdir(tmp_path)
    assert names("a[1].png", "~/x.png") == ["a[1].png", "~/x.png"]
    for name in ("cam[12] x/a.png", "cam1 x/b.png", "cam2 x/c.png", "cam2 x/d.png"):
        photo(tmp_path / name)
    assert names("cam[12] x/*.png") == ["cam[12] x/a.png"]
    assert names("cam[2] x/*.png") == ["cam2 x/c.png", "cam2 x/d.png"]
    with pytest.raises(FileNotFoundError, match=r"no file or folder at cam\[12\] x/missing\.png"):
        names("cam[12] x/missing.png")


def test_accents_of_either_form_name_one_file(tmp_path: Path) -> None:
    """macOS types and stores them as characters of their own."""
    for form, other in (("NFC", "NFD"), ("NFD", "NFC")):
        place = photo(tmp_path / form / unicodedata.normalize(form, "Café/é.png"))
        typed = str(tmp_path / form / unicodedata.normalize(other, "Café/é.png"))
        assert names(typed) == names(Path(typed).as_uri()) == [str(place)] and read_place(typed)[0].shape == (30, 40, 3)


def test_what_is_missing_is_said(photos: Path) -> None:
    for given, words in ((photos / "x.png", "no file or folder at "), (photos / "*.jpg", "no file or folder matches "),
                         (f"{photos}s", rf"; perhaps you meant {re.escape(str(photos))}$")):
        with pytest.raises(FileNotFoundError, match=words):
            names(given)
    (photos / "gone.png").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError, match=r"gone\.png is a link that leads nowhere; give the file itself$"):
        names(photos / "gone.png")
    (photos / "gone.png").unlink()
    with pytest.raises(InputError, match="an input is empty"):
        names(photos, "")
    (photos / "empty").mkdir()
    with pytest.raises(InputError, match="no images in "):
        names(photos / "empty")
    (photos / "phone.heic").write_bytes(b"....ftypheic")
    with pytest.raises(InputError, match=r"phone\.heic: HEIC images are not read"):
        names(photos)


def test_the_web_is_fetched_when_it_is_read(site: str, tmp_path: Path) -> None:
    missing, file = find_user_files([f"{site}/missing.png", f"{site}/square.png?size=3&token=SECRET"])
    assert (file.stem, file.is_remote) == ("square", True) and "SECRET" not in repr(file)
    stamp = file.stamp()
    assert int(file.read()[0][0, 0, 0]) == 77
    photo(tmp_path / "web" / "square.png", 88)
    assert int(file.read()[0][0, 0, 0]) == int(read_place(f"{site}/square.png")[0][0, 0, 0]) == 88
    assert file.stamp() == stamp and int(file.read((tmp_path / "web" / "square.png").read_bytes())[0][0, 0, 0]) == 88
    for place, words in ((missing.read, "/missing.png: cannot be fetched: the server answers 404"),
                         (lambda: file.read(b""), r"square\.png.*: the file is empty"),
                         (lambda: read_place(f"{site}/page.jpg"),
                          r"/page\.jpg: not an image, but a web page; download the image again")):
        with pytest.raises(InputError, match=words):
            place()


def test_streams_and_films_are_refused_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^rtsp://user:\*\*\*@cam/1: images are not read from rtsp:// addresses; .*"
                                         "crowddist video counts streams"):
        names("rtsp://user:SECRET@cam/1")
    film = write_film(tmp_path / "street.avi", 2)
    for name in ("street.avi", "street.jpg"):
        (file,) = find_user_files([str(film.rename(tmp_path / name))])
        film = Path(file.name)
        with pytest.raises(InputError, match=rf"{name}: not an image, but a film \(AVI\); crowddist video counts it"):
            file.read()


def test_a_place_is_read_upright(tmp_path: Path) -> None:
    tag = Image.Exif()
    tag[274] = 6  # turned a quarter
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "turned.jpg", exif=tag)
    assert read_place(tmp_path / "turned.jpg")[0].shape == read_place((tmp_path / "turned.jpg").as_uri())[0].shape
    assert read_place(tmp_path / "turned.jpg")[0].shape == (30, 20, 3)
    with pytest.raises(InputError, match=r"missing\.jpg: cannot be read"):
        read_place(tmp_path / "missing.jpg")


def test_a_file_knows_its_folder_also_through_a_link(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(photos)
    (file,) = find_user_files([str(tmp_path / "link" / "a.png")])
    assert file.lies_in(photos.as_uri()) and file.lies_in((tmp_path / "link").as_uri())
    assert not file.lies_in(tmp_path.as_uri()) and not file.lies_in("s3://bucket/photos")


def test_labels_name_images_below_the_folder_of_all(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def labels(*inputs: object) -> list[str]:
        return label_names(find_user_files(list(map(str, inputs)), say=lambda _: None))

    assert labels(photos) == ["a.png", "b.png", "in/c.png", "in/deep/d.png"]
    assert labels(photos / "in") == ["c.png", "deep/d.png"]
    assert labels(photos / "in" / "deep", photos / "a.png") == ["in/deep/d.png", "a.png"]
    assert labels(photos / "in" / "c.png") == ["c.png"]
    monkeypatch.chdir(photos)
    assert labels(".") == ["a.png", "b.png", "in/c.png", "in/deep/d.png"]
    bucket = [UserFile(name=f"s3://bucket/day/{name}", root="s3://bucket/day") for name in ("a.jpg", "in/b.jpg")]
    assert label_names(bucket) == ["a.jpg", "in/b.jpg"]
    assert label_names([*bucket, UserFile(name="https://host/x.jpg", root="https://host")]) == [
        "bucket/day/a.jpg", "bucket/day/in/b.jpg", "host/x.jpg"]
    odd = [UserFile(name=name, root="") for name in ("http://host//a/../b.jpg?d=http://x/y", "http://host/")]
    assert label_names(odd) == ["host/a/b.jpg?d=http:__x_y", "host"]
