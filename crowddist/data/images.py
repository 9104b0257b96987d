"""The reader of users' image files: checked by their header before any pixel is decoded, then brought to one form."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from crowddist.data.deep_tiff import read_deep
from crowddist.data.file_kinds import HEAD_BYTES, OWN_TEXT, READ, refusal
from crowddist.data.pixels import GUESSED, MISSING, SCALED, STRETCHED, TRANSPARENT, UNUSED_ALPHA, in_rows, to_rgb
from crowddist.data.safe_decode import (
    JPEG_QUALITY,
    MAX_MEGAPIXELS,
    MAX_SIDE_PX,
    MIN_SIDE_PX,
    PNG,
    jpeg_divisor,
    max_pixels,
    quiet_opencv,
    read_png,
    require_checksums,
    require_chunks,
    require_shape,
    require_visible,
    without_metadata,
)
from crowddist.data.tiff_tag import SIGNS, set_upright
from crowddist.data.whole_jpeg import decode_whole, is_decodable
from crowddist.data.whole_tiff import require_whole_parts
from crowddist.errors import InputError, NotAnImageError, TooLargeError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["JPEG_QUALITY", "MAX_SIDE_PX", "MIN_SIDE_PX", "NOTES", "SUFFIXES", "StoredImage", "read_image",
           "read_image_bytes", "read_pixels", "store_image"]

# What Pillow has to say of a damaged file is said by our errors; who sets up logging still gets it.
logging.getLogger("PIL").addHandler(logging.NullHandler())
# ours: a larger file is not one photograph.
MAX_FILE_BYTES = 512 * 2**20
_TAIL_BYTES = 2**16  # ours: programs add some text behind a PNG's end
_PGM_WHITE = re.compile(rb"P[25](?:\s+(?:#[^\n]*\n\s*)*+(\d+)){3}")
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""Suffixes of files that are taken for images whatever they hold: the reader says what is wrong with them."""
NOT_TURNED, MENDED, FIRST, REDUCED, OWN = (
    "num_rotation_tags", "num_mended_jpegs", "num_first_pictures", "num_reduced_images", "num_own_pictures")
NOTES = {
    SCALED: "images of 10 to 14 bits in 16 scaled to white",
    STRETCHED: "images (thermal?) stretched from their darkest to their brightest pixel",
    GUESSED: "images of floats or 32 bits scaled to the white that their numbers suggest",
    TRANSPARENT: "transparent images put on white",
    UNUSED_ALPHA: "images with alpha near 0 everywhere taken as opaque",
    MISSING: "images of more than 8 bits whose white was told without one number far from all others (missing pixels?)",
    NOT_TURNED: "images with a rotation tag left as they are stored (labels made on turned images do not fit)",
    MENDED: "JPEGs with stray bytes or without an end marker taken as whole",
    FIRST: "files of several pictures of which the first is read",
    REDUCED: "JPEGs too large to be read whole read at a part of their size",
    OWN: "pictures that crowddist itself drew",
}
"""What may be doubtful about an image that is read: name in the manifest's statistics -> words of the summary."""


@dataclass(frozen=True, kw_only=True)
class StoredImage:
    """An image as a shard holds it."""

    extension: Literal["jpg", "png"]
    data: bytes
    """The encoded image: the file's own bytes if every reader shows them alike."""
    size: tuple[int, int]
    """(height, width) of `data`, px."""
    source_size: tuple[int, int]
    """(height, width) before any resize, px; annotations refer to it."""
    notes: tuple[str, ...] = ()
    """What is doubtful about it, names of `NOTES`."""
    rotation: int = 1
    """The file's rotation tag, 1 to 8; 1 is upright."""


@dataclass(frozen=True, kw_only=True)
class _Picture:
    """A decoded file."""

    pixels: np.ndarray
    """(H, W, 3) uint8 RGB."""
    source_size: tuple[int, int]
    plain: tuple[Literal["jpg", "png"], bytes] | None
    """Extension and bytes that every reader shows as `pixels`; None if there are none."""
    notes: tuple[str, ...]
    rotation: int


