"""A URL is a place where bytes live: list, read and publish them without knowing which kind of storage it is.

What the bytes mean is not known here, but for the folder of a run that has ended (`finished_run`).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from crowddist.errors import InputError
from crowddist.storage.local import LocalContent, LocalPlace
from crowddist.storage.names import join, normalise, path_of_file_url

__all__ = [
    "Content", "append_line", "exclusive", "exists", "fingerprint", "holder", "is_folder", "is_local", "join",
    "list_files", "local_copy", "local_file",
    "local_folder", "normalise", "open_content", "open_write", "read_bytes", "read_json", "remove_file", "remove_tree",
    "scratch_folder", "shown",
    "staged_folder", "stamps", "upload", "write_bytes", "write_json",
]


class Place(Protocol):
    """What a kind of storage can do at one place: the functions of the same names below say what each means."""

    url: str
    shown: str

    def exists(self) -> bool: ...
    def is_folder(self) -> bool: ...
    def list_files(self) -> list[str]: ...
    def stamps(self) -> Iterator[str]: ...
    def read_bytes(self) -> bytes: ...
    def open_write(self) -> AbstractContextManager[BinaryIO]: ...
    def append_line(self, text: str) -> None: ...
    def local_file(self) -> Path: ...
    def local_folder(self) -> Path: ...
    def scratch_folder(self) -> Path: ...
    def local_copy(self) -> AbstractContextManager[Path]: ...
    def staged(self, *, overwrite: bool, job: str) -> AbstractContextManager[Place]: ...
    def exclusive(self, *, waiting: Callable[[], None] | None) -> AbstractContextManager[None]: ...
    def holder(self) -> str: ...
    def remove_file(self) -> None: ...
    def remove_tree(self) -> None: ...


class Content(Protocol):
    """A file that is read at random: may be forked, pickled and shared between threads, for nothing is kept open."""

    def open(self) -> BufferedIOBase:
        """All of it, to be walked through."""

    def read(self, start: int, num_bytes: int) -> bytes:
        """A part of it; shorter where the file ends before."""

    def digest(self) -> str:
        """The SHA-256 of all of it, in hex, counted now."""


def exists(url: str | os.PathLike[str]) -> bool:
    """Whether a file or a folder is there."""
    return _place(url).exists()


def is_folder(url: str | os.PathLike[str]) -> bool:
    """Whether a folder is there; one in object storage is there while it holds something."""
    return _place(url).is_folder()


def list_files(url: str | os.PathLike[str]) -> list[str]:
    """The relative names of all files below a folder, sorted, without files that are still being written.

    Raises FileNotFoundError where there is no folder.
    """
    return _place(url).list_files()


def stamps(url: str | os.PathLike[str]) -> Iterator[str]:
    """A text for each file below a folder, in one order; those of a file that was changed differ."""
    return _place(url).stamps()


def is_local(url: str | os.PathLike[str]) -> bool:
    """Whether the place is on a file system of this machine."""
    return isinstance(_place(url), LocalPlace)


def shown(url: str | os.PathLike[str]) -> str:
    """The place as people write it: a path where it has one, else the URL."""
    return _place(url).shown


def read_bytes(url: str | os.PathLike[str]) -> bytes:
    """The content of a file. Raises FileNotFoundError where there is none."""
    return _place(url).read_bytes()


def open_content(url: str | os.PathLike[str], *, sha256: str) -> Content:
    """A file to be read at random; from object storage it comes through the node's cache, where its hash names it.

    Raises FileNotFoundError where there is none. What is downloaded must have the hash, or reading raises InputError; a
    local file is taken as it is.
    """
    place = _place(url)
    if isinstance(place, LocalPlace):
        return LocalContent(place.local_file())
    from crowddist.storage.s3_place import S3Content

    return S3Content(place.url, sha256)


def open_write(url: str | os.PathLike[str]) -> AbstractContextManager[BinaryIO]:
    """A binary stream whose content appears at `url`, whole, when the block ends; after an exception nothing
    appears.
    """
    return _place(url).open_write()


def write_bytes(url: str | os.PathLike[str], data: bytes) -> None:
    """Publish a file atomically: readers see the old content or the new one, never a part."""
    with open_write(url) as stream:
        stream.write(data)


def read_json(url: str | os.PathLike[str]) -> Any:
    """The value of a JSON file. Raises FileNotFoundError where there is none, InputError where it is not JSON."""
    data = read_bytes(url)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON: {normalise(url)}: {error}; the file is damaged, write it again") from None


def write_json(url: str | os.PathLike[str], value: Any) -> None:
    """Publish a JSON file atomically, with sorted keys and an indent of 2. Raises ValueError for NaN or infinity."""
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes(url, (text + "\n").encode())


def append_line(url: str | os.PathLike[str], text: str) -> None:
    """Append one line to a small text file that has one writer; a line that a killed writer left unfinished is ended
    first.

    Object storage cannot append: there the file is read and published again, whole.
    Raises ValueError when `text` holds a line break.
    """
    if "\n" in text:
        raise ValueError(f"one line at a time: {text!r} holds a line break")
    _place(url).append_line(text)


def upload(local_path: str | os.PathLike[str], url: str | os.PathLike[str]) -> None:
    """Publish a copy of a local file atomically. Raises FileNotFoundError where there is no such file."""
    source = Path(local_path)
    if not source.is_file():
        raise FileNotFoundError(f"no file to upload at {source}")
    with open(source, "rb") as reader, open_write(url) as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)


def local_file(url: str | os.PathLike[str]) -> Path:
    """A readable local path of a file: the file itself for file://, else a copy in the node's cache.

    Raises FileNotFoundError where there is none, OSError where the cache has no room for it.
    """
    return _place(url).local_file()


def local_folder(url: str | os.PathLike[str]) -> Path:
    """The local path of a folder, created where it is missing.

    Raises InputError where a file is in the way, and for object storage: nothing there is a folder of this machine.
    """
    return _place(url).local_folder()


def scratch_folder(url: str | os.PathLike[str]) -> Path:
    """A local folder for what a library keeps on its own account beside a run: that place itself for file://, else a
    temporary folder, the same for the same place until this process ends."""
    return _place(url).scratch_folder()


def local_copy(url: str | os.PathLike[str]) -> AbstractContextManager[Path]:
    """The local path of a folder while the block lasts: the folder itself for file://, else a temporary download of all
    its files.
    """
    return _place(url).local_copy()


def fingerprint(url: str | os.PathLike[str]) -> str:
    """SHA-256, in hex, of a place and the files in it as `stamps` tells them: a folder that gains, loses or changes a
    file has another.
    """
    digest = hashlib.sha256(normalise(url).encode())
    if is_folder(url):
        for stamp in stamps(url):
            digest.update(stamp.encode(errors="surrogateescape"))
    return digest.hexdigest()


@contextmanager
def staged_folder(url: str | os.PathLike[str], *, overwrite: bool = False, job: str = "") -> Iterator[str]:
    """A temporary sibling folder that takes the place of `url` when the block ends; after an exception it is removed.

    With `overwrite`, a folder that `remove_tree` would remove is replaced; the old one disappears only when the new one
    is whole. With `job`, letters and digits that no other work at this place shares, the folder stays after an
    exception that is no InputError, and the same job finds in it what it left there; one process at a time holds it.
    Raises InputError when something is at `url` already: any file, or a folder that is not empty and not to be
    overwritten; or where another process is at the same job.
    """
    with _place(url).staged(overwrite=overwrite, job=job) as staging:
        yield staging.url


def exclusive(url: str | os.PathLike[str], *,
              waiting: Callable[[], None] | None = None) -> AbstractContextManager[None]:
    """Holds a folder for this process alone; the hold ends with the process, however it ends.

    Where another process holds it, `waiting` is called and this one waits; without `waiting`, InputError is raised.
    """
    return _place(url).exclusive(waiting=waiting)


def holder(url: str | os.PathLike[str]) -> str:
    """Who holds a folder, see `exclusive`, in words; "" where nobody does. Nothing is changed, and nobody is waited
    for.
    """
    return _place(url).holder()


def remove_file(url: str | os.PathLike[str]) -> None:
    """Remove one file; does nothing where there is none."""
    _place(url).remove_file()


def remove_tree(url: str | os.PathLike[str]) -> None:
    """Remove a folder that crowddist wrote: one holding manifest.json or DONE.json, or one still being written.

    Does nothing where there is nothing.
    Raises InputError for any other folder, a link, a file, a bucket, or a place less than two levels below the root.
    """
    _place(url).remove_tree()


def _place(url: str | os.PathLike[str]) -> Place:
    """The one place that knows which kinds of storage there are."""
    normal = normalise(url)
    if normal.startswith("s3://"):
        from crowddist.storage.s3_place import S3Place

        return S3Place(normal)
    return LocalPlace(path_of_file_url(normal))
