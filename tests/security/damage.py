"""Damage to files and records, drawn by Hypothesis, and the limits that a reader of them has to keep."""

from __future__ import annotations

import copy
import io
import json
import resource
import signal
import struct
import time
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import strategies as st

from crowddist.errors import InputError

MOST_KIBIBYTES = 2 * 2**20
"""What one file may add to the memory of the process."""
MOST_SECONDS = 10
"""What one file may take of a processor; of the clock would be unfair on a busy machine."""
TOKENS = (b"nan", b"-1", b"1e999", b"9" * 400, b"9" * 5000, b"null", b"[", b"]", b"{", b'"', b",", b"\n", b"\r", b"\0",
          b"\xff", b"<", b"&x;", b"[" * 2000, b'{"a":' * 2000, b"<a>" * 500, b"\\ud800", b"\xff\xff\xff\x7f",
          b"\x7f\xff\xff\xff", bytes(8), b"\xff" * 8)
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 2**31, 2**63, 10**400, 1e308, 5e-324, float("nan"), float("inf"), "", "3", "nan", "a\0b",
    "\ud800", "../a", "a" * 5000, [], {}, [[]], [None], [[1, 2], [3]], {"a": 1}, {"": None}, [[[1, 2]]], [["1", "2"]],
    [True])
"""What stands in the place of other values of a record."""
REFUSED: deque[str] = deque(maxlen=9)
"""The newest lines of files that were refused."""
_HEAD_BYTES = 160
"""Where formats keep their sizes and counts: half of the damage goes there."""


@st.composite
def damaged(draw: st.DrawFn, seeds: Sequence[bytes], mend: Callable[[bytes], bytes] | None = None) -> bytes:
    """One of the seeds with one to four flips, cuts, repeats, foreign pieces and numbers that are a little off; half of
    them with what `mend` sets right again, e.g. checksums: that damage reaches deeper.
    """
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        most = draw(st.sampled_from((_HEAD_BYTES, len(data))))
        place = draw(st.integers(0, min(most, len(data))))
        length = draw(st.sampled_from((0, 1, 2, 4, 8, 16, 40)))
        order = draw(st.sampled_from(("big", "little")))
        number = int.from_bytes(data[place : place + length], order) + draw(st.integers(-2, 2))
        near = (number % 256**length).to_bytes(length, order)
        repeat = bytes(data[max(place - length, 0) : place])
        data[place : place + length] = draw(st.binary(max_size=16) | st.binary(min_size=length, max_size=length)
                                            | st.sampled_from((b"", repeat, near, *TOKENS)))
    return mend(bytes(data)) if mend is not None and draw(st.booleans()) else bytes(data)


@st.composite
def changed(draw: st.DrawFn, records: Sequence[Any]) -> Any:
    """One of the records, nested dicts and lists, with one to three values replaced, dropped, repeated or renamed."""
    record = copy.deepcopy(draw(st.sampled_from(records)))
    for _ in range(draw(st.integers(1, 3))):
        owner: Any = [record]  # so that the record itself can be replaced
        chosen = draw(st.sampled_from([(), *places(record)]))
        for step in (path := (0, *chosen))[:-1]:
            owner = owner[step]
        value, how = owner[path[-1]], draw(st.sampled_from(("value", "value", "swap", "drop", "repeat", "rename")))
        if how == "drop" and chosen:
            del owner[path[-1]]
        elif how == "repeat" and isinstance(owner, list) and chosen:
            owner[path[-1] : path[-1]] = [copy.deepcopy(value)] * draw(st.sampled_from((1, 1, 400)))
        elif how == "rename" and isinstance(owner, dict):
            owner[draw(st.sampled_from(("", "a", "points", *names(record))))] = owner.pop(path[-1])
        elif how == "swap" and chosen:
            other = record
            for step in draw(st.sampled_from(places(record))):
                other = other[step]
            owner[path[-1]] = copy.deepcopy(other)
        else:
            owner[path[-1]] = copy.deepcopy(draw(st.sampled_from(VALUES)))
            record = owner[0] if not chosen else record
    return record


