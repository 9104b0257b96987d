"""Names of places: URLs and their parts, temporary names, and the files that mark a folder as crowddist's."""

from __future__ import annotations

import os
import posixpath
import re
import secrets
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from crowddist.errors import InputError
from crowddist.process.safe_text import redacted

REMOVABLE_MARKERS = ("manifest.json", "DONE.json")
"""ours: crowddist wrote, and may remove, only a folder that holds one of these."""
LOCK = ".lock"
"""File that a process locks in a folder it holds."""
MARK = ".crowddist"
"""Empty file in a folder that crowddist alone fills: it is no part of a user's images that lie around it."""
_TEMPORARY_PREFIX, _TEMPORARY_SUFFIX = ".", ".partial"
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*):/")
_S3 = re.compile(r"^s3://([A-Za-z0-9._-]+)(?:/(.*))?$", re.IGNORECASE | re.DOTALL)


def normalise(place: str | os.PathLike[str]) -> str:
    """The absolute URL of a path, a `~/path`, a file:// or an s3:// URL; equal places have equal URLs.

    Resolves a trailing slash, `.` and `..`; in file:// percent-encodes characters that a URL cannot hold. Raises
    InputError for an empty place, an unknown scheme, a file URL of another host or an S3 URL without a bucket.
    """
    text = os.fspath(place)
    if not text or "\0" in text:
        raise InputError(f"not a place: {text!r} is empty or holds a zero byte; give a path or a file:// URL")
    scheme = _SCHEME.match(text)
    if scheme is None:
        return file_url(Path(os.path.expanduser(text)))
    name = scheme.group(1).lower()
    if name == "file":
        return file_url(path_of_file_url(text))
    if name == "s3":
        return _s3_url(text)
    raise InputError(f"unknown kind of storage {name}:// in {redacted(text)}; give a path, a file:// or an s3:// URL")


def join(url: str | os.PathLike[str], *parts: str) -> str:
    """The URL of relative names, as of `list_files`, under `url`. InputError for empty or absolute names and `..`."""
    base = normalise(url)
    for part in parts:
        pieces = part.split("/")
        if any(piece in ("", ".", "..") for piece in pieces) or "\0" in part:
            raise InputError(f"not a relative name: {part!r} under {base}; give names without empty parts, '.' or '..'")
        encoded = part if base.startswith("s3:") else quote_from_bytes(os.fsencode(part))
        base = base + encoded if base.endswith("/") else f"{base}/{encoded}"
    return base


def path_of_file_url(url: str) -> Path:
    """The path of a file:// URL; `?` and `#` are parts of the name."""
    match = re.match(r"^file:(?://(?:localhost)?)?(/.*)$", url, re.IGNORECASE | re.DOTALL)
    if match is None or match.group(1).startswith("//"):
        raise InputError(f"not a local file URL: {url}; write file:///absolute/path")
    path = os.fsdecode(unquote_to_bytes(match.group(1)))
    if "\0" in path:
        raise InputError(f"not a place: {url} holds a zero byte; give a path or a file:// URL")
    return Path(path)


def file_url(path: Path) -> str:
    return "file://" + quote_from_bytes(os.fsencode("/" + os.path.abspath(path).lstrip("/")))


def temporary_name(stem: str = "", *, job: str = "") -> str:
    """The name of a file or folder being written, hidden from readers: unique, or always the same for a job."""
    stem = os.fsencode(stem)[:180].decode("utf-8", "ignore")  # a name holds at most 255 bytes
    return f"{_TEMPORARY_PREFIX}{stem}{'.' if stem else ''}{job or secrets.token_hex(8)}{_TEMPORARY_SUFFIX}"


def is_temporary(name: str) -> bool:
    return name.startswith(_TEMPORARY_PREFIX) and name.endswith(_TEMPORARY_SUFFIX)


def _s3_url(text: str) -> str:
    match = _S3.match(text)
    if match is None:  # the message does not repeat the address: some tools put a key and its secret there
        raise InputError("not an S3 address: write s3://bucket/prefix, the bucket of letters, digits, '.', '_' and "
                         "'-'; keys belong in the environment")
    key = posixpath.normpath("/" + (match.group(2) or "")).strip("/")
    return f"s3://{match.group(1)}/{key}".rstrip("/")