def store_image(path: str | os.PathLike[str], *, upright: bool, max_size: int | None = None) -> StoredImage:
    """Reads an image file for a shard. Decodes it once, to be sure that it is whole.

    8-bit grey or RGB in JPEG or PNG keeps its bytes. CMYK, 16-bit, palette and alpha images (on white), other formats,
    and images that are turned or shrunk become RGB JPEGs. What was doubtful is in `notes`.

    Raises InputError, with the file's name and the reason, unless the file is one whole image whose sides, ratio and
    number of pixels lie in the bounds of `safe_decode`.

    Args:
        upright: turn the pixels as the rotation tag says (photographs). False ignores the tag (annotated data sets:
            their points refer to the pixels as stored).
        max_size: shrink the image to this longest side, px.
    """
    with _naming(path):
        picture = _decode(_read(path), path, upright=upright)
        pixels, plain = picture.pixels, picture.plain
        longest = max(pixels.shape[:2])
        if max_size is not None and longest > max_size:
            pixels, plain = _shrink(pixels, max_size / longest), None
        extension, data = plain if plain is not None and _shows(plain, pixels) else ("jpg", _encode(pixels))
        return StoredImage(extension=extension, data=data, size=(pixels.shape[0], pixels.shape[1]),
                           source_size=picture.source_size, notes=picture.notes, rotation=picture.rotation)


def read_image(path: str | os.PathLike[str], *, name: str = "") -> tuple[np.ndarray, tuple[str, ...]]:
    """Reads an image file upright: (H, W, 3) uint8 RGB, and the names of `NOTES` that apply. Raises InputError as
    `store_image` does.

    Args:
        name: of the image, where the path is that of a copy; "": the path.
    """
    with _naming(name or path):
        picture = _decode(_read(path), name or path, upright=True)
        return np.ascontiguousarray(picture.pixels), picture.notes


def read_image_bytes(data: bytes, *, name: str = "the image",
                     most_pixels: int | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    """As `read_image`, of a file's bytes.

    Args:
        name: of the image, for messages.
        most_pixels: refuse an image with more, by its header; None: as of a file.

    Raises:
        NotAnImageError: the bytes are of another kind.
        TooLargeError: it has too many pixels.
        InputError: it is damaged, or too small or thin.
    """
    with _naming(name):
        _require_bytes(len(data))
        picture = _decode(data, name, upright=True, most_pixels=most_pixels)
        return np.ascontiguousarray(picture.pixels), picture.notes


def read_pixels(path: str | os.PathLike[str]) -> np.ndarray:
    """The pixels of `read_image`."""
    return read_image(path)[0]


@contextmanager
def _naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns any exception over a file into one line with its name; a decoder's own words get a next step."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large images and odd metadata; our limits decide
            yield
    except InputError as error:
        raise type(error)(f"{os.fspath(path)}: {error}") from None
    except MemoryError:
        raise InputError(f"{os.fspath(path)}: there is not enough memory to read it; read fewer images at once, "
                         "or make it smaller") from None
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise InputError(f"{os.fspath(path)}: {reason}; it may be damaged: copy it again, or save it as JPEG") from None


def _read(path: str | os.PathLike[str]) -> bytes:
    place = Path(path)
    try:
        num_bytes = place.stat().st_size
        if not place.is_file():  # a pipe or a device would be read for ever
            raise InputError("not a file")
        _require_bytes(num_bytes)
        return place.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}") from None


def _require_bytes(num_bytes: int) -> None:
    if num_bytes == 0:
        raise InputError("the file is empty")
    if num_bytes > MAX_FILE_BYTES:
        raise InputError(f"{num_bytes} bytes, an image file may have {MAX_FILE_BYTES}")


def _decode(data: bytes, path: str | os.PathLike[str], *, upright: bool,
            most_pixels: int | None = None) -> _Picture:
    """Decodes a file's bytes. Raises any of the decoders' exceptions for a file that ends early or is damaged."""
    data, rotation = set_upright(data) if data[:4] in SIGNS else (data, 1)
    if data[:4] in SIGNS and (deep := read_deep(data, most_pixels)) is not None:
        pixels, notes = to_rgb(deep[0])
        return _as_picture(pixels, [*notes, *[FIRST] * deep[1]], None, rotation, upright=upright)
    try:
        image, is_jpeg = _open(data, path, most_pixels)
    except Exception:
        if data[:8] != PNG or (bare := without_metadata(data)) == data:
            raise
        data = bare  # Pillow refuses a good picture with a faulty note
        image, is_jpeg = _open(data, path, most_pixels)
    if is_jpeg:
        size = image.height, image.width
        divisor = jpeg_divisor(*size, progressive="progressive" in image.info)
        pixels, mended = decode_whole(data, divisor)
        notes = [REDUCED] * (divisor > 1) + [MENDED] * (mended is not data)
        plain: tuple[Literal["jpg", "png"], bytes] | None = ("jpg", mended) if divisor == 1 else None
        if pixels.shape[2] == 4:
            pixels, plain = _of_cmyk(pixels), None
    else:
        pixels, notes = _other_pixels(image, data)
        size = pixels.shape[0], pixels.shape[1]
        is_plain = (image.format == "PNG" and data[24] == 8 and image.mode in ("L", "RGB")
                    and "transparency" not in image.info)  # byte 24 of a PNG is its bit depth
        plain = ("png", data) if is_plain else None
    rotation = _rotation(image) if image.format != "TIFF" else rotation  # once it is decoded: of a PNG it hides damage
    notes += [FIRST] * _holds_more(image, data) + [OWN] * (OWN_TEXT in data[:HEAD_BYTES])
    return _as_picture(pixels, notes, plain, rotation, upright=upright, size=size)


