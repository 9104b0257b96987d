"""Which image labels of one's own belong to, and what the formats' files hold besides plain points."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import scipy.io
from PIL import Image

from crowddist.data.convert.base import convert
from crowddist.data.convert.formats import FORMATS
from crowddist.data.convert.recognise import recognise
from crowddist.errors import InputError
from tests.data.convert.test_own import TOOLS, build, points_by_id, saved


def converted(tmp_path, name, files, images=("a.jpg",), **options):
    root = build(tmp_path / "mine", files, dict.fromkeys(images))
    return convert(FORMATS[name], root, tmp_path / "set", **options)


def rows(**points):
    return "\n".join(["file,x,y", *(f"{name},{x},{y}" for name, (x, y) in points.items())])


@pytest.mark.parametrize(("place", "names", "images"), [
    ("p.csv", ("a.jpg", "b/a.jpg"), ("a.jpg", "b/a.jpg")),
    ("labels/p.csv", ("cam1/a.jpg", "cam2/a.jpg"), ("images/cam1/a.jpg", "images/cam2/a.jpg")),
    ("p.csv", ("/home/me/cam1/a.jpg", "C:\\set\\cam2\\a.jpg"), ("cam1/a.jpg", "cam2/a.jpg")),
    ("labels/p.csv", ("../x/a.jpg", "../y/a.jpg"), ("x/a.jpg", "y/a.jpg")),
    ("p.csv", ("A.JPG", "b.jpg"), ("a.jpg", "B.jpg")),
    ("p.csv", ("B.jpg", "b.jpg"), ("B.jpg", "b.jpg")),
    ("p.csv", ("mine/a.jpg", "mine/b/a.jpg"), ("a.jpg", "b/a.jpg")),  # the folder is called mine
    ("p.csv", ("/home/me/Mine/a", "/home/me/Mine/b/a"), ("a.jpg", "b/a.jpg")),
    ("p.csv", ("x/mine/a.jpg", "a.jpg"), ("mine/a.jpg", "a.jpg"))])
def test_an_image_is_found_by_as_much_of_its_path_as_the_labels_give(tmp_path, place, names, images):
    table = f"file,x,y\n{names[0]},1,2\n{names[1]},3,4\n"
    done = converted(tmp_path, "csv", {place: table}, images)
    assert points_by_id(done) == {images[0].rpartition(".")[0]: [[1, 2]], images[1].rpartition(".")[0]: [[3, 4]]}


def test_labels_of_a_missing_image_do_not_take_the_place_of_others(tmp_path):
    table = "file,x,y\ncam3/a.jpg,9,9\ncam1/a.jpg,1,2\n"
    done = converted(tmp_path, "csv", {"p.csv": table}, ["cam1/a.jpg"], skip_bad=True)
    assert points_by_id(done) == {"cam1/a": [[1, 2]]} and "cam3" in done.skipped[0]["reason"]


def test_of_images_of_one_name_the_nearest_to_the_labels_is_meant(tmp_path):
    files = {f"{part}/labels/1.json": f"[[{x}, 2]]" for part, x in (("train", 3), ("val", 5))}
    done = converted(tmp_path, "json", files, ["train/images/1.jpg", "val/images/1.jpg"])
    assert points_by_id(done) == {"train/images/1": [[3, 2]], "val/images/1": [[5, 2]]}


def test_images_that_differ_in_their_ending_alone_are_both_taken(tmp_path):
    done = converted(tmp_path, "csv", {"p.csv": "file,x,y\na.jpg,1,2\na.png,3,4\n"}, ["a.jpg", "a.png"])
    assert points_by_id(done) == {"a.jpg": [[1, 2]], "a.png": [[3, 4]]}


def test_a_folder_that_ends_as_labels_do_stops_nothing(tmp_path):
    (tmp_path / "mine" / "old.csv").mkdir(parents=True)
    assert points_by_id(converted(tmp_path, "csv", {"p.csv": "file,x,y\na.jpg,1,2\n"})) == {"a": [[1, 2]]}


def test_labels_in_a_linked_folder_are_read_and_those_of_a_run_are_not(tmp_path):
    build(tmp_path / "elsewhere", {"p.csv": "file,x,y\na.jpg,1,2\n"}, {"a.jpg": []})
    root = build(tmp_path / "mine", {"run/config.json": '{"bi_knowledge": {}}', "run/p.csv": "file,x,y\nb.jpg,1,2\n"},
                 {})
    (root / "link").symlink_to(tmp_path / "elsewhere")
    assert points_by_id(convert(FORMATS["csv"], root, tmp_path / "set")) == {"link/a": [[1, 2]]}


@pytest.mark.parametrize("name", ["coco", "labelme", "label_studio"])
def test_a_list_in_another_json_stops_nothing(tmp_path, name):
    files = TOOLS[name]({"a.jpg": [[3, 4]]}) | {"results.json": '[{"score": 1}]'}
    done = converted(tmp_path, name, files)
    assert points_by_id(done) == {"a": [[3, 4]]} and done.manifest.statistics["num_other_files"] == 1


@pytest.mark.parametrize("data", [
    "file;x;y\nStraße.jpg;3,5;4\n".encode("cp1252"), "file\tx\ty\r\nStraße.jpg\t3.5\t4\r\n".encode("utf-16"),
    "sep=;\nfile;x;y\nStraße.jpg;3,5;4\n".encode(), "\n\nfile,x,y\nStraße.jpg,3.5,4\n".encode(),
    "image_path,X,Y\nout/Straße.jpg,3.5,4\n".encode()])
def test_tables_of_office_programs(tmp_path, data):
    assert points_by_id(converted(tmp_path, "csv", {"p.csv": data}, ["Straße.jpg"])) == {"Straße": [[3.5, 4]]}


def test_a_table_of_other_columns_is_none_of_points(tmp_path):
    others = {"counts.csv": "file,persons,low\na.jpg,30,20\n"}
    with pytest.raises(InputError, match="the first row must name the columns file, x and y, got 'file,persons,low'"):
        converted(tmp_path, "csv", others)
    done = converted(tmp_path / "both", "csv", others | {"p.csv": "file,x,y\na.jpg,3,4\n"})
    assert points_by_id(done) == {"a": [[3, 4]]} and done.manifest.statistics["num_other_files"] == 1


def test_a_table_with_tabs_may_end_in_tsv(tmp_path):
    root = build(tmp_path / "mine", {"p.tsv": "file\tx\ty\na.jpg\t3\t4\n"}, {"a.jpg": []})
    assert recognise(root) == "csv" and points_by_id(convert(FORMATS["csv"], root, tmp_path / "set")) == {"a": [[3, 4]]}


def test_the_classes_of_a_table_tell_heads_from_others(tmp_path):
    table = "file,label,x,y\na.jpg,Head,3,4\na.jpg,dog,5,6\nb.jpg,,,\n"
    done = converted(tmp_path, "csv", {"p.csv": table}, ["a.jpg", "b.jpg"])
    assert points_by_id(done) == {"a": [[3, 4]], "b": []} and done.manifest.statistics["num_other_marks"] == 1
    with pytest.raises(InputError, match="the classes 'cat', 'dog' do not tell which are heads"):
        converted(tmp_path / "other", "csv", {"p.csv": "file,class,x,y\na.jpg,cat,3,4\na.jpg,dog,5,6\n"})


def test_boxes_of_four_corners_and_old_shapes_of_labelme(tmp_path):
    shapes = [{"label": "head", "points": [[3, 4], [7, 4], [7, 9], [3, 9]], "shape_type": "rectangle"},
              {"label": "head", "points": [[22, 10], [18, 14]], "shape_type": "rectangle"},
              {"label": "head", "points": [[30, 10], [34, 14], [30, 18], [26, 14]], "shape_type": "rotation"},
              {"label": "head", "points": [[9, 9]], "shape_type": None}]
    done = converted(tmp_path, "labelme", {"a.json": json.dumps({"shapes": shapes})})
    assert points_by_id(done) == {"a": [[4.5, 6], [19.5, 11.5], [29.5, 13.5], [9, 9]]}


def test_skeletons_and_ellipses_of_cvat(tmp_path):
    def joint(name, place, outside=0):
        return f'<points label="{name}" outside="{outside}" points="{place}"/>'

    skeletons = [joint("left_foot", "1,30") + joint("Head", "3,4"), joint("foot", "1,30"), joint("head", "9,9", 1),
                 joint("nose", "5,6")]
    xml = ('<annotations><image name="a.jpg"><ellipse label="person" cx="20" cy="10" rx="3" ry="4"/>'
           + "".join(f'<skeleton label="person">{joints}</skeleton>' for joints in skeletons)
           + '<points label="person" points="7,8"/></image></annotations>')
    done = converted(tmp_path, "cvat", {"c.xml": xml})
    assert points_by_id(done) == {"a": [[20, 10], [3, 4], [5, 6], [7, 8]]}
    assert done.manifest.statistics["num_other_marks"] == 2


def test_an_annotation_of_coco_without_its_image_costs_itself_alone(tmp_path):
    record = {"images": [{"id": 1.0, "file_name": "a.jpg"}], "categories": [{"id": 1, "name": "head"}],
              "annotations": [{"image_id": "1", "category_id": 1, "bbox": [1, 2, 4, 6]},
                              {"image_id": 8, "category_id": 1, "bbox": [1, 2, 4, 6]}]}
    with pytest.raises(InputError, match=r"c\.json: names 'image_id 8': the image is missing"):
        converted(tmp_path, "coco", {"c.json": json.dumps(record)})
    done = converted(tmp_path, "coco", {}, skip_bad=True)
    assert points_by_id(done) == {"a": [[2.5, 4.5]]} and len(done.skipped) == 1


POINT, OUTLINE = ("point", [[3, 4]]), ("polygon", [[1, 1], [5, 1], [3, 4]])


def labelme(*shapes, **more):
    return json.dumps({"shapes": [{"label": label, "points": points, "shape_type": kind}
                                  for label, (kind, points) in shapes], **more})


def coco(*marks):
    names = ["head", "person", "car"]
    return {"c.json": json.dumps({
        "images": [{"id": name, "file_name": f"{name}.jpg"} for name in "ab"],
        "annotations": [{"image_id": image, "category_id": names.index(kind), **mark} for image, kind, mark in marks],
        "categories": [{"id": number, "name": name, "keypoints": ["head"]} for number, name in enumerate(names)]})}


def cvat(*shapes):
    bodies = "".join(f'<image name="{name}.jpg">{shape}</image>' for name, shape in zip("ab", shapes, strict=True))
    return {"c.xml": f"<annotations>{bodies}</annotations>"}


def studio(*annotations):
    return {"e.json": json.dumps([{"data": {"image": f"{name}.jpg"}, "annotations": made}
                                  for name, made in zip("ab", annotations, strict=True)])}


BOX, CROWD = {"bbox": [1, 0, 6, 9]}, {"bbox": [0, 0, 9, 9], "iscrowd": 1, "segmentation": {"counts": "0"}}
NOBODY, PLACED = {"result": []}, [{"result": [
    {"type": "keypointlabels", "original_width": 48, "original_height": 32,
     "value": {"x": 3.5 / 48 * 100, "y": 12.5, "keypointlabels": ["head"]}}]}]
BRUSH = {"result": [{"type": "brushlabels", "value": {"rle": [1], "brushlabels": ["head"]}}]}
A_POINT = '<points label="head" points="3.5,4"/>'
UNTAKEN = {
    "outlines": ("labelme", {"a.json": labelme(("head", POINT)), "b.json": labelme(*2 * [("head", OUTLINE)])},
                 r"b\.json: the heads on 'b' cannot be taken: 2 marks 'head' have no single place \(polygon\)"),
    "another name": ("labelme", {"a.json": labelme(("head", POINT)), "b.json": labelme(("Person", POINT))},
                     "1 marks 'Person' are not called 'head', as heads are here: call them so"),
    "a table, another name": ("csv", {"p.csv": "file,class,x,y\na.jpg,head,3,4\nb.jpg,person,3,4\nb.jpg,dog,3,4\n"},
                              "taken: 1 marks 'person' are not called 'head'"),
    "a crowd": ("coco", coco(("a", "head", BOX), ("b", "head", CROWD)), r"single place \(a region of a crowd\)"),
    "keypoints that nobody saw": ("coco", coco(("a", "head", BOX), ("b", "head", {"keypoints": [0, 0, 0]})),
                                  r"single place \(no box and no keypoint of a head\)"),
    "masks": ("cvat", cvat(A_POINT, '<mask label="head" rle="1"/><box label="car" xtl="1" ytl="0" xbr="7" ybr="9"/>'),
              r"single place \(mask\)"),
    "brushes": ("label_studio", studio(PLACED, [BRUSH]), r"single place \(brush\)"),
    "the first annotator's none": ("label_studio", studio(PLACED, [NOBODY, *PLACED]),
                                   "1 marks 'head' stand in another annotation .*: mark one as ground truth")}


def test_people_who_have_no_single_place_are_not_nobody(tmp_path):
    for what, (name, files, words) in UNTAKEN.items():
        done = converted(tmp_path / what, name, files, ["a.jpg", "b.jpg"], skip_bad=True)
        assert list(points_by_id(done)) == ["a"] and [entry["file"] for entry in done.skipped] == ["b.jpg"], what
        assert re.search(words, done.skipped[0]["reason"]), done.skipped


def test_images_of_nobody_and_what_else_is_marked_on_them(tmp_path):
    truth = {"result": [], "ground_truth": True}
    for what, (name, files, expected) in {
            "cars": ("labelme", {"a.json": labelme(("head", POINT)),
                                 "b.json": labelme(("car", POINT), ("car", OUTLINE))}, {"a": [[3, 4]], "b": []}),
            "roads beside heads of any name": (
                "labelme", {"a.json": labelme(("1", POINT), ("road", OUTLINE)), "b.json": labelme(("road", OUTLINE))},
                {"a": [[3, 4]], "b": []}),
            "not to be counted": ("coco", coco(("a", "head", BOX), ("b", "head", BOX | {"ignore": 1})),
                                  {"a": [[3.5, 4]], "b": []}),
            "persons alone, where heads are known": ("coco", coco(("a", "person", BOX), ("b", "car", BOX)),
                                                     {"a": [[3.5, 4]], "b": []}),
            "nobody, in truth": ("label_studio", studio(PLACED, [*PLACED, truth]), {"a": [[3.5, 4]], "b": []})}.items():
        done = converted(tmp_path / what, name, files, ["a.jpg", "b.jpg"])
        assert points_by_id(done) == expected and done.manifest.statistics["num_other_marks"], what
    with pytest.raises(InputError, match="the classes 'car', 'person' do not tell which are heads"):
        converted(tmp_path, "labelme", {"a.json": labelme(("car", POINT), ("person", OUTLINE))})


def test_labelme_tells_the_ending_of_its_image_and_zones_give_way_to_heads(tmp_path):
    zones = labelme(("gate", OUTLINE), imagePath="a.png")
    assert recognise(build(tmp_path / "npy", {"zones.json": zones, "a.npy": saved(np.save, np.array([[3, 4]]))},
                           ["a.png"])) == "npy"
    for zone_file in ("zones.json", "areas.json"):
        files = {"a_done.json" if zone_file == "areas.json" else "a.json": labelme(("head", POINT), imagePath="a.png")}
        done = converted(tmp_path / zone_file, "labelme", files | {zone_file: zones}, ["a.jpg", "a.png"])
        assert points_by_id(done) == {"a.png": [[3, 4]]} and done.manifest.statistics["num_unlabelled_images"] == 1


def test_images_of_one_name_in_the_subsets_of_a_cvat_project(tmp_path):
    xml = "".join(f'<image name="{name}" subset="{subset}"><points label="head" points="{x},4"/></image>'
                  for name, subset, x in (("a.jpg", "Train", 3), ("a.jpg", "default", 5), ("b.jpg", "Train", 7)))
    done = converted(tmp_path, "cvat", {"annotations.xml": f"<annotations>{xml}</annotations>"},
                     ["images/Train/a.jpg", "images/default/a.jpg", "b.jpg"])
    assert points_by_id(done) == {"b": [[7, 4]], "images/Train/a": [[3, 4]], "images/default/a": [[5, 4]]}


def test_who_has_no_face_counts_too(tmp_path):
    shapes = [{"label": kind, "points": [[x, 4]], "shape_type": "point"} for kind, x in (("face", 3), ("person", 5),
                                                                                         ("person", 7))]
    assert points_by_id(converted(tmp_path, "labelme", {"a.json": json.dumps({"shapes": shapes})})) == {
        "a": [[5, 4], [7, 4]]}


def region(kind, **value):
    return {"type": kind, "original_width": 48, "original_height": 32, "image_rotation": 0, "value": value}


def test_what_label_studio_writes(tmp_path):
    apart = [region("keypoint", x=50, y=50) | {"id": "r1"}, region("labels", x=50, labels=["head"]) | {"id": "r1"}]
    boxes = [region("rectanglelabels", x=25, y=25, width=50, height=50, rotation=0, rectanglelabels=["head"]),
             region("rectanglelabels", x=50, y=50, width=25, height=25, rotation=90, rectanglelabels=["head"]),
             region("ellipselabels", x=10, y=25, radiusX=2, radiusY=2, ellipselabels=["head"]),
             region("polygonlabels", points=[[1, 1]], polygonlabels=["head"]), {"type": "choices", "value": {}},
             {"type": "keypointlabels", "value": None}, {"type": "relation"}]
    other = [region("keypointlabels", x=1, y=1, keypointlabels=["head"])]
    tasks = [{"data": {"id": "7", "photo": "http://host/a/1.jpg?token=x"}, "annotations": [
                {"result": other, "was_cancelled": True}, {"result": other}, {"result": apart, "ground_truth": True}]},
             {"data": {"image": "/data/local-files/?d=b%2F1.jpg"},
              "annotations": [{"result": boxes}, {"result": other}]},
             {"data": {"image": "s3://bucket/c/gate%20%232.jpg"}, "annotations": [{"result": []}]},
             {"data": {"image": "d.jpg"}, "annotations": []}]
    images = ["a/1.jpg", "b/1.jpg", "c/gate #2.jpg", "d.jpg"]
    done = converted(tmp_path, "label_studio", {"export.json": json.dumps(tasks)}, images)
    # By hand: the second box is 12 x 8 px, turned by 90 degrees round its corner (24, 16): its centre is 4 px to the
    # left and 6 px below of that, and half a pixel less as pixels are counted from their centres.
    found = points_by_id(done)
    assert list(found) == ["a/1", "b/1", "c/gate #2"] and (found["a/1"], found["c/gate #2"]) == ([[24, 16]], [])
    np.testing.assert_allclose(found["b/1"], [[23.5, 15.5], [19.5, 21.5], [4.8, 8]], rtol=1e-6)
    assert done.manifest.statistics["num_unlabelled_images"] == 1
    assert done.manifest.statistics["num_other_marks"] == 4, "a second annotator's, twice, a polygon, a lost one"


def test_several_images_in_a_task_of_label_studio(tmp_path):
    def task(data, **marks):
        return {"data": data, "annotations": [{"result": [
            region("keypointlabels", x=50, y=y, keypointlabels=["occluded", "head"]) | {"to_name": name}
            for name, y in marks.items()]}]}

    first, second, other = {"one": "a.jpg", "two": "b.jpg"}, {"one": "c.jpg", "two": "d.jpg"}, {"photo": "e.jpg"}
    images = ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]
    tasks = [task(first, one=25, two=50), task(second, two=75), task(other, one=25)]
    done = converted(tmp_path, "label_studio", {"e.json": json.dumps(tasks)}, images)
    assert points_by_id(done) == {"a": [[24, 8]], "b": [[24, 16]], "c": [], "d": [[24, 24]], "e": [[24, 8]]}
    one, lost = (json.dumps([task(first, **marks), task(second)]) for marks in ({"img": 25}, {"left": 25, "right": 50}))
    done = converted(tmp_path / "one", "label_studio", {"e.json": one}, images)
    assert points_by_id(done) == {"a": [[24, 8]], "c": []}, "one image alone is marked: the first"
    with pytest.raises(InputError, match=r"e\.json: task 1: its marks are on 'left', but its data calls the images "
                                         "one, two; call them in its data as in the labelling setup"):
        converted(tmp_path / "lost", "label_studio", {"e.json": lost}, images)


def test_names_of_images_in_label_studio_as_people_write_them(tmp_path):
    written = {"a+b.jpg": "?d=a+b.jpg", "c d.jpg": "?d=c+d.jpg", "e#1.jpg": "?d=sub/e#1.jpg",
               "f g.jpg": "/data/local-files/?d=f%20g.jpg&v=2", "snap.jpg.1": "?d=snap.jpg.1", "no": "http://camera/no"}
    root = build(tmp_path / "mine", {}, [f"{number}.jpg" for number in range(len(written))])
    for number, name in enumerate(written):
        (root / f"{number}.jpg").rename(root / name)
    tasks = [{"data": data, "annotations": [{"result": []}]}
             for data in (*({"image": address} for address in written.values()), {"text": "a"})]
    (root / "e.json").write_text(json.dumps(tasks))
    with pytest.raises(InputError, match=r"e\.json: names 'task 7, whose data names no image': the image is missing"):
        convert(FORMATS["label_studio"], root, tmp_path / "set")
    done = convert(FORMATS["label_studio"], root, tmp_path / "set", skip_bad=True)
    assert done.manifest.num_samples == len(written) and len(done.skipped) == 1


@pytest.mark.parametrize("record", [
    [[3.5, 4], [40, 20]], {"points": [[3.5, 4], [40, 20]], "count": 2}, [{"x": 3.5, "y": 4}, {"x": 40, "y": 20}],
    {"a.jpg": [[3.5, 4], [40, 20]]}, {"somewhere/a": {"points": [[3.5, 4], [40, 20]], "number": "2"}}])
def test_plain_json_of_points(tmp_path, record):
    root = build(tmp_path / "mine", {"a.json": json.dumps(record)}, {"a.jpg": []})
    assert recognise(root) == "json"
    done = convert(FORMATS["json"], root, tmp_path / "set")
    assert points_by_id(done) == {"a": [[3.5, 4], [40, 20]]} and done.doubts == ()


def test_what_is_doubtful_in_plain_points_is_told(tmp_path):
    three = np.array([[3, 4, 9.5], [np.nan, 4, 1], [99, 4, 1]])
    info = {"image_info": {"location": [[3.0, 4], [3, 4]], "number": 7}}
    for name, files, told in (
            ("json", {"a.json": '{"points": [[3, 4], [5, null]], "count": 3}'}, {"num_wrong_counts": 1,
                                                                                 "num_invalid_points": 1}),
            ("npy", {"a.npy": saved(np.save, three)}, {"num_extra_columns": 1, "num_invalid_points": 1,
                                                       "num_outside_points": 1}),
            ("mat", {"GT_a.mat": saved(scipy.io.savemat, info)}, {"num_wrong_counts": 1, "num_repeated_points": 1})):
        done = converted(tmp_path / name, name, files)
        assert points_by_id(done)["a"][0] == [3, 4]
        assert {entry["kind"]: entry["number"] for entry in done.doubts} == told


def test_arrays_of_whole_numbers_of_nobody_and_other_variables(tmp_path):
    files = {"a.npy": saved(np.save, np.array([[3, 4]], np.uint16)), "b.npy": saved(np.save, np.array([])),
             "b_density.npy": saved(np.save, np.ones((32, 48)))}
    done = converted(tmp_path / "npy", "npy", files, ["a.jpg", "b.jpg"])
    assert points_by_id(done) == {"a": [[3, 4]], "b": []} and done.manifest.statistics["num_other_files"] == 1
    held = {"map": np.ones((32, 48)), "Points": np.array([[3.0, 4]]), "sizes": np.ones((1, 2)), "note": "of mine"}
    assert points_by_id(converted(tmp_path / "mat", "mat", {"a.mat": saved(scipy.io.savemat, held)})) == {"a": [[3, 4]]}


def test_what_is_wrong_with_labels_is_said_where_none_can_be_read(tmp_path):
    root = build(tmp_path / "mine", {"p.csv": "file,x,y\nother.jpg,1,2\n"}, {"a.jpg": []})
    with pytest.raises(InputError, match=r"no labels that are read in .*; .*p\.csv: names 'other\.jpg': the image is "
                                         r"missing; those in the folder are called as 'a\.jpg'; read are"):
        recognise(root)
    (root / "p.csv").write_text("file,class,x,y\na.jpg,cat,1,2\na.jpg,dog,1,2\n")
    with pytest.raises(InputError, match="the classes 'cat', 'dog' do not tell"):
        recognise(root)


def test_a_set_is_recognised_though_its_first_image_lacks_an_annotation(tmp_path, shanghai):
    for number in (1, 2):
        shanghai.add(number, [[3, 4]])
    (shanghai.root / "train_data" / "ground_truth" / "GT_IMG_1.mat").unlink()
    assert recognise(shanghai.root) == "shanghaitech"


def test_numbered_images_of_ones_own_are_no_public_set(tmp_path):
    heads = {f"{number}.jpg": [[3, 4]] for number in range(1, 5)}
    assert recognise(build(tmp_path / "mine", TOOLS["mat"](heads), heads)) == "mat"


def test_labels_made_on_the_pixels_as_stored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    root = build(tmp_path / "mine", {"p.csv": "file,x,y\n" + "".join(f"a.jpg,{x},20\n" for x in range(2, 47))}, {})
    Image.fromarray(np.zeros((32, 48, 3), np.uint8)).save(root / "a.jpg", exif=exif)
    with pytest.raises(InputError, match=r"they fit the image as it is stored, without its rotation tag 6: remove the"):
        convert(FORMATS["csv"], root, tmp_path / "set")
    (root / "p.csv").write_text("file,x,y\na.jpg,20,40\n")
    done = convert(FORMATS["csv"], root, tmp_path / "set")
    assert "1 images turned as their rotation tags say" in done.summary() and done.doubts == ()
