"""Places on this machine's file system, shared file systems included."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from io import BufferedIOBase
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from crowddist.errors import InputError
from crowddist.storage.names import LOCK, MARK, REMOVABLE_MARKERS, file_url, is_temporary, temporary_name


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Writing to `path` in the block: where there is no room, the error names the file, as those of opening one do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) and error.filename is None:
            error.filename = str(path)
        raise


class LocalPlace:
    """A path. For the methods see the functions of the same names in `storage`."""

    def __init__(self, path: Path) -> None:
        self.path, self.url, self.shown = path, file_url(path), str(path)

    def exists(self) -> bool:
        return self.path.exists()

    def is_folder(self) -> bool:
        return self.path.is_dir()

    def list_files(self) -> list[str]:
        """Does not follow links to folders, so a loop of links ends."""
        if not self.path.is_dir():
            raise FileNotFoundError(f"no folder at {self.url}")
        names: list[str] = []
        for folder, folders, files in os.walk(self.path, followlinks=False):
            folders[:] = [name for name in folders if not is_temporary(name)]
            relative = Path(folder).relative_to(self.path)
            names += [(relative / name).as_posix() for name in files
                      if not is_temporary(name) and name != MARK]
        return sorted(names)

    def stamps(self) -> Iterator[str]:
        """A text for each file, always in the same order; it changes with the file. Links are followed once."""
        entered: set[str] = set()
        for folder, folders, names in os.walk(self.path, followlinks=True):
            real = os.path.realpath(folder)
            if MARK in names and folder != str(self.path):  # a run inside the folder that it reads grows
                folders[:] = []
                continue
            folders[:] = [] if real in entered else sorted(folders)
            for name in () if real in entered else sorted(names):
                path = os.path.join(folder, name)
                # the reader refuses a dangling link
                facts = os.stat(path, follow_symlinks=os.path.exists(path))
                yield f"{os.path.relpath(path, self.path)}\0{facts.st_size}\0{facts.st_mtime_ns}\0"
            entered.add(real)

    def num_bytes(self) -> int:
        return self.local_file().stat().st_size

    def read_bytes(self) -> bytes:
        return self.local_file().read_bytes()

    @contextmanager
    def open_write(self) -> Iterator[BinaryIO]:
        if self.path.exists() and not self.path.is_file():  # a pipe or a device: root could replace /dev/null itself
            with naming(self.path), open(self.path, "wb") as stream:
                yield stream
            return
        LocalPlace(self.path.parent).local_folder()
        temporary = self.path.parent / temporary_name()
        try:
            with naming(self.path):
                with open(temporary, "xb") as stream:
                    yield stream
                    stream.flush()
                    os.fsync(stream.fileno())
                os.replace(temporary, self.path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(self.path.parent)

    def append_line(self, text: str) -> None:
        LocalPlace(self.path.parent).local_folder()
        with naming(self.path), open(self.path, "a+b") as stream:
            if stream.tell() > 0:
                stream.seek(-1, os.SEEK_END)
                text = text if stream.read(1) == b"\n" else "\n" + text
            stream.write((text + "\n").encode())

    def local_file(self) -> Path:
        if not self.path.is_file():
            raise FileNotFoundError(f"no file at {self.url}")
        return self.path

    def local_folder(self) -> Path:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise InputError(f"no folder can be made at {self.url}: a file is in the way; remove it, or choose another "
                             "place") from None
        return self.path

    scratch_folder = local_folder

    def mark(self, *, fresh: bool) -> None:
        if not (self.path / MARK).exists() and not (fresh and self._is_full()):
            (self.local_folder() / MARK).touch()

    def local_copy(self) -> nullcontext[Path]:
        return nullcontext(self.path)

    @contextmanager
    def staged(self, *, overwrite: bool, job: str) -> Iterator[LocalPlace]:
        if not overwrite:
            self._require_vacant()
        elif self._is_full():
            self._require_removable()
        LocalPlace(self.path.parent).local_folder()
        staging = self.path.parent / temporary_name(self.path.name, job=job)
        staging.mkdir(exist_ok=bool(job))
        with LocalPlace(staging).exclusive(waiting=None) if job else nullcontext():
            try:
                yield LocalPlace(staging)
                if overwrite and self._is_full():
                    self.remove_tree()
                else:
                    self._require_vacant()
                (staging / LOCK).unlink(missing_ok=True)
                os.replace(staging, self.path)
            except BaseException as error:
                if not job or isinstance(error, InputError):
                    shutil.rmtree(staging, ignore_errors=True)
                raise
        _sync_folder(self.path.parent)

    @contextmanager
    def exclusive(self, *, waiting: Callable[[], None] | None) -> Iterator[None]:
        lock = FileLock(self.local_folder() / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if waiting is None:
                raise InputError(f"another process is at work in {self.url}; wait for it, or choose another "
                                 "name") from None
            waiting()
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def holder(self) -> str:
        """Takes the lock for a moment; creates no lock file in a folder that was never held."""
        if not (self.path / LOCK).is_file():
            return ""
        try:
            with FileLock(self.path / LOCK, timeout=0):
                return ""
        except Timeout:
            return "another process"

    def remove_file(self) -> None:
        self.path.unlink(missing_ok=True)

    def remove_tree(self) -> None:
        """Renames the folder first, so that a reader never finds half of it."""
        if not self.path.exists() and not self.path.is_symlink():
            return
        self._require_removable()
        doomed = self.path.parent / temporary_name()
        os.replace(self.path, doomed)
        shutil.rmtree(doomed)

    def _is_full(self) -> bool:
        return self.path.is_dir() and any(self.path.iterdir())

    def _require_removable(self) -> None:
        path = self.path
        ours = is_temporary(path.name) or any((path / marker).is_file() for marker in REMOVABLE_MARKERS)
        if len(path.parts) < 3 or path == Path.home() or path.is_symlink() or not path.is_dir() or not ours:
            raise InputError(f"will not remove {path}: it is not a folder with {' or '.join(REMOVABLE_MARKERS)} at "
                             "least two levels below the root; remove it by hand")

    def _require_vacant(self) -> None:
        if self.path.is_symlink() or (self.path.exists() and (not self.path.is_dir() or self._is_full())):
            raise InputError(f"something is at {self.path} already; choose another place or remove it")


class Content:
    """A file for random access, see `storage.open_content`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> BufferedIOBase:
        """The whole file as a stream."""
        return open(self.path, "rb")

    def read(self, start: int, num_bytes: int) -> bytes:
        """A part of the file; shorter if the file ends before."""
        with open(self.path, "rb") as stream:
            return os.pread(stream.fileno(), num_bytes, start)

    def digest(self) -> str:
        """The SHA-256 of the file, in hex, computed now."""
        with self.open() as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]


def _sync_folder(path: Path) -> None:
    """A rename survives a power cut only if the folder is flushed too."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