def _as_picture(pixels: np.ndarray, notes: list[str], plain: tuple[Literal["jpg", "png"], bytes] | None, rotation: int,
                *, upright: bool, size: tuple[int, int] | None = None) -> _Picture:
    """Turns the pixels upright, or notes that it does not. `size`: (height, width) of the source as stored, px; None:
    of the pixels.
    """
    height, width = size or pixels.shape[:2]
    if upright and rotation != 1:
        pixels, plain = _turn(pixels, rotation), None
        height, width = (width, height) if rotation >= 5 else (height, width)
    elif rotation != 1:
        notes = [*notes, NOT_TURNED]
    return _Picture(pixels=pixels, source_size=(height, width), plain=plain, notes=tuple(notes), rotation=rotation)


def _open(data: bytes, path: str | os.PathLike[str], most_pixels: int | None) -> tuple[Image, bool]:
    """Reads and checks the header; decodes the pixels, which tells of all damage, of anything but a JPEG that
    `decode_whole` reads, and returns whether it is one. The path is only for what is said of other formats.
    """
    import io

    import PIL.Image

    if data[12:16] == b"CgBI":  # Pillow shows it black
        raise NotAnImageError("not an image that is read, but a PNG of Apple's own kind (CgBI); save it as JPEG")
    # Pillow refuses twice this number; all that our limits let pass, JPEGs read at a half included, must stay below.
    PIL.Image.MAX_IMAGE_PIXELS = 2 * max_pixels()
    try:
        image = PIL.Image.open(io.BytesIO(data), formats=READ)
    except PIL.UnidentifiedImageError:
        raise NotAnImageError(refusal(data[:HEAD_BYTES], Path(path))) from None
    except PIL.Image.DecompressionBombError as error:
        raise TooLargeError(f"too large: {error}; at most {max_pixels()} pixels are read ({MAX_MEGAPIXELS})") from None
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        if 50706 in tags:  # DNGVersion
            raise NotAnImageError("not an image that is read, but DNG; save it as JPEG")
        if tags.get(254) == 1 and getattr(image, "is_animated", False):  # NewSubfileType: a smaller copy
            raise NotAnImageError("its first picture is a smaller copy of another one in it; save that as JPEG")
        if tags.get(284) == 2 and max(tags.get(258, ()), default=0) > 8:  # `read_deep` made nothing of it; Pillow errs
            raise InputError("its deep colours lie in planes that cannot be decoded; save it as JPEG")
    if most_pixels is not None and image.height * image.width > most_pixels:
        raise TooLargeError(f"too large: {image.width} x {image.height} px; at most {most_pixels} pixels are read")
    is_jpeg = image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB", "CMYK") and is_decodable(data)
    if not is_jpeg:
        require_shape(image.height, image.width)
        image.load()  # OpenCV shows what there is of a damaged one
        if image.format == "PNG":
            require_checksums(data)
        elif image.format == "TIFF":
            require_whole_parts(data, tags, 16 * image.height * image.width)
    return image, is_jpeg


