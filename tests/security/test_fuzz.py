"""Files that are damaged at random: each is read, or refused in one line that names it."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from crowddist.config import RunConfig, from_json, to_json
from crowddist.data.images import read_image, store_image
from crowddist.data.manifest import FILE_NAME, Manifest, read_manifest
from crowddist.data.shard_codec import decode, encode
from crowddist.data.shards import ShardReader, verify
from crowddist.data.user_files import UserFile
from crowddist.errors import InputError
from crowddist.reports.counts_table import COLUMNS, JOURNAL, CountsTable
from tests.data.tiff import tiff
from tests.security.damage import damaged, examples, limited, one_line
from tests.security.test_shards import END, data_set, header

Y, X = np.mgrid[0:40, 0:56]
IMAGE = Image.fromarray(np.stack([X * 4, Y * 6, Y + X], 2).astype(np.uint8))


def encoded(kind: str, image: Image.Image = IMAGE, **options) -> bytes:  # type: ignore[no-untyped-def]
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


DEEP = cv2.imencode(".png", np.dstack([np.asarray(IMAGE)] * 2)[..., :4].astype(np.uint16) * 16)[1].tobytes()
TURNED = Image.Exif()
TURNED[274] = 6
SEEDS = [
    encoded("JPEG"), encoded("JPEG", progressive=True), encoded("JPEG", restart_marker_rows=1)[:-2],
    encoded("JPEG", IMAGE.convert("CMYK")), encoded("PNG"), DEEP, encoded("PNG", IMAGE.quantize(8)), encoded("WEBP"),
    encoded("BMP"), encoded("TIFF", compression="tiff_lzw"), encoded("TIFF", save_all=True, append_images=[IMAGE]),
    encoded("PPM"), b"P5\n16 8\n4095\n" + bytes(256), encoded("MPO", save_all=True, append_images=[IMAGE], exif=TURNED),
    encoded("TIFF", exif=TURNED), encoded("TIFF", big_tiff=True, exif=TURNED), encoded("WEBP", exif=TURNED),
    encoded("PNG", IMAGE.convert("LA"), exif=TURNED), encoded("BMP", IMAGE.convert("P")),
    encoded("TIFF", IMAGE.convert("F")), tiff(np.asarray(IMAGE).astype(np.uint16) * 16, planes=True),
    tiff((np.asarray(IMAGE) / 255).astype(np.float16), kind=3),
]


@examples(300)
@given(data=damaged(SEEDS))
def test_damaged_images_are_read_or_refused_in_one_line(tmp_path: Path, data: bytes) -> None:
    (path := tmp_path / "a.jpg").write_bytes(data)
    with one_line(path):
        pixels, _ = read_image(path)
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    with one_line(path):
        store_image(path, upright=False, max_size=32)


@examples(150)
@given(data=damaged([b"\n".join(json.dumps(line).encode() for line in (
    {"job": "j"}, {"file": "a.jpg", "repeat": 0, "stamp": [1, 2], "overlay": "a.png", "notes": [],
                   "row": dict.fromkeys(COLUMNS, 1)}))]))
def test_a_damaged_journal_of_a_count_is_read_as_far_as_it_goes(tmp_path: Path, data: bytes) -> None:
    (tmp_path / JOURNAL).write_bytes(data)
    with limited():
        CountsTable(tmp_path.as_uri(), [UserFile(name="a.jpg", root="")], "j")


MEMBERS = {"png": encoded("PNG"), "points.npy": encode("points.npy", np.ones((4, 2), np.float32)),
           "mask.png": encoded("PNG", IMAGE.convert("L")),
           "json": b'{"id": "a", "height": 40, "width": 56, "roi": [[1, 2]]}'}


@examples(200)
@given(data=st.data())
def test_damaged_members_of_shards_and_records_of_runs(tmp_path: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from((*MEMBERS, FILE_NAME, "config.json")))
    if name == FILE_NAME:
        (tmp_path / FILE_NAME).write_bytes(data.draw(damaged([json.dumps(manifest()).encode()])))
        with one_line():
            read_manifest(tmp_path)
    elif name == "config.json":
        text = to_json(RunConfig(recipe="r", source="/a", target="/b"))
        with one_line():
            from_json(data.draw(damaged([text.encode()])).decode(errors="surrogateescape"))
    else:
        with one_line():
            decode("a", MEMBERS | {name: data.draw(damaged([MEMBERS[name]]))})


TAR = b"".join(header(f"a.{name}".encode(), b"%011o" % len(data)) + data + bytes(-len(data) % 512)
               for name, data in MEMBERS.items()) + END


@examples(150)
@given(data=st.data())
def test_damaged_shards(tmp_path: Path, data: st.DataObject) -> None:
    """Also where the head tells the right checksum."""
    tar = data.draw(damaged([TAR]))
    if len(tar) > 512 and data.draw(st.booleans()):
        tar = tar[:148] + b"%06o\0 " % (sum(tar[:148]) + 8 * 32 + sum(tar[156:512])) + tar[156:]
    url = data_set(tmp_path, tar)
    with one_line():
        decode(*ShardReader(url).read(0))
    with one_line():
        verify(url)


def manifest() -> dict[str, object]:
    shard = {"name": "a.tar", "num_samples": 1, "num_bytes": 9, "sha256": "0" * 64, "persons": 1.0}
    return {"format": "crowddist data set", "name": "a", "split": "b", "kind": "images", "labelled": True,
            "shards": [shard], "statistics": {}, "converter": "c", "version": 1}


def test_records_with_a_wrong_value_are_read_or_refused() -> None:
    values = (None, [], {}, -1, 1e308, "", True, "x\0y", [1], 10**30, float("nan"), {"a": 1})
    for change in values:
        for name in manifest():
            with pytest.raises(InputError) if name == "shards" else one_line():
                Manifest.from_json(manifest() | {name: change})
        for name in ("name", "num_samples", "num_bytes", "sha256", "persons"):
            with one_line():
                Manifest.from_json(manifest() | {"shards": [{**manifest()["shards"][0], name: change}]})  # type: ignore[index]
    config = json.loads(to_json(RunConfig(recipe="r", source="/a", target="/b")))
    rng = random.Random(0)
    for _ in range(400):
        torn = json.loads(json.dumps(config))
        owner = torn
        while isinstance(owner[name := rng.choice(list(owner))], dict) and owner[name] and rng.random() < 0.8:
            owner = owner[name]
        owner[name] = rng.choice(values)
        with one_line():
            from_json(json.dumps(torn))


def test_an_arrays_torn_head_is_damage() -> None:
    """NumPy reads it as Python, and tries again word by word where that fails."""
    data = encode("points.npy", np.zeros((4, 2), np.float32)).replace(b"False, 's", b"False( 's")
    good = encoded("PNG", Image.new("RGB", (9, 9)))
    with pytest.raises(InputError, match=r"points\.npy is damaged"):
        decode("a", {"png": good, "points.npy": data})
