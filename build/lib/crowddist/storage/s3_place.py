"""Places in object storage: folders made of keys, and downloads through the node's cache."""

from __future__ import annotations

import functools
import hashlib
import io
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, BinaryIO

from crowddist.errors import InputError
from crowddist.storage import s3_lock
from crowddist.storage.cache import Cache, CacheError
from crowddist.storage.local import Content
from crowddist.storage.names import LOCK, REMOVABLE_MARKERS, is_temporary, temporary_name
from crowddist.storage.s3_object import S3Object, Version, workers
from crowddist.storage.s3_requests import S3Config, request

_MOST_KEYS = 1000
"""S3's limit for one delete request."""

logger = logging.getLogger(__name__)


class S3Place(S3Object):
    """An object, or a folder: the objects whose keys begin with its key and a slash. For the methods see `storage`."""

    def exists(self) -> bool:
        return self.find() is not None or self.is_folder()

    def is_folder(self) -> bool:
        listed = request("list_objects_v2", self.url, Bucket=self.bucket, Prefix=self.prefix, MaxKeys=1)
        return not self.key or bool(listed.get("Contents"))

    def list_files(self) -> list[str]:
        names = [name for name, _ in self._listing()]
        if not names and not self.is_folder():
            raise FileNotFoundError(f"no folder at {self.url}")
        return sorted(name for name in names if not any(is_temporary(piece) for piece in name.split("/")))

    def stamps(self) -> Iterator[str]:
        for name, version in sorted(self._listing()):
            yield f"{name}\0{version.num_bytes}\0{version.etag}\0"

    def num_bytes(self) -> int:
        version = self.find()
        if version is None:
            raise FileNotFoundError(f"no file at {self.url}")
        return version.num_bytes

    def read_bytes(self) -> bytes:
        return self.read_version()[0]

    def append_line(self, text: str) -> None:
        before = self.read_bytes() if self.find() is not None else b""
        if before and not before.endswith(b"\n"):
            before += b"\n"
        self._call("put_object", Body=before + text.encode() + b"\n")

    def local_file(self, sha256: str = "") -> Path:
        """A copy in the cache, named by `sha256` if given, else by URL and version. InputError for another hash."""
        cache = Cache.from_environment()
        if sha256 and (path := cache.find(sha256)):
            return path
        version = self.find()
        if version is None:
            raise FileNotFoundError(f"no file at {self.url}")

        def fill(stream: BinaryIO) -> None:
            self.download_to(stream)
            if sha256:
                with open(stream.name, "rb") as written:
                    self.require(sha256, hashlib.file_digest(written, "sha256").hexdigest())

        facts = f"{self.endpoint}\0{self.url}\0{version.etag}\0{version.num_bytes}"
        return cache.fetch(sha256 or hashlib.sha256(facts.encode()).hexdigest(), version.num_bytes, fill)

    def require(self, wanted: str, found: str) -> None:
        """Raises InputError unless the hashes are equal."""
        if found != wanted:
            raise InputError(f"{self.url}: SHA-256 is {found[:12]}..., the manifest says {wanted[:12]}...; it was "
                             "changed, convert or copy it again")

    def local_folder(self) -> Path:
        raise InputError(f"a folder on this machine is needed, got {self.url}; give a path")

    def scratch_folder(self) -> Path:
        return Path(_scratch_folder(self.url).name)

    @contextmanager
    def local_copy(self) -> Iterator[Path]:
        names = self.list_files()
        with tempfile.TemporaryDirectory(prefix="crowddist-") as temporary:
            # keep the folder's name: data sets are named by it
            folder = Path(temporary) / (self.key or self.bucket).rpartition("/")[2]

            def download(name: str) -> None:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                with open(folder / name, "xb") as stream:
                    self._below(name).download_to(stream)

            with workers(S3Config.from_environment().streams) as submit:
                for copy in [submit(download, name) for name in names]:
                    copy.result()
            yield folder

    @contextmanager
    def staged(self, *, overwrite: bool, job: str) -> Iterator[S3Place]:
        """Objects cannot be renamed: the server copies them one by one, the folder's marker last."""
        if not self.key:
            raise InputError(f"no folder can take the place of the bucket {self.url}; give a place below it")
        parent, _, name = self.url.rpartition("/")
        staging = S3Place(f"{parent}/{temporary_name(name, job=job)}")
        if not overwrite:
            self._require_vacant(staging if job else None)
        elif self.exists():
            self._require_removable()
        doomed = False
        try:
            with staging.exclusive(waiting=None) if job else nullcontext():
                try:
                    yield staging
                    if overwrite:
                        self.remove_tree()
                    self._require_vacant(staging if job else None)
                    names = [name for name, _ in staging._listing() if name != LOCK]
                    for name in sorted(names, key=lambda name: name in REMOVABLE_MARKERS):
                        self._below(name).copy_from(staging._below(name))
                except BaseException as error:
                    doomed = not job or isinstance(error, InputError)
                    raise
                doomed = True
        finally:
            if doomed:
                with suppress(OSError, InputError):
                    staging._remove_all()

    def exclusive(self, *, waiting: Callable[[], None] | None) -> AbstractContextManager[None]:
        return s3_lock.held(self._below(LOCK), self.url, waiting=waiting)

    def holder(self) -> str:
        return s3_lock.holder(self._below(LOCK))

    def remove_tree(self) -> None:
        """Removes the folder's marker first: a reader finds no data set rather than half of one."""
        if self.exists():
            self._require_removable()
            self._remove_all()

    def _remove_all(self) -> None:
        names = sorted((name for name, _ in self._listing()), key=lambda name: name not in REMOVABLE_MARKERS)
        for first in range(0, len(names), _MOST_KEYS):
            doomed = [{"Key": self.prefix + name} for name in names[first : first + _MOST_KEYS]]
            answer = request("delete_objects", self.url, Bucket=self.bucket, Delete={"Objects": doomed, "Quiet": True})
            for refused in answer.get("Errors", []):
                raise OSError(f"{self.endpoint} does not remove s3://{self.bucket}/{refused['Key']}: {refused['Code']}")

    def _require_removable(self) -> None:
        ours = is_temporary(self.key.rpartition("/")[2]) or any(self._below(name).find() for name in REMOVABLE_MARKERS)
        if not self.key or not ours or self.find() is not None:
            raise InputError(f"will not remove {self.url}: it is not a folder with {' or '.join(REMOVABLE_MARKERS)} "
                             "below a bucket; remove it by hand")

    def _require_vacant(self, staging: S3Place | None = None) -> None:
        """Allows files that the same job copied here from `staging` before it was killed; markers are copied last."""
        if staging is None:
            taken = self.exists()
        else:
            copied = {name for name, _ in staging._listing()} - {*REMOVABLE_MARKERS}
            taken = self.find() is not None or any(name not in copied for name, _ in self._listing())
        if taken:
            raise InputError(f"something is at {self.url} already; choose another place or remove it")

    def _below(self, name: str) -> S3Place:
        if any(piece in ("", ".", "..") for piece in name.split("/")):
            raise InputError(f"the key {self.prefix + name!r} of bucket {self.bucket} can be no file's name; rename "
                             "the object")
        return S3Place(f"s3://{self.bucket}/{self.prefix}{name}")

    def _listing(self) -> Iterator[tuple[str, Version]]:
        """Names and versions of the folder's objects, but for markers of empty folders, which other tools write."""
        token: dict[str, Any] = {}
        while True:
            page = request("list_objects_v2", self.url, Bucket=self.bucket, Prefix=self.prefix, **token)
            for entry in page.get("Contents", []):
                if not entry["Key"].endswith("/"):
                    yield entry["Key"].removeprefix(self.prefix), Version(entry["Size"], entry["ETag"].strip('"'))
            if not page["IsTruncated"]:
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}


