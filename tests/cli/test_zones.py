"""`crowddist zones`: the picture and the table of zones, on images and films, and one line for what is wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from crowddist.cli.zones import main
from tests.cli.conftest import Command
from tests.video.conftest import films, number_of  # noqa: F401

LEFT, TOP = [[0, 0], [48, 0], [48, 72], [0, 72]], [[0, 0], [96, 0], [96, 18], [0, 18]]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A photograph, zones, and a mask; the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # the command sets its own
    cv2.imwrite("photo.jpg", np.full((72, 96, 3), 90, np.uint8))
    cv2.imwrite("mask.png", np.repeat(np.array([[0, 7, 0, 9]], np.uint8), 24, axis=1).repeat(72, axis=0))
    write("zones.json", {"left": LEFT, "top": TOP})
    return tmp_path


def write(name: str, polygons: dict[str, list[list[float]]]) -> None:
    zones = [{"name": name, "polygon": polygon} for name, polygon in polygons.items()]
    Path(name).write_text(json.dumps({"zones": zones}))


def test_zones_are_drawn_and_told(crowddist: Command, place: Path) -> None:
    done = crowddist("zones", "zones.json", "photo.jpg", "--output", "out/checked.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "photo.jpg: 96 x 72 px",
        "zone      kind     of the image",
        "--------  -------  ------------",
        "left      polygon         50.0%",
        "top       polygon         25.0%",
        "together                  62.5%",
        "written to out/checked.png"]
    picture = cv2.imread(str(place / "out" / "checked.png"))
    assert picture is not None and picture.shape[1] == 960 and len(picture) > 720
    body = picture[-720:]
    assert (body[500, 800] == 90).all() and (body[500, 200] != 90).any(), "zones are tinted, the rest is as it was"


def test_masks_and_frames(place: Path, films: Callable[..., Path],  # noqa: F811
                          capsys: pytest.CaptureFixture[str]) -> None:
    main(["mask.png", "photo.jpg", "--output", "m.png"])
    assert "zone 7    mask         25.0%" in capsys.readouterr().out
    films("street.avi", 20)
    for options, number in (((), 0), (("--at", "1.2"), 12)):
        main(["zones.json", "street.avi", "--output", "f.png", *options])
        corner = cv2.imread("f.png")[-100:, -100:]
        assert number_of(corner) == number and "street.avi: 96 x 72 px" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "message"), [
    (("none.json", "photo.jpg"), "none.json: there is no such file of zones"),
    (("zones.json", "none.jpg"), "none.jpg: cannot be read: No such file"),
    (("zones.json", "none.mp4"), "none.mp4: there is no such file"),
    (("zones.json", "zones.json"), "zones.json: not a video"),
    (("zones.json", "street.avi", "--at", "9"), "street.avi: it ends before 9 s"),
    (("zones.json", "photo.jpg", "--at", "-1"), "at must be a number that is not negative"),
    (("outside.json", "photo.jpg"), "outside.json: the zone 'a' lies outside the image of 96 x 72 px"),
    (("crossing.json", "photo.jpg"), "crossing.json: the zone 'a' crosses itself: its sides 1 and 3 meet at x, y"),
    (("empty.json", "photo.jpg"), "empty.json: 0 zones; there must be 1 to 256"),
    (("thin.json", "photo.jpg"), "thin.json: the zone 'a' holds no pixel of the image"),
    (("two.xml", "photo.jpg"), "two.xml: none of its zones are of photo.jpg; it has those of a.jpg, b.jpg"),
    (("two.xml", "street.avi"), "two.xml: 2 images have zones: 'a.jpg', 'b.jpg'; keep the one of this camera"),
    (("mask.png", "photo.jpg", "--output", "mask.png"), "the output mask.png would replace what is drawn"),
    (("zones.json", "photo.jpg", "--output", "out.jpg"), "the output out.jpg is a PNG; let its name end in .png"),
])
def test_what_is_wrong_is_one_line(place: Path, films: Callable[..., Path],  # noqa: F811
                                   capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str) -> None:
    films("street.avi", 12)
    write("outside.json", {"a": [[100, 0], [200, 0], [200, 9]]})
    write("crossing.json", {"a": [[0, 0], [9, 9], [9, 0], [0, 9]]})
    write("empty.json", {})
    write("thin.json", {"a": [[3.6, 3.6], [4.2, 3.6], [4.2, 4.2]]})
    images = [f'<image name="{name}.jpg"><box label="a" xtl="0" ytl="0" xbr="8" ybr="8"/></image>' for name in "ab"]
    Path("two.xml").write_text(f"<annotations>{''.join(images)}</annotations>")
    before = sorted(path.name for path in place.iterdir())
    with pytest.raises(SystemExit) as ended:
        main([*words, *(() if "--output" in words else ("--output", "out.png"))])
    told = capsys.readouterr().err
    assert ended.value.code == 2 and told.startswith("error: ") and told.count("\n") == 1 and message in told
    assert sorted(path.name for path in place.iterdir()) == before
