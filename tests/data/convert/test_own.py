"""One's own labels as tools write them: a table, COCO, LabelMe, CVAT, Label Studio, plain points; what a folder of
them is recognised as.
"""

from __future__ import annotations

import io
import json
import unicodedata
from urllib.parse import quote

import numpy as np
import pytest
import scipy.io
from PIL import Image

from crowddist.data.convert.base import convert
from crowddist.data.convert.formats import FORMATS
from crowddist.data.convert.layout import in_split
from crowddist.data.convert.recognise import recognise
from crowddist.data.shards import ShardReader, decode
from crowddist.errors import InputError
from tests.data.convert.conftest import pixels

HEADS = {"gate 1.jpg": [[3.5, 4], [40, 20]], "yard/ü.jpg": [], "yard/2.png": [[7, 8.25]]}


def table(heads):
    rows = [f"{name},{x},{y}" for name, points in heads.items() for x, y in points or [("", "")]]
    return {"points.csv": "\n".join(["file,x,y", *rows])}


def coco(heads, *, boxes=False, size=(32, 48)):
    places = [(number, point) for number, points in enumerate(heads.values()) for point in points]
    marks = [{"id": index, "image_id": number, "category_id": 1,
              **({"bbox": [x - 2.5, y - 3.5, 6, 8]} if boxes else {"keypoints": [x, y, 2], "num_keypoints": 1})}
             for index, (number, (x, y)) in enumerate(places)]
    images = [{"id": number, "file_name": name, "height": size[0], "width": size[1]}
              for number, name in enumerate(heads)]
    return {"labels/all.json": json.dumps({"images": images, "annotations": marks,
                                           "categories": [{"id": 1, "name": "head", "keypoints": ["head"]}]})}


def labelme(heads, *, size=(32, 48)):
    return {f"{name.rpartition('.')[0]}.json": json.dumps({
        "imagePath": name.rpartition("/")[2], "imageHeight": size[0], "imageWidth": size[1],
        "shapes": [{"label": "head", "points": [point], "shape_type": "point"} for point in points]})
        for name, points in heads.items()}


def cvat(heads, *, size=(32, 48)):
    images = "".join(f'<image id="{number}" name="{name}" width="{size[1]}" height="{size[0]}">' + "".join(
        f'<points label="head" points="{x},{y}"></points>' for x, y in points) + "</image>"
        for number, (name, points) in enumerate(heads.items()))
    return {"annotations.xml": f'<?xml version="1.0" encoding="utf-8"?><annotations><meta/>{images}</annotations>'}


def label_studio(heads, *, size=(32, 48)):
    def region(x, y):
        return {"type": "keypointlabels", "original_width": size[1], "original_height": size[0], "image_rotation": 0,
                "value": {"x": x / size[1] * 100, "y": y / size[0] * 100, "width": 1, "keypointlabels": ["head"]}}

    tasks = [{"data": {"image": f"/data/upload/3/0a1b2c3d-{quote(name.rpartition('/')[2])}"},
              "annotations": [{"was_cancelled": False, "result": [region(*point) for point in points]}]}
             for name, points in heads.items()]
    return {"export.json": json.dumps(tasks)}


def plain_json(heads):
    return {"points.json": json.dumps({name: {"points": points, "count": len(points)}
                                       for name, points in heads.items()})}


def arrays(heads):
    return {f"{name.rpartition('.')[0]}.npy": saved(np.save, np.array(points).reshape(-1, 2))
            for name, points in heads.items()}


def matlab(heads):
    return {f"{name.rpartition('.')[0]}_ann.mat": saved(scipy.io.savemat, {"annPoints": np.array(points)})
            for name, points in heads.items()}


def saved(save, value):
    stream = io.BytesIO()
    save(stream, value)
    return stream.getvalue()


TOOLS = {"csv": table, "coco": coco, "labelme": labelme, "cvat": cvat, "label_studio": label_studio, "json": plain_json,
         "npy": arrays, "mat": matlab}


def build(root, files, heads=HEADS):
    for number, name in enumerate(heads):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels((32, 48), number)).save(root / name)
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def points_by_id(done):
    samples = [decode(*ShardReader(done.url).read(index)) for index in range(done.manifest.num_samples)]
    return {sample.scene["id"]: sample.points.tolist() for sample in samples}


EXPECTED = {name.rpartition(".")[0]: points for name, points in HEADS.items()}


