"""The node's cache of downloaded files: named by content, whole or absent, shared by all processes, the least used go
first.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from crowddist.errors import InputError

LIMIT_BYTES = 32 * 2**30
"""ours: room for a data set of some tens of thousands of images."""


class CacheError(OSError):
    """The cache cannot take a file: it is too large, or the disk is full, read-only or broken."""


@dataclass(frozen=True, kw_only=True)
class Cache:
    """A folder that holds downloads of all processes of a node, and of all its runs."""

    folder: Path
    limit_bytes: int = LIMIT_BYTES
    """Of all files together, those being downloaded included; a disk with less free space lowers it."""

    @classmethod
    def from_environment(cls) -> Cache:
        """CROWDDIST_CACHE, else `crowddist` in the user's cache folder; CROWDDIST_CACHE_BYTES. Raises InputError where
        that is no number.
        """
        base = os.environ.get("XDG_CACHE_HOME", "") or Path.home() / ".cache"
        limit = os.environ.get("CROWDDIST_CACHE_BYTES", str(LIMIT_BYTES))
        if not limit.isdecimal():
            raise InputError(f"CROWDDIST_CACHE_BYTES must be a whole number of bytes, got {limit!r}")
        return cls(folder=Path(os.environ.get("CROWDDIST_CACHE", "") or Path(base) / "crowddist").absolute(),
                   limit_bytes=int(limit))

    def fetch(self, name: str, num_bytes: int, fill: Callable[[BinaryIO], None]) -> Path:
        """The path of the file called `name`, which `fill` downloads where it is missing; of many processes one does,
        and the others wait.

        The file may be removed for others as soon as it is not the newest: open it, or be ready to fetch it again.

        Args:
            name: 64 hex digits that follow from the content.
            num_bytes: its size.
            fill: writes it; what it raises goes on to the caller, and nothing stays.

        Raises:
            CacheError: there is no room, or the folder cannot be used.
        """
        path = self.folder / name
        try:
            if self.find(name) is None:
                self._lock("").parent.mkdir(parents=True, exist_ok=True)
                with self._held(name):
                    if self.find(name) is None:
                        self._download(path, num_bytes, fill)
        except OSError as error:
            if error.errno is None:  # of the download, not of this machine's file system
                raise
            raise CacheError(f"the cache {self.folder} cannot take {num_bytes / 2**20:.1f} MiB: {error.strerror}; make "
                             "room, or set CROWDDIST_CACHE "
                             "to a folder on another disk") from None
        return path

    def find(self, name: str) -> Path | None:
        """The path of a file that is there, which counts as used now."""
        path = self.folder / name
        try:
            os.utime(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except PermissionError:  # another user's
            pass
        return path

    def drop(self, name: str) -> None:
        """Removes a file, should it be there."""
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
        """A file of the full size, for which older ones make room: what is under way in other processes counts with its
        whole size.
        """
        with self._lock_file("room"):
            entries = [(facts.st_mtime_ns, facts.st_size, path) for path, facts in self._files()]
            used = sum(size for _, size, _ in entries)
            allowed = min(self.limit_bytes, used + shutil.disk_usage(self.folder).free)
            if num_bytes > allowed:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            for _, size, path in sorted(entries):
                if used + num_bytes <= allowed:
                    break
                if not path.name.startswith(".") or self._is_dead(path):
                    path.unlink(missing_ok=True)
                    used -= size
            if used + num_bytes > allowed:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with open(partial, "wb") as stream:
                if num_bytes:
                    os.posix_fallocate(stream.fileno(), 0, num_bytes)

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        found = []
        for path in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.is_file():
                    found.append((path, path.stat()))
        return found

    def _is_dead(self, partial: Path) -> bool:
        """Whether nobody downloads it any more: a killed process held the lock of its name until it died."""
        from filelock import Timeout

        try:
            with self._held(partial.name.removeprefix("."), timeout=0):
                return True
        except Timeout:
            return False

    def _held(self, name: str, timeout: float = -1):  # type: ignore[no-untyped-def]
        """The lock that a name shares with one in 256 others, so that locks never need to be removed."""
        return self._lock_file(name[:2], timeout)

    def _lock_file(self, name: str, timeout: float = -1):  # type: ignore[no-untyped-def]
        from filelock import FileLock

        return FileLock(self._lock(name), timeout=timeout)

    def _lock(self, name: str) -> Path:
        return self.folder / "locks" / f"{name}.lock"
