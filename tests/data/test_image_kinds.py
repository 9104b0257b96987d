"""Image files that people have, beside the plain ones: each has the pixels that others show, or a line that helps."""

from __future__ import annotations

import io
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from crowddist.data.any_image import any_pixels
from crowddist.data.images import MENDED, read_image, store_image
from crowddist.data.pixels import GUESSED, MISSING, SCALED, STRETCHED, TRANSPARENT, UNUSED_ALPHA
from crowddist.data.shard_codec import decode
from crowddist.errors import InputError
from tests.data.tiff import tiff

ROWS, COLUMNS = np.mgrid[0:24, 0:40]
RGB = np.stack([ROWS * 10, COLUMNS * 6, np.full_like(ROWS, 40)], axis=2).astype(np.uint8)
GREY = RGB[..., 0]
DEEP = RGB.astype(np.uint16) * 257
SHARES = (RGB / 255).astype(np.float32)


def on_white(pixels: np.ndarray) -> np.ndarray:
    """Half transparent pixels on white."""
    return (255 - (255 - pixels.astype(int)) * 128 / 255).astype(np.uint8)


def encoded(kind: str, image: Any = RGB, **options: Any) -> bytes:
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, kind, **options)
    return stream.getvalue()


def in_twelve_bits(values: np.ndarray) -> bytes:
    first, second = values.astype(np.uint16).reshape(24, -1, 2).transpose(2, 0, 1)
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 2).astype(np.uint8).tobytes()


def turned(pixels: np.ndarray, rotation: int) -> np.ndarray:
    """What a viewer makes of stored pixels, after the table of Exif's tag."""
    return [pixels, pixels[:, ::-1], pixels[::-1, ::-1], pixels[::-1], pixels.swapaxes(0, 1), np.rot90(pixels, -1),
            pixels[::-1, ::-1].swapaxes(0, 1), np.rot90(pixels)][rotation - 1]


