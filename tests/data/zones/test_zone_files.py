"""Files of zones: our JSON, exports of drawing tools, masks; the same zones of each, one line for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crowddist.data.zones.files import read_zones
from crowddist.errors import InputError

GATE, BOX = [[8, 0], [24, 0], [24, 12], [8, 12]], [[0, 0], [8, 0], [8, 16], [0, 16]]
OWN = {"width": 32, "height": 16, "zones": [{"name": "gate", "polygon": GATE}, {"name": "box", "polygon": BOX}]}
SHARES = {"unit": "share", "zones": [{"name": name, "polygon": (np.array(polygon) / [32, 16]).tolist()}
                                     for name, polygon in (("gate", GATE), ("box", BOX))]}
LABELME = {"imageWidth": 32, "imageHeight": 16, "shapes": [
    {"label": "gate", "shape_type": "polygon", "points": GATE}, {"label": "box", "shape_type": "rectangle",
                                                                  "points": [[0, 0], [8, 16]]}]}
CVAT = """<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version><meta><task/></meta>
<image id="0" name="empty.jpg" width="9" height="9"></image>
<image id="1" name="a.jpg" width="32" height="16">
<polygon label="gate" points="8.00,0.00;24.00,0.00;24.00,12.00;8.00,12.00" z_order="0"></polygon>
<box label="box" xtl="0" ytl="0" xbr="8" ybr="16"></box></image></annotations>"""
STUDIO = [{"id": 1, "data": {"image": "a.jpg"}, "annotations": [{"result": [
    {"type": "polygonlabels", "original_width": 32, "original_height": 16,
     "value": {"points": [[25, 0], [75, 0], [75, 75], [25, 75]], "polygonlabels": ["gate"]}},
    {"type": "rectanglelabels", "original_width": 32, "original_height": 16,
     "value": {"x": 0, "y": 0, "width": 25, "height": 100, "rotation": 0, "rectanglelabels": ["box"]}}]}]},
    {"id": 2, "data": {"image": "b.jpg"}, "annotations": [{"result": []}]}]


def written(folder: Path, value: object, name: str = "zones.json") -> Path:
    path = folder / name
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


@pytest.mark.parametrize(("value", "name"), [(OWN, "o.json"), (SHARES, "s.json"), (LABELME, "l.json"), (CVAT, "c.xml"),
                                             (STUDIO, "t.json"), (STUDIO[0], "t.json")])
def test_the_same_zones_of_every_tool(tmp_path: Path, value: object, name: str) -> None:
    zones = read_zones(written(tmp_path, value, name))
    placed = zones.on((16, 32), seen=(16, 32), cells=(2, 4), stride=8)
    density = np.array([[1.0, 2.0, 4.0, 8.0], [16.0, 32.0, 64.0, 128.0]], np.float32)
    assert placed.counts(density) == {"gate": 2 + 4 + 16 + 32, "box": 17} and not placed.notes and not zones.notes
    if value is not SHARES:
        assert zones.size == (16, 32)


@pytest.mark.parametrize("mode", ["L", "P", "I;16", "RGB", "RGBA"])
def test_a_mask_has_a_zone_for_each_value(tmp_path: Path, mode: str) -> None:
    values = np.zeros((16, 32), np.uint16 if mode == "I;16" else np.uint8)
    values[:, :8], values[:12, 8:24] = 1, 200
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette([0, 0, 0, 9, 9, 9, *[9] * 762])  # both zones of one colour: their numbers tell them apart
    elif mode != "I;16":
        image = image.convert(mode)
    image.save(tmp_path / "mask.png")
    zones = read_zones(tmp_path / "mask.png")
    placed = zones.on((16, 32), seen=(16, 32), cells=(2, 4), stride=8)
    density = np.array([[1.0, 2.0, 4.0, 8.0], [16.0, 32.0, 64.0, 128.0]], np.float32)
    assert placed.counts(density) == {"zone 1": 17, "zone 200": 54}
    assert sorted(np.ptp(placed.outlines[1][0], axis=0).tolist()) == [11, 15], "between the centres of its pixels"


def test_what_is_wrong_with_a_mask_is_one_line(tmp_path: Path) -> None:
    ramp = np.arange(70, dtype=np.uint8)[None].repeat(20, 0)
    coloured = np.zeros((16, 16, 3), np.uint8)
    coloured[:8, :, 0] = 200
    see_through = np.full((16, 16, 4), 255, np.uint8)
    see_through[3, 3, 3] = 9
    for pixels, name, words in ((ramp, "a.png", "69 grey values.*without smooth edges"),
                                (ramp, "a.jpg", "mask in JPEG"),
                                (np.zeros((9, 9), np.uint8), "a.png", "black everywhere"),
                                (coloured, "a.png", "has colours"), (see_through, "a.png", "transparent in places"),
                                (np.zeros((16, 16), np.float32), "a.tif", "whole numbers")):
        Image.fromarray(pixels).save(tmp_path / name)
        with pytest.raises(InputError, match=rf"{name}: .*{words}") as told:
            read_zones(tmp_path / name)
        assert "\n" not in str(told.value)
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cut\.png: "):
        read_zones(tmp_path / "cut.png")
    speck = np.zeros((30, 30), np.uint8)
    speck[3, 3], speck[10:20, 10:20] = 90, 120
    Image.fromarray(speck).save(tmp_path / "speck.png")
    assert "grey value 90 has 1 px only" in read_zones(tmp_path / "speck.png").notes[0]


def changed(value: dict, **fields: object) -> dict:
    return {**value, **fields}


@pytest.mark.parametrize(("value", "name", "words"), [
    (changed(OWN, units="px"), "z.json", "unknown field 'units'"),
    (changed(OWN, unit="percent"), "z.json", "unit is 'percent'"),
    (changed(OWN, zones={"gate": GATE}), "z.json", "zones must be a list of objects"),
    (changed(OWN, zones=[{"name": "gate"}]), "z.json", "zone 1 must have a name and a polygon"),
    (changed(OWN, zones=[]), "z.json", "0 zones"),
    (changed(OWN, width="wide"), "z.json", "width and height must both be whole numbers"),
    ({"zones": SHARES["zones"]}, "z.json", "all corners lie between 0 and 1"),
    (changed(OWN, zones=[{"name": "gate", "polygon": [[0, 0], [9, 9], [9, 0], [0, 9]]}]), "z.json",
     r"z\.json: the zone 'gate' crosses itself"),
    ([1, 2], "z.json", "its JSON holds no zones; read are JSON of"),
    ({"images": [], "annotations": []}, "z.json", "its JSON holds no zones"),
    ("{", "z.json", "not JSON"),
    ("gate,1,2", "z.csv", "not a file of zones"),
    ("", "z.json", "the file is empty"),
    ({"shapes": [{"label": "a", "shape_type": "point", "points": [[1, 1]]}]}, "z.json", "no zones.*but 1 other marks"),
    ({"shapes": [{"label": "a", "shape_type": "polygon", "points": [[1, 1], [2, "x"], [3, 3]]}]}, "z.json",
     "'a' must be"),
    ({"shapes": [{"label": "a", "points": GATE}, {"label": "a", "points": BOX}]}, "z.json", "2 zones are called 'a'"),
    ("<html></html>", "z.html", "a web page, not an annotation"),
    ("<a></a>", "z.xml", "not CVAT's XML"),
    ("<annotations><image name='a'>", "z.xml", "not XML"),
    ("<!DOCTYPE a [<!ENTITY b 'c'>]><annotations></annotations>", "z.xml", "declares a document type"),
    (CVAT.replace('height="9">', 'height="9"><box label="b" xtl="0" ytl="0" xbr="8" ybr="8"/>'), "z.xml",
     "2 images have zones: 'a.jpg', 'empty.jpg'"),
    ([STUDIO[0], STUDIO[0]], "z.json", "2 images have zones"),
    ([{"annotations": [{"result": [{"type": "polygonlabels", "value": {"points": GATE, "polygonlabels": ["a"]}}]}]}],
     "z.json", "lacks the size of its image"),
])
def test_a_file_that_holds_no_zones_is_one_line(tmp_path: Path, value: object, name: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as told:
        read_zones(written(tmp_path, value, name))
    assert name in str(told.value) and "\n" not in str(told.value)


def test_a_missing_file_and_shapes_left_out_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file of zones"):
        read_zones(tmp_path / "none.json")
    shapes = [*LABELME["shapes"], {"label": "x", "shape_type": "circle", "points": [[1, 1], [2, 2]]}]  # type: ignore[misc]
    zones = read_zones(written(tmp_path, changed(LABELME, shapes=shapes)))
    assert zones.names == ("gate", "box") and "1 marks left out" in zones.notes[0]
