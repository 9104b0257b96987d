"""Files of zones: our JSON, exports of drawing tools, masks; the same zones of each, one line for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crowddist.data.zones.files import read_zone_file, read_zones
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
    for name, data in (("cut.png", whole[: len(whole) // 2]), ("new.png", whole[:-13] + b"?" + whole[-12:])):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=f"{name}: "):
            read_zones(tmp_path / name)
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
    ("<html></html>", "z.html", "a web page, not the file itself"),
    ("<a></a>", "z.xml", "not CVAT's XML"),
    ("<annotations><image name='a'>", "z.xml", "not XML"),
    ("<!DOCTYPE a [<!ENTITY b 'c'>]><annotations></annotations>", "z.xml", "declares a document type"),
    (CVAT.replace('height="9">', 'height="9"><box label="b" xtl="0" ytl="0" xbr="8" ybr="8"/>'), "z.xml",
     "2 images have zones: 'a.jpg', 'empty.jpg'"),
    ([STUDIO[0], STUDIO[0]], "z.json", "two images 'a.jpg' have zones; keep one of the two"),
    ([{"data": {}, "annotations": [{"result": [{"type": "polygonlabels",
                                                "value": {"points": GATE, "polygonlabels": ["a"]}}]}]}],
     "z.json", "task 1: wrong layout: a zone lacks the size of its image"),
    ([{"data": {}, "annotations": [{"result": [{"type": "polygonlabels", "image_rotation": 90}]}]}], "z.json",
     "its image was turned while it was labelled"),
    ([{"annotations": []}], "z.json", "not Label Studio's JSON"),
])
def test_a_file_that_holds_no_zones_is_one_line(tmp_path: Path, value: object, name: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as told:
        read_zones(written(tmp_path, value, name))
    assert name in str(told.value) and "\n" not in str(told.value)


def test_json_of_windows_in_utf_16(tmp_path: Path) -> None:
    for code in ("utf-16", "utf-8-sig"):
        (tmp_path / "z.json").write_bytes(json.dumps(OWN).encode(code))
        assert read_zones(tmp_path / "z.json").names == read_zones(written(tmp_path, OWN, "own.json")).names


def test_a_missing_file_and_shapes_left_out_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file of zones"):
        read_zones(tmp_path / "none.json")
    circle = {"label": "x", "shape_type": "circle", "points": [[1, 1], [2, 2]]}
    shapes = [*LABELME["shapes"], circle]  # type: ignore[misc]
    zones = read_zones(written(tmp_path, changed(LABELME, shapes=shapes)))
    assert zones.names == ("gate", "box") and "1 marks left out: neither polygons nor boxes" in zones.notes[0]


def test_turned_boxes_and_what_another_annotator_drew(tmp_path: Path) -> None:
    """A square of 8 px, turned by an eighth round its middle (CVAT) or its corner (Label Studio), spans 11.3 px."""
    box = CVAT.replace('xbr="8" ybr="16"', 'xbr="8" ybr="8" rotation="45.00"')
    value = {"x": 25, "y": 0, "width": 25, "height": 50, "rotation": 45, "rectanglelabels": ["box"]}
    region = {"type": "rectanglelabels", "original_width": 32, "original_height": 16, "value": value}
    studio = [{"data": {"image": "http://camera/snapshot"}, "annotations": [
        {"result": [region, region, region]}, {"result": [region], "ground_truth": True},
        {"result": [region], "was_cancelled": True}]}]
    corners = [[3, 3], [9, 3], [9, 9], [3, 9]]  # as X-AnyLabeling writes them
    labelme = {"shapes": [{"label": "box", "shape_type": "rectangle", "points": corners}]}
    wide = 128**0.5
    for content, name, middle, side in ((box, "c.xml", (4, 4), wide), (studio, "s.json", (8, wide / 2), wide),
                                        (labelme, "l.json", (6, 6), 6)):
        zones = read_zones(written(tmp_path, content, name))
        polygon = next(zone.polygon for zone in zones.zones if zone.name == "box")
        assert polygon is not None and polygon.mean(axis=0) == pytest.approx(middle)
        assert np.ptp(polygon, axis=0) == pytest.approx([side, side])
        assert zones.notes == ((f"{tmp_path / name}: 3 marks left out: neither polygons nor boxes, or of another "
                                "annotation",) if content is studio else ())


def of_several(*names: str) -> str:
    """CVAT's XML of these images, each with a zone of its number."""
    images = "".join(f'<image name="{name}" width="32" height="16"><box label="{number}" xtl="0" ytl="0" xbr="8" '
                     'ybr="8"/></image>' for number, name in enumerate(names))
    return f"<annotations>{images}<image name='empty.jpg'/></annotations>"


