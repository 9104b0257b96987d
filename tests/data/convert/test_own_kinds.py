"""Labels and layouts that people have, beside the plain ones: each is read as it was meant, or told in one line."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from PIL import Image

from crowddist.data.convert.base import convert
from crowddist.data.convert.formats import FORMATS
from crowddist.data.convert.recognise import recognise
from crowddist.data.shards import ShardReader, decode
from crowddist.errors import InputError
from tests.data.convert.conftest import Jhu, Nwpu, Shanghai, Wider, WorldExpo
from tests.data.convert.test_own import build, points_by_id, saved

A = {"a": [[3.5, 4]]}
POINTS = np.array([[3.5, 4], [40, 20], [7, 8]])
THREE = {"a": POINTS.tolist()}


def coco(*marks: dict[str, Any], images: Any = ({"id": 1, "file_name": "a.jpg"},), **more: Any) -> str:
    return json.dumps({"images": list(images), "annotations": [{"image_id": 1, "category_id": 1, **mark}
                                                               for mark in marks],
                       "categories": [{"id": 1, "name": "head"}], **more})


def labelme(*shapes: tuple[str, list[list[float]]], **more: Any) -> str:
    return json.dumps({"shapes": [{"label": "head", "points": points, "shape_type": kind} for kind, points in shapes],
                       "imageHeight": 32, "imageWidth": 48, **more})


def cvat(body: str, name: str = "a.jpg", head: str = "") -> str:
    return f'{head}<annotations><image id="0" name="{name}" width="48" height="32">{body}</image></annotations>'


def label_studio(name: str, **value: Any) -> str:
    region = {"type": "keypointlabels", "original_width": 48, "original_height": 32, "image_rotation": 0,
              "value": {"x": 3.5 / 48 * 100, "y": 12.5, "width": 0.5, "keypointlabels": ["head"], **value}}
    return json.dumps([{"data": {"image": f"/data/upload/1/0a1b2c3d-{name}"}, "annotations": [{"result": [region]}]}])


def mat(**variables: Any) -> bytes:
    return saved(scipy.io.savemat, variables)


def mat_4(points: np.ndarray) -> bytes:
    stream = io.BytesIO()
    scipy.io.savemat(stream, {"annPoints": points}, format="4")
    return stream.getvalue()


CSV = "file,x,y\na.jpg,3.5,4\n"
POINT = ("point", [[3.5, 4]])
READ: dict[str, tuple[str, dict[str, str | bytes], dict[str, list[list[float]]]]] = {
    "lines of an old Mac": ("csv", {"p.csv": CSV.replace("\n", "\r")}, A),
    "an index without a name, tabs": ("csv", {"p.tsv": "\tfile\tx\ty\n0\ta.jpg\t3.5\t4\n1\ta.jpg\t40\t20\n"},
                                      {"a": [[3.5, 4], [40, 20]]}),
    "an index without a name": ("csv", {"p.csv": ",file,x,y\n0,a.jpg,3.5,4\n"}, A),
    "UTF-16 that does not say so": ("csv", {"p.csv": CSV.encode("utf-16-le")}, A),
    "UTF-16, big-endian": ("csv", {"p.csv": CSV.encode("utf-16-be")}, A),
    "decimal commas between commas": ("csv", {"p.csv": 'file,x,y\na.jpg,"3,5",4\n'}, A),
    "quotes, a byte order mark, empty rows": (
        "csv", {"p.csv": '\ufeffsep=;\r\n"File" ; "X"; "Y"\r\n"C:\\my set\\a.jpg";"3,5"; "4"\r\n;;\r\n'}, A),
    "more columns in another order": ("csv", {"p.csv": "y,score,x,when,image\n4,0.9,3.5,noon,a.jpg\n"}, A),
    "boxes, of a car too, and a head without one": (
        "csv", {"p.csv": "image,label,x,y,width,height\na.jpg,head,1,0,6,9\na.jpg,car,9,9,3,3\na.jpg,head,40,20,,\n"},
        {"a": [[3.5, 4], [40, 20]]}),
    "heads beside the size of their image": ("csv", {"p.csv": "file,x,y,w,h\na.jpg,3.5,4,48,32\na.jpg,7,8,48,32\n"},
                                             {"a": [[3.5, 4], [7, 8]]}),
    "boxes in JSON": ("json", {"p.json": json.dumps({"b.jpg": [], "a.jpg": [
        {"x": 1, "y": 0, "width": 6, "height": "9", "class": "head"}, {"x": 9, "y": 9, "w": 3, "h": 3, "class": "car"},
        {"x": "40", "y": 20, "label": "Head"}]})}, {"a": [[3.5, 4], [40, 20]], "b": []}),
    "the rows of a table in JSON": ("json", {"a.json": json.dumps([
        {"file": "a.jpg", "x": 3.5, "y": 4}, {"file": "b.jpg", "x": 1, "y": 0, "w": 6, "h": 9, "class": "person"},
        {"file": "c.jpg", "x": None, "y": None}])}, {**A, "b": [[3.5, 4]], "c": []}),
    "rows that name the image as it was called": ("json", {"a.json": '[{"image": 7, "x": 3.5, "y": 4}]'}, A),
    "numbers as texts": ("json", {"a.json": '[["3.5", "4"], ["40", "20"]]'}, {"a": [[3.5, 4], [40, 20]]}),
    "cells of several lines": ("csv", {"p.csv": 'file,note,x,y\na.jpg,"so tall,\n1, 2, 3, 4\n5, in red",3.5,4\n'}, A),
    "an outline and no box": ("coco", {"c.json": coco(
        {"bbox": [], "segmentation": [[1, 1, 5, 1, 3, 4]]}, {"bbox": [1, 0, 6, 9]},
        {"bbox": [0, 0, 9, 9], "iscrowd": True, "segmentation": {"counts": "0", "size": [32, 48]}})}, A),
    "boxes of no size, ids of many types": ("coco", {"c.json": coco(
        {"image_id": "7", "category_id": 1.0, "bbox": [4, 4.5, 0, 0]},
        images=[{"id": 7.0, "file_name": "D:\\x\\a.jpg", "width": "48", "height": 32.0}], licenses=None)}, A),
    "no categories at all": ("coco", {"c.json": coco({"bbox": [1, 0, 6, 9], "category_id": None}, categories=[])}, A),
    "keypoints that are not seen, and a box": ("coco", {"c.json": coco(
        {"keypoints": [0, 0, 0], "bbox": [1, 0, 6, 9]})}, A),
    "cars alone, where persons are known": ("coco", {"c.json": coco(
        {"category_id": 2, "bbox": [1, 0, 6, 9]}, categories=[{"id": 1, "name": "person"}, {"id": 2, "name": "car"}])},
        {"a": []}),
    "a category that is not in the list": ("coco", {"c.json": coco({"bbox": [1, 0, 6, 9]}, {
        "category_id": 7, "bbox": [1, 1, 9, 9]})}, A),
    "the name that stands in the file": ("labelme", {"labels/a_done.json": labelme(POINT, imagePath="..\\a.jpg",
                                                                                   imageData="/9j/4AAQ")}, A),
    "a circle, and what has no place": ("labelme", {"a.json": labelme(("circle", [[3.5, 4], [9, 9]]),
                                                                      ("linestrip", [[1, 1], [2, 2]]))}, A),
    "a box that is turned": ("cvat", {"c.xml": cvat('<box label="head" xtl="1" ytl="0" xbr="7" ybr="9" rotation="33"/>'
                                                    '<mask label="head" rle="1, 2" left="1" top="1" width="3"/>')}, A),
    "XML in UTF-16": ("cvat", {"c.xml": cvat('<points label="head" points="3.5,4"/>', "set\\a.jpg",
                                             '<?xml version="1.0" encoding="utf-16"?>').encode("utf-16")}, A),
    "a name as a server keeps it": ("label_studio", {"e.json": label_studio("my_gate_1.jpg")},
                                    {"my gate (1)": [[3.5, 4]]}),
    "nobody in one, points in another": ("json", {"p.json": '{"a.jpg": [], "b.jpg": [[3.5, 4]]}'},
                                         {"a": [], "b": [[3.5, 4]]}),
    "big-endian, in Fortran's order": ("npy", {"a.npy": saved(np.save, np.asfortranarray(POINTS.astype(">f4")))},
                                       THREE),
    "half floats": ("npy", {"a.npy": saved(np.save, POINTS.astype(np.float16))}, THREE),
    "a structure in a structure": ("mat", {"a.mat": mat(data={"made": "today", "gt": {"annPoints": POINTS}})}, THREE),
    "tables put behind each other": ("csv", {"p.csv": CSV + CSV.replace("3.5,4", "40,20")},
                                     {"a": [[3.5, 4], [40, 20]]}),
    "zero bytes to the end of a block": ("csv", {"p.csv": CSV.encode() + bytes(99)}, A),
    "addresses of images": ("csv", {"p.csv": "file,x,y\nhttps://x.org/s%C3%A9/a.jpg?token=1,3.5,4\n"}, A),
    "images saved in another format since": ("csv", {"p.csv": CSV.replace(".jpg", ".PNG")}, A),
    "a box that is to be ignored": ("coco", {"c.json": coco({"bbox": [1, 0, 6, 9]}, {"bbox": [11, 9, 6, 9],
                                                                                     "ignore": 1})}, A),
    "MATLAB's version 4": ("mat", {"a.mat": mat_4(POINTS)}, THREE),
}


def test_each_is_read_as_it_was_meant(tmp_path: Path) -> None:
    wrong = []
    for number, (what, (name, files, expected)) in enumerate(READ.items()):
        root = build(tmp_path / f"mine-{number}", files, [f"{stem}.jpg" for stem in expected])
        try:
            done = convert(FORMATS[name], root, tmp_path / f"set-{number}")
            found = points_by_id(done)
            close = found.keys() == expected.keys() and all(
                np.allclose(np.reshape(found[key], (-1, 2)), np.reshape(points, (-1, 2)), atol=1e-4)
                for key, points in expected.items())
            wrong += [] if close and done.doubts == () and recognise(root) == name else [(what, found, done.doubts)]
        except InputError as error:
            wrong.append((what, str(error), ()))
    assert not wrong, "\n".join(map(str, wrong))


SHARES = [[0.2, 0.4], [0.9, 0.5]]
REFUSED: dict[str, tuple[str, dict[str, str | bytes], str]] = {
    "shares of the sides": ("csv", {"p.csv": "file,x,y\n" + "".join(f"a.jpg,{x},{y}\n" for x, y in SHARES)},
                            "they look like shares of its width and height: multiply"),
    "boxes in shares": ("coco", {"c.json": coco({"bbox": [0.8, 0.8, 0.1, 0.1]}, {"bbox": [0.9, 0.7, 0.1, 0.2]})},
                        "they look like shares of its width and height"),
    "shares, and a slip": ("npy", {"a.npy": saved(np.save, np.array([[n / 10, 0.5] for n in [*range(10), 12]]))},
                           "10 of 11 points lie within the first pixel .* multiply"),
    "boxes in shares, at the edge": ("coco", {"c.json": coco(
        {"bbox": [0, 0, 0.1, 0.1]}, {"bbox": [0.9, 0.7, 0.1, 0.2]})}, "they look like shares of its width and height"),
    "corners of boxes": ("coco", {"c.json": coco(
        {"bbox": [10, 4, 20, 12]}, {"bbox": [30, 10, 40, 20]}, {"bbox": [20, 20, 28, 30]},
        images=[{"id": 1, "file_name": "a.jpg", "width": 48, "height": 32}])},
        r"c\.json: its boxes seem to be left, top, right, bottom; .*: subtract"),
    "commas for thousands or decimals": ("csv", {"p.csv": 'file,x,y\na.jpg,"1,234",4\na.jpg,40,20\n'},
                                         r"p\.csv: '1,234' may be 1234 or 1\.234; write numbers without"),
    "points for thousands or decimals": ("csv", {"p.csv": "file;x;y\na.jpg;1.234;7\na.jpg;40;20\n"},
                                         r"p\.csv: '1\.234' may be 1234 or 1\.234; write numbers without"),
    "a quote that is not closed": ("csv", {"p.tsv": 'file\tx\ty\tnote\na.jpg\t3\t4\t"tall man\na.jpg\t5\t6\tok\n'},
                                   r"the row 'a\.jpg.*tall man' opens a quote that is not closed before the next row"),
    "a quote that the next one closes": (
        "csv", {"p.csv": 'file,note,x,y\na.jpg,"so\nit is",3,4\na.jpg,"tall,5,6\nb.jpg,"small",,\nb.jpg,,7,8\n'},
        r"""the row 'a\.jpg,"tall,5,6' opens a quote"""),
    "a quote that is not closed for long": ("csv", {"p.csv": 'file,x,y\na.jpg,3,4\n"a.jpg,5,6\n' + CSV * 9999},
                                            r"""larger than field limit .* in the row '"a\.jpg,5,6'; see whether"""),
    "decimal commas that part columns": ("csv", {"p.csv": "file,x,y\na.jpg,3,5,4,0\n"},
                                         r"the row 'a\.jpg,3,5,4,0' has 5 cells, and the heading 3; put quotes round"),
    "counts of images without a heading": ("csv", {"p.csv": "".join(f"{n}.jpg,{n},{n + 1}\n" for n in range(5))},
                                           "it has no heading, and one row for each of 5 images; if"),
    "a workbook of an old Excel": ("csv", {"p.csv": b"\xd0\xcf\x11\xe0" + bytes(40)}, "a workbook.* save it as .csv"),
    "names of other images": ("csv", {"p.csv": CSV.replace("a.", "7.")},
                              "names '7.jpg': the image is missing; those in the folder are called as 'a.jpg'"),
    "decimal commas in CVAT": ("cvat", {"c.xml": cvat('<points label="head" points="3,5,4"/>')},
                               "not a pair of numbers"),
    "y before x": ("npy", {"a.npy": saved(np.save, np.array([[4, 40], [20, 46], [9, 35], [7, 41], [8, 39.5]]))},
                   "with x and y swapped they fit: swap the two columns"),
    "an image twice in JSON": ("json", {"p.json": '{"a.jpg": [[3, 4]], "a.jpg": [[5, 6], [7, 8]]}'},
                               r"p\.json: names 'a\.jpg' twice in one object; keep one"),
    "an image in two ways in JSON": ("json", {"p.json": '{"a.jpg": [[3, 4]], "./a.jpg": [{"x": 5, "y": 6, "w": 0}]}'},
                                     r"both label '\./a\.jpg'; keep one"),
    "points of another tool": ("csv", {"a.txt": "3 4"}, "it holds 1 .jpg, 1 .txt; read are csv, .*bring your own into"),
    "a column twice": ("csv", {"p.csv": "file,x,x,y\na.jpg,3,9,4\n"}, r"p\.csv: the column x is there twice; keep one"),
    "nothing but slips": ("csv", {"p.csv": "file,x,y\na.jpg,3px,4px\na.jpg,\"(3, 4)\",\n"},
                          "2 of 2 heads cannot be taken, too many for slips"),
    "a trailing comma": ("json", {"a.json": "[[3, 4],]"}, r"a\.json: not JSON: .*; mend it there, or export it again"),
    "a workbook": ("csv", {"p.csv": b"PK\x03\x04" + bytes(40)}, r"p\.csv: packed, or a workbook.* save it as \.csv"),
    "no heading and four columns": ("csv", {"p.csv": "a.jpg,3,4,5\n"}, "the first row must name the columns"),
    "JSON of an old Windows": ("coco", {"c.json": coco({}, images=[{"id": 1, "file_name": "Tor-\xfc.jpg"}]).replace(
        "\\u00fc", "\xfc").encode("cp1252")}, r"c\.json: not JSON in UTF-8, as all JSON is; save it"),
    "an image twice": ("coco", {"c.json": coco(images=[{"id": 1, "file_name": "a.jpg"},
                                                       {"id": 1.0, "file_name": "b.jpg"}])},
                       "or its id, twice; keep one"),
    "outlines alone": ("coco", {"c.json": coco({"bbox": [], "segmentation": [[1, 1, 5, 1, 3, 4]]})},
                       r"c\.json: the heads on 'a\.jpg' cannot be taken: 1 marks 'head' have no single place"),
    "CVAT for video": ("cvat", {"c.xml": '<annotations><track id="0" label="head"><box frame="0" outside="1" xtl="1" '
                                'ytl="1" xbr="3" ybr="3"/></track></annotations>'}, "export it as CVAT for images 1.1"),
    "an image that is not there": ("cvat", {"c.xml": cvat("", "gone.jpg")}, "names 'gone.jpg': the image is missing"),
    "JSON-MIN": ("label_studio", {"e.json": '[{"image": "/data/upload/a.jpg", "kp": [{"x": 1, "y": 2}]}]'},
                 "export it as JSON, not as JSON-MIN"),
    "numbers in rows": ("npy", {"a.npy": saved(np.save, np.ones((2, 50)))}, "transpose it"),
    "x and y apart": ("mat", {"a.mat": mat(x=np.ones((2, 1)), y=np.ones((2, 1)))},
                      "it holds x of 2 x 1, y of 2 x 1; read are"),
    "sparse numbers": ("mat", {"a.mat": mat(annPoints=scipy.sparse.csc_matrix(POINTS))},
                       "it holds annPoints, a sparse or complex array, .* save it as full"),
    "texts in rows": ("json", {"a.json": '[["a", "b", "c", "d"], ["e", "f", "g", "h"]]'}, r"of shape \(2, 4\); --skip"),
    "numbers in rows, MATLAB": ("mat", {"a.mat": mat(points=np.ones((2, 50)))},
                                "it holds points of 2 x 50; .*transpose"),
    "pickled objects": ("npy", {"a.npy": saved(np.save, np.array([{"x": 3}], object))}, "it holds Python's objects"),
    "several arrays in one": ("npy", {"a.npy": saved(np.savez, POINTS)}, "packed, .* unpack it"),
    "points in a third dimension": ("npy", {"a.npy": saved(np.save, POINTS[:, None])}, r"of shape \(3, 1, 2\)"),
    "lists of unequal length": ("json", {"a.json": "[[3, 4], [5]]"}, "got lists of unequal length"),
    "a file of nothing": ("labelme", {"a.json": b""}, r"a\.json: the file is empty"),
    "labels in an archive": ("csv", {"labels.zip": b"PK\x03\x04"},
                             r"it holds 1 \.jpg, 1 \.zip \(unpack what is packed\)"),
}


DOUBTFUL: dict[str, tuple[str, dict[str, str | bytes], str]] = {
    "a count beside the points": ("mat", {"a.mat": mat(annPoints=POINTS, count=5)}, "a.mat.* says 5, but 3 points"),
    "two counts, of which one is wrong": ("json", {"a.json": '{"points": [[3, 4]], "count": 1, "human_num": 2}'},
                                          "says 2, but 1 points are there"),
    "a row of one number among others": ("json", {"a.json": "[[3, 4], [5], [6, 7]]"}, "point 2 of 3, .*not a pair"),
    "a slip among others": ("csv", {"p.csv": "file,x,y\na.jpg,3,4\na.jpg,3px,4\n"}, "not a pair of numbers"),
}


def test_each_is_read_and_told(tmp_path: Path) -> None:
    for number, (name, files, words) in enumerate(DOUBTFUL.values()):
        done = convert(FORMATS[name], build(tmp_path / f"mine-{number}", files, ["a.jpg"]), tmp_path / f"set-{number}")
        (doubt,) = done.doubts
        assert re.search(words, doubt["reason"]), doubt


def test_each_is_refused_with_the_likely_cause(tmp_path: Path) -> None:
    for number, (what, (name, files, words)) in enumerate(REFUSED.items()):
        root = build(tmp_path / f"mine-{number}", files, ["a.jpg"])
        with pytest.raises(InputError, match=words) as error:
            convert(FORMATS[name], root, tmp_path / f"set-{number}")
        assert "\n" not in str(error.value) and not (tmp_path / f"set-{number}").exists(), what


@pytest.mark.parametrize(("rotation", "size"), [(3, (32, 48)), (2, (32, 48)), (6, (40, 40))])
def test_a_size_does_not_tell_whether_labels_were_made_on_a_turned_image(tmp_path: Path, rotation: int,
                                                                        size: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[274] = rotation
    root = build(tmp_path / "mine", {"a.json": labelme(POINT, imageHeight=size[0], imageWidth=size[1])}, {})
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(root / "a.jpg", exif=exif)
    done = convert(FORMATS["labelme"], root, tmp_path / "set")
    assert points_by_id(done) == A and done.manifest.statistics["num_turned_images"] == 1


def test_sets_in_folders_of_another_spelling_and_in_a_folder_of_their_own(tmp_path: Path) -> None:
    """As mirrors rename them, and as an archive leaves them that is unpacked into a folder of its name."""
    made: tuple[tuple[str, Any, tuple[Any, ...], dict[str, str]], ...] = (
        ("shanghaitech", Shanghai, (1, [[3, 4]]), {
            "train_data/images": "Images", "train_data/ground_truth": "Ground-Truth", "train_data": "Train Data"}),
        ("nwpu_crowd", Nwpu, ("0001", [[3, 4]]), {"images": "Images", "train.txt": "Train.txt"}),
        ("jhu_crowd", Jhu, ("0001", [[3, 4]]), {"train/images": "IMAGES", "train/gt": "GT", "train": "Train"}),
        ("worldexpo10", WorldExpo, ("100140_1", [[3, 4]]), {"train_frame": "Train-Frame",
                                                            "train_label": "train-label"}),
        ("wider_face", Wider, ("event/1.jpg", [[1, 2, 5, 5]]), {"WIDER_train": "wider_train",
                                                                "wider_face_split": "WIDER_face_split"}))
    for name, kind, given, renamed in made:
        root = tmp_path / name / "download" / "part_B_final"
        kind(root).add(*given)
        for old, new in renamed.items():
            (root / old).rename((root / old).with_name(new))
        (root.parent / "__MACOSX").mkdir()
        done = convert(FORMATS[name], root.parent.parent, tmp_path / f"set-{name}")
        assert decode(*ShardReader(done.url).read(0)).points.tolist() == [[3, 4]], name
    with pytest.raises(InputError, match=r"no JHU-Crowd\+\+ data of the split 'val': .*download/val/images is missing"):
        convert(FORMATS["jhu_crowd"], tmp_path / "jhu_crowd" / "download", tmp_path / "none", split="val")


def wide(root: Path, name: str, size: tuple[int, int] = (8, 2400)) -> None:
    root.mkdir(exist_ok=True, parents=True)
    Image.new("RGB", size[::-1]).save(root / name)


@pytest.mark.parametrize("cell", ['"1,203.5"', '"1.203,5"', "1203.5", "1\u202f203.5", "1'203.5", '"1 203,5"'])
def test_signs_between_thousands_are_known_by_the_decimals(tmp_path: Path, cell: str) -> None:
    wide(tmp_path / "in", "a.png", (40, 2400))
    (tmp_path / "in" / "p.csv").write_text(f"file,x,y\na.png,{cell},4\na.png,40,20\n")
    assert points_by_id(convert(FORMATS["csv"], tmp_path / "in", tmp_path / "set")) == {"a": [[1203.5, 4], [40, 20]]}


def test_points_part_thousands_where_commas_part_decimals(tmp_path: Path) -> None:
    wide(tmp_path / "in", "a.png", (40, 2400))
    (tmp_path / "in" / "p.csv").write_text("file;x;y\na.png;1.203;4,5\n")
    assert points_by_id(convert(FORMATS["csv"], tmp_path / "in", tmp_path / "set")) == {"a": [[1203, 4.5]]}


def test_corners_that_became_centres_are_counted(tmp_path: Path) -> None:
    table = "file,label,x,y,w,h\na.jpg,head,3,4,10,12\na.jpg,head,9,9,0,0\na.jpg,car,9,9,5,5\n"
    done = convert(FORMATS["csv"], build(tmp_path / "in", {"p.csv": table}, ["a.jpg"]), tmp_path / "set")
    assert points_by_id(done) == {"a": [[7.5, 9.5], [9, 9]]}
    assert "1 heads put into the middle of their boxes, as x and y beside a width and height" in done.summary()


def test_labels_of_smaller_copies_and_swapped_columns_are_told_of_a_whole_set(tmp_path: Path) -> None:
    """Neither moves a single point out of its image far enough to stop anything."""
    rng = np.random.default_rng(0)
    for name, size, spread, words in (
            ("copies", (32, 48), [24, 16], r"(49|50) % of width and height, from the upper left, hold all heads"),
            ("swapped", (480, 500), [480, 500], r"\d+ images whose points beyond them fit with x and y swapped")):
        rows = [f"{n}.png,{x:.3f},{y:.3f}" for n in range(12) for x, y in rng.uniform(0, spread, (12, 2))]
        for number in range(12):
            wide(tmp_path / name, f"{number}.png", size)
        (tmp_path / name / "p.csv").write_text("\n".join(["file,x,y", *rows]))
        done = convert(FORMATS["csv"], tmp_path / name, tmp_path / f"set-{name}")
        assert re.search(words, done.summary()), done.summary()
        told = {"copies": "num_swapped_images", "swapped": "heads_within_percent"}[name]
        assert told not in done.manifest.statistics