def _of_cmyk(values: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB of the (H, W, 4) CMYK of a JPEG, in which 255 is no ink, as all programs write it."""
    import PIL.Image

    def convert(rows: slice) -> np.ndarray:
        part = 255 - values[rows]
        return np.asarray(PIL.Image.frombuffer("CMYK", (part.shape[1], part.shape[0]), part).convert("RGB"))

    return in_rows(convert, *values.shape[:2])


def _other_pixels(image: Image, data: bytes) -> tuple[np.ndarray, list[str]]:
    """(H, W, 3) uint8 RGB, as stored, of anything but a grey or RGB JPEG; and notes."""
    tags = image.tag_v2 if image.format == "TIFF" else {}  # type: ignore[attr-defined]
    depths, inverted = tags.get(258, ()), tags.get(262) == 0
    deep_colour = image.mode in ("RGB", "RGBA", "LA") and (
        (image.format == "PNG" and data[24] == 16) or set(depths) == {16})
    if deep_colour and (deep := _deep_pixels(data, image)) is not None:
        # A fourth band that no tag calls alpha is another colour, as near infrared.
        return to_rgb(deep[..., :3] if tags.get(338) == (0,) else deep)
    is_signed = image.mode == "L" and tags.get(339) == (2,)
    if image.mode.startswith("I;16") or is_signed or (
            image.mode == "I" and (image.format == "PPM" or depths == (16,))):
        grey = np.asarray(image).view(np.int8) if is_signed else np.asarray(image)
        if grey.dtype.kind == "i":
            grey = np.clip(grey.astype(np.int32) - min(int(grey.min()), 0), 0, 65535)
        grey = grey.astype(np.uint16, copy=False)
        if (found := _PGM_WHITE.match(data)) and int(found[1]) < 65535:  # Pillow has scaled them to 65,535
            return to_rgb(np.round(grey / np.float32(257)).astype(np.uint8))
        # White is zero: Pillow and OpenCV turn that round in 8 bits only; black is the largest number of 10 to 14, too.
        pixels, notes = to_rgb(grey)
        return (255 - pixels if inverted and image.mode.startswith("I;16") else pixels), notes
    if image.mode in ("I", "F"):
        pixels, notes = to_rgb(np.asarray(image))
        return (255 - pixels if inverted else pixels), notes
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        return to_rgb(_converted(image, "RGBA"))
    return _converted(image, "RGB"), []


def _converted(image: Image, mode: str) -> np.ndarray:
    """(H, W, colours) uint8 of an image in another mode, some rows at a time: each step takes its memory once more."""
    def convert(rows: slice) -> np.ndarray:
        is_all = rows.stop - rows.start == image.height
        part = image if is_all else image.crop((0, rows.start, image.width, rows.stop))
        return np.asarray(part if part.mode == mode else part.convert(mode))

    return in_rows(convert, image.height, image.width)


def _deep_pixels(data: bytes, image: Image) -> np.ndarray | None:
    """(H, W, 3 or 4) uint16, RGB first, of 16-bit colour, which Pillow reads with 8; None if OpenCV cannot either."""
    import cv2

    if image.format == "PNG":
        require_chunks(data)
    with suppress(cv2.error), quiet_opencv():
        deep = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if deep is not None and deep.dtype == np.uint16 and deep.shape[:2] == (image.height, image.width) and (
                deep.ndim == 3 and deep.shape[2] in (3, 4)):
            return deep[..., [2, 1, 0, 3][: deep.shape[2]]]
    return None


def _holds_more(image: Image, data: bytes) -> bool:
    """True for a film of JPEGs, an animation or pages. The second picture of a phone's JPEG (MPO) is of the same."""
    if image.format == "JPEG":
        return b"\xff\xd9\xff\xd8\xff" in data
    with suppress(Exception):  # the first picture may be good where the list of the others is not
        return image.format in ("TIFF", "WEBP", "PNG") and bool(getattr(image, "is_animated", False))
    return False


def _rotation(image: Image) -> int:
    """Rotation tag, 1 to 8; 1 is upright, or that the tags cannot be read. Source: Exif 2.32, tag 274."""
    rotation = 1
    with suppress(Exception):  # the image may be good where its metadata is not
        rotation = image.getexif().get(274, 1)
    return rotation if rotation in range(2, 9) else 1


def _shows(plain: tuple[Literal["jpg", "png"], bytes], pixels: np.ndarray) -> bool:
    """False for a PNG of which the reader of shards makes something else, as of one without its last bytes."""
    extension, data = plain
    if extension == "jpg":
        return True  # decoded by the same library, and strictly
    if b"IEND" not in data[-_TAIL_BYTES:]:  # libpng would tell of it on stderr
        return False
    with suppress(InputError), quiet_opencv():
        return np.array_equal(read_png(data), pixels)
    return False


def _turn(pixels: np.ndarray, rotation: int) -> np.ndarray:
    """Turns pixels upright; `rotation` as in `_rotation`."""
    if rotation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    return pixels[::-1 if rotation in (3, 4, 7, 8) else 1, ::-1 if rotation in (2, 3, 6, 7) else 1]


def _shrink(pixels: np.ndarray, scale: float) -> np.ndarray:
    import cv2

    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    require_visible((pixels.shape[0], pixels.shape[1]), (height, width))
    return cv2.resize(np.ascontiguousarray(pixels), (width, height), interpolation=cv2.INTER_AREA)


def _encode(pixels: np.ndarray) -> bytes:
    import simplejpeg

    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=JPEG_QUALITY, colorspace="RGB",
                                  colorsubsampling="444")
