"""All readers of files that others made or changed: a row each, with whole files as seeds of the damage, and a function
that reads a damaged one as far as the program would.
"""

from __future__ import annotations

import base64
import io
import json
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import scipy.io
import torch
from hypothesis import strategies as st
from PIL import Image

from crowddist.config import RunConfig, from_json, to_json
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
from crowddist.data.convert.crowd_human import annotate as annotate_crowd_human
from crowddist.data.convert.layout import Item
from crowddist.data.images import read_image, store_image
from crowddist.data.manifest import FILE_NAME, read_manifest
from crowddist.data.regions import find_region
from crowddist.data.scenes import find_rule
from crowddist.data.shard_codec import decode, decode_labels, decode_seen, encode
from crowddist.data.shards import ShardReader, verify
from crowddist.data.user_files import UserFile
from crowddist.data.zones.files import read_zone_file
from crowddist.errors import InputError
from crowddist.inference.intervals import Calibration, read_calibration
from crowddist.inference.onnx_predictor import OnnxCounter, counter_of
from crowddist.inference.predictor import Predictor
from crowddist.models.backbones.table import BACKBONES
from crowddist.models.config import CounterConfig
from crowddist.models.counter import build_counter
from crowddist.models.weights import load_start
from crowddist.reports import point_formats
from crowddist.reports.counts_table import COLUMNS, JOURNAL, CountsTable
from crowddist.reports.points_table import PARTS, PointsTable
from crowddist.run import checkpoint
from crowddist.run.engine import read_curve
from crowddist.tracking import journal
from crowddist.video.frames import Frames
from crowddist.video.sampling import Every
from crowddist.video.source import find_source
from tests.data.tiff import tiff
from tests.security.damage import (
    changed,
    damaged,
    json_files,
    limited,
    line_files,
    lines_of,
    mend_png,
    mend_tar,
    one_line,
    pack_mat,
    xml_files,
    zip_files,
)
from tests.security.test_shards import END, data_set, header

SIZE = (32, 48)
"""(height, width) of the images that annotations are about, px."""


@dataclass(frozen=True)
class Reader:
    """A kind of file."""

    files: st.SearchStrategy[bytes]
    """Damaged ones."""
    read: Callable[[Path, bytes], object]
    """Reads one, in an empty folder or that of the file before; fails where it is neither read nor refused in a line."""
    whole: Sequence[bytes] = ()
    """Undamaged ones, which are read without a word."""


# Images

Y, X = np.mgrid[0:40, 0:56]
IMAGE = Image.fromarray(np.stack([X * 4, Y * 6, Y + X], 2).astype(np.uint8))


def encoded(kind: str, image: Image.Image = IMAGE, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


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


def read_images(folder: Path, data: bytes) -> None:
    (path := folder / "a.jpg").write_bytes(data)
    with one_line(path):
        pixels, _ = read_image(path)
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    with one_line(path):
        store_image(path, upright=False, max_size=32)


# Films


@cache
def films() -> list[bytes]:
    made = []
    for ending, codec in ((".mp4", "mp4v"), (".avi", "MJPG"), (".mkv", "mp4v")):
        path = Path("/dev/shm" if Path("/dev/shm").is_dir() else "/tmp") / f"crowddist-film-{id(made)}{ending}"
        writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), 25.0, (48, 32))
        for shift in range(4):
            writer.write(np.ascontiguousarray(np.roll(np.asarray(IMAGE)[:32, :48], shift, 1)))
        writer.release()
        made.append(path.read_bytes())
        path.unlink()
    return made


def read_films(folder: Path, data: bytes) -> None:
    (path := folder / "a.mp4").write_bytes(data)
    with one_line(path), Frames(find_source(path), Every(frames=1), say=lambda _: None) as frames:
        for frame in frames:
            assert frame.image.ndim == 3


# Annotations

POINTS = np.array([[3.5, 4], [40, 20], [7, 8]])


def matlab(compressed: bool, form: str = "5", **variables: Any) -> bytes:
    stream = io.BytesIO()
    scipy.io.savemat(stream, variables, do_compression=compressed, format=form)
    return stream.getvalue()


def array(points: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, points)
    return stream.getvalue()


def item(place: Path, record: Any = None) -> Item:
    return Item(name="a", image=place.with_suffix(".jpg"), record=record,
                annotations=(place, place.with_suffix(".none"), place.with_suffix(".none")))


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


