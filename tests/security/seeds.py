"""Whole files of all kinds that crowddist reads: what `readers` damages."""

from __future__ import annotations

import base64
import io
import json
import struct
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import scipy.io
import torch
from PIL import Image

from crowddist.config import RunConfig, to_json
from crowddist.data.shard_codec import encode
from crowddist.inference.intervals import Calibration
from crowddist.inference.onnx_predictor import OnnxCounter
from crowddist.methods.build import build_method
from crowddist.reports import point_formats
from crowddist.reports.counts_table import COLUMNS
from tests.data.tiff import tiff
from tests.security.test_shards import END, header

Y, X = np.mgrid[0:40, 0:56]
IMAGE = Image.fromarray(np.stack([X * 4, Y * 6, Y + X], 2).astype(np.uint8))


def encoded(kind: str, image: Image.Image = IMAGE, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


MASK = Image.fromarray(((X // 28) * (Y // 20)).astype(np.uint8)[4:36, 4:52])
DEEP = cv2.imencode(".png", np.dstack([np.asarray(IMAGE)] * 2)[..., :4].astype(np.uint16) * 16)[1].tobytes()
TURNED = Image.Exif()
TURNED[274] = 6
IMAGES = [
    encoded("JPEG"), encoded("JPEG", progressive=True), encoded("JPEG", restart_marker_rows=1)[:-2],
    encoded("JPEG", IMAGE.convert("CMYK")), encoded("PNG"), DEEP, encoded("PNG", IMAGE.quantize(8)), encoded("WEBP"),
    encoded("BMP"), encoded("TIFF", compression="tiff_lzw"), encoded("TIFF", save_all=True, append_images=[IMAGE]),
    encoded("PPM"), b"P5\n16 8\n4095\n" + bytes(256), encoded("MPO", save_all=True, append_images=[IMAGE], exif=TURNED),
    encoded("TIFF", exif=TURNED), encoded("TIFF", big_tiff=True, exif=TURNED), encoded("WEBP", exif=TURNED),
    encoded("PNG", IMAGE.convert("LA"), exif=TURNED), encoded("BMP", IMAGE.convert("P")),
    encoded("TIFF", IMAGE.convert("F")), tiff(np.asarray(IMAGE).astype(np.uint16) * 16, planes=True),
    tiff((np.asarray(IMAGE) / 255).astype(np.float16), kind=3),
]


@cache
def films() -> list[bytes]:
    with TemporaryDirectory() as folder:
        return [film(Path(folder) / name, codec) for name, codec in (("a.mp4", "mp4v"), ("a.avi", "MJPG"),
                                                                     ("a.mkv", "mp4v"))]


def film(path: Path, codec: str) -> bytes:
    """Four frames of the image, each a pixel further."""
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), 25.0, (48, 32))
    for shift in range(4):
        writer.write(np.ascontiguousarray(np.roll(np.asarray(IMAGE)[:32, :48], shift, 1)))
    writer.release()
    return path.read_bytes()


POINTS = np.array([[3.5, 4], [40, 20], [7, 8]])


def matlab(compressed: bool, form: str = "5", **variables: Any) -> bytes:
    stream = io.BytesIO()
    scipy.io.savemat(stream, variables, do_compression=compressed, format=form)
    return stream.getvalue()


def array(points: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, points)
    return stream.getvalue()


ARRAYS = [array(POINTS), array(POINTS.astype(np.uint8))]
CELL = np.empty((1, 1), object)
CELL[0, 0] = {"location": POINTS, "number": 3}
MATS = [matlab(False, image_info={"location": POINTS, "number": 3}), matlab(True, annPoints=POINTS, point_num=3),
        matlab(False, x=POINTS[:, :1], y=POINTS[:, 1:]), matlab(False, data={"gt": {"points": POINTS}}),
        matlab(False, image_info=CELL, text="three", imaginary=POINTS + 1j), matlab(False, "4", annPoints=POINTS)]
COCO: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "a.jpg", "height": 32, "width": 48}],
    "annotations": [{"image_id": 1, "category_id": 1, "keypoints": [3, 4, 2], "bbox": [1, 2, 5, 6]}],
    "categories": [{"id": 1, "name": "head", "keypoints": ["head"]}]}
