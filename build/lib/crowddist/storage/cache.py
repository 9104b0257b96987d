"""A node's cache of downloads for all processes: named by content, whole or absent; the least used go first."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from crowddist.errors import InputError

LIMIT_BYTES = 32 * 2**30
"""ours: room for a data set of some tens of thousands of images."""


class CacheError(OSError):
    """The cache cannot take a file: it is too large, or the disk is full, read-only or broken."""


@dataclass(frozen=True, kw_only=True)
class Cache:
    """A folder of downloads for all processes and runs of a node."""

    folder: Path
    limit_bytes: int = LIMIT_BYTES
    """For all files together, unfinished downloads included; a disk with less free space lowers it."""

    @classmethod
    def from_environment(cls) -> Cache:
        """CROWDDIST_CACHE (default: `crowddist` in the user's caches), CROWDDIST_CACHE_BYTES. Raises InputError."""
        base = os.environ.get("XDG_CACHE_HOME", "") or Path.home() / ".cache"
        limit = os.environ.get("CROWDDIST_CACHE_BYTES", str(LIMIT_BYTES))
        if not limit.isdecimal():
            raise InputError(f"CROWDDIST_CACHE_BYTES must be a whole number of bytes, got {limit!r}")
        return cls(folder=Path(os.environ.get("CROWDDIST_CACHE", "") or Path(base) / "crowddist").absolute(),
                   limit_bytes=int(limit))

    def fetch(self, name: str, num_bytes: int, fill: Callable[[BinaryIO], None]) -> Path:
        """The path of the file `name`. If it is missing, one process downloads it with `fill` and the others wait.

        The file may be removed to make room as soon as it is not the newest: open it, or be ready to fetch it again.
        `name` is 64 hex digits that follow from the content. Errors of `fill` reach the caller, no partial file stays.
        Raises CacheError if there is no room, or the folder cannot be used.
        """
        path = self.folder / name
        try:
            if self.find(name) is None:
                (self.folder / "locks").mkdir(parents=True, exist_ok=True)
                with self._lock(name[:2]):
                    if self.find(name) is None:
                        self._download(path, num_bytes, fill)
        except OSError as error:
            if error.errno is None:  # from the download, not from this machine's file system
                raise
            raise CacheError(f"the cache {self.folder} cannot take {num_bytes / 2**20:.1f} MiB: {error.strerror}; make "
                             "room, or set CROWDDIST_CACHE to a folder on another disk") from None
        return path

    def find(self, name: str) -> Path | None:
        """The path of a file if it is there, marked as used now."""
        path = self.folder / name
        try:
            os.utime(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except PermissionError:  # another user's
            pass
        return path

    def drop(self, name: str) -> None:
        """Removes a file if it is there."""
        (self.folder / name).unlink(missing_ok=True)

    def _download(self, path: Path, num_bytes: int, fill: Callable[[BinaryIO], None]) -> None:
        partial = path.with_name(f".{path.name}.partial")
        try:
            self._reserve(partial, num_bytes)
            with open(partial, "r+b") as stream:
                fill(stream)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def _reserve(self, partial: Path, num_bytes: int) -> None:
        """Makes room for a file and creates it at full size, so that other processes count it in full."""
        with self._lock("room"):
            entries = []
            for path in self.folder.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    if path.is_file():
                        facts = path.stat()
                        entries.append((facts.st_mtime_ns, facts.st_size, path))
            used = sum(size for _, size, _ in entries)
            allowed = min(self.limit_bytes, used + shutil.disk_usage(self.folder).free)
            evictable = sorted(entries) if num_bytes <= allowed else []  # a file that never fits evicts nothing
            for _, size, path in evictable:
                if used + num_bytes <= allowed:
                    break
                if not path.name.startswith(".") or self._is_abandoned(path):
                    path.unlink(missing_ok=True)
                    used -= size
            if used + num_bytes > allowed:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with open(partial, "wb") as stream:
                if num_bytes:
                    os.posix_fallocate(stream.fileno(), 0, num_bytes)

    def _is_abandoned(self, partial: Path) -> bool:
        """True if no process downloads the file any more: a downloader holds the lock until it ends."""
        try:
            with self._lock(partial.name[1:3], timeout=0):
                return True
        except Timeout:
            return False

    def _lock(self, name: str, timeout: float = -1) -> FileLock:
        """A file is locked by the first two digits of its name: 256 locks, so none ever needs to be removed."""
        return FileLock(self.folder / "locks" / f"{name}.lock", timeout=timeout)