class S3Content(Content):
    """An object for random access through the cache, or directly if the cache cannot take it; see `Content`."""

    _warned = False
    """One warning a process is enough, whatever the number of files."""

    def __init__(self, url: str, sha256: str) -> None:
        self.place, self.sha256 = S3Place(url), sha256
        self._etag = ""
        self._past_cache = False
        self._path()

    def open(self) -> io.BufferedIOBase:
        return self._open_cached() or io.BytesIO(self._read_all())

    def read(self, start: int, num_bytes: int) -> bytes:
        stream = self._open_cached()
        if stream is not None:
            with stream:
                return os.pread(stream.fileno(), num_bytes, start)
        if not self._etag:
            self._read_all()
        return self.place.read_range(start, num_bytes, self._etag)

    def digest(self) -> str:
        """Downloads a damaged copy again."""
        found = super().digest()
        if found == self.sha256:
            return found
        Cache.from_environment().drop(self.sha256)
        return super().digest()

    def _open_cached(self) -> io.BufferedReader | None:
        """None if the cache cannot take the object."""
        while True:
            path = self._path()
            try:
                return None if path is None else open(path, "rb")
            except FileNotFoundError:  # removed just now to make room for another
                continue

    def _path(self) -> Path | None:
        if self._past_cache:
            return None
        try:
            return self.place.local_file(self.sha256)
        except CacheError as error:
            self._past_cache = True
            if not S3Content._warned:
                S3Content._warned = True
                logger.warning("%s; until then data in object storage is read directly, every sample anew in every "
                               "epoch", error)
            return None

    def _read_all(self) -> bytes:
        data, version = self.place.read_version()
        self.place.require(self.sha256, hashlib.sha256(data).hexdigest())
        self._etag = version.etag
        return data


@functools.cache
def _scratch_folder(url: str) -> tempfile.TemporaryDirectory:
    """Removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="crowddist-", ignore_cleanup_errors=True)