@pytest.mark.parametrize("name", TOOLS)
def test_labels_come_back_as_marked(tmp_path, name):
    root = build(tmp_path / "mine", TOOLS[name](HEADS))
    assert recognise(root) == name
    done = convert(FORMATS[name], root, tmp_path / "set")
    assert points_by_id(done) == EXPECTED and done.doubts == ()
    assert done.manifest.name == "mine" and done.manifest.labelled
    train = convert(FORMATS[name], root, tmp_path / "train", split="train")
    assert points_by_id(train) == {image: EXPECTED[image] for image in EXPECTED if in_split(image, "train")}
    assert train.manifest.num_samples == 2


@pytest.mark.parametrize("name", TOOLS)
def test_unlabelled_sets_open_no_labels(tmp_path, name):
    root = build(tmp_path / "mine", dict.fromkeys(TOOLS[name](HEADS), "damaged"))
    done = convert(FORMATS[name], root, tmp_path / "set", unlabelled=True)
    assert done.manifest.num_samples == 3 and not done.manifest.labelled


def test_the_folder_format_says_that_it_reads_no_labels(tmp_path):
    done = convert(FORMATS["folder"], build(tmp_path / "mine", cvat(HEADS)), tmp_path / "set")
    assert not done.manifest.labelled
    assert "1 files not read that may be labels; csv (columns file, x, y), coco, labelme, cvat, " in done.summary()


@pytest.mark.parametrize("text", [
    "x;Y;File;note\n3,5;4;a.jpg;tall\n40;20;a.jpg;\n", "image\tx\ty\na.jpg\t3.5\t4\na.jpg\t40\t20\t\n\n",
    "a.jpg,3.5,4\na.jpg,40,20", "a.jpg;3,5;4,0\na.jpg;40;20",
    '\ufefffilename,x,y\r\n"a.jpg"," 3.5 ",4\r\n/a.jpg,40,20\r\n',
    "file_name,class,x,y\nsomewhere\\a.jpg,1,3.5,4\nsomewhere\\a.jpg,1,40,20"])
def test_tables_as_spreadsheets_write_them(tmp_path, text):
    root = build(tmp_path / "mine", {"points.csv": text}, {"a.jpg": []})
    assert points_by_id(convert(FORMATS["csv"], root, tmp_path / "set")) == {"a": [[3.5, 4], [40, 20]]}


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_name_is_found_however_its_accents_are_written(tmp_path, form):
    name = unicodedata.normalize(form, "é.jpg")
    other = unicodedata.normalize("NFC" if form == "NFD" else "NFD", "é.jpg")
    root = build(tmp_path / "mine", {"p.csv": f"file,x,y\n{other},3,4\n"}, {name: []})
    assert list(points_by_id(convert(FORMATS["csv"], root, tmp_path / "set")).values()) == [[[3, 4]]]


def test_what_is_no_number_or_beyond_the_image_in_a_table(tmp_path):
    rows = "file,x,y\na.jpg,3,4\na.jpg,five,6\na.jpg,7\na.jpg,99,4\n"
    root = build(tmp_path / "mine", {"p.csv": rows}, {"a.jpg": []})
    done = convert(FORMATS["csv"], root, tmp_path / "set")
    assert points_by_id(done) == {"a": [[3, 4]]}
    assert {entry["kind"]: entry["number"] for entry in done.doubts} == {"num_invalid_points": 2,
                                                                         "num_outside_points": 1}
    assert all(entry["file"] == "a.jpg" for entry in done.doubts)


def test_images_that_nobody_labelled_and_labels_without_an_image(tmp_path):
    root = build(tmp_path / "mine", {"p.csv": "file,x,y\na.jpg,3,4\n"}, {"a.jpg": [], "b.jpg": []})
    (root / "results.csv").write_text("name,count\na.jpg,3\n")
    done = convert(FORMATS["csv"], root, tmp_path / "set")
    assert points_by_id(done) == {"a": [[3, 4]]}
    assert "1 images without labels left out, 1 other files" in done.summary()
    (root / "p.csv").write_text("file,x,y\na.jpg,3,4\n../secret.jpg,5,6\n")
    Image.fromarray(pixels((32, 48))).save(tmp_path / "secret.jpg")
    with pytest.raises(InputError, match=r"p\.csv: names '\.\./secret\.jpg': the image is missing"):
        convert(FORMATS["csv"], root, tmp_path / "other")
    assert convert(FORMATS["csv"], root, tmp_path / "other", skip_bad=True).manifest.num_samples == 1


