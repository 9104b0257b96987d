"""JPEGs that are whole but not clean, as cameras write them: stray bytes before a marker, or no end marker."""

from __future__ import annotations

import re
import struct
from contextlib import suppress

import numpy as np

MOST_STRAY_BYTES = 8
"""ours: cameras leave some bytes before a marker; damage leaves more, and they differ from each other."""
MOST_PIECES = 20_000
"""ours: each piece between restart markers is decoded by itself, about 0.1 ms; cameras write at most a few a row."""
_MOST_HEAD_BYTES = 2**14
"""ours: the tables that decoders need have about 1,000."""
_END = b"\xff\xd9"
_STRAY = re.compile(r"(\d+) extraneous bytes before marker")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_FOUR = ("CMYK", "YCCK")
_PROGRESSIVE = 0xC2
_FRAMES = (0xC0, 0xC1)
"""Baseline and extended sequential: their only scan lies in one piece, cut by restart markers."""


def is_decodable(data: bytes) -> bool:
    """False for a JPEG whose head libjpeg-turbo's own interface refuses, as it does rare samplings of the colours."""
    import simplejpeg

    try:
        simplejpeg.decode_jpeg_header(data, strict=False)  # stray bytes are only warned of
    except ValueError:
        return False
    return True


def decode_whole(data: bytes, divisor: int = 1) -> tuple[np.ndarray, bytes]:
    """Decodes a JPEG at 1, 1/2, 1/4 or 1/8 of its size: (H, W, 3) uint8 RGB, or (H, W, 4) CMYK as it is stored, and the
    bytes of a clean file.

    Removes what lies between the segments of the head, padding and up to about `MOST_STRAY_BYTES` before a restart or
    end marker, and adds a missing end marker; all blocks must be there. Raises ValueError with the reason for a JPEG
    that ends early or is damaged inside.
    """
    import simplejpeg

    height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    form = "CMYK" if colours in _FOUR else "RGB"

    def decode(part: bytes) -> np.ndarray:
        # Strict: Pillow and OpenCV overlook damage in the middle of a JPEG.
        return simplejpeg.decode_jpeg(part, colorspace=form, min_height=height // divisor, min_width=width // divisor,
                                      strict=True)

    try:
        return decode(data), data
    except ValueError as error:
        # Its tables may be others, too, and nothing tells of that. Three of the usual numbers in them are line ends.
        if 3 <= data.count(b"\n") == data.count(b"\r\n"):
            raise ValueError("its bytes were changed as line ends are, e.g. by FTP in text mode") from None
        bare = _without_strays(data)
        for clean in (bare if bare != data else None, _clean(bare)):
            if clean is not None:
                with suppress(ValueError):
                    return decode(clean), clean
        raise error from None


def _without_strays(data: bytes) -> bytes:
    """The file without what lies between the segments of its head, and belongs to none."""
    kept, place = [data[:2]], 2
    while (place := data.find(b"\xff", place)) >= 0:
        kind, end = data[place + 1 : place + 2], place + 2 + int.from_bytes(data[place + 2 : place + 4])
        if kind < b"\xc0" or b"\xd0" <= kind <= b"\xd9" or kind == b"\xff":  # no marker, or one without a segment
            place += 1
        elif kind == b"\xda":
            return b"".join(kept) + data[place:]
        else:
            kept.append(data[place:end])
            place = end
    return data


