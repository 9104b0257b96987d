"""Users' image files: which keep their bytes, which become JPEGs, and which are refused before they are decoded."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageFile, ImageOps

from crowddist.data.images import MAX_FILE_BYTES, read_pixels, store_image
from crowddist.data.walk import find_images
from crowddist.errors import InputError

ROWS, COLUMNS = np.mgrid[0:24, 0:40]
RGB = np.stack([ROWS * 10, COLUMNS * 6, np.full_like(ROWS, 40)], axis=2).astype(np.uint8)


def save(path, image, **options):
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def stored_pixels(stored) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(stored.data)).convert("RGB")).astype(int)


def png_header(width: int, height: int, rows: bytes = bytes(1000)) -> bytes:
    """A PNG whose header claims a size, whatever rows it holds."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [b"IHDR" + header, b"IDAT" + zlib.compress(rows, 1), b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(chunk) - 4) + chunk
                                           + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "ü ñ 中.png"])
@pytest.mark.parametrize("image", [RGB, RGB[..., 0]], ids=["rgb", "grey"])
@pytest.mark.parametrize("upright", [False, True])
def test_plain_images_are_kept_byte_by_byte(tmp_path, name, image, upright):
    path = save(tmp_path / name, image)
    stored = store_image(path, upright=upright)
    assert stored.data == path.read_bytes() and stored.extension == name[-3:]
    assert stored.size == stored.source_size == (24, 40)
    np.testing.assert_array_equal(read_pixels(path), stored_pixels(stored))


def test_the_content_decides_not_the_ending(tmp_path):
    path = save(tmp_path / "a.jpg", RGB, format="PNG")
    assert store_image(path, upright=False).extension == "png"


def palette(mode: str) -> Image.Image:
    image = Image.fromarray(RGB).quantize(64)
    if mode == "transparent":
        image.info["transparency"] = 0
    return image


SIXTEEN_BIT = RGB[..., 0].astype(np.uint16) * 257
ALPHA = np.dstack([RGB, np.full((24, 40), 255, np.uint8)])


