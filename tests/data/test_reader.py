"""What cameras, phones and their programs really write: read in one form with a note, or refused by what it is."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from crowddist.data import images, whole_jpeg
from crowddist.data.convert.base import convert
from crowddist.data.convert.doubts import notes
from crowddist.data.convert.formats import FORMATS
from crowddist.data.file_kinds import OWN_TEXT
from crowddist.data.images import read_image, read_pixels, store_image
from crowddist.data.pixels import SCALED, STRETCHED, TRANSPARENT, UNUSED_ALPHA, as_pixels
from crowddist.data.safe_decode import MAX_MEGAPIXELS, encode_png
from crowddist.data.whole_jpeg import decode_whole
from crowddist.errors import InputError
from crowddist.reports.dataset_summary import describe

ROWS, COLUMNS = np.mgrid[0:80, 0:64]
GREY = (ROWS * 1.5 + COLUMNS * 2).astype(np.uint8)
"""From 0 to 244."""
RGB = np.stack([GREY, 255 - GREY, COLUMNS.astype(np.uint8) * 4], 2)


def saved(path: Path, values: np.ndarray, **options) -> Path:  # type: ignore[no-untyped-def]
    """A file of uint8 or uint16 values, of any number of colours."""
    if values.dtype == np.uint16 and values.ndim == 3:
        order = [2, 1, 0, 3][: values.shape[2]]
        path.write_bytes(cv2.imencode(path.suffix, values[..., order])[1].tobytes())
    else:
        Image.fromarray(values).save(path, **options)
    return path


def jpeg(seed: int = 0, **options) -> bytes:  # type: ignore[no-untyped-def]
    noise = np.random.default_rng(seed).integers(-25, 25, (*GREY.shape, 3))
    stream = io.BytesIO()
    Image.fromarray((RGB + noise).clip(0, 255).astype(np.uint8)).save(stream, "JPEG", **options)
    return stream.getvalue()


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("values", [GREY, RGB], ids=["grey", "colour"])
@pytest.mark.parametrize(("white", "note"), [(1023, SCALED), (4095, SCALED), (16383, SCALED), (65535, "")])
def test_fewer_bits_in_sixteen_are_as_bright_as_in_eight(tmp_path: Path, ending: str, values: np.ndarray, white: int,
                                                         note: str) -> None:
    deep = np.round(values / 255 * white).astype(np.uint16)
    pixels, notes = read_image(saved(tmp_path / f"deep.{ending}", deep))
    expected = values if values.ndim == 3 else np.repeat(values[..., None], 3, 2)
    assert np.abs(pixels.astype(int) - expected).max() <= 1 and notes == ((note,) if note else ())


def test_a_dark_image_whose_depth_is_known_stays_dark(tmp_path: Path) -> None:
    """Eight bits made to sixteen, and twelve aligned left: their numbers show that white is 65,535."""
    for name, deep in (("257", GREY.astype(np.uint16) // 8 * 257), ("left", (GREY.astype(np.uint16) * 4) << 4)):
        pixels, notes = read_image(saved(tmp_path / f"{name}.png", deep))
        np.testing.assert_array_equal(pixels[..., 0], np.round(deep / 257).astype(np.uint8))
        assert pixels.max() < 64 and notes == ()


def test_sensors_of_heat_are_stretched_and_a_hot_pixel_does_not_count(tmp_path: Path) -> None:
    warm = (29_000 + GREY.astype(np.uint16) * 4).repeat(4, 0).repeat(4, 1)
    warm[7, 9] = 65_535
    pixels, notes = read_image(saved(tmp_path / "warm.png", warm))
    assert notes == (STRETCHED,) and pixels[7, 9, 0] == 255
    assert np.abs(pixels[::4, ::4, 0].astype(float) - GREY * (255 / 244)).max() < 6
    flat = np.full((16, 16), 29_000, np.uint16)
    assert len(np.unique(read_pixels(saved(tmp_path / "flat.png", flat)))) == 1
    below_zero = (GREY.astype(np.int16) - 100)
    cv2.imwrite(str(tmp_path / "celsius.tif"), below_zero)
    assert np.abs(read_pixels(tmp_path / "celsius.tif")[..., 0].astype(int) - GREY).max() <= 1


def test_white_may_be_zero(tmp_path: Path) -> None:
    for name, values in (("8", GREY), ("16", GREY.astype(np.uint16) * 257)):
        data = bytearray(saved(tmp_path / f"{name}.tif", values).read_bytes())
        place = data.index(struct.pack("<HHI", 262, 3, 1)) + 8
        data[place : place + 2] = b"\0\0"
        (tmp_path / f"{name}.tif").write_bytes(data)
        np.testing.assert_array_equal(read_pixels(tmp_path / f"{name}.tif")[..., 0], 255 - GREY)


def test_alpha_that_nobody_uses_hides_nothing(tmp_path: Path) -> None:
    for alpha, note, expected in ((0, (UNUSED_ALPHA,), RGB), (255, (), RGB), (128, (TRANSPARENT,), None)):
        image = np.dstack([RGB, np.full(GREY.shape, alpha, np.uint8)])
        for name, values in (("8", image), ("16", image.astype(np.uint16) * 257)):
            pixels, notes = read_image(saved(tmp_path / f"{name}.png", values))
            wanted = expected if expected is not None else 255 - (255 - RGB.astype(int)) * 128 / 255
            assert notes == note and np.abs(pixels - np.asarray(wanted, float)).max() <= 1


def test_portable_pixmaps_are_read(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_pixels(saved(tmp_path / "a.ppm", RGB)), RGB)
    twelve = np.round(GREY / 255 * 4095).astype(">u2")
    (tmp_path / "a.pgm").write_bytes(b"P5\n# of a camera\n64 80\n4095\n" + twelve.tobytes())
    assert np.abs(read_pixels(tmp_path / "a.pgm")[..., 0].astype(int) - GREY).max() <= 1


def with_stray(data: bytes, marker: bytes, stray: bytes) -> bytes:
    place = data.rindex(marker) if marker == b"\xff\xd9" else data.index(marker)
    return data[:place] + stray + data[place:]


PLAIN, MARKED = jpeg(), jpeg(restart_marker_rows=1)
UNCLEAN = {
    "no end": (PLAIN, PLAIN[:-2]),
    "zeros before the end": (PLAIN, with_stray(PLAIN, b"\xff\xd9", bytes(900))),
    "bytes before the end": (PLAIN, with_stray(PLAIN, b"\xff\xd9", b"camera 7")),
    "bytes before a restart": (MARKED, with_stray(MARKED, b"\xff\xd1", b"\x77\x66\x55")),
    "before two restarts": (MARKED, with_stray(with_stray(MARKED, b"\xff\xd0", b"\1\2\3\4\5"), b"\xff\xd2", b"\7\7\7")),
    "before a restart, much metadata": (MARKED, with_stray(
        MARKED[:2] + 40 * (b"\xff\xe1\xff\xff" + bytes(65533)) + MARKED[2:], b"\xff\xd1", b"\x77\x66\x55")),
    "before a restart, no end": (MARKED, with_stray(MARKED, b"\xff\xd3", b"\x12\x34\x56")[:-2]),
}


@pytest.mark.parametrize("name", UNCLEAN)
def test_jpegs_of_cameras_are_whole_though_not_clean(tmp_path: Path, name: str) -> None:
    clean, unclean = UNCLEAN[name]
    (tmp_path / "a.jpg").write_bytes(unclean)
    pixels, notes = read_image(tmp_path / "a.jpg")
    np.testing.assert_array_equal(pixels, simplejpeg.decode_jpeg(clean, colorspace="RGB"))
    assert notes == (images.MENDED,)
    stored = store_image(tmp_path / "a.jpg", upright=True)
    assert stored.notes == (images.MENDED,)
    np.testing.assert_array_equal(simplejpeg.decode_jpeg(stored.data, colorspace="RGB", strict=True), pixels)


@pytest.mark.parametrize("data", [
    PLAIN[:-3], PLAIN[: len(PLAIN) // 2], PLAIN[:700] + PLAIN[760:],
    with_stray(PLAIN, b"\xff\xd9", bytes(range(1, 120))), with_stray(MARKED, b"\xff\xd1", b"\x77\x66\x55")[:-40],
    MARKED[:-200] + MARKED[-60:],
], ids=["last byte", "half", "a hole", "much behind", "stray and cut", "a piece missing"])
def test_damage_is_not_taken_for_a_cameras_habit(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"Premature end|Corrupt JPEG"):
        decode_whole(data)


def test_a_jpeg_of_very_many_pieces_is_not_tried_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """A header can promise a restart after every block: a million decodings for one damaged file."""
    np.testing.assert_array_equal(decode_whole(MARKED[:-2])[0], simplejpeg.decode_jpeg(MARKED, colorspace="RGB"))
    monkeypatch.setattr(whole_jpeg, "MOST_PIECES", 2)
    with pytest.raises(ValueError, match=r"Premature end|Corrupt JPEG"):
        decode_whole(MARKED[:-2])


def test_clean_jpegs_keep_their_bytes_and_pixels() -> None:
    filled = with_stray(PLAIN, b"\xff\xd9", b"\xff" * 3)
    for data in (PLAIN, MARKED, jpeg(progressive=True), PLAIN + b"--boundary\r\n", filled):
        pixels, kept = decode_whole(data)
        assert kept is data
        np.testing.assert_array_equal(pixels, simplejpeg.decode_jpeg(data, colorspace="RGB"))


def test_a_jpeg_longer_than_is_read_is_read_at_a_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = np.full((400, 21_000, 3), 60, np.uint8)
    (tmp_path / "long.jpg").write_bytes(simplejpeg.encode_jpeg(long))
    stored = store_image(tmp_path / "long.jpg", upright=True)
    assert stored.size == (200, 10_500) and stored.source_size == (400, 21_000) and stored.notes == (images.REDUCED,)
    (tmp_path / "many.jpg").write_bytes(simplejpeg.encode_jpeg(np.full((1200, 1200, 3), 60, np.uint8)))
    monkeypatch.setenv(MAX_MEGAPIXELS, "1")
    pixels, notes = read_image(tmp_path / "many.jpg")
    assert pixels.shape == (600, 600, 3) and notes == (images.REDUCED,) and np.abs(pixels - 60.0).max() <= 2
    stream = io.BytesIO()
    Image.new("RGB", (1200, 1200)).save(stream, "JPEG", progressive=True)  # decoded whole, whatever is asked for
    (tmp_path / "slow.jpg").write_bytes(stream.getvalue())
    with pytest.raises(InputError, match="too large: 1200 x 1200 px"):
        read_image(tmp_path / "slow.jpg")


@pytest.mark.parametrize("size", [(8, 4000), (6000, 40), (10, 641)])
def test_strips_of_which_nothing_is_left_are_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=rf"too thin: {size[1]} x {size[0]} px.*cut it into pieces"):
        read_pixels(saved(tmp_path / "a.png", np.zeros((*size, 3), np.uint8)))
    assert read_pixels(saved(tmp_path / "b.png", np.zeros((10, 640, 3), np.uint8))).shape == (10, 640, 3)


@pytest.mark.parametrize(("head", "words"), [
    (b"\0\0\0\x24ftypmif1\0\0\0\0mif1heic", "HEIC; save it as JPEG"), (b"\0\0\0\x1cftypmif1\0\0\0\0avifmif1", "AVIF"),
    (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", r"a film \(MP4\)"), (b"\x1a\x45\xdf\xa3webm", r"a film \(MKV\)"),
    (b"<html lang='en'><title>404</title>", "a web page; download the image again"),
    (b"\xef\xbb\xbf\r\n<!-- proxy -->\n<!DOCTYPE html>", "a web page; download the image again"),
    (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code>", "XML; download the image again"),
    (b'{"error": "rate limit"}', "JSON; download the image again"),
    (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"), (b"PK\x03\x04", "ZIP"),
    (b"FUJIFILMCCD-RAW 0201", "RAF"), (b"\0", "zero bytes only; copy it again"),
])
def test_what_is_no_image_is_called_by_its_name(tmp_path: Path, head: bytes, words: str) -> None:
    (tmp_path / "a.jpg").write_bytes(head + bytes(300))
    with pytest.raises(InputError, match=rf"a\.jpg: not an image.*{words}"):
        read_pixels(tmp_path / "a.jpg")


def test_a_raw_photograph_is_not_its_preview(tmp_path: Path) -> None:
    from PIL import TiffImagePlugin

    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[50706] = b"\1\4\0\0"
    Image.fromarray(RGB).save(tmp_path / "a.tif", tiffinfo=tags)
    with pytest.raises(InputError, match="DNG; save it as JPEG"):
        read_pixels(tmp_path / "a.tif")


def test_doubts_are_counted_in_the_summary_the_manifest_and_the_description(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a", "b"):
        saved(folder / f"{name}.png", GREY.astype(np.uint16) * 8)
    (folder / "c.jpg").write_bytes(PLAIN[:-2])
    (folder / "film.mjpg").write_bytes(PLAIN * 3)
    (folder / "ours.jpg").write_bytes(encode_png(RGB))
    done = convert(FORMATS["folder"], folder, tmp_path / "out", num_workers=2)
    facts = done.manifest.statistics
    assert {name: facts[name] for name in facts if name in images.NOTES} == {
        SCALED: 2, images.MENDED: 1, images.FIRST: 1, images.OWN: 1}
    assert len(notes(facts)) == 4 and f"2 {images.NOTES[SCALED]}" in done.summary()
    assert f"doubtful: 1 {images.NOTES[images.MENDED]}" in describe(done.url).lines()


def test_a_labelled_image_that_lies_on_its_side_is_noted(tmp_path: Path) -> None:
    tag = Image.Exif()
    tag[274] = 8
    saved(tmp_path / "a.png", RGB, exif=tag)
    stored = store_image(tmp_path / "a.png", upright=False)
    assert (stored.notes, stored.rotation, stored.size) == ((images.NOT_TURNED,), 8, GREY.shape)
    assert store_image(tmp_path / "a.png", upright=True).notes == ()


def test_a_drawn_picture_says_so_and_keeps_its_pixels() -> None:
    data = encode_png(RGB)
    assert OWN_TEXT in data[:100]
    image = Image.open(io.BytesIO(data))
    image.load()
    assert image.info["Software"] == "crowddist"
    np.testing.assert_array_equal(np.asarray(image), RGB)


def test_arrays_of_every_kind_become_the_same_pixels() -> None:
    assert as_pixels(RGB)[0] is RGB
    opaque = np.dstack([RGB, np.full(GREY.shape, 255, np.uint8)])
    for array in (RGB.astype(np.uint16) * 257, RGB / 255, (RGB / 255).astype(np.float32), opaque,
                  opaque.astype(np.uint16) * 257, RGB[::-1][::-1], (RGB.astype(np.uint16) * 257).astype(">u2"),
                  RGB[..., ::-1].copy()[..., ::-1]):
        np.testing.assert_array_equal(as_pixels(array)[0], RGB)
    for array in (GREY, GREY[..., None], GREY / 255):
        np.testing.assert_array_equal(as_pixels(array)[0], np.repeat(GREY[..., None], 3, 2))


@pytest.mark.parametrize("array", [
    RGB.astype(np.float32), RGB.astype(np.int64), RGB / 255 - 0.1, np.full((9, 9, 3), np.nan), RGB.transpose(2, 0, 1),
    np.zeros((2, 9, 9, 3), np.uint8), np.zeros((0, 9, 3), np.uint8), np.zeros((9, 9, 2), np.uint8), RGB > 9,
    RGB.astype(object), RGB.astype(complex), "a.jpg", Path("a.jpg"), Image.fromarray(RGB), [[1, 2], [3, 4]], None,
], ids=["float32 levels", "int64", "below 0", "nan", "channels first", "batch", "no rows", "two channels", "bool",
        "objects", "complex", "text", "path", "PIL", "list", "none"])
def test_any_other_array_is_one_line(array: object) -> None:
    with pytest.raises(InputError, match=r"give \(H, W, 3\) uint8 RGB") as error:
        as_pixels(array)
    assert "\n" not in str(error.value)
