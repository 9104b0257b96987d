"""What a user names as a video: a file, the address of a stream, or the number of a camera."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from crowddist import storage
from crowddist.data.file_kinds import HEAD_BYTES, READ, kind_of
from crowddist.errors import InputError
from crowddist.process.safe_text import readable, redacted

STREAMS = ("rtsp", "rtsps", "http", "https", "rtmp", "rtmps", "srt", "udp", "tcp", "rtp")
"""Kinds of addresses that FFmpeg opens."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_CAMERA = re.compile(r"(?:/dev/video)?([0-9]{1,3})")
_NO_FILMS = frozenset(("web page", "Git LFS pointer", "PDF", "ZIP", "RAR", "7Z", "GZ", "SVG"))


@dataclass(frozen=True, kw_only=True)
class Source:
    """A video that can be opened."""

    kind: Literal["file", "stream", "camera"]
    place: str | int
    """What OpenCV opens: a path, an address, or a camera's number."""
    shown: str
    """For people: without passwords and terminal controls."""

    @property
    def title(self) -> str:
        """A short name: the file's, or all of `shown`."""
        return Path(str(self.place)).name if self.kind == "file" else self.shown


def find_source(where: str | int | os.PathLike[str]) -> Source:
    """The video that `where` names: a camera's number (0) or device (/dev/video0), the address of a stream, or a file's
    path or URL. A file called 0 is ./0. Opens no stream and no camera.

    Raises InputError for a missing or empty file, a folder, a file of something else, and an unknown kind of address.
    """
    text = os.fspath(where) if not isinstance(where, int) else str(where)
    if camera := _CAMERA.fullmatch(text):
        return Source(kind="camera", place=int(camera[1]), shown=f"camera {int(camera[1])}")
    scheme = _SCHEME.match(text)
    if scheme and scheme[1].lower() in STREAMS:
        return Source(kind="stream", place=text, shown=readable(redacted(text)))
    if scheme and scheme[1].lower() not in ("file", "s3"):
        raise InputError(f"unknown kind of video {scheme[1]}:// in {readable(redacted(text))}; give a file, a camera's "
                         f"number, or an address of {', '.join(STREAMS)}")
    return _file(text)


def _file(where: str) -> Source:
    shown = readable(storage.shown(where))
    if storage.is_folder(where):
        raise InputError(f"{shown}: a folder, not a video; give a video file")
    try:
        path = storage.local_file(where)
    except FileNotFoundError:
        words = "a pipe or a device; save the video as a file" if os.path.exists(shown) else "there is no such file"
        raise InputError(f"{shown}: {words}") from None
    try:
        with open(path, "rb") as stream:
            head = stream.read(HEAD_BYTES)
    except OSError as error:
        raise InputError(f"{shown}: cannot be read: {error.strerror}") from None
    if not head:
        raise InputError(f"{shown}: the file is empty")
    kind = kind_of(head, path)
    if kind in READ:
        raise InputError(f"{shown}: an image ({kind}), not a video; count it as an image")
    if kind in _NO_FILMS:
        raise InputError(f"{shown}: not a video, but {kind}")
    # Absolute: FFmpeg takes what stands before a colon in a relative name for a kind of address.
    return Source(kind="file", place=str(path.absolute()), shown=shown)
