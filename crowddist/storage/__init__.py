"""Lists, reads and publishes bytes at URLs, whatever storage lies behind them; knows nothing of what the bytes mean."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from crowddist.errors import InputError
from crowddist.storage.local import Content, LocalPlace, naming
from crowddist.storage.names import join, normalise, path_of_file_url

if TYPE_CHECKING:
    from crowddist.storage.s3_place import S3Place

__all__ = [
    "append_line", "append_lines", "exclusive", "exists", "fingerprint", "holder", "is_folder", "is_local", "join",
    "list_files", "local_copy", "local_file", "local_folder", "mark_as_ours", "naming", "normalise", "num_bytes",
    "open_content", "open_write", "read_bytes", "read_json", "remove_file", "remove_tree", "scratch_folder", "shown",
    "staged_folder", "write_bytes", "write_json",
]
Url: TypeAlias = str | os.PathLike[str]
"""A URL or a local path, see `normalise`."""


def exists(url: Url) -> bool:
    """True for a file and for a folder."""
    return _place(url).exists()


def is_folder(url: Url) -> bool:
    """In object storage a folder exists while it holds something."""
    return _place(url).is_folder()


def list_files(url: Url) -> list[str]:
    """The sorted relative names of a folder's whole files, subfolders included. Raises FileNotFoundError."""
    return _place(url).list_files()


def is_local(url: Url) -> bool:
    """True for a place on a file system of this machine."""
    return isinstance(_place(url), LocalPlace)


def shown(url: Url) -> str:
    """The place as people write it: the path of a local place, else the URL."""
    return _place(url).shown


def num_bytes(url: Url) -> int:
    """The size of a file. Raises FileNotFoundError if there is none."""
    return _place(url).num_bytes()


def read_bytes(url: Url) -> bytes:
    """The content of a file. Raises FileNotFoundError if there is none."""
    return _place(url).read_bytes()


def open_content(url: Url, *, sha256: str) -> Content:
    """A file for random access. Nothing stays open: it may be forked, pickled and shared between threads.

    A file in object storage comes through the node's cache, which names it by its hash; InputError if the download has
    another hash. A local file's hash is not checked. Raises FileNotFoundError.
    """
    place = _place(url)
    if isinstance(place, LocalPlace):
        return Content(place.local_file())
    from crowddist.storage.s3_place import S3Content

    return S3Content(place.url, sha256)


def open_write(url: Url) -> AbstractContextManager[BinaryIO]:
    """A binary stream; its content appears at `url`, whole, when the block ends. After an exception nothing appears."""
    return _place(url).open_write()


def write_bytes(url: Url, data: bytes) -> None:
    """Publishes a file atomically: readers see the old content or the new one, never a part."""
    with open_write(url) as stream:
        stream.write(data)


def read_json(url: Url) -> Any:
    """The value of a JSON file. Raises FileNotFoundError if there is none, InputError if it is not JSON."""
    data = read_bytes(url)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON: {normalise(url)}: {error}; the file is damaged, write it again") from None


def write_json(url: Url, value: Any) -> None:
    """Publishes a JSON file atomically, with sorted keys and an indent of 2. Raises ValueError for NaN or infinity."""
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes(url, (text + "\n").encode())


def append_line(url: Url, text: str) -> None:
    """Appends a line to a small text file that has one writer; first ends a line that a killed writer left unfinished.

    Object storage reads and publishes the whole file again. Raises ValueError if `text` holds a line break.
    """
    append_lines(url, [text])


def append_lines(url: Url, lines: Sequence[str]) -> None:
    """Appends lines, one or more, in one go; as `append_line`."""
    for text in lines:
        if "\n" in text:
            raise ValueError(f"one line at a time: {text!r} holds a line break")
    _place(url).append_line("\n".join(lines))


def local_file(url: Url) -> Path:
    """A local path: the file itself, or a copy in the node's cache. FileNotFoundError; OSError if there is no room."""
    return _place(url).local_file()


def local_folder(url: Url) -> Path:
    """The local path of a folder, created if missing. InputError for object storage, or if a file is in the way."""
    return _place(url).local_folder()


def mark_as_ours(url: Url, *, fresh: bool = False) -> None:
    """Marks a local folder, created if missing, as one that crowddist alone fills: searches for images leave it out.

    Object storage is not marked. `fresh`: only a folder that is empty or missing.
    """
    place = _place(url)
    if isinstance(place, LocalPlace):
        place.mark(fresh=fresh)


def scratch_folder(url: Url) -> Path:
    """A local folder for a library's files beside a run: the place itself, or a temporary folder of this process."""
    return _place(url).scratch_folder()


def local_copy(url: Url) -> AbstractContextManager[Path]:
    """The local path of a folder during the block: the folder itself for file://, else a temporary download."""
    return _place(url).local_copy()


def fingerprint(url: Url) -> str:
    """SHA-256, in hex, of a place and the stamps of its files: changes when a file is added, removed or changed."""
    place = _place(url)
    digest = hashlib.sha256(place.url.encode())
    if place.is_folder():
        for stamp in place.stamps():
            digest.update(stamp.encode(errors="surrogateescape"))
    return digest.hexdigest()


@contextmanager
def staged_folder(url: Url, *, overwrite: bool = False, job: str = "") -> Iterator[str]:
    """A temporary sibling folder that takes the place of `url` when the block ends; an exception removes it.

    `overwrite` replaces a folder that `remove_tree` would remove, once the new one is whole. With `job`, letters and
    digits that no other work at this place uses, the folder survives an exception other than InputError, and the same
    job finds its files there again; one process at a time holds it. Raises InputError if `url` is a file, or a folder
    neither empty nor to be overwritten, or if another process does the same job.
    """
    with _place(url).staged(overwrite=overwrite, job=job) as staging:
        yield staging.url


def exclusive(url: Url, *, waiting: Callable[[], None] | None = None) -> AbstractContextManager[None]:
    """Holds a folder for this process alone until the block or the process ends. If another process holds it: calls
    `waiting` and waits, or raises InputError without `waiting`.
    """
    return _place(url).exclusive(waiting=waiting)


def holder(url: Url) -> str:
    """The process that holds a folder (see `exclusive`), in words; "" if none does. Changes nothing, does not wait."""
    return _place(url).holder()


def remove_file(url: Url) -> None:
    """Removes a file if it exists."""
    _place(url).remove_file()


def remove_tree(url: Url) -> None:
    """Removes a folder that crowddist wrote: one that holds manifest.json or DONE.json, or one still being written.

    Raises InputError for any other folder, a link, a file, a bucket, or a place less than two levels below the root.
    """
    _place(url).remove_tree()


def _place(url: Url) -> LocalPlace | S3Place:
    """The only function that chooses the kind of storage."""
    normal = normalise(url)
    if normal.startswith("s3://"):
        from crowddist.storage.s3_place import S3Place

        return S3Place(normal)
    return LocalPlace(path_of_file_url(normal))
