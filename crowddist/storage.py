"""A URL is a place where bytes live: list, read and publish them without knowing which kind of storage it is."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote_from_bytes, unquote_to_bytes

from crowddist.errors import InputError

# ours: files and folders being written carry these; readers never see them, and a killed writer leaves at most these.
_TEMPORARY_PREFIX, _TEMPORARY_SUFFIX = ".", ".partial"
# ours: only a folder holding one of these was written by crowddist and may be removed.
_REMOVABLE_MARKERS = ("manifest.json", "DONE.json")
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*):/")


def normalise(place: str | os.PathLike[str]) -> str:
    """The absolute URL of `place`: a plain path, `~/path` or `file:///path` becomes file://..., `s3://bucket/prefix` stays.

    A trailing slash and `.` or `..` are resolved away and characters that a URL cannot hold are percent-encoded: equal places, equal URLs.
    Raises InputError for an empty place, an unknown scheme or a file URL of another host.
    """
    text = os.fspath(place)
    if not text or "\0" in text:
        raise InputError(f"not a place: {text!r} is empty or holds a zero byte; give a path or a file:// URL")
    scheme = _SCHEME.match(text)
    if scheme is None:
        return _file_url(Path(text).expanduser())
    name = scheme.group(1).lower()
    if name == "file":
        return _file_url(_path_of_file_url(text))
    if name == "s3":
        bucket = re.match(r"^s3://([^/]+)", text, re.IGNORECASE)
        if bucket is None:
            raise InputError(f"not an S3 address: {text}; write s3://bucket/prefix")
        return "s3" + text[2:].rstrip("/")
    raise InputError(f"unknown kind of storage {name}:// in {text}; give a path, a file:// or an s3:// URL")


def join(url: str | os.PathLike[str], *parts: str) -> str:
    """The URL of the place named by `parts` under `url`.

    Parts are plain relative names as `list_files` returns them, and may hold slashes.
    Raises InputError for a part that is empty, absolute or leaves `url` through `..`.
    """
    base = normalise(url)
    for part in parts:
        pieces = part.split("/")
        if any(piece in ("", ".", "..") for piece in pieces) or "\0" in part:
            raise InputError(f"not a relative name: {part!r} under {base}; give names without empty parts, '.' or '..'")
        encoded = part if base.startswith("s3:") else quote_from_bytes(os.fsencode(part))
        base = base + encoded if base.endswith("/") else f"{base}/{encoded}"
    return base


def exists(url: str | os.PathLike[str]) -> bool:
    """Whether a file or a folder is there."""
    return _local_path(url).exists()


def is_folder(url: str | os.PathLike[str]) -> bool:
    """Whether a folder is there."""
    return _local_path(url).is_dir()


def list_files(url: str | os.PathLike[str]) -> list[str]:
    """The relative names of all files below a folder, sorted, without files that are still being written.

    Links to folders are not followed, so a loop of links ends. Raises FileNotFoundError where there is no folder.
    """
    root = _local_path(url)
    if not root.is_dir():
        raise FileNotFoundError(f"no folder at {normalise(url)}")
    names: list[str] = []
    for folder, folders, files in os.walk(root, followlinks=False):
        folders[:] = [name for name in folders if not _is_temporary(name)]
        relative = Path(folder).relative_to(root)
        names += [(relative / name).as_posix() for name in files if not _is_temporary(name)]
    return sorted(names)


def read_bytes(url: str | os.PathLike[str]) -> bytes:
    """The content of a file. Raises FileNotFoundError where there is none."""
    return local_file(url).read_bytes()


@contextmanager
def open_write(url: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary stream whose content appears at `url`, whole, when the block ends; after an exception nothing appears."""
    path = _local_path(url)
    local_folder(path.parent)
    temporary = path.parent / _temporary_name()
    try:
        with open(temporary, "xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_bytes(url: str | os.PathLike[str], data: bytes) -> None:
    """Publish a file atomically: readers see the old content or the new one, never a part."""
    with open_write(url) as stream:
        stream.write(data)


def read_json(url: str | os.PathLike[str]) -> Any:
    """The value of a JSON file. Raises FileNotFoundError where there is none, InputError where it is not JSON."""
    try:
        return json.loads(read_bytes(url))
    except ValueError as error:
        raise InputError(f"not JSON: {normalise(url)}: {error}; the file is damaged, write it again") from None


def write_json(url: str | os.PathLike[str], value: Any) -> None:
    """Publish a JSON file atomically, with sorted keys and an indent of 2. Raises ValueError for NaN or infinity."""
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    write_bytes(url, (text + "\n").encode())


def append_line(url: str | os.PathLike[str], text: str) -> None:
    """Append one line to a text file and flush it; a line that a killed writer left unfinished is ended first.

    Raises ValueError when `text` holds a line break.
    """
    if "\n" in text:
        raise ValueError(f"one line at a time: {text!r} holds a line break")
    path = _local_path(url)
    local_folder(path.parent)
    with open(path, "a+b") as stream:
        if stream.tell() > 0:
            stream.seek(-1, os.SEEK_END)
            text = text if stream.read(1) == b"\n" else "\n" + text
        stream.write((text + "\n").encode())


def upload(local_path: str | os.PathLike[str], url: str | os.PathLike[str]) -> None:
    """Publish a copy of a local file atomically. Raises FileNotFoundError where there is no such file."""
    source = Path(local_path)
    if not source.is_file():
        raise FileNotFoundError(f"no file to upload at {source}")
    with open(source, "rb") as reader, open_write(url) as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)