@pytest.mark.parametrize(("files", "reason"), [
    ({"p.csv": "file,x,y\n3.png,1,2\n"}, "several images have the name, write their paths"),
    ({"p.csv": "file,x,y\na/3.png,1,2\na/3,5,6\n"}, "it is labelled twice"),
    ({"p.csv": "file,x,y\na/3.png,1,2\n,5,6\n"}, "a row has a place but no file"),
    ({"p.csv": "file,x,y\na/3.png,1,2\n", "q.csv": "a/3.png,1,2\n"}, r"q\.csv and .*p\.csv both label 'a/3\.png'"),
    ({"p.csv": "name,count\na,3\n"}, "the first row must name the columns file, x and y, got 'name,count'"),
    ({"p.csv": "\n\n"}, "the file is empty"),
    ({}, r"no \.csv or \.tsv with labels in .*mine: it holds the folders a, b")])
def test_tables_that_do_not_tell_are_explained(tmp_path, files, reason):
    root = build(tmp_path / "mine", files, {"a/3.png": [], "b/3.png": []})
    with pytest.raises(InputError, match=reason) as caught:
        convert(FORMATS["csv"], root, tmp_path / "set")
    assert "\n" not in str(caught.value)


def test_boxes_of_coco_stand_for_their_centres_and_what_is_no_head_is_left_out(tmp_path):
    record = json.loads(coco(HEADS, boxes=True)["labels/all.json"])
    record["categories"].append({"id": 2, "name": "car"})
    record["annotations"] += [{"image_id": 0, "category_id": 2, "bbox": [0, 0, 9, 9]},
                              {"image_id": 0, "category_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 1},
                              {"image_id": 0, "category_id": 1}]
    root = build(tmp_path / "mine", {"c.json": json.dumps(record), "package.json": '{"name": "site"}'})
    done = convert(FORMATS["coco"], root, tmp_path / "set")
    assert points_by_id(done) == EXPECTED
    assert ("3 marks left out: of another class, shape or annotator, or without a place, 1 other files"
            in done.summary())


def test_the_keypoint_of_the_head_is_taken_and_else_the_box(tmp_path):
    names = ["left_eye", "nose"]
    marks = [{"image_id": 5, "category_id": 1, "keypoints": [9, 9, 2, 3, 4, 1], "bbox": [1, 1, 9, 9]},
             {"image_id": 5, "category_id": 1, "keypoints": [9, 9, 2, 0, 0, 0], "bbox": [20, 10, 5, 5]}]
    record = {"images": [{"id": 5, "file_name": "a.jpg"}], "annotations": marks,
              "categories": [{"id": 1, "name": "person", "keypoints": names}]}
    root = build(tmp_path / "mine", {"c.json": json.dumps(record)}, {"a.jpg": []})
    assert points_by_id(convert(FORMATS["coco"], root, tmp_path / "set")) == {"a": [[3, 4], [22, 12]]}


def test_shapes_of_labelme_and_of_cvat(tmp_path):
    shapes = [{"label": "Head", "points": [[3, 4], [7, 9]], "shape_type": "rectangle"},
              {"label": "Head", "points": [[20, 10], [22, 10]], "shape_type": "circle"},
              {"label": "Head", "points": [[1, 1], [2, 2], [3, 1]], "shape_type": "polygon"}]
    root = build(tmp_path / "mine", {"a.json": json.dumps({"shapes": shapes, "imageHeight": 32, "imageWidth": 48})},
                 {"a.jpg": []})
    done = convert(FORMATS["labelme"], root, tmp_path / "a")
    assert points_by_id(done) == {"a": [[4.5, 6], [20, 10]]} and "1 marks left out" in done.summary()
    xml = ('<annotations><image name="a.jpg"><box label="person" xtl="3" ytl="4" xbr="7" ybr="9"/>'
           '<points label="person" points="20,10;30,11"/><polygon label="person" points="1,1;2,2;3,1"/>'
           '<tag label="night"/></image></annotations>')
    done = convert(FORMATS["cvat"], build(tmp_path / "other", {"c.xml": xml}, {"a.jpg": []}), tmp_path / "b")
    assert points_by_id(done) == {"a": [[4.5, 6], [20, 10], [30, 11]]} and "1 marks left out" in done.summary()


@pytest.mark.parametrize(("classes", "taken"), [(["head", "person"], 1), (["Person", "car"], 1), (["1"], 1),
                                                (["car", "tree"], 0)])
def test_which_classes_are_heads(tmp_path, classes, taken):
    shapes = [{"label": kind, "points": [[3 + number, 4]], "shape_type": "point"}
              for number, kind in enumerate(classes)]
    root = build(tmp_path / "mine", {"a.json": json.dumps({"shapes": shapes})}, {"a.jpg": []})
    if taken:
        assert points_by_id(convert(FORMATS["labelme"], root, tmp_path / "set")) == {"a": [[3, 4]]}
    else:
        with pytest.raises(InputError, match="the classes 'car', 'tree' do not tell which are heads; call these head"):
            convert(FORMATS["labelme"], root, tmp_path / "set")


def turned(root):
    """`a.jpg` with a rotation tag that sets it upright, 48 high and 32 wide."""
    exif = Image.Exif()
    exif[0x0112] = 6
    root.mkdir(parents=True)
    Image.fromarray(pixels((32, 48))).save(root / "a.jpg", exif=exif)
    return root


@pytest.mark.parametrize("tool", [coco, labelme, cvat, label_studio])
@pytest.mark.parametrize(("size", "shape"), [((48, 32), (48, 32)), ((32, 48), (32, 48))])
def test_the_size_that_was_labelled_says_which_way_up_an_image_was(tmp_path, tool, size, shape):
    root = turned(tmp_path / "mine")
    for name, text in tool({"a.jpg": [[20, 30]]}, size=size).items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    done = convert(FORMATS[next(key for key, made in TOOLS.items() if made is tool)], root, tmp_path / "set")
    sample = decode(*ShardReader(done.url).read(0))
    assert "num_rotation_tags" not in done.manifest.statistics, "its labels say which way it lay"
    assert sample.image.shape[:2] == shape and sample.points.tolist() == [[20, 30]]


def test_a_table_is_of_the_upright_image(tmp_path):
    root = turned(tmp_path / "mine")
    (root / "p.csv").write_text("file,x,y\na.jpg,20,45\n")
    done = convert(FORMATS["csv"], root, tmp_path / "set")
    sample = decode(*ShardReader(done.url).read(0))
    assert "num_rotation_tags" not in done.manifest.statistics
    assert sample.image.shape[:2] == (48, 32) and sample.points.tolist() == [[20, 45]]


def test_what_else_the_folder_holds_is_said_and_labels_are_not_among_it(tmp_path):
    root = build(tmp_path / "mine", table(HEADS) | {"other.csv": "name\nx\n", "film.avi": b"RIFF0000AVI ",
                                                    "@eaDir/gate 1.jpg": b"a preview"})
    done = convert(FORMATS["csv"], root, tmp_path / "set")
    assert done.notes == ("mine: 3 images: 1 directly in it, 2 in yard", "mine: 1 other files: 1 AVI",
                          "mine: left out, previews or deleted files: @eaDir")
    assert done.manifest.statistics["num_other_files"] == 1


def test_labels_of_an_image_of_another_size_are_refused(tmp_path):
    root = build(tmp_path / "mine", coco(HEADS, size=(64, 96)))
    with pytest.raises(InputError, match=r"all\.json \(gate 1\): labelled on an image of 96 x 64 px, but .*gate 1\.jpg "
                                         r"has 48 x 32 px; give the image that was labelled, or scale the labels"):
        convert(FORMATS["coco"], root, tmp_path / "set")


BAD = {
    "csv": [b"file,x,y\na.jpg,1\x00,2\n" + b'"' * 3, b"\xff\xfe\x00a"],
    "coco": [b"{", b"[]", b'{"images": 1, "annotations": []}', b'{"images": [1], "annotations": []}',
             b'{"images": [{"id": 1}], "annotations": []}', b'{"images": [], "annotations": [{"image_id": 1}]}',
             b'{"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}], "annotations": []}',
             b'{"images": [], "annotations": [], "categories": {"1": "head"}}', b'{"points": []}'],
    "labelme": [b"[" * 100_000, b'{"shapes": {}}', b'{"shapes": [[1]]}', b'{"version": "5"}'],
    "label_studio": [b"{", b"[]", b"{}", b"[1]", b'[{"image": "/a.jpg", "k": []}]', b'[{"data": {}, "annotations": 1}]',
                     b'[{"data": {"text": "a"}, "annotations": [{"result": []}]}]',
                     b'[{"data": {"image": "a.jpg"}, "annotations": [{"result": 3}]}]',
                     b'[{"data": {"image": "a.jpg"}, "annotations": [{"result": [{"image_rotation": 90}]}]}]',
                     b'[{"data": {"image": "a.jpg"}, "annotations": []}]'],
    "json": [b"{", b"3", b"{}", b"[3]", b'{"a": 1}', b"[[1, 2, 3, 4]]", b'[["1", "2"]]', b"[[1, 2], [3]]",
             b'{"points": null}', b'{"a.jpg": [[1, 2]], "b.jpg": 3}'],
    "npy": [b"PK", b"\x93NUMPY\x01\x00", saved(np.save, np.ones((3, 4))), saved(np.save, np.ones(3)),
            saved(np.save, np.array([["1", "2"]])), saved(np.save, np.array([{}, 1], object)),
            saved(np.save, np.ones((1, 2))).replace(b"(1, 2)", b"(1 << 40, 2)")],
    "mat": [b"text", saved(scipy.io.savemat, {"a": np.ones((3, 4))}), saved(scipy.io.savemat, {"a": "text"}),
            saved(scipy.io.savemat, {"a": np.ones((3, 2)), "b": np.ones((3, 2))}),
            saved(scipy.io.savemat, {"image_info": {"points": np.ones((3, 2))}})],
    "cvat": [b"<annotations>", b"<a/>", b"no", b"<!DOCTYPE a [<!ENTITY b 'c'>]><annotations>&b;</annotations>",
             b'<?xml version="1.0" encoding="klingon"?><annotations/>', b"<annotations><image/><image/></annotations>"],
}


@pytest.mark.parametrize(("name", "data"), [(name, data) for name, files in BAD.items() for data in files])
def test_files_that_hold_no_labels_are_named(tmp_path, name, data):
    suffix = {"cvat": "xml"}.get(name, name if name in ("csv", "npy", "mat") else "json")
    root = build(tmp_path / "mine", {f"z.{suffix}": data}, {"a.jpg": []})
    with pytest.raises(InputError, match=rf"z\.{suffix}: ") as caught:
        convert(FORMATS[name], root, tmp_path / "set")
    assert "\n" not in str(caught.value)


def test_texts_that_grow_are_not_read(tmp_path):
    grown = "".join(f"<!ENTITY l{n} '{f'&l{n - 1};' * 10}'>" for n in range(1, 12))
    bomb = (f"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY l0 'x'>{grown}]>"
            "<annotations><image name='&l11;'/></annotations>")
    for number, text in enumerate((bomb.encode(), bomb.encode("utf-16"))):
        root = build(tmp_path / str(number), {"a.xml": text}, {"a.jpg": []})
        with pytest.raises(InputError, match=r"a\.xml: not CVAT's XML: it declares a document type"):
            convert(FORMATS["cvat"], root, tmp_path / f"set-{number}")


@pytest.mark.parametrize("files", [{"a.txt": "3 4\n"}, {"via.json": '{"a.jpg": {"filename": "a.jpg"}}'}, {}])
def test_labels_that_are_not_read_are_told_what_is(tmp_path, files):
    root = build(tmp_path / "mine", files, {"a.jpg": []})
    with pytest.raises(InputError, match=r"no labels that are read in .*: it holds 1 \.jpg.*; read are gcc, .*, csv, "
                                         r"coco, labelme, cvat, label_studio, json, npy, mat: bring your own into a "
                                         r"\.csv with the columns file, x"):
        recognise(root)


def test_public_sets_are_recognised_by_what_they_hold(tmp_path, shanghai, nwpu, jhu):
    shanghai.add(1, [[3, 4]])
    nwpu.add("0001", [[3, 4]])
    jhu.add("0001", [[3, 4]])
    assert [recognise(built.root) for built in (shanghai, nwpu, jhu)] == ["shanghaitech", "nwpu_crowd", "jhu_crowd"]


def test_points_beyond_an_image_are_listed_at_it(tmp_path):
    heads = {name: [*points, [-9, 4]] for name, points in HEADS.items()}
    for name, tool in TOOLS.items():
        done = convert(FORMATS[name], build(tmp_path / name, tool(heads)), tmp_path / f"set-{name}")
        assert points_by_id(done) == EXPECTED
        assert [entry["file"] for entry in done.doubts] == sorted(HEADS)
        assert np.sum([entry["number"] for entry in done.doubts]) == 3