def tag(rotation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = rotation
    return exif


def sampled_twice() -> bytes:
    """A JPEG of grey 128 whose three colours are all sampled 2 x 1, as some in ImageNet are."""
    data = bytearray(encoded("JPEG", np.full((16, 16, 3), 128, np.uint8), subsampling=0))
    frame, scan = data.find(b"\xff\xc0") + 10, data.find(b"\xff\xda")
    for colour in range(3):
        data[frame + 3 * colour + 1] = 0x21
        data[scan + 6 + 2 * colour] = 0x00
    # Twelve blocks of DC difference 0 (00) and no AC (1010), filled up with ones.
    bits = "001010" * 12
    return bytes(data[: scan + 14]) + bytes(int(bits[at : at + 8], 2) for at in range(0, 72, 8)) + b"\xff\xd9"


def preview_first() -> bytes:
    """A TIFF of two pages, of which the first says (NewSubfileType) that it is a smaller copy."""
    stream = io.BytesIO()
    small, large = Image.fromarray(RGB[::2, ::2]), Image.fromarray(RGB)
    small.save(stream, "TIFF", save_all=True, append_images=[large], tiffinfo={254: 1})
    return stream.getvalue()


def deep_png(image: np.ndarray) -> bytes:
    """A PNG of 16 bits, of RGB or RGBA."""
    return cv2.imencode(".png", image[..., [2, 1, 0, 3][: image.shape[2]]])[1].tobytes()


def with_chunk(kind: bytes, body: bytes, *, checksum: int | None = None, last: bool = False) -> bytes:
    """A PNG with one more chunk, before its pixels or behind them."""
    data, place = encoded("PNG"), -12 if last else 33
    sum_ = zlib.crc32(kind + body) if checksum is None else checksum
    return data[:place] + struct.pack(">I", len(body)) + kind + body + struct.pack(">I", sum_) + data[place:]


def captioned(values: np.ndarray, number: float) -> np.ndarray:
    """Grey values with one number in a corner, as a camera's caption, or where nothing was measured."""
    return np.where((ROWS < 4) & (COLUMNS < 30), values.dtype.type(number), values)


def with_exif(exif: bytes) -> bytes:
    return encoded("JPEG", exif=b"Exif\0\0" + exif, quality=100, subsampling=0)


HALF = np.dstack([RGB, np.full_like(GREY, 128)])
PLAIN_JPEG = encoded("JPEG", quality=100, subsampling=0)
PHONE = encoded("MPO", save_all=True, append_images=[Image.fromarray(RGB[::2, ::2])], exif=tag(6), quality=100)
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="5"/></x:xmpmeta>'
NOISE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
THREE = np.repeat(GREY[..., None], 3, 2)
PALETTE = Image.fromarray(RGB).quantize(256)
READ: dict[str, tuple[bytes, np.ndarray, tuple[str, ...]]] = {
    "8-bit TIFF in planes": (tiff(RGB, planes=True), RGB, ()),
    "12 bits of 16 in a colour TIFF": (tiff(RGB.astype(np.uint16) * 16), RGB, (SCALED,)),
    "12-bit TIFF": (tiff(GREY, 1, bits=12, packed=in_twelve_bits(GREY.astype(np.uint16) * 16)), THREE, (SCALED,)),
    "16-bit TIFF in planes": (tiff(DEEP, planes=True), RGB, ()),
    "12 bits of 16 in planes on their side": (tiff(RGB.astype(np.uint16) * 16, planes=True, order=">", rotation=6),
                                              turned(RGB, 6), (SCALED,)),
    "12-bit colour TIFF": (tiff(RGB, bits=12, packed=in_twelve_bits(RGB.astype(np.uint16) * 16)), RGB, ()),
    "10-bit TIFF": (tiff(GREY, 1, bits=10, packed=np.packbits(
        (GREY[..., None].astype(np.uint16) * 4 >> np.arange(9, -1, -1) & 1).astype(np.uint8).reshape(24, -1),
        axis=1).tobytes()), THREE, ()),
    "float TIFF": (tiff(SHARES[..., 0], 1, kind=3), THREE, ()),
    "float colour TIFF": (tiff(SHARES, kind=3), RGB, ()),
    "half floats in planes": (tiff(SHARES.astype(np.float16), kind=3, planes=True), RGB, ()),
    "floats up to 255, one missing": (tiff(np.where(ROWS + COLUMNS, GREY, np.nan).astype(np.float32), 1, kind=3), THREE,
                                      (GUESSED,)),
    "degrees of a thermal camera": (tiff((GREY / 10 - 5).astype(np.float32), 1, kind=3), THREE / 230 * 255,
                                    (STRETCHED,)),
    "32-bit TIFF": (tiff(GREY.astype(np.uint32), 1), THREE, (GUESSED,)),
    "portable float map": (b"Pf\n40 24\n-1.0\n" + SHARES[::-1, :, 0].astype("<f4").tobytes(), THREE, ()),
    "12 bits of 16, white is 0": (tiff(4095 - GREY.astype(np.uint16) * 16, 0), THREE, (SCALED,)),
    "16-bit TIFF, white is 0": (tiff(65535 - DEEP[..., 0], 0), THREE, ()),
    "1-bit TIFF, white is 0": (tiff(GREY, 0, bits=1, packed=np.packbits(GREY <= 100, axis=1).tobytes()),
                               np.where(THREE > 100, 255, 0), ()),
    "16-bit signed TIFF": (tiff((DEEP[..., 0].astype(int) - 32768).astype(np.int16), 1, kind=2), THREE, ()),
    "CMYK TIFF": (tiff(np.dstack([255 - RGB, np.zeros_like(GREY)]), 5), RGB, ()),
    "CMYK JPEG on its side": (encoded("JPEG", Image.fromarray(RGB).convert("CMYK"), exif=tag(8), quality=100),
                              turned(RGB, 8), ()),
    "MPO of a phone": (PHONE, turned(RGB, 6), ()),
    "MPO cut in its second picture": (PHONE[:-99], turned(RGB, 6), ()),
    "rotation in XMP": (encoded("WEBP", lossless=True, xmp=XMP), turned(RGB, 5), ()),
    "half transparent palette": (encoded("PNG", PALETTE, transparency=bytes([128] * 256)),
                                 on_white(np.asarray(PALETTE.convert("RGB"))), (TRANSPARENT,)),
    "16-bit PNG, half transparent": (deep_png(HALF.astype(np.uint16) * 257), on_white(RGB), (TRANSPARENT,)),
    **{f"PNG, alpha {most} of 16 bits": (deep_png(np.dstack([colours, np.full(GREY.shape, most, np.uint16)])), RGB,
                                         (SCALED,))
       for most, colours in ((4095, RGB.astype(np.uint16) * 16), (255, RGB.astype(np.uint16)))},
    "PNG, alpha is a mask of 1": (encoded("PNG", np.dstack([RGB, np.ones_like(GREY)])), RGB, ()),
    "PNG, alpha 3 of 255": (encoded("PNG", np.dstack([RGB, np.full_like(GREY, 3)])), RGB, (UNUSED_ALPHA,)),
    **{f"PNG with a long text, {last}": (with_chunk(b"zTXt", b"XML\0\0" + zlib.compress(bytes(2**21)), last=last), RGB,
                                         ()) for last in (False, True)},
    "PNG with a text that was changed": (with_chunk(b"tEXt", b"Comment\0hi", checksum=7), RGB, ()),
    "PNG without a whole gamma": (with_chunk(b"gAMA", b"\0"), RGB, ()),
    "12 bits of 16 and a caption": (tiff(captioned(GREY.astype(np.uint16) * 16, 65535), 1),
                                    np.dstack([captioned(GREY, 255)] * 3), (SCALED, MISSING)),
    **{f"heat, {number} where it is missing": (
        tiff(captioned(values, number), 1, kind=kind), np.dstack([captioned(GREY / 230 * 255, 0)] * 3),
        (STRETCHED, MISSING)) for number, values, kind in (
            (0, 29_000 + GREY.astype(np.uint16) * 2, 1), (-32768, 200 + GREY.astype(np.int16), 2),
            (-10_000, (20 + GREY / 20).astype(np.float32), 3), (0.0, (20 + GREY / 20).astype(np.float32), 3))},
    "floats a little beyond white": (tiff(SHARES * np.float32(1.2), kind=3), (RGB * 1.2).clip(0, 255), (GUESSED,)),
    "signed 8-bit TIFF": (tiff((GREY.astype(int) - 128).astype(np.int8), 1, kind=2), THREE, (SCALED,)),
    "three bands of GDAL": (tiff(RGB, 1, extra=0), RGB, ()),
    "three bands of GDAL, 12 of 16 bits": (tiff(RGB.astype(np.uint16) * 16, 1, extra=0), RGB, (SCALED,)),
    "four bands of GDAL": (tiff(np.dstack([RGB, 255 - GREY]), 1, extra=0, order=">"), RGB, ()),
    "four bands in planes": (tiff(np.dstack([RGB, 255 - GREY]), planes=True, extra=0), RGB, ()),
    **{f"four bands, the last clear, {image.dtype}, {planes}": (
        tiff(image, 2 if planes else 1, planes=planes, extra=2), on_white(RGB), (TRANSPARENT,))
       for image in (HALF, HALF.astype(np.uint16) * 257) for planes in (False, True)},
    "dark PGM up to 4,095": (b"P5 40 24 4095\n" + (GREY.astype(int) // 8 * 16).astype(">u2").tobytes(), THREE // 8, ()),
    "JPEG with a byte between its tables": (PLAIN_JPEG[:20] + b"\0" + PLAIN_JPEG[20:], RGB, (MENDED,)),
    "JPEG with bytes behind its tables, no end": (PLAIN_JPEG[:20] + bytes(30) + PLAIN_JPEG[20:-2], RGB, (MENDED,)),
    "CMYK JPEG without an end marker": (encoded("JPEG", Image.fromarray(RGB).convert("CMYK"), quality=100)[:-2], RGB,
                                        (MENDED,)),
    "16-bit TIFF with near infrared": (tiff(np.dstack([DEEP, 65535 - DEEP[..., 0]]), extra=0), RGB, ()),
    "progressive JPEG without an end marker": (encoded("JPEG", quality=100, progressive=True)[:-2], RGB, (MENDED,)),
    "PNG without its last bytes": (encoded("PNG")[:-12], RGB, ()),
    "grey and alpha": (encoded("PNG", Image.fromarray(np.dstack([GREY, np.full_like(GREY, 255)]), "LA")), THREE, ()),
    "PGM up to 200": (b"P5 40 24 200\n" + np.round(GREY / 255 * 200).astype(np.uint8).tobytes(), THREE, ()),
    "every colour of a JPEG sampled 2 x 1": (sampled_twice(), np.full((16, 16, 3), 128, np.uint8), ()),
    "tags that lead nowhere": (with_exif(b"II*\0\xff\xff\xff\xff"), RGB, ()),
    "tags that are none": (with_exif(b"???"), RGB, ()),
    "a rotation tag of 6 / 0": (with_exif(b"II*\0\x08\0\0\0\x01\0\x12\x01\x05\0\x01\0\0\0\x1a\0\0\0\0\0\0\0"
                                          + struct.pack("<II", 6, 0)), RGB, ()),
    "film of a moving photograph": (encoded("JPEG", quality=100, subsampling=0) + b"\0\0\0\x18ftypmp42" + bytes(64),
                                    RGB, ()),
    **{f"deep TIFF, rotation {rotation}": (tiff(RGB.astype(np.uint16) * 16, rotation=rotation),
                                           turned(RGB, rotation), (SCALED,)) for rotation in range(2, 9)},
    **{f"plain TIFF, rotation {rotation}": (tiff(RGB, rotation=rotation, order=">"), turned(RGB, rotation), ())
       for rotation in (3, 5, 6)},
    "big TIFF, rotation 7": (encoded("TIFF", big_tiff=True, exif=tag(7)), turned(RGB, 7), ()),
}


def test_each_has_the_pixels_that_others_show(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Also in a shard, and without a word of a library's own."""
    wrong = []
    for name, (data, expected, notes) in READ.items():
        (tmp_path / "a.jpg").write_bytes(data)
        try:
            pixels, told = read_image(tmp_path / "a.jpg")
            stored = store_image(tmp_path / "a.jpg", upright=True)
            again = decode("a", {stored.extension: stored.data}).image
            assert again.shape == pixels.shape and np.abs(again.astype(int) - pixels).mean() < 6, name
            off = (np.abs(pixels.astype(int) - expected).max() if pixels.shape == expected.shape
                   else f"{pixels.shape} for {expected.shape}")
            if isinstance(off, str) or off > (8 if "JPEG" in name or "MPO" in name else 2) or told != notes:
                wrong.append((name, off, told))
        except InputError as error:
            wrong.append((name, str(error), ()))
    assert not wrong, "\n".join(map(str, wrong))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("rotation", [2, 6])
def test_data_sets_keep_a_tiff_as_it_is_stored_and_are_told_of_its_tag(tmp_path: Path, rotation: int) -> None:
    for data in (tiff(RGB, rotation=rotation), tiff(DEEP, rotation=rotation)):
        (tmp_path / "a.tif").write_bytes(data)
        stored = store_image(tmp_path / "a.tif", upright=False)
        assert (stored.size, stored.rotation, stored.notes) == ((24, 40), rotation, ("num_rotation_tags",))
        assert np.abs(np.asarray(Image.open(io.BytesIO(stored.data))).astype(int) - RGB).max() <= 12


RARE = r"a (TIFF|JPEG|PNG) of a rare kind that is not read \(its bits, channels or compression\), or damaged"
JPEG = encoded("JPEG")
REFUSED = {
    "heights over the sea": (tiff(GREY.astype(np.float32) - 9999, 1, kind=3),
                             "its numbers, from -9999 to -97.*, have no known white; save it with 8 or 16 bits"),
    "colours beyond white": (tiff(SHARES * 9e5, kind=3), "have no known white"),
    "floats of no known range": (tiff(SHARES**3 * 50, kind=3), "its numbers, from 0 to .* have no known white"),
    "JPEG sent as a text": (encoded("JPEG", NOISE).replace(b"\n", b"\r\n"), "as line ends are, e.g. by FTP in text"),
    "nothing but missing numbers": (tiff(SHARES[..., 0] * np.nan, 1, kind=3), "have no known white"),
    "planes that end early": (tiff(DEEP, planes=True)[:-9], "deep colours lie in planes that cannot be decoded"),
    "12-bit JPEG": (JPEG.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c"), RARE),
    "a PNG's first bytes alone": (encoded("PNG")[:20], f"Truncated|{RARE}"),
    "progressive JPEG cut in its last scan": (encoded("JPEG", progressive=True)[:-30], "Premature end|damaged"),
    "16-bit PNG cut off": (deep_png(DEEP)[:-200], "truncated; it may be damaged"),
    "PNG of Apple's own kind": (encoded("PNG")[:8] + b"\0\0\0\4CgBI" + bytes(8) + encoded("PNG")[8:], "kind .CgBI."),
    "a smaller copy before the picture": (preview_first(), "first picture is a smaller copy of another one in it"),
    "bands of a satellite": (tiff(np.dstack([RGB, RGB, GREY])), RARE),
    **{kind: (head + bytes(40), f"not an image.*, but {re.escape(kind)};") for kind, head in {
        "QOI": b"qoif", "PAM": b"P7\nWIDTH 40\n", "PFM of colours": b"PF\n40 24\n-1.0\n", "JPEG XR": b"II\xbc\x01",
        "ICO": b"\0\0\1\0\1\0\x10\x10", "a note of macOS about a file (AppleDouble)": b"\0\5\x16\7\0\2\0\0Mac OS X",
    }.items()},
    "archive": (b"PK\x03\x04" + bytes(30), "not an image, but ZIP; unpack it"),
    "thin TIFF of floats": (tiff(np.zeros((9, 900), np.float32), 1, kind=3), "too thin: 900 x 9 px"),
    "JPEG in base64": (b"data:image/jpeg;base64,/9j/4AAQSkZJRg==", "not an image, or damaged at its beginning"),
    "thin TIFF": (tiff(np.zeros((9, 900, 3), np.uint8)), "too thin: 900 x 9 px"),
    "thin rotated TIFF": (tiff(np.zeros((9, 900, 3), np.uint16), rotation=6), "too thin: 900 x 9 px"),
    "PPM that claims gigabytes": (b"P6 60000 60000 255\n", "too large"),
    "TIFF of one pixel": (tiff(np.zeros((1, 1, 3), np.uint8)), "too small"),
}


def test_what_is_not_read_is_told_with_the_next_step(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, (data, words) in REFUSED.items():
        (tmp_path / "a.jpg").write_bytes(data)
        with pytest.raises(InputError, match=rf"a\.jpg: .*{words}") as error:
            read_image(tmp_path / "a.jpg")
        assert "\n" not in str(error.value), name
    assert capfd.readouterr().err == ""


DAMAGED = {
    "PNG": encoded("PNG", NOISE), "PNG, grey": encoded("PNG", NOISE[..., 0]),
    "PNG with alpha": encoded("PNG", np.dstack([NOISE, NOISE[..., 0]])),
    "PNG with a palette": encoded("PNG", Image.fromarray(NOISE).quantize(64)),
    "PNG of 16 bits": deep_png(NOISE.astype(np.uint16) * 257),
    "grey PNG of 16 bits": encoded("PNG", NOISE[..., 0].astype(np.uint16) * 257),
    "deflated TIFF": encoded("TIFF", NOISE, compression="tiff_adobe_deflate"),
}
ZEROED = {
    "JPEG": encoded("JPEG", NOISE), "CMYK JPEG": encoded("JPEG", Image.fromarray(NOISE).convert("CMYK")),
    "JPEG with a stray byte": (lambda data: data[:20] + b"\0" + data[20:])(encoded("JPEG", NOISE)),
    "TIFF of JPEGs": encoded("TIFF", Image.fromarray(NOISE).convert("YCbCr"), compression="jpeg"),
    "deflated TIFF": DAMAGED["deflated TIFF"],
}


def test_a_damaged_image_is_refused_and_never_shown(tmp_path: Path) -> None:
    """One byte changed where a checksum covers it, and elsewhere some bytes that a broken copy left zero."""
    shown = []
    for kinds in (DAMAGED, ZEROED):
        for name, data in kinds.items():
            for place in (len(data) // 3, len(data) // 2, len(data) * 2 // 3):
                damage = bytes([data[place] ^ 0x24]) if kinds is DAMAGED else bytes(len(data) // 8)
                (tmp_path / "a.jpg").write_bytes(data[:place] + damage + data[place + len(damage) :])
                try:
                    read_image(tmp_path / "a.jpg")
                    shown.append((name, place))
                except InputError as error:
                    assert "copy it again" in str(error) and "\n" not in str(error), name
    assert not shown


def test_pictures_that_callers_hold(tmp_path: Path) -> None:
    deep = DEEP[..., 0]
    for image, expected in (
            (RGB[::-1, ::-1], RGB[::-1, ::-1]), (np.asfortranarray(RGB), RGB), (deep.astype(">u2"), THREE),
            (np.ma.masked_array(RGB), RGB), (GREY.view(np.matrix), THREE), ((RGB / 255).astype(np.float16), RGB),
            (np.linspace(-0.0015, 1.0015, 2880).reshape(24, 40, 3), np.linspace(0, 255, 2880).reshape(24, 40, 3)),
            (Image.fromarray(RGB).convert("YCbCr"), None), (Image.fromarray(RGB).convert("LAB"), None),
            (Image.fromarray(deep), THREE), (Image.fromarray(GREY > 100), np.where(THREE > 100, 255, 0)),
            (torch.from_numpy(deep.copy()), THREE)):
        found = any_pixels(image)
        assert found.dtype == np.uint8 and found.shape == (24, 40, 3)
        assert expected is None or np.abs(found.astype(int) - expected).max() <= 1
    opened = Image.open(io.BytesIO(encoded("PNG")))
    opened.fp.close()
    for image in (RGB.astype(np.int64), RGB > 3, RGB.astype(complex), RGB.astype(object), np.zeros((0, 3, 3), np.uint8),
                  np.full((9, 9), np.nan), torch.zeros(3, 24, 40, device="meta"), torch.zeros(24, 40).to_sparse(),
                  opened, "a\0b", tmp_path):
        with pytest.raises(InputError) as error:
            any_pixels(image)
        assert "\n" not in str(error.value)