def corrections() -> list[tuple[str, bytes]]:
    """What a count writes for tools that correct points."""
    counted = point_formats.Counted(name="a.jpg", file="a.jpg", height=32, width=48, points=[(3.5, 4.25, 0.9)],
                                    sizes=[4.0], row=dict.fromkeys(COLUMNS, 1))
    made = []
    for name, write in point_formats.FILES.values():
        write(stream := io.StringIO(), [counted])
        made.append((name, stream.getvalue().encode()))
    return [*made, ("labelme.json", json.dumps(point_formats.labelme_record(counted)).encode())]


def crowd_human(place: Path) -> None:
    for entry in _read_entries(place)[0].values():
        annotate_crowd_human(item(place, entry), SIZE)


def wider(place: Path) -> None:
    for entry in wider_face.read_entries(place).values():
        wider_face.annotate(item(place, entry), SIZE)


def zones(place: Path) -> None:
    for zone_set in read_zone_file(place).sets.values():
        zone_set.on(SIZE, seen=SIZE, cells=(4, 6), stride=8)
        zone_set.num_inside(POINTS, SIZE)


def reading(ending: str, *reads: Callable[[Path], object]) -> Callable[[Path, bytes], None]:
    """A function for `Reader.read` of files that each of these reads."""

    def read_all(folder: Path, data: bytes) -> None:
        (place := folder / f"a.{ending}").write_bytes(data)
        for read in reads:
            with one_line():
                read(place)

    return read_all


def annotate_nwpu(place: Path) -> object:
    return nwpu_crowd.annotate(item(place), SIZE)


def annotate_gcc(place: Path) -> object:
    return gcc.annotate(item(place), SIZE)


MAT_READS = (read_mat_info, lambda place: read_mat_points(place, "annPoints"), mat.read,
             lambda place: read_mat_count(place, "point_num"), lambda place: read_mat_polygon(place, ("x", "y")))
JSON_READS = (annotate_nwpu, annotate_gcc, coco.read, labelme.read, label_studio.read, plain_json.read)
TEXT_READS = (nwpu_crowd._read_list, jhu_crowd._read_index, lambda place: jhu_crowd.annotate(item(place), SIZE), wider,
              crowd_human)
ANNOTATIONS: dict[str, tuple[list[bytes], Sequence[Callable[[Path], object]]]] = {
    "mat": (MATS, MAT_READS), "npy": ([array(POINTS), array(POINTS.astype(np.uint8))], [npy.read]),
    "json": ([json.dumps(record).encode() for record in RECORDS], JSON_READS),
    "zones": ([json.dumps(ZONES[0]).encode(), *CVAT, encoded("PNG", IMAGE.convert("L").quantize(8))], [zones]),
    "xml": (CVAT, [cvat.read, zones]), "csv": (CSVS, [csv.read]), "txt": ([*TEXTS, json.dumps(BOXES).encode()], TEXT_READS),
}
"""Kind -> whole files and their readers, each of which reads one or more of the files."""

# What conversions write

MEMBERS = {
    "png": encoded("PNG"), "points.npy": encode("points.npy", np.ones((4, 2), np.float32)),
    "boxes.npy": encode("boxes.npy", np.ones((4, 4), np.float32)), "mask.png": encoded("PNG", IMAGE.convert("L")),
    "region.png": encoded("PNG", IMAGE.convert("1")),
    "json": b'{"id": "a", "height": 40, "width": 56, "roi": [[1, 2]], "extent": [5, 7], "windows": {"a": [[0, 0, 4, 4]]},'
            b' "seen": [40, 56], "zooms": [[1.0, 3.5]]}'}
LABELS = {"density.npy": encode("density.npy", np.ones((5, 7), np.float16)),
          "spread.npy": encode("spread.npy", np.ones((5, 7), np.float16)),
          "keep.png": encode("keep.png", np.ones((5, 7), np.uint8)), "json": MEMBERS["json"],
          "detections.npy": encode("detections.npy", np.ones((2, 4), np.float32))}
SEEN = {f"seen.{name}.npy": encode(f"seen.{name}.npy", np.ones(shape, kind)) for name, shape, kind in (
    ("density", (5, 7), np.float32), ("spread", (5, 7), np.float32), ("counts", (3,), np.float64),
    ("heads", (2, 4), np.float32))} | {"json": MEMBERS["json"]}
SETS: dict[str, tuple[dict[str, bytes], Callable[..., object]]] = {
    "image": (MEMBERS, lambda key, given: find_region(decode(key, given))),
    "jpg": ({"jpg": encoded("JPEG"), "json": MEMBERS["json"]}, decode),
    "labels": (LABELS, decode_labels), "seen": (SEEN, decode_seen)}


