"""Attacks by annotation files: MATLAB files that unpack to gigabytes or hold code, lists that name files elsewhere,
what is read for ever.
"""

from __future__ import annotations

import io
import os
import struct
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from crowddist.data.convert import nwpu_crowd, wider_face
from crowddist.data.convert.annotations import read_json_object, read_mat_info, read_mat_points
from crowddist.data.convert.base import convert
from crowddist.data.convert.matlab import require_harmless
from crowddist.errors import InputError

HEAD = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x100) + b"IM"


def element(kind: int, data: bytes) -> bytes:
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def array(kind: int, dims: tuple[int, ...], rest: bytes = b"") -> bytes:
    """An array of a class, whose members `rest` are."""
    return element(14, element(6, struct.pack("<II", kind, 0)) + element(5, struct.pack(f"<{len(dims)}i", *dims))
                   + element(1, b"p") + rest)


def nested(depth: int) -> bytes:
    made = array(1, (1, 1))
    for _ in range(depth):
        made = array(1, (1, 1), made)
    return made


def packed_matrix(num_bytes: int) -> bytes:
    """A matrix of zeros, packed a thousandfold."""
    head = array(6, (num_bytes // 16, 2))[8:] + struct.pack("<II", 9, num_bytes)
    packer = zlib.compressobj(9)
    packed = packer.compress(struct.pack("<II", 14, len(head) + num_bytes) + head)
    packed += b"".join(packer.compress(bytes(2**20)) for _ in range(num_bytes // 2**20)) + packer.flush()
    return struct.pack("<II", 15, len(packed)) + packed


FIELDS = struct.pack("<HHI", 5, 4, 8) + element(1, b"location")
BOMBS = {
    "packed matrix": packed_matrix(100 * 2**20),
    "many packed matrices": packed_matrix(20 * 2**20) * 4,
    "cell": array(1, (30_000, 30_000)),
    "cell of many axes": array(1, (2000,) * 8),
    "structure": array(2, (30_000, 30_000), FIELDS),
    "object": array(3, (30_000, 30_000), element(1, b"thing") + FIELDS),
    "text": array(4, (60_000, 60_000), element(16, b"")),
    "cell in a cell": array(1, (1, 1), array(1, (30_000, 30_000))),
    "packed cell": (lambda packed: struct.pack("<II", 15, len(packed))
                    + packed)(zlib.compress(array(1, (30_000, 30_000)))),
    "nested": nested(5000),
}


@pytest.mark.parametrize("what", BOMBS)
def test_a_matlab_file_takes_little_memory_whatever_it_claims(tmp_path: Path, what: str) -> None:
    place = tmp_path / "p.mat"
    place.write_bytes(HEAD + BOMBS[what])
    assert place.stat().st_size < 600_000
    tracemalloc.start()
    began = time.monotonic()
    for read in (read_mat_info, lambda path: read_mat_points(path, "p")):
        refused = r"p\.mat: not a MATLAB file that can be read: (it unpacks|an array claims|arrays lie)"
        with pytest.raises(InputError, match=refused):
            read(place)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 200e6 and time.monotonic() - began < 5


def test_matlab_files_as_they_are_pass(real_data: Path) -> None:
    places = sorted(real_data.glob("shanghaitech/*/train_data/ground_truth/*.mat"))[:20]
    assert places and all(len(read_mat_info(place)[0]) > 0 for place in places)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("value", [np.ones((7, 2)), np.array([[{"location": np.ones((7, 2)), "number": 7}]], object),
                                   "text", np.zeros((0, 2)), [], {"a": []}])
def test_what_matlab_would_write_passes(value: object, packed: bool) -> None:
    stream = io.BytesIO()
    scipy.io.savemat(stream, {"p": value, "q": np.ones(3, bool)}, do_compression=packed)
    require_harmless(stream.getvalue())


def test_functions_and_objects_in_a_matlab_file_are_no_points(tmp_path: Path) -> None:
    (tmp_path / "p.mat").write_bytes(HEAD
                                     + array(16, (1, 1), array(1, (1, 1), array(4, (1, 6), element(16, b"system")))))
    with pytest.raises(InputError, match=r"p\.mat: (not a MATLAB file|wrong layout)"):
        read_mat_points(tmp_path / "p.mat", "p")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("target", ["/dev/zero", "pipe", "huge", "/proc/self/environ"])
def test_annotations_that_are_no_files_are_not_read_for_ever(tmp_path: Path, target: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with open(tmp_path / "huge", "wb") as stream:
        stream.truncate(2**40)
    (tmp_path / "p.json").symlink_to(target)
    with pytest.raises(InputError, match=r"p\.json: ") as error:
        read_json_object(tmp_path / "p.json")
    assert "PATH=" not in str(error.value)


SECRET = ["../../../secret", "/etc/passwd", "../images/../../secret"]


@pytest.mark.parametrize("name", SECRET)
def test_lists_of_images_name_no_files_elsewhere(tmp_path: Path, name: str) -> None:
    """Images are looked for in their folders; what a list says is held against their names."""
    secret = np.full((32, 32, 3), 200, np.uint8)
    for place in (tmp_path / "secret.jpg", tmp_path / "set" / "images" / "1.jpg",
                  tmp_path / "set" / "WIDER_train" / "images" / "1.jpg"):
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(secret).save(place)
    for folder in ("jsons", "wider_face_split"):
        (tmp_path / "set" / folder).mkdir()
    (tmp_path / "set" / "train.txt").write_text(f"{name} 0 0\n1 0 0\n")
    (tmp_path / "set" / "jsons" / "1.json").write_text('{"points": [[1, 1]]}')
    (tmp_path / "set" / "wider_face_split"
     / "wider_face_train_bbx_gt.txt").write_text(f"{name}.jpg\n0\n{'0 ' * 10}\n1.jpg\n1\n1 1 8 8 0 0 0 0 0 0\n")
    for form in (nwpu_crowd.FORMAT, wider_face.FORMAT):
        done = convert(form, tmp_path / "set", tmp_path / form.name, skip_bad=True)
        assert done.manifest.num_samples == 1 and len(done.skipped) == 1 and "is missing" in done.skipped[0]["reason"]
