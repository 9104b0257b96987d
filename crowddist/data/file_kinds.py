"""What a file is, by its first bytes: the images that are read, and those and other files that are named."""

from __future__ import annotations

import re
from pathlib import PurePath

READ = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM")
"""Formats that are read, by Pillow's names."""
HEAD_BYTES = 1024
"""Bytes that `kind_of` needs."""
OWN_TEXT = b"tEXtSoftware\0crowddist"
"""In the first bytes of every PNG that crowddist draws, so that it is never taken for a photograph."""

# Comments are taken without a second try (*+): there are too many ways to part them.
_STARTS: tuple[tuple[bytes, str], ...] = (
    (rb"\xff\xd8\xff", "JPEG"), (rb"\x89PNG\r\n\x1a\n", "PNG"), (rb"RIFF....WEBP", "WEBP"),
    (rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", "BMP"), (rb"II\*\0|MM\0\*|II\+\0|MM\0\+", "TIFF"),
    (rb"P[1-6]\s+(?:#[^\n]*\n\s*)*\d+\s+(?:#[^\n]*\n\s*)*\d+\s", "PPM"),
    (rb"GIF8[79]a", "GIF"), (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL"),
    (rb"II\xbc\x01", "JPEG XR"), (rb"BPG\xfb", "BPG"), (rb"qoif", "QOI"), (rb"P7\s", "PAM"),
    (rb"PF\s", "PFM of colours"),
    (rb"\0\0\x01\0[\x01-\x20]\0", "ICO"), (rb"\0\x05\x16\x07\0\x02\0\0", "a note of macOS about a file (AppleDouble)"),
    (rb"8BPS", "PSD"), (rb"\xc5\xd0\xd3\xc6|%!PS", "EPS"), (rb"IIRO|IIRS|MMOR", "ORF"), (rb"IIU\0", "RW2"),
    (rb"FUJIFILMCCD-RAW", "RAF"), (rb"FOVb", "X3F"), (rb"\x76\x2f\x31\x01", "EXR"), (rb"#\?RADIANCE|#\?RGBE", "HDR"),
    (rb"DDS ", "DDS"), (rb"SIMPLE  =", "FITS"), (rb".{128}DICM", "DICOM"),
    (rb"RIFF....AVI ", "AVI"), (rb"\x1a\x45\xdf\xa3", "MKV"), (rb"\0\0\x01[\xba\xb3]", "MPEG"),
    (rb"\x47.{187}\x47.{187}\x47", "MPEG-TS"), (rb"FLV\x01", "FLV"), (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "WMV"),
    (rb"DHAV", "DAV"), (rb"%PDF-", "PDF"), (rb"PK\x03\x04", "ZIP"), (rb"Rar!\x1a\x07", "RAR"),
    (rb"7z\xbc\xaf\x27\x1c", "7Z"), (rb"\x1f\x8b", "GZ"), (rb"version https://git-lfs", "Git LFS pointer"),
    (rb"(?i)\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*+(?:<!doctype svg[^>]*>\s*)?<svg", "SVG"),
    (rb"(?i)(?:\xef\xbb\xbf)?\s*(?:<!--.*?-->\s*)*+<(?:!doctype html|html|head|body|script)\b", "web page"),
    (rb"(?:\xef\xbb\xbf)?\s*<\?xml\b", "XML"), (rb'(?:\xef\xbb\xbf)?\s*(?:\[\s*)*\{\s*"', "JSON"),
)
_STARTS_COMPILED = tuple((re.compile(start, re.DOTALL), kind) for start, kind in _STARTS)
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"crx ": "CR3", b"qt  ": "MOV",
           **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), "HEIC")}
"""Brand of an ISO base media file -> kind; all others are MP4. Source: ISO/IEC 14496-12, 23008-12."""
# Raw photographs that begin as a TIFF does, with a small preview as their first image.
_RAW_ENDINGS = ("dng", "nef", "nrw", "arw", "sr2", "srf", "cr2", "pef", "srw", "3fr", "iiq", "dcr", "erf", "kdc", "mef",
                "mos", "rwl")
