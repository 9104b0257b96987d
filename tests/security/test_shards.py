"""Attacks by shards: tar headers that lie, names that leave the folder or act on a terminal, arrays and JSON larger
than memory.
"""

from __future__ import annotations

import hashlib
import json
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crowddist import storage
from crowddist.data.shard_codec import decode, decode_seen
from crowddist.data.shards import ShardReader, verify
from crowddist.errors import InputError

END = bytes(1024)


def header(name: bytes, size: bytes = b"00000000000", kind: bytes = b"0") -> bytes:
    """A tar header with a right checksum, whatever it says."""
    data = bytearray(512)
    data[: len(name)], data[124 : 124
                            + len(size)], data[
                                156:157], data[257:265], data[148:156] = name, size, kind, b"ustar\x0000", b" " * 8
    data[148:156] = b"%06o\0 " % sum(data)
    return bytes(data)


def one_byte(name: bytes) -> bytes:
    return header(name, b"00000000001") + b"x".ljust(512, b"\0")


def data_set(folder: Path, tar: bytes, *, num_samples: int = 1, shard: str = "a.tar") -> str:
    """A data set that says of its shard what is true of it."""
    folder.mkdir(exist_ok=True)
    (folder / "a.tar").write_bytes(tar)
    info = {"name": shard, "num_samples": num_samples, "num_bytes": len(tar), "sha256": hashlib.sha256(tar).hexdigest(),
            "persons": None}
    facts = {"name": "a", "split": "all", "kind": "images", "labelled": False, "shards": [info], "statistics": {},
             "converter": "a", "version": 1}
    (folder / "manifest.json").write_text(json.dumps({"format": "crowddist data set", **facts}))
    return str(folder)


TARS = {
    "parent": one_byte(b"../../x.png") + END,
    "absolute": one_byte(b"/etc/cron.d/x.png") + END,
    "folder": one_byte(b"a/x.png") + END,
    "hidden": one_byte(b".bashrc") + END,
    "escape": one_byte(b"\x1b]0;owned\x07.png") + END,
    "turned": one_byte("a\u202egnp.x".encode()) + END,
    "nameless": one_byte(b"") + END,
    "symbolic link": header(b"x.png", kind=b"2") + END,
    "hard link": header(b"x.png", kind=b"1") + END,
    "device": header(b"x.png", kind=b"3") + END,
    "folder entry": header(b"x.png", kind=b"5") + END,
    "long name": header(b"x.png", kind=b"L") + END,
    "pax": header(b"x.png", kind=b"x") + END,
    "sparse": header(b"x.png", kind=b"S") + END,
    "8 GB": header(b"x.png", b"77777777777") + END,
    "1 TB, base 256": header(b"x.png", b"\x80" + bytes(5) + b"\x01" + bytes(5)) + END,
    "backwards for ever": header(b"x.png", b"-0000001000") + END,
    "backwards": header(b"x.png", b"-0000000001") + END,
    "with a sign": header(b"x.png", b"+0000000001") + bytes(512) + END,
    "with a line": header(b"x.png", b"0000000_001") + bytes(512) + END,
    "member twice": one_byte(b"x.png") * 2 + END,
    "packed": b"\x1f\x8b\x08" + bytes(2000),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("what", TARS)
def test_a_tar_that_lies_is_refused_in_one_line(tmp_path: Path, what: str) -> None:
    place = data_set(tmp_path / "set", TARS[what])
    for look in (lambda: ShardReader(place).read(0), lambda: ShardReader(place).keys(), lambda: verify(place)):
        with pytest.raises(InputError, match=r"shard file:///.*/a\.tar: ") as error:
            look()
        assert str(error.value).isprintable()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tar", "manifest.json", "set"]


def test_what_tells_the_truth_is_read(tmp_path: Path) -> None:
    assert ShardReader(data_set(tmp_path / "set", one_byte(b"x.png") + END)).read(0) == ("x", {"png": b"x"})


def test_a_key_in_two_places_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two samples are called x"):
        verify(data_set(tmp_path / "set", one_byte(b"x.png") + one_byte(b"y.png") + one_byte(b"x.json") + END,
                        num_samples=3))


@pytest.mark.parametrize("shard", ["../secret.tar", "/etc/passwd", ".hidden.tar", "a/b.tar", "..", "", "a\n.tar",
                                   "a\x1b[2J.tar"])
def test_a_manifest_names_no_file_of_another_folder(tmp_path: Path, shard: str) -> None:
    with pytest.raises(InputError, match="shard name must be a plain file name") as error:
        ShardReader(data_set(tmp_path / "set", one_byte(b"x.png") + END, shard=shard))
    assert str(error.value).isprintable()


@pytest.mark.parametrize("entry", ["name", "split", "converter"])
def test_a_manifest_says_nothing_that_acts_on_a_terminal(tmp_path: Path, entry: str) -> None:
    place = data_set(tmp_path / "set", one_byte(b"x.png") + END)
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    (tmp_path / "set" / "manifest.json").write_text(json.dumps({**manifest, entry: "a\x1b]0;owned\x07"}))
    with pytest.raises(InputError, match=f"{entry} must be a name") as error:
        ShardReader(place)
    assert str(error.value).isprintable()


def array(shape: str, kind: str = "<f4", data: bytes = b"") -> bytes:
    """NumPy's format with any head."""
    head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + data


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Fails where more than 50 MB were taken."""
    tracemalloc.start()
    yield
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 50e6


@pytest.mark.parametrize("data", [
    array("(100000000, 2)"), array("(10000000000000, 2)"), array("(99999999999999999999999999, 2)"),
    array("(-1, 2)", data=bytes(16)),
    array("(1, 2)", kind="|O", data=bytes(16)), array("(1, 2)", data=bytes(4)), array("(1, 2)", data=bytes(12)),
    array("-" * 980 + "1"),
    array("(" * 900 + ")" * 900), b"\x93NUMPY\x03\x00" + b"\xff" * 20,
], ids=["1 GB", "80 TB", "no integer", "negative", "objects", "short", "long", "signs", "brackets", "head of 4 GB"])
def test_an_array_takes_no_more_memory_than_its_bytes(little_memory: None, data: bytes) -> None:
    with pytest.raises(InputError, match=r"sample k: member points\.npy is damaged"):
        decode("k", {"points.npy": data})
    if data[20:27] != b"'|O'" and len(data) < 500:
        with pytest.raises(InputError, match=r"sample k: member seen\.density\.npy is damaged"):
            decode_seen("k", {"seen.density.npy": data})


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b"\xff\xfe"],
                         ids=["lists", "objects", "number", "bytes"])
def test_json_without_end_is_one_line(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(InputError, match="sample k: member json is damaged"):
        decode("k", {"json": text})
    (tmp_path / "manifest.json").write_bytes(text)
    reads: tuple[Callable[[], object], ...] = (lambda: storage.read_json(tmp_path / "manifest.json"),
                                               lambda: ShardReader(tmp_path))
    for read in reads:
        with pytest.raises(InputError, match=r"not JSON|must be"):
            read()


@pytest.mark.parametrize("seen", ["x", [1], [1, "2"], None, {"0": 1}])
def test_kept_predictions_that_lie_are_refused(seen: object) -> None:
    members = {"json": json.dumps({"seen": seen}).encode(), "seen.counts.npy": array("(1,)", "<f8", bytes(8))}
    members |= {f"seen.{name}.npy": array("(1, 1)", data=bytes(4)) for name in ("density", "spread")}
    with pytest.raises(InputError, match="sample k: seen must be"):
        decode_seen("k", members)