def _clean(data: bytes) -> bytes | None:
    """The file without stray bytes and with an end marker; None if that is not what is wrong with it."""
    frame = _frame(data)
    if frame is None:
        return data + _END if not data.endswith(_END) and _has_all_scans(data) else None
    _, scan, interval = frame
    end = data.find(_END, scan)
    if end < 0:
        end = len(data)
    head, body = data[:scan], data[scan:end]
    bare = _without_metadata(head)
    if len(bare) > _MOST_HEAD_BYTES or (found := _frame(bare)) is None:
        return None
    place = found[0]
    height, width, factors = _shape(bare, place)
    columns, rows = -(-width // (8 * factors[0])), -(-height // (8 * factors[1]))
    pieces, markers = _RESTART.split(body), _RESTART.findall(body)
    blocks = columns * rows
    step = interval or blocks
    if len(pieces) != -(-blocks // step) or len(pieces) > MOST_PIECES:
        return None
    cleaned = []
    for number, piece in enumerate(pieces):
        # A piece is coded by itself, so that it can be decoded as an image of its own.
        count = min(step, blocks - number * step)
        whole_rows = count % columns == 0
        size = (8 * factors[1] * (count // columns), width) if whole_rows else (8 * factors[1], 8 * factors[0] * count)
        if max(size) > 65_500:
            return None
        alone = bare[: place + 1] + struct.pack(">HH", *size) + bare[place + 5 :]
        whole = _trimmed(alone, piece, restarts=bool(markers))
        if whole is None:
            return None
        cleaned.append(whole)
    joined = cleaned[0] + b"".join(marker + piece for marker, piece in zip(markers, cleaned[1:], strict=True))
    return head + joined + _END


def _without_metadata(head: bytes) -> bytes:
    """A head without the segments of programs and comments, as previews, which may be megabytes: it is read again with
    each piece.
    """
    kept, place = head[:2], 2
    while place + 4 <= len(head) and head[place] == 0xFF:
        kind, end = head[place + 1], place + 2 + int.from_bytes(head[place + 2 : place + 4])
        if kind == 0xFF:
            place += 1
            continue
        kept += b"" if 0xE0 <= kind <= 0xEF or kind == 0xFE else head[place:end]
        place = end
    return kept


def _trimmed(head: bytes, piece: bytes, *, restarts: bool) -> bytes | None:
    """A piece of the scan, below the head of a file of its size, without what follows its last block; None if it is not
    whole or too much follows.
    """
    import simplejpeg

    # Of the others grey is the fastest.
    form = "CMYK" if simplejpeg.decode_jpeg_header(head, strict=False)[2] in _FOUR else "GRAY"

    def fault(part: bytes) -> str:
        try:  # at an eighth of the size: it reads as much, and takes a 64th of the memory
            simplejpeg.decode_jpeg(head + part + _END, colorspace=form, min_height=1, min_width=1, strict=True)
        except ValueError as error:
            return str(error)
        return ""

    reason = fault(piece)
    if reason:
        stray = _STRAY.search(reason)
        removed = piece[len(piece) - int(stray[1]) :] if stray else b""
        if not removed or (len(removed) > MOST_STRAY_BYTES and len(set(removed)) > 1):
            return None
        piece = piece[: len(piece) - len(removed)]
    # The decoder has some more bytes in its hand: it overlooks them at the end, and miscounts them at a restart marker.
    while restarts and piece and not fault(piece[:-1]):
        piece = piece[:-1]
    return None if fault(piece) else piece


def _has_all_scans(data: bytes) -> bool:
    """True for a progressive file whose scans bring each coefficient of each colour to its last bit. That no scan is
    cut the decoder sees.
    """
    colours: set[int] = set()
    known: set[tuple[int, int]] = set()
    place = 2
    while (place := data.find(b"\xff", place)) >= 0 and place + 4 <= len(data):
        kind = data[place + 1]
        if kind in (0, 0xFF) or 0xD0 <= kind <= 0xD7:  # data of a scan, fill bytes, restart markers
            place += 1
            continue
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4])
        body = data[place + 4 : end]
        if kind == _PROGRESSIVE:
            colours = set(body[6::3][: body[5]] if len(body) > 6 else b"")
        elif kind == 0xDA and body and len(body) == 4 + 2 * body[0]:
            first, last, bits = body[-3:]
            known |= {(colour, number) for colour in body[1:-3:2] for number in range(first, last + 1) if not bits & 15}
        place = end
    return bool(colours) and {(colour, number) for colour in colours for number in range(64)} <= known


def _frame(data: bytes) -> tuple[int, int, int] | None:
    """Of a file with one scan: place of the frame's height less 1, begin of the scan's data, and restart interval in
    blocks (0: none). None for other files.
    """
    place, frame, interval = 2, -1, 0
    while place + 4 <= len(data) and data[place] == 0xFF:
        kind, (length,) = data[place + 1], struct.unpack(">H", data[place + 2 : place + 4])
        if kind == 0xFF:
            place += 1
            continue
        if kind in _FRAMES:
            frame = place + 4
        elif kind == 0xDD and place + 6 <= len(data):
            (interval,) = struct.unpack(">H", data[place + 4 : place + 6])
        elif kind == 0xDA:
            return (frame, place + 2 + length, interval) if frame > 0 else None
        place += 2 + length
    return None


def _shape(data: bytes, frame: int) -> tuple[int, int, tuple[int, int]]:
    """Height, width in px and the blocks of 8 px across and down that are coded together."""
    height, width, number = struct.unpack(">HHB", data[frame + 1 : frame + 6])
    factors = [data[frame + 7 + 3 * index] for index in range(number)]
    if number == 1:
        return height, width, (1, 1)
    return height, width, (max(factor >> 4 for factor in factors), max(factor & 15 for factor in factors))