_RAW_TIFF_ENDINGS = (*_RAW_ENDINGS, "gpr", "fff", "ptx")  # the last three are also endings of source code and data
# Images without a sign at their beginning, or named when they are empty or damaged.
_UNREAD_ENDINGS = {"heic": "HEIC", "heif": "HEIC", "hif": "HEIC", "avif": "AVIF", "jp2": "JPEG 2000", "jxl": "JPEG XL",
                   **{name: name.upper() for name in (*_RAW_ENDINGS, "gif", "cr3", "raf", "rw2", "orf", "x3f", "tga",
                                                      "pcx", "sgi", "psd", "exr", "hdr", "dds", "ico")}}
_DRAWINGS = frozenset(("EPS", "SVG", "FITS", "DICOM", "TGA", "PCX", "SGI", "PSD", "EXR", "HDR", "DDS", "ICO", "BPG",
                       "QOI", "PAM", "PFM of colours", "JPEG XR"))
_PHOTOGRAPHS = frozenset((*_UNREAD_ENDINGS.values(), *map(str.upper, _RAW_TIFF_ENDINGS))) - _DRAWINGS
ARCHIVES = frozenset(("ZIP", "RAR", "7Z", "GZ", "TGZ", "TAR", "BZ2", "XZ"))
"""Kinds and endings of what may hold images, but is not opened."""
_FILMS = frozenset(("MP4", "MOV", "AVI", "MKV", "MPEG", "MPEG-TS", "FLV", "WMV", "DAV"))


def kind_of(head: bytes, name: str | PurePath = "") -> str:
    """What a file is, e.g. "JPEG", "HEIC" or "MP4", by its first `HEAD_BYTES` and, where they do not tell, its name.

    Returns "" for a file that nothing is known of.
    """
    ending = PurePath(name).suffix[1:].lower()
    if head[4:8] == b"ftyp":
        brands = [head[place : place + 4] for place in range(8, min(int.from_bytes(head[:4]) or 12, 64, len(head)), 4)]
        # An AVIF may begin with the brand that HEIC has too.
        known = [_BRANDS[brand] for brand in brands if brand in _BRANDS]
        return "AVIF" if "AVIF" in known else known[0] if known else "MP4"
    for start, kind in _STARTS_COMPILED:
        if start.match(head):
            return ending.upper() if kind == "TIFF" and ending in _RAW_TIFF_ENDINGS else kind
    return _UNREAD_ENDINGS.get(ending, "")


def is_unread_photograph(kind: str) -> bool:
    """True for pictures that are not read, but that phones and cameras write: nobody expects them to be passed over."""
    return kind in _PHOTOGRAPHS


def refusal(head: bytes, name: PurePath) -> str:
    """Why a file with these first bytes is not read, and the next step."""
    kind = kind_of(head, name)
    if head and not head.strip(b"\0"):
        return "not an image: it begins with zero bytes only; copy it again"
    if kind in _FILMS:
        return (f"not an image, but a film ({kind}); crowddist video counts it, or give frames of it, e.g. of: ffmpeg "
                "-i FILM -r 1 frame-%05d.jpg")
    if kind in _PHOTOGRAPHS | _DRAWINGS:
        return f"not an image that is read, but {kind}; save it as JPEG"
    if kind == "Git LFS pointer":
        return "not an image, but a Git LFS pointer; fetch the image itself with: git lfs pull"
    if kind in ("web page", "XML", "JSON"):  # servers tell in these what went wrong
        return (f"not an image, but {'a web page' if kind == 'web page' else kind}; download the image again, perhaps "
                "signed in")
    if kind in ARCHIVES:
        return f"not an image, but {kind}; unpack it"
    if kind and kind not in READ:
        return f"not an image, but {kind}; give image files, or folders of them"
    if kind:
        return (f"a {kind} of a rare kind that is not read (its bits, channels or compression), or damaged at its "
                "beginning; save it as JPEG")
    return f"not an image, or damaged at its beginning; read are {', '.join(READ)}"