@st.composite
def members(draw: st.DrawFn) -> bytes:
    """The names of a set and of one of its members, and that one damaged; parted by zeros."""
    kind = draw(st.sampled_from(sorted(SETS)))
    name = draw(st.sampled_from(sorted(SETS[kind][0])))
    whole = SETS[kind][0][name]
    data = draw(json_files([json.loads(whole)]) if name == "json" else
                damaged([whole], mend_png if name.endswith("png") else None))
    return f"{kind}\0{name}\0".encode() + data


def read_member(folder: Path, data: bytes) -> None:
    kind, name, content = data.split(b"\0", 2)
    whole, read = SETS[kind.decode()]
    with one_line():
        read("a", whole | {name.decode(): content})


TAR = b"".join(header(f"a.{name}".encode(), b"%011o" % len(data)) + data + bytes(-len(data) % 512)
               for name, data in MEMBERS.items()) + END


def read_shard(folder: Path, data: bytes) -> None:
    url = data_set(folder, data)
    with one_line():
        decode(*ShardReader(url).read(0))
    with one_line():
        verify(url)


def manifest() -> dict[str, Any]:
    shard = {"name": "a.tar", "num_samples": 1, "num_bytes": 9, "sha256": "0" * 64, "persons": 1.0}
    return {"format": "crowddist data set", "name": "a", "split": "b", "kind": "images", "labelled": True,
            "shards": [shard], "statistics": {"images": 3}, "converter": "c", "version": 1}


def read_manifests(folder: Path, data: bytes) -> None:
    (folder / FILE_NAME).write_bytes(data)
    with one_line():
        found = read_manifest(folder)
        assert len(found.digest) == 64 and found.num_samples


# What runs and counts write

CONFIG = to_json(RunConfig(recipe="r", source="/a", target="/b"))


def read_config(folder: Path, data: bytes) -> None:
    with one_line():
        to_json(from_json(data.decode(errors="surrogateescape")))


ROW = {**dict.fromkeys(COLUMNS, 1), "file": "a.jpg"}
JOURNAL_LINES = [{"job": "j"}, {"file": "a.jpg", "repeat": 0, "stamp": [], "overlay": "a.png", "notes": [], "row": ROW,
                                "zones": {"gate": 1.5}}]


def counts(folder: Path, data: bytes) -> CountsTable:
    """The table of a count that was stopped, with this journal."""
    (folder / JOURNAL).write_bytes(data)
    # Of an image on the web nothing tells whether it is as it was.
    return CountsTable(folder.as_uri(), [UserFile(name="a.jpg", root="", address="http://a/a.jpg")], "j", zones=True)


def read_journal(folder: Path, data: bytes) -> None:
    with limited():
        table = counts(folder, data)
        list(table.notes())
        table.finish(whole=False)


PART = {"row": ROW, "height": 32, "width": 48, "points": [[3.5, 4.25, 0.9]], "sizes": [4.0]}


def read_part(folder: Path, data: bytes) -> None:
    (folder / PARTS).mkdir(exist_ok=True)
    (folder / PARTS / "a.png.json").write_bytes(data)
    with one_line():
        PointsTable(folder.as_uri(), counts(folder, lines_of(JOURNAL_LINES)), ("cvat", "labelstudio", "coco")).publish()


HISTORY = {"checkpoints": [{"file": "a.pt", "step": 1, "sha256": "0" * 64, "loss": 0.5}], "best": "a.pt"}
INTERVALS = {"scores": [0.1, 0.5, 0.9], "image_size": 96, "zooms": [1.0], "floor_persons": 1.0, "share": 0.1,
             "data": "a", "digest": "b", "skipped": []}
RULE = {"levels": [1, 5], "hours": [6, 19], "weathers": [0, 1], "counts": [10, 600], "ratios": [0.3, 1.0]}
FACTS = json.loads(OnnxCounter(
    method="self_supervision", backbone="compact", ensemble="masksembles", num_members=3, image_size=96, zooms=(1.0,),
    output_stride=8, margin_px=16, sigma_px=4.0, min_certainty=0.5, version="1",
    calibration=Calibration(scores=(0.5,) * 9, image_size=96, zooms=(1.0,))).to_json())


def read_records(folder: Path, data: bytes) -> None:
    """A small JSON of a run, or of a counter, in the place of each."""
    for name in ("latest.json", "a.intervals.json", "rule.json"):
        (folder / name).write_bytes(data)
    with one_line(), suppress(FileNotFoundError):
        checkpoint.load_latest(folder.as_uri())
    with one_line(), suppress(FileNotFoundError):
        checkpoint.latest_url(folder.as_uri())
    with one_line():
        if found := read_calibration((folder / "a.pt").as_uri()):
            found.around(3.0, 0.5, 0.5)
    with one_line():
        find_rule(str(folder / "rule.json")).keeps({"level": 3, "hour": 7, "weather": 1, "count": 20})
    with one_line():
        counter_of(data.decode(errors="surrogateescape"), "a.onnx")