def local_file(url: str | os.PathLike[str]) -> Path:
    """A readable local path of a file: the file itself for file://. Raises FileNotFoundError where there is none."""
    path = _local_path(url)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {normalise(url)}")
    return path


def local_folder(url: str | os.PathLike[str]) -> Path:
    """The local path of a folder, created where it is missing. Raises InputError where a file is in the way."""
    path = _local_path(url)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"no folder can be made at {normalise(url)}: a file is in the way") from None
    return path


@contextmanager
def staged_folder(url: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[str]:
    """A temporary sibling folder that takes the place of `url` when the block ends; after an exception it is removed.

    With `overwrite`, a folder that `remove_tree` would remove is replaced; the old one disappears only when the new one is whole.
    Raises InputError when something is at `url` already: any file, or a folder that is not empty and not to be overwritten.
    """
    target = _local_path(url)
    if not overwrite:
        _require_vacant(target)
    elif target.is_dir() and any(target.iterdir()):
        _require_removable(target)
    local_folder(target.parent)
    staging = target.parent / _temporary_name(target.name)
    staging.mkdir()
    try:
        yield _file_url(staging)
        if overwrite and target.is_dir() and any(target.iterdir()):
            remove_tree(url)
        else:
            _require_vacant(target)
        os.replace(staging, target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    _sync_folder(target.parent)


@contextmanager
def exclusive(url: str | os.PathLike[str], *, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Holds a folder for this process alone; the hold ends with the process, however it ends.

    Where another process holds it, `waiting` is called and this one waits; without `waiting`, InputError is raised.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(local_folder(url) / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if waiting is None:
            raise InputError(f"another process is at work in {url}; wait for it, or choose another name") from None
        waiting()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def remove_file(url: str | os.PathLike[str]) -> None:
    """Remove one file; does nothing where there is none."""
    _local_path(url).unlink(missing_ok=True)


def remove_tree(url: str | os.PathLike[str]) -> None:
    """Remove a folder that crowddist wrote: one holding manifest.json or DONE.json, or one still being written.

    Does nothing where there is nothing. The folder is renamed first, so that a reader never finds half of it.
    Raises InputError for any other folder, a link, a file, or a place less than two levels below the root.
    """
    path = _local_path(url)
    if not path.exists() and not path.is_symlink():
        return
    _require_removable(path)
    doomed = path.parent / _temporary_name()
    os.replace(path, doomed)
    shutil.rmtree(doomed)


def _require_removable(path: Path) -> None:
    ours = _is_temporary(path.name) or any((path / marker).is_file() for marker in _REMOVABLE_MARKERS)
    if len(path.parts) < 3 or path == Path.home() or path.is_symlink() or not path.is_dir() or not ours:
        markers = " or ".join(_REMOVABLE_MARKERS)
        raise InputError(f"will not remove {path}: it is not a folder with {markers} at least two levels below the root; remove it by hand")


def _require_vacant(path: Path) -> None:
    if path.is_symlink() or (path.exists() and (not path.is_dir() or any(path.iterdir()))):
        raise InputError(f"something is at {path} already; choose another place or remove it")


def _local_path(url: str | os.PathLike[str]) -> Path:
    """The one place that knows which kinds of storage can be reached."""
    normal = normalise(url)
    if normal.startswith("s3://"):
        raise InputError(f"cannot reach {normal}: this version reads and writes file:// only, object storage is planned; give a path")
    return _path_of_file_url(normal)


def _path_of_file_url(url: str) -> Path:
    """Everything after file:// is the path: `?` and `#` have no meaning in a file's name."""
    match = re.match(r"^file:(?://(?:localhost)?)?(/.*)$", url, re.IGNORECASE | re.DOTALL)
    if match is None or match.group(1).startswith("//"):
        raise InputError(f"not a local file URL: {url}; write file:///absolute/path")
    path = os.fsdecode(unquote_to_bytes(match.group(1)))
    if "\0" in path:
        raise InputError(f"not a place: {url} holds a zero byte; give a path or a file:// URL")
    return Path(path)


def _file_url(path: Path) -> str:
    absolute = os.path.abspath(path)
    return "file://" + quote_from_bytes(os.fsencode("/" + absolute.lstrip("/")))


def _temporary_name(stem: str = "") -> str:
    # A long stem is cut: a name holds at most 255 bytes.
    stem = os.fsencode(stem)[:180].decode("utf-8", "ignore")
    return f"{_TEMPORARY_PREFIX}{stem}{'.' if stem else ''}{secrets.token_hex(8)}{_TEMPORARY_SUFFIX}"


def _is_temporary(name: str) -> bool:
    return name.startswith(_TEMPORARY_PREFIX) and name.endswith(_TEMPORARY_SUFFIX)


def _sync_folder(path: Path) -> None:
    """A rename survives a power cut only when the folder itself is flushed."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
