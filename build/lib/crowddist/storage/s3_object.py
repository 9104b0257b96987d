"""One object in object storage: reads resume after every break, and writes appear whole."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from email.utils import parsedate_to_datetime
from typing import Any, BinaryIO, NamedTuple, cast

from botocore.exceptions import ClientError

from crowddist.errors import InputError
from crowddist.storage.s3_requests import BROKEN, S3Config, code_of, endpoint, pause_s, request

Sink = Callable[[int, bytes], object]
"""Called with an offset in the file and the bytes for it, from several threads."""
_READ_BYTES = 2**20
_MOST_PARTS, _LEAST_PART_BYTES = 10_000, 5 * 2**20
"""S3's limits of an upload in parts."""
_CHANGED = ("PreconditionFailed", "412", "ConditionalRequestConflict")
_NOTHING_THERE = ("InvalidRange", "416")


class Version(NamedTuple):
    num_bytes: int
    etag: str


class S3Object:
    """The object at an address; it need not exist."""

    def __init__(self, url: str) -> None:
        self.url = self.shown = url
        self.bucket, _, self.key = url.removeprefix("s3://").partition("/")
        try:
            self.key.encode()
        except UnicodeEncodeError:
            raise InputError(f"the name {os.fsencode(self.key)!r} is not UTF-8, which object storage needs; rename the "
                             "file") from None
        self.prefix = f"{self.key}/" if self.key else ""

    @property
    def endpoint(self) -> str:
        return endpoint(self.url)

    def find(self) -> Version | None:
        """The object's version, None if there is no object. Asks by a listing: a refused HEAD gives no reason."""
        if not self.key:
            return None
        answer = request("list_objects_v2", self.url, Bucket=self.bucket, Prefix=self.key, MaxKeys=1)
        return next((Version(entry["Size"], entry["ETag"].strip('"')) for entry in answer.get("Contents", [])
                     if entry["Key"] == self.key), None)

    def read_version(self) -> tuple[bytes, Version]:
        """The whole content and its version. Raises as `download`."""
        data = bytearray()

        def begin(num_bytes: int) -> Sink:
            nonlocal data
            data = bytearray(num_bytes)
            return _into(data)

        version = self.download(begin)
        return bytes(data), version

    def read_range(self, start: int, num_bytes: int, etag: str) -> bytes:
        """A part of one version; shorter if the version ends before. Raises InputError if the object was replaced."""
        data = bytearray(num_bytes)
        try:
            version = self._read(start, start + num_bytes, etag, _into(data, start))
        except _ChangedError:
            raise InputError(f"{self.url} was replaced while it was read; give the same command again") from None
        return bytes(data[: max(version.num_bytes - start, 0)])

    def download_to(self, stream: BinaryIO) -> Version:
        """Writes the whole content to an open file. Raises as `download`."""
        descriptor = stream.fileno()

        def begin(num_bytes: int) -> Sink:
            os.truncate(descriptor, num_bytes)
            return lambda start, part: _write_at(descriptor, part, start)

        return self.download(begin)

    def download(self, begin: Callable[[int], Sink]) -> Version:
        """The whole content of one version; a large object comes in parallel parts. `begin` takes the size in bytes and
        returns the sink; it is called again if the object was replaced meanwhile. Raises FileNotFoundError, OSError if
        the object is replaced all the time, or as `request`.
        """
        config = S3Config.from_environment()
        for _ in range(config.attempts):
            with suppress(_ChangedError):
                return self._download(begin, config)
        raise OSError(f"{self.url} was replaced again and again while it was read")

    def _download(self, begin: Callable[[int], Sink], config: S3Config) -> Version:
        part_bytes = config.part_mib * 2**20
        answer = self._get(0, part_bytes, "")
        if answer is None:
            begin(0)
            return Version(0, "")
        version = _version(answer)
        sink = begin(version.num_bytes)
        # a server without ranges sends the whole object
        first_end = min(part_bytes, version.num_bytes) if "ContentRange" in answer else version.num_bytes
        starts = range(first_end, version.num_bytes, part_bytes)
        with workers(config.streams - 1) as submit:
            others = [submit(self._read, start, start + part_bytes, version.etag, sink) for start in starts]
            self._read(0, first_end, version.etag, sink, answer)
            for other in others:
                other.result()
        return version

    def _read(self, start: int, end: int, etag: str, sink: Sink, answer: dict[str, Any] | None = None) -> Version:
        """Reads from `start` to `end` or the object's end; asks again from where a body broke off, as boto3 never does.

        Raises _ChangedError if the object has another version than `etag`.
        """
        position, num_tries, attempts = start, 0, S3Config.from_environment().attempts
        while True:
            answer = answer or self._get(position, end, etag)
            if answer is None:
                return Version(start, etag)
            version = _version(answer)
            if version.etag != etag:  # a server without conditions
                raise _ChangedError
            end, before = min(end, version.num_bytes), position
            try:
                with closing(answer["Body"]) as body:
                    if "ContentRange" not in answer:
                        _skip(body, position)
                    while position < end:
                        part = body.read(min(_READ_BYTES, end - position))
                        if not part:
                            break
                        sink(position, part)
                        position += len(part)
                reason = "too few bytes"
            except BROKEN as error:
                reason = type(error).__name__
            if position >= end:
                return version
            answer, num_tries = None, num_tries + 1 if position == before else 1
            if num_tries >= attempts:
                raise ConnectionError(f"{self.endpoint} breaks off {self.url} at byte {position} again and again "
                                      f"({reason}); try again later")
            time.sleep(pause_s(num_tries))

    def _get(self, start: int, end: int, etag: str) -> dict[str, Any] | None:
        """An answer whose body holds the bytes from `start` on; None if the object ends before."""
        condition = {"IfMatch": f'"{etag}"'} if etag else {}
        try:
            return self._call("get_object", expected=(*_NOTHING_THERE, *_CHANGED), Range=f"bytes={start}-{end - 1}",
                              **condition)
        except ClientError as error:
            if code_of(error) in _CHANGED:
                raise _ChangedError from None
            return None

    def read_tagged(self) -> tuple[bytes, str, float] | None:
        """Content, version and age (seconds of the server's clock) of a small object; None if there is none."""
        data = bytearray()
        try:
            answer = self._call("get_object")
            self._read(0, _READ_BYTES, _version(answer).etag, lambda _, part: data.extend(part), answer)
        except (FileNotFoundError, _ChangedError):
            return None
        now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        return bytes(data), _version(answer).etag, (now - answer["LastModified"]).total_seconds()

    def write_if(self, data: bytes, *, new: bool = False, etag: str = "") -> bool:
        """Writes a small object only if there is none (`new`) or it has version `etag`; False if not."""
        # RADOS Gateway wants the tag of a write without its quotes; others take both.
        condition = {"IfNoneMatch": "*"} if new else {"IfMatch": etag}
        try:
            self._call("put_object", expected=(*_CHANGED, "NoSuchKey"), Body=data, **condition)
        except ClientError:
            return False
        return True

    @contextmanager
    def open_write(self) -> Iterator[BinaryIO]:
        """See `storage.open_write`. Sends nothing before the block has ended: large content waits in a $TMPDIR file."""
        part_bytes = S3Config.from_environment().part_mib * 2**20
        with tempfile.SpooledTemporaryFile(max_size=part_bytes) as stream:
            yield cast(BinaryIO, stream)
            num_bytes = stream.seek(0, os.SEEK_END)
            if num_bytes <= part_bytes:
                stream.seek(0)
                self._call("put_object", Body=stream.read())
            else:
                stream.rollover()
                stream.flush()
                self._upload(stream.fileno(), num_bytes,
                             max(part_bytes, _LEAST_PART_BYTES, -(-num_bytes // _MOST_PARTS)))

    def _upload(self, descriptor: int, num_bytes: int, part_bytes: int) -> None:
        """Uploads parts, invisible until joined. A killed process leaves parts, for the bucket's rules to remove."""
        upload = {"UploadId": self._call("create_multipart_upload")["UploadId"]}

        def send(number: int) -> dict[str, Any]:
            part = os.pread(descriptor, part_bytes, (number - 1) * part_bytes)
            answer = self._call("upload_part", **upload, PartNumber=number, Body=part)
            return {"PartNumber": number, "ETag": answer["ETag"]}

        try:
            with workers(S3Config.from_environment().streams) as submit:
                sent = [submit(send, number + 1) for number in range(-(-num_bytes // part_bytes))]
                parts = [part.result() for part in sent]
            try:
                self._call("complete_multipart_upload", expected=("NoSuchUpload",), **upload,
                           MultipartUpload={"Parts": parts})
            except ClientError:  # an earlier try may have joined them, and its answer was lost
                found = self.find()
                if found is None or found.num_bytes != num_bytes or not found.etag.endswith(f"-{len(parts)}"):
                    raise OSError(f"{self.endpoint} lost the upload of {self.url}; give the same command "
                                  "again") from None
        except BaseException:
            with suppress(OSError, InputError):
                self._call("abort_multipart_upload", **upload)
            raise

    def copy_from(self, source: S3Object) -> None:
        """Makes this object a copy of another one, inside the server."""
        self._call("copy_object", CopySource={"Bucket": source.bucket, "Key": source.key})

    def remove_file(self) -> None:
        self._call("delete_object")

    def _call(self, operation: str, *, expected: tuple[str, ...] = (), **arguments: Any) -> dict[str, Any]:
        return request(operation, self.url, expected=expected, Bucket=self.bucket, Key=self.key, **arguments)


class _ChangedError(Exception):
    """The object has another version now."""


@contextmanager
def workers(num_threads: int) -> Iterator[Callable[..., Future[Any]]]:
    """A thread pool; if the block fails, tasks that have not begun are dropped."""
    with ThreadPoolExecutor(max(num_threads, 1)) as pool:
        try:
            yield pool.submit
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _version(answer: dict[str, Any]) -> Version:
    """The version of the whole object, even if the answer holds only a part."""
    whole = re.fullmatch(r"bytes \d+-\d+/(\d+)", answer.get("ContentRange", ""))
    return Version(int(whole.group(1)) if whole else answer["ContentLength"], answer["ETag"].strip('"'))


def _skip(body: Any, num_bytes: int) -> None:
    while num_bytes:
        num_bytes -= len(body.read(min(_READ_BYTES, num_bytes)))


def _into(data: bytearray, first: int = 0) -> Sink:
    """A sink that fills `data` with the file's bytes from offset `first` on."""
    view = memoryview(data)

    def put(start: int, part: bytes) -> None:
        view[start - first : start - first + len(part)] = part

    return put


def _write_at(descriptor: int, part: bytes, start: int) -> None:
    rest = memoryview(part)
    while rest:
        written = os.pwrite(descriptor, rest, start)
        rest, start = rest[written:], start + written
