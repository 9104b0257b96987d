"""Users' image files: checked by their header before any pixel is decoded, then stored in one form in shards."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from crowddist.data.safe_decode import MAX_MEGAPIXELS, max_pixels, require_decodable
from crowddist.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

# ours: longer strips are scans or stitched panoramas; the longest camera images have about 16,000 px.
MAX_SIDE_PX = 20_000
# ours: one cell of a density map; nothing smaller can hold a crowd.
MIN_SIDE_PX = 8
# ours: a larger file is not one photograph.
MAX_FILE_BYTES = 512 * 2**20
# ours: no visible loss at heads of a few pixels.
JPEG_QUALITY = 95

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""Suffixes of files that `find_images` lists; the content decides their format."""
_UNREAD_SUFFIXES = (".heic", ".heif", ".avif", ".gif", ".jp2", ".jxl", ".dng", ".nef", ".cr2", ".cr3", ".arw", ".raf",
                    ".rw2")
# A closed list: Pillow's other formats (EPS, PDF, ...) run programs or hold no photographs.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")


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


def store_image(path: str | os.PathLike[str], *, upright: bool, max_size: int | None = None) -> StoredImage:
    """Reads an image file for a shard. Decodes it once, to be sure that it is whole.

    8-bit grey or RGB in JPEG or PNG keeps its bytes. CMYK, 16-bit, palette and alpha images (on white), other formats,
    and images that are turned or shrunk become RGB JPEGs.

    Raises InputError, with the file's name and the reason, unless the file is one whole image with sides of MIN_SIDE_PX
    to MAX_SIDE_PX and at most `max_pixels`.

    Args:
        upright: turn the pixels as the rotation tag says (photographs). False ignores the tag (annotated data sets:
            their points refer to the pixels as stored).
        max_size: shrink the image to this longest side, px.
    """
    data = _read(path)
    with _naming(path):
        image = _open(data)
        rotation = _rotation(image) if upright else 1
        pixels = _turn(_pixels(image, data), rotation)
        source_size = (pixels.shape[0], pixels.shape[1])
        longest = max(source_size)
        if max_size is not None and longest > max_size:
            return _encode(_shrink(pixels, max_size / longest), source_size)
        if rotation == 1 and _is_plain(image, data):
            return StoredImage(extension="png" if image.format == "PNG" else "jpg", data=data, size=source_size,
                               source_size=source_size)
        return _encode(pixels, source_size)