REGION = {"id": "r", "type": "rectanglelabels", "original_width": 48, "original_height": 32, "image_rotation": 0,
          "value": {"x": 3, "y": 4, "width": 5, "height": 6, "rotation": 2, "rectanglelabels": ["head"]}}
TASKS: list[dict[str, Any]] = [{"data": {"image": "/data/local-files/?d=a.jpg"},
                                "annotations": [{"was_cancelled": False, "result": [REGION]}]}]
POLYGON = {"type": "polygonlabels", "original_width": 48, "original_height": 32,
           "value": {"points": [[1, 2], [30, 4], [50, 60]], "polygonlabels": ["gate"]}}
RECORDS: list[Any] = [
    {"human_num": 1, "points": [[3, 4]]},
    {"image_info": [[3, 4]], "weather": 1, "timeInfo": [1, 2], "level": 3, "roi": [[0, 1]]},
    COCO, {"shapes": [{"label": "head", "points": [[3, 4]], "shape_type": "point"}], "imageHeight": 32},
    {"shapes": [{"label": "gate", "points": [[3, 4], [9, 4], [9, 9]]}], "imageHeight": 32, "imageWidth": 48},
    TASKS, {"a.jpg": [[3, 4]], "b.jpg": {"points": [{"x": 1, "y": 2}], "count": 1}}, [[3, 4]]]
ZONES: list[Any] = [
    {"zones": [{"name": "gate", "polygon": [[3, 4], [9, 4], [9, 9]]}], "width": 48, "height": 32},
    {"zones": [{"name": "gate", "polygon": [[0, 0], [0.5, 0], [1, 0.9]]}], "unit": "share"}, RECORDS[4],
    [{"data": {"image": "a.jpg"}, "annotations": [{"result": [REGION, POLYGON]}]}]]
CVAT = [b'<annotations><image name="a.jpg" width="48" height="32"><points label="head" points="3,4;5,6"/>'
        b'<box label="head" xtl="1" ytl="2" xbr="3" ybr="4" rotation="9"/><ellipse label="head" cx="3" cy="4"/>'
        b'<skeleton label="head"><points label="nose" points="3,4" outside="0"/></skeleton>'
        b'<polygon label="gate" points="1,2;30,4;5,10"/></image></annotations>']
CSVS = [b"file,x,y\na.jpg,3,4\n", b"a.jpg;3,5;4\n", "file\tx\ty\na.jpg\t3\t4\n".encode("utf-16"),
        b"sep=;\nimage;class;x;y\na.jpg;head;3;4\nb.jpg;;;\n", 'file,x,y\n"\u00e4,""b"".jpg",3,4\n'.encode()]
TEXTS = [b"0001.jpg 0 3\n", b"0001,4,street,0,0\n", b"3,4,5,6,1,0\n",
         b"a.jpg\n1\n1 2 3 4 0 0 0 0 0 0\nb.jpg\n0\n0 0 0 0 0 0 0 0 0 0\n"]
BOXES = {"ID": "a", "gtboxes": [{"tag": "person", "hbox": [1, 2, 3, 4], "vbox": [1, 2, 3, 9], "fbox": [1, 2, 3, 9],
                                 "head_attr": {"ignore": 0}, "extra": {"box_id": 0}}]}


def corrections() -> dict[str, bytes]:
    """What a count writes for each tool that corrects points."""
    counted = point_formats.Counted(name="a.jpg", file="a.jpg", height=32, width=48, points=[(3.5, 4.25, 0.9)],
                                    sizes=[4.0], row=dict.fromkeys(COLUMNS, 1))
    made = {"labelme": json.dumps(point_formats.labelme_record(counted)).encode()}
    for name in ("cvat", "labelstudio", "coco"):
        point_formats.FILES[name][1](stream := io.StringIO(), [counted])
        made[name] = stream.getvalue().encode()
    return made


CVAT.append(corrections()["cvat"])
RECORDS.extend(json.loads(corrections()[name]) for name in ("labelme", "labelstudio", "coco"))

