"""Attacks by images: sizes that no memory holds, metadata that unpacks to gigabytes, other formats under a known name,
links.
"""

from __future__ import annotations

import base64
import functools
import io
import json
import os
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from crowddist.data.convert.base import convert
from crowddist.data.convert.folder import FORMAT
from crowddist.data.images import read_pixels, store_image
from crowddist.data.safe_decode import MAX_MEGAPIXELS
from crowddist.data.shard_codec import decode
from crowddist.data.walk import find_images
from crowddist.errors import InputError
from crowddist.tracking import journal

SMALL = np.full((16, 16, 3), 90, np.uint8)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *, rows: bytes = b"", extra: bytes = b"") -> bytes:
    """A PNG that claims a size, with the rows and metadata given."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@functools.cache
def packed_zeros() -> bytes:
    """300 MiB of them: more than is unpacked by whoever has a limit."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(300)) + packer.flush()


def jpg(width: int, height: int) -> bytes:
    """A JPEG that claims a size."""
    data = bytearray(simplejpeg.encode_jpeg(SMALL))
    place = data.find(b"\xff\xc0")
    data[place + 5 : place + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def framed(kind: str) -> bytes:
    """A hundred images in one file."""
    stream = io.BytesIO()
    frames = [Image.fromarray(SMALL + number) for number in range(100)]
    frames[0].save(stream, kind, save_all=True, append_images=frames[1:])
    return stream.getvalue()


BOMBS = {"png": png(60_000, 60_000), "png of 250 megapixels": png(25_000, 10_000), "jpg": jpg(65_000, 60_000)}


@pytest.mark.parametrize("what", BOMBS)
def test_what_claims_too_many_pixels_is_refused_at_once_wherever_it_is_read(tmp_path: Path, what: str) -> None:
    (tmp_path / "bomb.jpg").write_bytes(BOMBS[what])
    extension = what[:3]
    reads: list[Callable[[], object]] = [lambda: read_pixels(tmp_path / "bomb.jpg"),
                                         lambda: store_image(tmp_path / "bomb.jpg", upright=True, max_size=64)]
    reads += [lambda: decode("k", {extension: BOMBS[what]}),
              lambda: decode("k", {extension: BOMBS[what]}, longest_px=64)]
    if extension == "png":
        good = simplejpeg.encode_jpeg(SMALL)
        reads += [lambda name=name: decode("k", {"jpg": good, name: BOMBS[what]}) for name in ("mask.png", "keep.png")]
    for read in reads:
        began = time.monotonic()
        with pytest.raises(InputError, match="too large") as error:
            read()
        assert time.monotonic() - began < 1 and "\n" not in str(error.value)


def test_how_many_pixels_are_too_many_is_one_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.zeros((1000, 1001, 3), np.uint8)
    image = tmp_path / "image.png"
    Image.fromarray(rows).save(image)
    reads: tuple[Callable[[], object], ...] = (lambda: read_pixels(image),
                                               lambda: decode("k", {"png": image.read_bytes()}))
    for read in reads:
        monkeypatch.setenv(MAX_MEGAPIXELS, "1")
        with pytest.raises(InputError, match=rf"1001 x 1000 px; at most 1000000 pixels are read \({MAX_MEGAPIXELS}\)"):
            read()
        monkeypatch.setenv(MAX_MEGAPIXELS, "2")
        read()
        for nonsense in ("0", "-1", "many", "1e3", "²", "1" * 30):
            monkeypatch.setenv(MAX_MEGAPIXELS, nonsense)
            with pytest.raises(InputError, match=f"{MAX_MEGAPIXELS} must be a whole number"):
                read()


def test_larger_images_than_pillow_allows_are_read_where_the_setting_allows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow's own limit lies at 179 megapixels, below ours."""
    (tmp_path / "wide.png").write_bytes(png(19_000, 10_000))
    with pytest.raises(InputError, match=r"wide\.png: (?!too large)"):  # it gets as far as the missing rows
        read_pixels(tmp_path / "wide.png")
    monkeypatch.setenv(MAX_MEGAPIXELS, "100")
    with pytest.raises(InputError, match=r"wide\.png: too large"):
        read_pixels(tmp_path / "wide.png")


def test_bombs_are_left_out_and_listed_where_bad_images_may_be(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number, data in enumerate(BOMBS.values()):
        (tmp_path / "images" / f"{number}.png").write_bytes(data)
    Image.fromarray(SMALL).save(tmp_path / "images" / "good.png")
    with pytest.raises(InputError, match="too large"):
        convert(FORMAT, tmp_path / "images", tmp_path / "whole")
    done = convert(FORMAT, tmp_path / "images", tmp_path / "set", skip_bad=True)
    assert done.manifest.num_samples == 1 and [entry["file"] for entry in done.skipped] == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize("kind", ["zTXt", "iTXt", "iCCP"])
def test_metadata_that_unpacks_to_gigabytes_is_never_unpacked(tmp_path: Path, kind: str) -> None:
    between = {"zTXt": b"a\0\0", "iTXt": b"a\0\1\0\0\0", "iCCP": b"a\0\0"}[kind]
    data = png(16, 16, rows=bytes(49 * 16), extra=chunk(kind.encode(), between + packed_zeros()))
    (tmp_path / "bomb.png").write_bytes(data)
    began = time.monotonic()
    tracemalloc.start()
    assert not read_pixels(tmp_path / "bomb.png").any()
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    assert decode("k", {"png": data}).image.shape == (16, 16, 3)  # libpng passes over it
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_of_many_frames_the_first_is_read(tmp_path: Path, kind: str) -> None:
    (tmp_path / "frames.png").write_bytes(framed(kind))
    assert abs(read_pixels(tmp_path / "frames.png").astype(int) - SMALL).max() < 6


@pytest.mark.parametrize("data", [framed("TIFF"), framed("WEBP"), framed("GIF"),
                                  b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"#?RADIANCE\n", b"\x89PNG"])
def test_a_shard_holds_no_other_formats_under_a_known_name(data: bytes) -> None:
    """OpenCV goes by the content, and would hand it to whichever of its many decoders takes it."""
    for extension in ("png", "mask.png", "keep.png"):
        with pytest.raises(InputError, match="not a PNG image"):
            decode("k", {extension: data})
    with pytest.raises(InputError, match="member jpg is damaged"):
        decode("k", {"jpg": data})


@pytest.mark.parametrize("data", [
    b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    b"%PDF-1.7\n", b"GIF89a" + bytes(40), b"\x00\x00\x00\x0cjP  \r\n\x87\n", b"FORM", b"8BPS",
])
def test_formats_that_run_programs_or_read_other_files_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "image.png").write_bytes(data)
    with pytest.raises(InputError, match=r"image\.png: not an image"):
        read_pixels(tmp_path / "image.png")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("target",
                         ["/dev/zero", "/dev/random", "/etc/passwd", "/proc/self/environ", "loop.png", "pipe"])
def test_links_to_what_is_no_image_end_in_one_line(tmp_path: Path, target: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop.png").symlink_to(target)
    with pytest.raises(InputError, match=r"loop\.png: (not|cannot|the file is empty)") as error:
        convert(FORMAT, tmp_path, tmp_path / "set")
    assert "root:" not in str(error.value) and "PATH=" not in str(error.value)


@pytest.mark.timeout(20)
def test_folders_that_lead_to_themselves_are_read_once(tmp_path: Path) -> None:
    Image.fromarray(SMALL).save(tmp_path / "image.png")
    (tmp_path / "a").mkdir()
    for number in range(5):
        (tmp_path / "a" / f"up-{number}").symlink_to(tmp_path)
    found = find_images(tmp_path)
    assert found.images == [tmp_path / "image.png"] and len(found.refused) == 5


def test_a_picture_in_a_journal_is_no_bomb(tmp_path: Path) -> None:
    line = json.dumps({"call": "picture", "round": 0, "name": "a", "image": base64.b64encode(BOMBS["png"]).decode()})
    (tmp_path / "mlflow-journal.jsonl").write_text(line + "\n")
    with pytest.raises(InputError, match="too large"):
        journal._read((tmp_path / "mlflow-journal.jsonl").as_uri())
