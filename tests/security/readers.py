"""All readers of files that others made or changed: a row each, with whole files as seeds of the damage, and a function
that reads a damaged one as far as the program would.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from crowddist.config import from_json, to_json
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
from crowddist.data.shard_codec import decode, decode_labels, decode_seen
from crowddist.data.shards import ShardReader, verify
from crowddist.data.user_files import UserFile
from crowddist.data.zones.files import read_zone_file
from crowddist.inference.intervals import read_calibration
from crowddist.inference.onnx_predictor import counter_of
from crowddist.inference.predictor import Predictor
from crowddist.models.backbones.table import BACKBONES
from crowddist.models.config import CounterConfig
from crowddist.models.counter import build_counter
from crowddist.models.weights import load_start
from crowddist.reports.counts_table import JOURNAL, CountsTable
from crowddist.reports.points_table import PARTS, PointsTable
from crowddist.run import checkpoint
from crowddist.run.engine import read_curve
from crowddist.tracking import journal
from crowddist.video.frames import Frames
from crowddist.video.sampling import Every
from crowddist.video.source import find_source
from tests.security import seeds
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
from tests.security.test_shards import data_set

SIZE = (32, 48)
"""(height, width) of the images that annotations are about, px."""


@dataclass(frozen=True)
class Reader:
    """A kind of file."""

    files: st.SearchStrategy[bytes]
    """Damaged ones."""
    read: Callable[[Path, bytes], object]
    """Reads one in a folder, that of the file before; fails where it is neither read nor refused in a line."""
    whole: Callable[[], Sequence[bytes]] = tuple
    """Gives undamaged ones, which are read; where several functions read a file, see `ANNOTATIONS`."""


# Images


def read_images(folder: Path, data: bytes) -> None:
    (path := folder / "a.jpg").write_bytes(data)
    with one_line(path):
        pixels, _ = read_image(path)
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    with one_line(path):
        store_image(path, upright=False, max_size=32)


# Films


def read_films(folder: Path, data: bytes) -> None:
    (path := folder / "a.mp4").write_bytes(data)
    with one_line(path), Frames(find_source(path), Every(frames=1), say=lambda _: None) as frames:
        for frame in frames:
            assert frame.image.ndim == 3


# Annotations


def item(place: Path, record: Any = None) -> Item:
    return Item(name="a", image=place.with_suffix(".jpg"), record=record,
                annotations=(place, place.with_suffix(".none"), place.with_suffix(".none")))


def crowd_human(place: Path) -> None:
    for entry in _read_entries(place)[0].values():
        annotate_crowd_human(item(place, entry), SIZE)


def wider(place: Path) -> None:
    for entry in wider_face.read_entries(place).values():
        wider_face.annotate(item(place, entry), SIZE)


def zones(place: Path) -> None:
    for zone_set in read_zone_file(place).sets.values():
        zone_set.on(SIZE, seen=SIZE, cells=(4, 6), stride=8)
        zone_set.num_inside(seeds.POINTS, SIZE)


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
ANNOTATIONS: dict[str, tuple[Sequence[bytes], Sequence[Callable[[Path], object]]]] = {
    "mat": (seeds.MATS, MAT_READS), "json": ([json.dumps(record).encode() for record in seeds.RECORDS], JSON_READS),
    "txt": ([*seeds.TEXTS, json.dumps(seeds.BOXES).encode()], TEXT_READS)}
"""Kind -> whole files and the functions that read one or more of them."""
ZONE_FILES = [*(json.dumps(record).encode() for record in seeds.ZONES), seeds.CVAT[0], seeds.encoded("PNG", seeds.MASK)]

# What conversions write

SETS: dict[str, tuple[dict[str, bytes], Callable[..., object]]] = {
    "image": (seeds.MEMBERS, lambda key, given: find_region(decode(key, given))),
    "jpg": ({"jpg": seeds.encoded("JPEG"), "json": seeds.MEMBERS["json"]}, decode),
    "labels": (seeds.LABELS, decode_labels), "seen": (seeds.SEEN, decode_seen)}


@st.composite
def members(draw: st.DrawFn) -> bytes:
    """The names of a set and of one of its members, and that one damaged; parted by zeros."""
    kind = draw(st.sampled_from(sorted(SETS)))
    name = draw(st.sampled_from(sorted(SETS[kind][0])))
    whole = SETS[kind][0][name]
    data = draw(json_files([json.loads(whole)]) if name == "json" else
                damaged([whole], mend_png if name.endswith("png") else None))
    return named(kind, name, data)


def named(kind: str, name: str, data: bytes) -> bytes:
    return f"{kind}\0{name}\0".encode() + data


def read_member(folder: Path, data: bytes) -> None:
    kind, name, content = data.split(b"\0", 2)
    whole, read = SETS[kind.decode()]
    with one_line():
        read("a", whole | {name.decode(): content})


def read_shard(folder: Path, data: bytes) -> None:
    url = data_set(folder, data)
    with one_line():
        decode(*ShardReader(url).read(0))
    with one_line():
        verify(url)


def read_manifests(folder: Path, data: bytes) -> None:
    (folder / FILE_NAME).write_bytes(data)
    with one_line():
        found = read_manifest(folder)
        assert len(found.digest) == 64 and found.num_samples
        with suppress(FileNotFoundError):
            ShardReader(folder).read(0)


# What runs and counts write


def read_config(folder: Path, data: bytes) -> None:
    with one_line():
        to_json(from_json(data.decode(errors="surrogateescape")))


def counts(folder: Path, data: bytes) -> CountsTable:
    """The table of a count that was stopped, with this journal."""
    (folder / JOURNAL).write_bytes(data)
    (folder / "a.png").touch()  # its overlay
    # Of an image on the web nothing tells whether it is as it was.
    return CountsTable(folder.as_uri(), [UserFile(name="a.jpg", root="", address="http://a/a.jpg")], "j", zones=True)


def read_journal(folder: Path, data: bytes) -> None:
    with limited():
        table = counts(folder, data)
        list(table.notes())
        table.finish(whole=False)


def read_part(folder: Path, data: bytes) -> None:
    (folder / PARTS).mkdir(exist_ok=True)
    (folder / PARTS / "a.png.json").write_bytes(data)
    with one_line():
        table = counts(folder, lines_of(seeds.JOURNAL_LINES))
        PointsTable(folder.as_uri(), table, ("cvat", "labelstudio", "coco")).publish()


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


def read_lines(folder: Path, data: bytes) -> None:
    (folder / "curve.jsonl").write_bytes(data)
    with limited():
        read_curve((folder / "curve.jsonl").as_uri())
    with one_line():
        journal._read((folder / "curve.jsonl").as_uri())


@cache
def counter() -> Any:
    return build_counter(CounterConfig())


@st.composite
def checkpoints(draw: st.DrawFn) -> bytes:
    kept = seeds.slim(seeds.trained())
    weights = kept["method"]["networks"]
    plain = {"state_dict": weights}
    files = [seeds.torch_file(kept), seeds.torch_file(plain)]
    how = draw(st.sampled_from(("bytes", "members", "config", "values")))
    if how == "bytes":
        return draw(damaged([*files, seeds.torch_file(kept, zipped=False)]))
    if how == "members":
        return draw(zip_files(files))
    if how == "config":
        config = draw(changed([json.loads(kept["config"])]))
        return seeds.torch_file({**draw(st.sampled_from((seeds.trained(), kept))), "config": json.dumps(config)})
    return seeds.torch_file(draw(changed([seeds.trained(), kept, plain])))


def read_checkpoints(folder: Path, data: bytes) -> None:
    (place := folder / "a.pt").write_bytes(data)
    with one_line():
        Predictor.from_checkpoint(place.as_uri())
    read_weights(place)


def read_weights(place: Path) -> None:
    network = counter()
    with one_line():
        load_start(network, network.encoder, name="counter", weights=str(place), backbone=BACKBONES["compact"])


def read_safetensors(folder: Path, data: bytes) -> None:
    (place := folder / "a.safetensors").write_bytes(data)
    read_weights(place)


READERS: dict[str, Reader] = {
    "checkpoints": Reader(checkpoints(), read_checkpoints, lambda: [seeds.torch_file(seeds.trained())]),
    "records": Reader(json_files([seeds.HISTORY, seeds.INTERVALS, seeds.RULE, seeds.FACTS]), read_records),
    "lines": Reader(line_files(seeds.CALLS) | line_files(seeds.CURVE), read_lines, lambda: [lines_of(seeds.CALLS)]),
    "safetensors": Reader(changed([seeds.TENSORS]).map(seeds.tensors_file)
                          | damaged([seeds.tensors_file(seeds.TENSORS)]), read_safetensors),
    "films": Reader(st.deferred(lambda: damaged(seeds.films())), read_films, seeds.films),
    "configs": Reader(json_files([json.loads(seeds.CONFIG)]), read_config, lambda: [seeds.CONFIG.encode()]),
    "manifests": Reader(json_files([seeds.manifest()]), read_manifests,
                        lambda: [json.dumps(seeds.manifest()).encode()]),
    "members": Reader(members(), read_member, lambda: [named(kind, name, whole) for kind, (each, _) in SETS.items()
                                                       for name, whole in each.items()]),
    "shards": Reader(damaged([seeds.TAR], mend_tar), read_shard, lambda: [seeds.TAR]),
    "journals": Reader(line_files(seeds.JOURNAL_LINES), read_journal),
    "parts": Reader(json_files([seeds.PART]), read_part, lambda: [json.dumps(seeds.PART).encode()]),
    "zones": Reader(json_files(seeds.ZONES) | xml_files(seeds.CVAT) | damaged([ZONE_FILES[-1]], mend_png),
                    reading("json", zones), lambda: ZONE_FILES),
    "json": Reader(json_files(seeds.RECORDS), reading("json", *JSON_READS)),
    "xml": Reader(xml_files(seeds.CVAT), reading("xml", cvat.read), lambda: seeds.CVAT),
    "csv": Reader(damaged(seeds.CSVS), reading("csv", csv.read), lambda: seeds.CSVS),
    "txt": Reader(damaged(seeds.TEXTS) | json_files([seeds.BOXES]), reading("txt", *TEXT_READS)),
    "mat": Reader(damaged(seeds.MATS, pack_mat), reading("mat", *MAT_READS)),
    "npy": Reader(damaged(seeds.ARRAYS), reading("npy", npy.read), lambda: seeds.ARRAYS),
    "images": Reader(damaged(seeds.IMAGES, mend_png), read_images, lambda: seeds.IMAGES),
}