MEMBERS = {
    "png": encoded("PNG"), "points.npy": encode("points.npy", np.ones((4, 2), np.float32)),
    "boxes.npy": encode("boxes.npy", np.ones((4, 4), np.float32)), "mask.png": encoded("PNG", IMAGE.convert("L")),
    "region.png": encoded("PNG", IMAGE.convert("1")),
    "json": json.dumps({"id": "a", "height": 40, "width": 56, "roi": [[1, 2], [30, 4], [20, 30]], "extent": [5, 7],
                        "windows": {"a": [[0, 0, 4, 4]]}, "seen": [40, 56], "zooms": [[1.0, 3.5]]}).encode()}
LABELS = {"density.npy": encode("density.npy", np.ones((5, 7), np.float16)),
          "spread.npy": encode("spread.npy", np.ones((5, 7), np.float16)),
          "keep.png": encode("keep.png", np.ones((5, 7), np.uint8)), "json": MEMBERS["json"],
          "detections.npy": encode("detections.npy", np.ones((2, 4), np.float32))}
SEEN = {f"seen.{name}.npy": encode(f"seen.{name}.npy", np.ones(shape, kind)) for name, shape, kind in (
    ("density", (5, 7), np.float32), ("spread", (5, 7), np.float32), ("counts", (3,), np.float64),
    ("heads", (2, 4), np.float32))} | {"json": MEMBERS["json"]}
TAR = b"".join(header(f"a.{name}".encode(), b"%011o" % len(data)) + data + bytes(-len(data) % 512)
               for name, data in MEMBERS.items()) + END


def manifest() -> dict[str, Any]:
    shard = {"name": "a.tar", "num_samples": 1, "num_bytes": 9, "sha256": "0" * 64, "persons": 1.0}
    return {"format": "crowddist data set", "name": "a", "split": "b", "kind": "images", "labelled": True,
            "shards": [shard], "statistics": {"images": 3}, "converter": "c", "version": 1}


CONFIG = to_json(RunConfig(recipe="r", source="/a", target="/b"))
ROW = {**dict.fromkeys(COLUMNS, 1), "file": "a.jpg"}
JOURNAL_LINES = [{"job": "j"}, {"file": "a.jpg", "repeat": 0, "stamp": [], "overlay": "a.png", "notes": [], "row": ROW,
                                "zones": {"gate": 1.5}}]
PART = {"row": ROW, "height": 32, "width": 48, "points": [[3.5, 4.25, 0.9]], "sizes": [4.0]}
HISTORY = {"checkpoints": [{"file": "a.pt", "step": 1, "sha256": "0" * 64, "loss": 0.5}], "best": "a.pt"}
INTERVALS = {"scores": [0.1, 0.5, 0.9], "image_size": 96, "zooms": [1.0], "floor_persons": 1.0, "share": 0.1,
             "data": "a", "digest": "b", "skipped": []}
RULE = {"levels": [1, 5], "hours": [6, 19], "weathers": [0, 1], "counts": [10, 600], "ratios": [0.3, 1.0]}
FACTS = json.loads(OnnxCounter(
    method="self_supervision", backbone="compact", ensemble="masksembles", num_members=3, image_size=96, zooms=(1.0,),
    output_stride=8, margin_px=16, sigma_px=4.0, min_certainty=0.5, version="1",
    calibration=Calibration(scores=(0.5,) * 9, image_size=96, zooms=(1.0,))).to_json())
CALLS = [{"call": "metrics", "values": {"a": 1.0}, "step": 3},
         {"call": "picture", "round": 1, "name": "a", "image": base64.b64encode(encoded("PNG")).decode()}]
CURVE = [{"step": 20, "loss": 0.5}, {"step": 40, "loss": 0.25}]


@cache
def trained() -> dict[str, Any]:
    """The checkpoint of a counter that nobody trained."""
    config = RunConfig(recipe="tiny", source="/a", target="/b")
    state = build_method(config).state_dict()
    return {"format": 1, "version": "1", "step": 1, "method": state, "config": to_json(config)}


def torch_file(content: object, *, zipped: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def slim(content: Any) -> Any:
    """A checkpoint with two of its weights."""
    networks = content["method"]["networks"]
    return {**content, "method": {**content["method"], "networks": dict(list(networks.items())[:2])}}


def tensors_file(record: Any) -> bytes:
    """Safetensors with this head."""
    head = json.dumps(record).encode()
    return struct.pack("<Q", len(head)) + head + bytes(range(24))


TENSORS = {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {"format": "pt"}}