@pytest.mark.parametrize(
    ("name", "image", "expected"),
    [
        ("cmyk.jpg", Image.fromarray(RGB).convert("CMYK"), RGB),
        ("16bit.png", Image.fromarray(SIXTEEN_BIT), np.repeat(RGB[..., :1], 3, axis=2)),
        ("palette.png", palette("opaque"), np.asarray(palette("opaque").convert("RGB"))),
        ("alpha.png", Image.fromarray(ALPHA), RGB),
        ("greyalpha.png", Image.fromarray(ALPHA[..., [0, 3]], "LA"), np.repeat(RGB[..., :1], 3, axis=2)),
        ("bilevel.png", Image.fromarray(RGB[..., 0] > 100),
         np.repeat(((RGB[..., :1] > 100) * 255).astype(np.uint8), 3, axis=2)),
        ("a.bmp", Image.fromarray(RGB), RGB),
        ("a.tif", Image.fromarray(RGB), RGB),
        ("16bit.tif", Image.fromarray(SIXTEEN_BIT), np.repeat(RGB[..., :1], 3, axis=2)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("upright", [False, True])
def test_unusual_images_become_rgb_jpegs(tmp_path, name, image, expected, upright):
    path = save(tmp_path / name, image)
    stored = store_image(path, upright=upright)
    assert stored.extension == "jpg" and stored.size == (24, 40)
    assert simplejpeg.decode_jpeg_header(stored.data)[2] == "YCbCr"
    assert np.abs(stored_pixels(stored) - expected).max() <= (60 if name in ("bilevel.png", "palette.png") else 12)
    assert np.abs(read_pixels(path).astype(int) - expected).max() <= (4 if "cmyk" in name else 0)


def test_16_bit_colour_png_is_not_kept(tmp_path):
    import cv2

    path = tmp_path / "a.png"
    cv2.imwrite(str(path), RGB[..., ::-1].astype(np.uint16) * 257)
    stored = store_image(path, upright=False)
    assert stored.extension == "jpg"
    assert np.abs(stored_pixels(stored) - RGB).max() <= 12


def test_transparent_parts_are_white(tmp_path):
    alpha = ALPHA.copy()
    alpha[:, :20, 3] = 0
    pixels = read_pixels(save(tmp_path / "a.png", alpha))
    assert (pixels[:, :20] == 255).all() and (pixels[:, 20:] == RGB[:, 20:]).all()
    image = palette("transparent")
    pixels = read_pixels(save(tmp_path / "p.png", image, transparency=0))
    assert (pixels[np.asarray(image) == 0] == 255).all()
    key = tuple(int(value) for value in RGB[3, 3])
    pixels = read_pixels(save(tmp_path / "t.png", RGB, transparency=key))
    assert (pixels[3, 3] == 255).all() and store_image(tmp_path / "t.png", upright=False).extension == "jpg"


@pytest.mark.parametrize("rotation", range(10))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_rotation_tags_turn_photographs_and_never_data_sets(tmp_path, rotation, ending):
    exif = Image.Exif()
    exif[0x0112] = rotation
    options = {"jpg": {"quality": 100, "subsampling": 0}, "png": {}, "webp": {"lossless": True}}[ending]
    path = save(tmp_path / f"a.{ending}", RGB, exif=exif, **options)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB")).astype(int)
    assert np.abs(read_pixels(path).astype(int) - expected).max() == 0
    turned = store_image(path, upright=True)
    assert turned.size == turned.source_size == expected.shape[:2] == ((40, 24) if rotation in (5, 6, 7, 8)
                                                                       else (24, 40))
    assert np.abs(stored_pixels(turned) - expected).max() <= 12
    assert Image.open(io.BytesIO(turned.data)).getexif().get(0x0112, 1) == (1 if 2 <= rotation <= 8
                                                                            or ending == "webp" else rotation)
    as_stored = store_image(path, upright=False)
    assert as_stored.size == (24, 40)
    if ending != "webp":
        assert as_stored.data == path.read_bytes()


def test_large_images_are_shrunk_to_the_size_asked_for(tmp_path):
    path = save(tmp_path / "a.png", RGB)
    stored = store_image(path, upright=False, max_size=20)
    assert (stored.extension, stored.size, stored.source_size) == ("jpg", (12, 20), (24, 40))
    expected = RGB.reshape(12, 2, 20, 2, 3).mean(axis=(1, 3))
    assert np.abs(stored_pixels(stored) - expected).max() <= 12
    assert store_image(path, upright=False, max_size=40).data == path.read_bytes()
    with pytest.raises(InputError, match="too small once shrunk"):
        store_image(path, upright=False, max_size=10)


def test_equal_files_are_stored_alike(tmp_path):
    paths = [save(tmp_path / f"{number}.png", ALPHA) for number in range(2)]
    assert store_image(paths[0], upright=True) == store_image(paths[1], upright=True)


JPEG = simplejpeg.encode_jpeg(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "the file is empty"), (b"hello, this is text", "not an image"),
     (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"), (b"GIF89a" + bytes(40), "not an image"),
     (JPEG[: len(JPEG) // 2], "Premature end"), (JPEG[:-2000], "Premature end"), (JPEG[:30], "Truncated"),
     (JPEG[:1000] + bytes(200) + JPEG[1200:], "Corrupt"), (png_header(64, 64), "truncated|damaged|broken|IDAT"),
     (png_header(1, 1), "too small: 1 x 1 px"), (png_header(7, 4000), "too small: 7 x 4000 px"),
     (png_header(30_000, 20), "too large: 30000 x 20 px"), (png_header(20, 30_000), "too large: 20 x 30000 px"),
     (png_header(30_000, 30_000), "too large"), (png_header(15_000, 15_000), "too large: 15000 x 15000 px")],
)
def test_bad_files_are_named_with_the_reason(tmp_path, data, reason):
    path = tmp_path / "über.jpg"
    path.write_bytes(data)
    for call in (lambda: store_image(path, upright=False), lambda: read_pixels(path)):
        with pytest.raises(InputError, match=f"über.jpg: .*({reason})") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_truncated_png_is_refused(tmp_path):
    path = save(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(InputError, match=r"a\.png: .*; it may be damaged: copy it again, or save it as JPEG$"):
        store_image(path, upright=False)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    def decoded(image):
        raise AssertionError("its pixels were decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded)
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(15_000, 15_000, bytes(45_001 * 15_000)))  # the rows inflate to 675 MB
    assert path.stat().st_size < 5e6
    tracemalloc.start()
    with pytest.raises(InputError, match="too large"):
        store_image(path, upright=True)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_what_is_no_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nothing.jpg")
    with open(tmp_path / "huge.jpg", "wb") as stream:
        stream.truncate(MAX_FILE_BYTES + 1)
    for name in ("pipe", "folder", "loop", "dangling", "huge", "missing"):
        with pytest.raises(InputError, match=rf"{name}\.jpg"):
            store_image(tmp_path / f"{name}.jpg", upright=True)


def sorted_out(folder):
    found = find_images(folder)
    return found.images, found.refused


def names(tmp_path, paths):
    return [path.relative_to(tmp_path).as_posix() for path in paths]


def test_find_images_is_recursive_and_sorted(tmp_path):
    for name in ("b.JPG", "a/z.png", "a/c/d.tiff", "a.jpeg", "notes.txt", ".hidden.jpg", "._a.jpg", ".cache/x.jpg",
                 "é/1.webp", "noending"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    found, refused = sorted_out(tmp_path)
    assert names(tmp_path, found) == ["a/c/d.tiff", "a/z.png", "a.jpeg", "b.JPG", "é/1.webp"] and refused == []


def test_find_images_names_what_it_cannot_read(tmp_path):
    (tmp_path / "a.HEIC").write_text("")
    found, refused = sorted_out(tmp_path)
    assert (found == [] and names(tmp_path, [refused[0][0]]) == ["a.HEIC"]
            and "HEIC images are not read" in refused[0][1])
    with pytest.raises(FileNotFoundError):
        find_images(tmp_path / "a.HEIC")


def test_find_images_ends_at_loops_of_links(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "o.jpg").write_text("")
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "a.jpg").write_text("")
    (root / "sub" / "loop").symlink_to(root)
    (root / "up").symlink_to(tmp_path)
    (root / "again").symlink_to(root / "sub")
    (root / "other").symlink_to(tmp_path / "outside")
    (tmp_path / "outside" / "back").symlink_to(root)
    found, refused = sorted_out(root)
    assert names(root, found) == ["other/o.jpg", "sub/a.jpg"]
    assert names(root, [path for path, _ in refused]) == ["again", "other/back", "sub/loop", "up"]
    (tmp_path / "link").symlink_to(root)
    assert names(tmp_path / "link", find_images(tmp_path / "link").images) == ["other/o.jpg", "sub/a.jpg"]