def places(node: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to all values below a record."""
    steps = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path for step, value in steps for path in [(*above, step), *places(value, (*above, step))]]


def names(record: Any) -> list[str]:
    """All names of entries in a record."""
    return sorted({str(path[-1]) for path in places(record)})


def json_files(records: Sequence[Any]) -> st.SearchStrategy[bytes]:
    """The records with other values, or their text damaged."""
    return changed(records).map(lambda record: json.dumps(record).encode()) | damaged(
        [json.dumps(record).encode() for record in records])


def line_files(records: Sequence[Any]) -> st.SearchStrategy[bytes]:
    """As `json_files`, of files with a record a line."""
    whole = list(records)
    return (changed([whole]).filter(lambda lines: isinstance(lines, list)).map(lines_of)
            | damaged([lines_of(whole)]))


def lines_of(records: Sequence[Any]) -> bytes:
    """A file with a record a line."""
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


@st.composite
def xml_files(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds with elements renamed, repeated, moved or removed, and attributes replaced; or its text damaged.
    """
    if draw(st.booleans()):
        return draw(damaged(seeds))
    root = ElementTree.fromstring(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 3))):
        elements = list(root.iter())
        one, other = draw(st.sampled_from(elements)), draw(st.sampled_from(elements))
        how = draw(st.sampled_from(("attribute", "attribute", "attribute", "tag", "repeat", "move", "remove")))
        if how == "attribute":
            name = draw(st.sampled_from(sorted({*one.attrib, *other.attrib, "a"})))
            values = ["", "nan", "-1", "1e999", "9" * 400, ";", ",", "3,4;", "3,4;5", "a", "1" * 5000, "1,1;" * 3000,
                      *other.attrib.values()]
            one.set(name, draw(st.sampled_from(values)))
        elif how == "tag":
            one.tag = draw(st.sampled_from(("image", "points", "box", "polygon", "ellipse", "skeleton", other.tag)))
        elif how == "remove":
            one.clear()
        else:
            added = copy.deepcopy(one)
            other.extend([added] if how == "move" else [added] * draw(st.sampled_from((1, 2, 50))))
    return ElementTree.tostring(root)


@st.composite
def zip_files(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds, archives, with one of its members damaged and the archive whole."""
    stream = io.BytesIO()
    with (zipfile.ZipFile(io.BytesIO(draw(st.sampled_from(seeds)))) as whole,
          zipfile.ZipFile(stream, "w") as archive):
        chosen = draw(st.sampled_from(sorted(whole.namelist())))
        for name in whole.namelist():
            content = whole.read(name)
            archive.writestr(name, draw(damaged([content])) if name == chosen else content)
    return stream.getvalue()


def mend_png(data: bytes) -> bytes:
    """The same with right checksums of its chunks, as far as their lengths lead."""
    mended, place = bytearray(data), 8
    while place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        mended[end : end + 4] = zlib.crc32(data[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return bytes(mended)


def mend_tar(data: bytes) -> bytes:
    """The same with right checksums of all its heads."""
    mended = bytearray(data)
    for place in range(0, len(data) - 511, 512):
        if b"ustar" in data[place + 256 : place + 264]:
            total = sum(data[place : place + 148]) + 8 * 32 + sum(data[place + 156 : place + 512])
            mended[place + 148 : place + 156] = b"%06o\0 " % total
    return bytes(mended)


def pack_mat(data: bytes) -> bytes:
    """A MATLAB file with its elements packed into one, as -v7 does."""
    packed = zlib.compress(data[128:])
    return data[:128] + struct.pack("<II", 15, len(packed)) + packed


@contextmanager
def limited() -> Iterator[None]:
    """Fails where a file takes more time or memory than it may; ends the process where even that does not stop it."""

    def stop(*_: object) -> None:
        pytest.fail(f"one file takes more than {MOST_SECONDS} s")  # no Exception, which readers turn into a line

    Path("/proc/self/clear_refs").write_text("5")  # from here on (proc(5))
    before = _most_kibibytes()
    # A decoder that never comes back hears no signal of Python's: the system ends it (SIGXCPU).
    allowed = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 3 * MOST_SECONDS, allowed[1]))
    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_CPU, allowed)
    assert _most_kibibytes() - before < MOST_KIBIBYTES


def _most_kibibytes() -> int:
    """The most memory that this process had at once."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


@contextmanager
def one_line(named: object = "") -> Iterator[None]:
    """As `limited`; allows an InputError of one line that begins with the name, and nothing else."""
    with limited():
        try:
            yield
        except InputError as error:
            REFUSED.append(str(error))
            assert "\n" not in str(error) and str(error).startswith(str(named))
