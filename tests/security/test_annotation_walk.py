"""A short random walk over all readers of annotations: whatever is in a file, the answer is labels or one line."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from hypothesis import given
from hypothesis import strategies as st

from crowddist.data.convert import (
    coco,
    csv,
    cvat,
    gcc,
    jhu_crowd,
    label_studio,
    labelme,
    mat,
    npy,
    nwpu_crowd,
    wider_face,
)
from crowddist.data.convert import json as plain_json
from crowddist.data.convert.annotations import read_mat_count, read_mat_info, read_mat_points, read_mat_polygon
from crowddist.data.convert.crowd_human import _read_entries
from crowddist.data.convert.layout import Item
from crowddist.data.zones.files import read_zone_file
from crowddist.errors import InputError
from tests.security.damage import damaged, examples, one_line

POINTS = np.array([[3.5, 4], [40, 20], [7, 8]])


def matlab(compressed: bool, **variables: Any) -> bytes:
    stream = io.BytesIO()
    scipy.io.savemat(stream, variables, do_compression=compressed)
    return stream.getvalue()


def array(points: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, points)
    return stream.getvalue()


def item(place: Path) -> Item:
    return Item(name="a", image=place.with_suffix(".jpg"),
                annotations=(place, place.with_suffix(".none"), place.with_suffix(".none")))


def coco_record() -> dict[str, Any]:
    return {"images": [{"id": 1, "file_name": "a.jpg", "height": 32, "width": 48}],
            "annotations": [{"image_id": 1, "category_id": 1, "keypoints": [3, 4, 2], "bbox": [1, 2, 5, 6]}],
            "categories": [{"id": 1, "name": "head", "keypoints": ["head"]}]}


def label_studio_tasks() -> list[dict[str, Any]]:
    region = {"id": "r", "type": "rectanglelabels", "original_width": 48, "original_height": 32, "image_rotation": 0,
              "value": {"x": 3, "y": 4, "width": 5, "height": 6, "rotation": 2, "rectanglelabels": ["head"]}}
    return [{"data": {"image": "/data/local-files/?d=a.jpg"},
             "annotations": [{"was_cancelled": False, "result": [region]}]}]


READERS: dict[str, tuple[list[bytes], list[Callable[[Path], object]]]] = {
    "mat": ([matlab(False, image_info={"location": POINTS, "number": 3}), matlab(True, annPoints=POINTS, point_num=3),
             matlab(False, x=POINTS[:, :1], y=POINTS[:, 1:]), matlab(False, data={"gt": {"points": POINTS}})],
            [read_mat_info, lambda place: read_mat_points(place, "annPoints"),
             lambda place: read_mat_count(place, "point_num"), lambda place: read_mat_polygon(place, ("x", "y")),
             mat.read]),
    "npy": ([array(POINTS), array(POINTS.astype(np.uint8))], [npy.read]),
    "json": ([json.dumps(record).encode() for record in (
        {"human_num": 1, "points": [[3, 4]]},
        {"image_info": [[3, 4]], "weather": 1, "timeInfo": [1, 2], "roi": [[0, 1]]},
        coco_record(), {"shapes": [{"label": "head", "points": [[3, 4]], "shape_type": "point"}], "imageHeight": 32},
        {"shapes": [{"label": "gate", "points": [[3, 4], [9, 4], [9, 9]]}], "imageHeight": 32, "imageWidth": 48},
        {"zones": [{"name": "gate", "polygon": [[3, 4], [9, 4], [9, 9]]}], "width": 48, "height": 32},
        label_studio_tasks(), {"a.jpg": [[3, 4]], "b.jpg": {"points": [{"x": 1, "y": 2}], "count": 1}}, [[3, 4]])],
        [lambda place: nwpu_crowd.annotate(item(place), (32, 48)), lambda place: gcc.annotate(item(place), (32, 48)),
         coco.read, labelme.read, label_studio.read, plain_json.read, read_zone_file]),
    "xml": ([b'<annotations><image name="a.jpg" width="48" height="32"><points label="head" points="3,4;5,6"/>'
             b'<box label="head" xtl="1" ytl="2" xbr="3" ybr="4" rotation="9"/>'
             b'<polygon label="gate" points="1,2;3,4;5,1"/></image></annotations>'], [cvat.read, read_zone_file]),
    "csv": ([b"file,x,y\na.jpg,3,4\n", b"a.jpg;3,5;4\n", "file\tx\ty\na.jpg\t3\t4\n".encode("utf-16")], [csv.read]),
    "txt": ([b"0001.jpg 0 3\n", b"0001,4,street,0,0\n", b"3,4,5,6,1,0\n", b"a.jpg\n1\n1 2 3 4 0 0 0 0 0 0\n",
             b'{"ID": "a", "gtboxes": []}\n'],
            [nwpu_crowd._read_list, jhu_crowd._read_index, lambda place: jhu_crowd.annotate(item(place), (32, 48)),
             wider_face.read_entries, _read_entries]),
}


def walk(place: Path, data: bytes, reads: list[Callable[[Path], object]]) -> None:
    place.write_bytes(data)
    for read in reads:
        with one_line():
            read(place)


@pytest.mark.parametrize("kind", READERS)
@examples(100)
@given(data=st.data())
def test_damaged_files_are_read_or_named(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    seeds, reads = READERS[kind]
    walk(tmp_path / f"a.{kind}", data.draw(damaged(seeds)), reads)


@pytest.mark.parametrize("kind", READERS)
def test_whole_files_are_read(tmp_path: Path, kind: str) -> None:
    """Else damage would be refused for another reason than itself."""
    seeds, reads = READERS[kind]
    unread = list(reads)
    for seed in seeds:
        (tmp_path / f"a.{kind}").write_bytes(seed)
        for read in tuple(unread):
            with suppress(InputError, OSError):
                read(tmp_path / f"a.{kind}")
                unread.remove(read)
    assert not unread


WEIRD: list[Any] = [None, True, -1, 2**63, 10**400, float("nan"), float("inf"), "", "3", "a\0b", "\ud800", [], {}, [[]],
                    [None], [[1, 2], [3]], {"a": 1}, [[[1, 2]]], [["1", "2"]], [True]]


def test_any_value_in_the_place_of_another_in_json(tmp_path: Path) -> None:
    seeds, reads = READERS["json"]
    for seed in seeds:
        for path in places(json.loads(seed)):
            for value in WEIRD:
                record = json.loads(seed)
                node = record
                for step in path[:-1]:
                    node = node[step]
                node[path[-1]] = value
                walk(tmp_path / "a.json", json.dumps(record).encode(), reads)


def places(node: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to all values below a JSON value."""
    steps = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path for step, value in steps for path in [(*above, step), *places(value, (*above, step))]]