CALLS = [{"call": "metrics", "values": {"a": 1.0}, "step": 3},
         {"call": "picture", "name": "a", "image": base64.b64encode(encoded("PNG")).decode()}]
CURVE = [{"step": 20, "loss": 0.5}, {"step": 40, "loss": 0.25}]


def read_lines(folder: Path, data: bytes) -> None:
    (folder / "curve.jsonl").write_bytes(data)
    with limited():
        read_curve((folder / "curve.jsonl").as_uri())
    with one_line():
        journal._read((folder / "curve.jsonl").as_uri())


@cache
def counter() -> Any:
    return build_counter(CounterConfig())


@cache
def trained() -> dict[str, Any]:
    from crowddist.methods.build import build_method

    config = RunConfig(recipe="tiny", source="/a", target="/b")
    return {"format": 1, "version": "1", "step": 1, "method": build_method(config).state_dict(), "config": to_json(config)}


def torch_file(content: object, *, zipped: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def slim(content: Any) -> Any:
    """A checkpoint with two of its weights."""
    networks = content["method"]["networks"]
    return {**content, "method": {**content["method"], "networks": dict(list(networks.items())[:2])}}


@st.composite
def checkpoints(draw: st.DrawFn) -> bytes:
    kept = slim(trained())
    weights = kept["method"]["networks"]
    plain = {"state_dict": weights}
    seeds = [torch_file(kept), torch_file(plain)]
    how = draw(st.sampled_from(("bytes", "members", "values")))
    if how == "bytes":
        return draw(damaged([*seeds, torch_file(kept, zipped=False)]))
    if how == "members":
        return draw(zip_files(seeds))
    return torch_file(draw(changed([trained(), kept, plain])))


def read_checkpoints(folder: Path, data: bytes) -> None:
    (place := folder / "a.pt").write_bytes(data)
    with one_line():
        Predictor.from_checkpoint(place.as_uri())
    read_weights(place)


def read_weights(place: Path) -> None:
    network = counter()
    with one_line():
        load_start(network, network.encoder, name="counter", weights=str(place), backbone=BACKBONES["compact"])


def tensors_file(record: Any) -> bytes:
    """Safetensors with this head."""
    head = json.dumps(record).encode()
    return struct.pack("<Q", len(head)) + head + bytes(range(24))


TENSORS = {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {"format": "pt"}}


def read_safetensors(folder: Path, data: bytes) -> None:
    (place := folder / "a.safetensors").write_bytes(data)
    read_weights(place)


READERS: dict[str, Reader] = {
    "checkpoints": Reader(checkpoints(), read_checkpoints),
    "records": Reader(json_files([HISTORY, INTERVALS, RULE, FACTS]), read_records),
    "lines": Reader(line_files(CALLS) | line_files(CURVE), read_lines),
    "safetensors": Reader(changed([TENSORS]).map(tensors_file) | damaged([tensors_file(TENSORS)]), read_safetensors),
    "films": Reader(st.deferred(lambda: damaged(films())), read_films),
    "configs": Reader(json_files([json.loads(CONFIG)]), read_config),
    "manifests": Reader(json_files([manifest()]), read_manifests),
    "members": Reader(members(), read_member),
    "shards": Reader(damaged([TAR], mend_tar), read_shard),
    "journals": Reader(line_files(JOURNAL_LINES), read_journal),
    "parts": Reader(json_files([PART]), read_part),
    "zones": Reader(json_files(ZONES) | xml_files(CVAT) | damaged([ANNOTATIONS["zones"][0][-1]], mend_png),
                    reading("json", zones)),
    "json": Reader(json_files(RECORDS), reading("json", *JSON_READS)),
    "xml": Reader(xml_files(CVAT), reading("xml", cvat.read)),
    "csv": Reader(damaged(CSVS), reading("csv", csv.read)),
    "txt": Reader(damaged(TEXTS) | json_files([BOXES]), reading("txt", *TEXT_READS)),
    "mat": Reader(damaged(MATS, pack_mat), reading("mat", *MAT_READS)),
    "npy": Reader(damaged(ANNOTATIONS["npy"][0]), reading("npy", npy.read)),
    "images": Reader(damaged(IMAGES, mend_png), read_images),
}