def test_several_images_have_their_own_zones(tmp_path: Path) -> None:
    file = read_zone_file(written(tmp_path, of_several("cam1/a.jpg", "cam2\\a.jpg", "b.jpg"), "z.xml"))

    def found(*names: str) -> list[str | None]:
        return [zones and zones.names[0] for zones in file.of_images(names)]

    assert found("/x/cam1/a.jpg", "x/cam2/a.jpg", "cam3/b.jpg", "c.jpg", "empty.jpg") == ["0", "1", "2", None, None]
    assert found("b.jpg", "photos/b.jpg", "http://host/b.jpg") == ["2", "2", "2"]
    with pytest.raises(InputError, match=r"the zones of 'cam1/a\.jpg' and of .* both fit a\.jpg; give "):
        file.of_images(["a.jpg"])
    with pytest.raises(InputError, match=r"3 images have zones: .*; keep the one of this camera"):
        file.only()
    with pytest.raises(InputError, match=r"z\.xml \(b\.jpg\): the zones were drawn on an image of 32 x 16 px"):
        file.sets["b.jpg"].outlined((32, 32))
    studio = [{**STUDIO[0], "data": {"image": f"/data/upload/1/0123abcd-{name}"}} for name in ("a.jpg", "b.jpg")]
    file = read_zone_file(written(tmp_path, studio))
    assert found("photos/a.jpg", "photos/c.jpg") == ["gate", None]
    # Of two folders' image of one name the one is meant that the file names.
    file = read_zone_file(written(tmp_path, of_several("cam1/a.jpg", "b.jpg"), "z.xml"))
    assert found("cam1/a.jpg", "cam2/a.jpg") == ["0", None] and found("cam2/a.jpg") == ["0"]
    one = read_zone_file(written(tmp_path, CVAT, "z.xml"))
    assert [zones is not None for zones in one.of_images(["any.jpg"])] == [True], "one camera's zones hold for all"


def test_a_folder_of_labelme_has_the_zones_of_each_image(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "cam2").mkdir(parents=True)
    point = {"shapes": [{"label": "head", "shape_type": "point", "points": [[1, 1]]}], "imagePath": "c.jpg"}
    gate = {**LABELME, "imagePath": "a.jpg", "shapes": [{"label": "gate", "points": GATE}]}
    for name, value in (("a.json", changed(LABELME, imagePath="a.jpg")), ("c.json", point),
                        ("coco.json", {"images": []}), ("cam2/a.json", gate), ("cam2/z.xml", of_several("b.jpg"))):
        written(photos, value, name)
    (photos / "a.jpg").touch()
    file = read_zone_file(photos)
    found = file.of_images([f"{photos}/{name}" for name in ("a.jpg", "cam2/a.jpg", "cam2/b.jpg", "b.jpg", "c.jpg")])
    assert [zones and zones.names for zones in found] == [("gate", "box"), ("gate",), ("0",), None, None]
    assert [zones and zones.names for zones in file.of_images(["/elsewhere/cam2/b.jpg"])] == [("0",)]
    with pytest.raises(InputError, match=r"photos: 3 images have zones"):
        file.only()
    (photos / "c.json").unlink()
    assert read_zone_file(photos).digest == file.digest, "it had no zones"
    written(photos, changed(LABELME, imagePath="A.jpg"), "a.json")
    assert read_zone_file(photos).digest != file.digest
    one = tmp_path / "one"
    one.mkdir()
    with pytest.raises(InputError, match=r"one: no file in this folder holds zones; read are"):
        read_zone_file(one)
    written(one, changed(LABELME, imagePath="a.jpg"), "a.json")
    assert [zones is None for zones in read_zone_file(one).of_images(["a.jpg", "b.jpg"])] == [False, True]
    written(one, changed(LABELME, imagePath="a.jpg"), "b.json")
    with pytest.raises(InputError, match=r"b\.json: .*a\.json has zones of 'a\.jpg', too; keep one of the two"):
        read_zone_file(one)
    written(one, OWN, "b.json")
    with pytest.raises(InputError, match=r"b\.json: its zones are of no image by name"):
        read_zone_file(one)