def read_pixels(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads an image file upright: (H, W, 3) uint8 RGB. Raises InputError as `store_image` does."""
    data = _read(path)
    with _naming(path):
        image = _open(data)
        return np.ascontiguousarray(_turn(_pixels(image, data), _rotation(image)))


def find_images(folder: str | os.PathLike[str]) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Lists the image files below a folder, sorted, and those that cannot be read, each with the reason.

    Skips hidden files and folders. Follows each link to a folder once; reports a link to a folder that is read already.
    Raises FileNotFoundError if there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"no folder at {root}; give one that holds images")
    found: list[Path] = []
    refused: list[tuple[Path, str]] = []
    read: set[str] = set()

    def report(error: OSError) -> None:
        refused.append((Path(error.filename), f"cannot be read: {error.strerror}"))

    links = [root]
    while links:
        start = links.pop(0)
        real = Path(os.path.realpath(start))
        if start != root and (str(real) in read or real in root.resolve().parents):
            refused.append((start, "a link that leads back to a folder that is read already"))
            continue
        for place, folders, files in os.walk(start, onerror=report):
            read.add(os.path.realpath(place))
            visible = [Path(place, name) for name in sorted(folders) if not name.startswith(".")]
            links += [path for path in visible if path.is_symlink()]
            folders[:] = [path.name for path in visible if not path.is_symlink() and os.path.realpath(path) not in read]
            for path in (Path(place, name) for name in files if not name.startswith(".")):
                suffix = path.suffix.lower()
                if suffix in _UNREAD_SUFFIXES:
                    refused.append((path, f"{suffix[1:].upper()} images are not read; save it as JPEG"))
                elif suffix in SUFFIXES:
                    found.append(path)
    return sorted(found), sorted(refused)


@contextmanager
def _naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns any decoder's exception into one line with the file's name."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large images and odd metadata; our limits decide
            yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{os.fspath(path)}: {reason}") from None


def _read(path: str | os.PathLike[str]) -> bytes:
    place = Path(path)
    try:
        num_bytes = place.stat().st_size
        if not place.is_file():  # a pipe or a device would be read for ever
            raise InputError(f"{place}: not a file")
        if num_bytes == 0:
            raise InputError(f"{place}: the file is empty")
        if num_bytes > MAX_FILE_BYTES:
            raise InputError(f"{place}: {num_bytes} bytes, an image file may have {MAX_FILE_BYTES}")
        return place.read_bytes()
    except OSError as error:
        raise InputError(f"{place}: cannot be read: {error.strerror}") from None


def _open(data: bytes) -> Image:
    """Reads and checks the header; decodes no pixel."""
    import io

    import PIL.Image

    # Pillow refuses twice this number, so a limit above ours never replaces ours.
    PIL.Image.MAX_IMAGE_PIXELS = max_pixels()
    try:
        image = PIL.Image.open(io.BytesIO(data), formats=_FORMATS)
    except PIL.UnidentifiedImageError:
        raise InputError(f"not an image, or damaged at its beginning; read are {', '.join(_FORMATS)}") from None
    except PIL.Image.DecompressionBombError as error:
        raise InputError(f"too large: {error}; at most {max_pixels()} pixels are read ({MAX_MEGAPIXELS})") from None
    width, height = image.size
    require_decodable(height, width)
    if max(width, height) > MAX_SIDE_PX:
        raise InputError(f"too large: {width} x {height} px; at most {MAX_SIDE_PX} px on a side are read")
    if min(width, height) < MIN_SIDE_PX:
        raise InputError(f"too small: {width} x {height} px; each side needs at least {MIN_SIDE_PX} px")
    return image


def _pixels(image: Image, data: bytes) -> np.ndarray:
    """(H, W, 3) uint8 RGB, as stored. Raises for a file that ends early or is damaged inside."""
    import PIL.Image
    import simplejpeg

    if image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB"):
        # Strict: Pillow overlooks damage in the middle of a JPEG.
        return simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)
    image.load()
    if image.mode.startswith("I;16"):
        grey = np.round(np.asarray(image).astype(np.float32) / 257).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise InputError(f"32-bit pixels (mode {image.mode}) have no known white; save it with 8 or 16 bits")
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def _is_plain(image: Image, data: bytes) -> bool:
    """True if every reader shows the same 8-bit pixels for these bytes."""
    if image.mode not in ("L", "RGB") or "transparency" in image.info:
        return False
    # Byte 24 of a PNG is its bit depth; Pillow shows 16-bit colour as 8-bit.
    return image.format in ("JPEG", "MPO") or (image.format == "PNG" and data[24] == 8)


def _rotation(image: Image) -> int:
    """Rotation tag, 1 to 8; 1 is upright. Source: Exif 2.32, tag 274."""
    rotation = image.getexif().get(274, 1)
    # Pillow turns a TIFF itself when it loads it.
    return rotation if rotation in range(2, 9) and image.format != "TIFF" else 1


def _turn(pixels: np.ndarray, rotation: int) -> np.ndarray:
    """Turns pixels upright; `rotation` as in `_rotation`."""
    if rotation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    return pixels[::-1 if rotation in (3, 4, 7, 8) else 1, ::-1 if rotation in (2, 3, 6, 7) else 1]


def _shrink(pixels: np.ndarray, scale: float) -> np.ndarray:
    import cv2

    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    if min(height, width) < MIN_SIDE_PX:
        raise InputError(f"too small once shrunk: {width} x {height} px; each side needs at least {MIN_SIDE_PX} px, "
                         "allow a larger size")
    return cv2.resize(np.ascontiguousarray(pixels), (width, height), interpolation=cv2.INTER_AREA)


def _encode(pixels: np.ndarray, source_size: tuple[int, int]) -> StoredImage:
    import simplejpeg

    data = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=JPEG_QUALITY, colorspace="RGB",
                                  colorsubsampling="444")
    return StoredImage(extension="jpg", data=data, size=(pixels.shape[0], pixels.shape[1]), source_size=source_size)
