"""One object in object storage: read whole or in part through every break, and written so that it appears whole."""

from __future__ import annotations

import functools
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
"""Takes where in the file bytes belong, and the bytes, from several threads."""
_READ_BYTES = 2**20
_MOST_PARTS, _LEAST_PART_BYTES = 10_000, 5 * 2**20
"""S3's limits of an upload in parts."""
_CHANGED = ("PreconditionFailed", "412", "ConditionalRequestConflict")
_NOTHING_THERE = ("InvalidRange", "416")


class Version(NamedTuple):
    """What is known of an object's content."""

    num_bytes: int
    etag: str


class S3Object:
    """The object at an address; whether there is one shows when it is used."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.bucket, _, self.key = url.removeprefix("s3://").partition("/")
        try:
            self.key.encode()
        except UnicodeEncodeError:
            raise InputError(f"the name {os.fsencode(self.key)!r} is not UTF-8, which object storage needs; rename the "
                             "file") from None

    @property
    def endpoint(self) -> str:
        """The address of the server."""
        return endpoint(self.url)

    def find(self) -> Version | None:
        """Of the object; None where there is none. By a listing: what is refused to a HEAD is refused without a
        reason.
        """
        if not self.key:
            return None
        listed = request("list_objects_v2", self.url, Bucket=self.bucket, Prefix=self.key,
                         MaxKeys=1).get("Contents", [])
        return Version(listed[0]["Size"], _bare(listed[0]["ETag"])) if listed and listed[0]["Key"] == self.key else None

    def read_version(self) -> tuple[bytes, Version]:
        """The whole content, and of which version it is. Raises as `download`."""
        data = bytearray()

        def begin(num_bytes: int) -> Sink:
            nonlocal data
            data = bytearray(num_bytes)
            return functools.partial(_put, memoryview(data))

        version = self.download(begin)
        return bytes(data), version

    def read_range(self, start: int, num_bytes: int, etag: str) -> bytes:
        """A part of one version; shorter where that ends before. Raises InputError where it was replaced."""
        data = bytearray(num_bytes)
        try:
            version = self._read(start, start + num_bytes, etag, lambda place,
                                 part: data.__setitem__(slice(place - start, place - start + len(part)), part))
        except _ChangedError:
            raise InputError(f"{self.url} was replaced while it was read; give the same command again") from None
        return bytes(data[: max(version.num_bytes - start, 0)])

    def download_to(self, stream: BinaryIO) -> Version:
        """The whole content to a file that is open. Raises as `download`."""
        descriptor = stream.fileno()

        def begin(num_bytes: int) -> Sink:
            os.truncate(descriptor, num_bytes)
            return lambda start, part: _write_at(descriptor, part, start)

        return self.download(begin)

    def download(self, begin: Callable[[int], Sink]) -> Version:
        """The whole content of one version, in parts side by side where it is large.

        Args:
            begin: is told the size in bytes and says where the parts go; again, where the object was replaced
                meanwhile.

        Raises:
            FileNotFoundError: there is none. OSError: it is replaced all the time, or as `request`.
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
        # A server that knows no ranges sends everything.
        first_end = min(part_bytes, version.num_bytes) if "ContentRange" in answer else version.num_bytes
        starts = range(first_end, version.num_bytes, part_bytes)
        with workers(config.streams - 1) as submit:
            others = [submit(self._read, start, start + part_bytes, version.etag, sink) for start in starts]
            self._read(0, first_end, version.etag, sink, answer)
            for other in others:
                other.result()
        return version

    def _read(self, start: int, end: int, etag: str, sink: Sink, answer: dict[str, Any] | None = None) -> Version:
        """The bytes from `start` to `end`, or to the object's; a body that breaks off is asked for again from where it
        broke, which boto3 never does.

        Raises _ChangedError where the object has another version than `etag`.
        """
        position, num_tries, attempts = start, 0, S3Config.from_environment().attempts
        while True:
            answer = answer or self._get(position, end, etag)
            if answer is None:
                return Version(start, etag)
            version = _version(answer)
            if version.etag != etag:  # a server that knows no conditions
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
        """An answer whose body holds the bytes from `start` on; None where the object has none there."""
        condition = {"IfMatch": f'"{etag}"'} if etag else {}
        try:
            return self._call("get_object", expected=(*_NOTHING_THERE, *_CHANGED), Range=f"bytes={start}-{end - 1}",
                              **condition)
        except ClientError as error:
            if code_of(error) in _CHANGED:
                raise _ChangedError from None
            return None

    def read_tagged(self) -> tuple[bytes, str, float] | None:
        """Content, version and age in seconds by the server's clock of a small object; None where there is none."""
        data = bytearray()
        try:
            answer = self._call("get_object")
            self._read(0, _READ_BYTES, _version(answer).etag, lambda _, part: data.extend(part), answer)
        except (FileNotFoundError, _ChangedError):
            return None
        now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        return bytes(data), _version(answer).etag, (now - answer["LastModified"]).total_seconds()

    def write_if(self, data: bytes, *, new: bool = False, etag: str = "") -> bool:
        """Writes a small object where there is none (`new`), or where it has this version; whether it was so."""
        # RADOS Gateway wants the tag of a write without its quotes; others take both.
        condition = {"IfNoneMatch": "*"} if new else {"IfMatch": etag}
        try:
            self._call("put_object", expected=(*_CHANGED, "NoSuchKey"), Body=data, **condition)
        except ClientError:
            return False
        return True

    def write_bytes(self, data: bytes) -> None:
        """In one request."""
        self._call("put_object", Body=data)

    @contextmanager
    def open_write(self) -> Iterator[BinaryIO]:
        """See `storage.open_write`. Nothing is sent before the block has ended: what is large waits in a file in
        $TMPDIR.
        """
        part_bytes = S3Config.from_environment().part_mib * 2**20
        with tempfile.SpooledTemporaryFile(max_size=part_bytes) as stream:
            yield cast(BinaryIO, stream)
            num_bytes = stream.seek(0, os.SEEK_END)
            if num_bytes <= part_bytes:
                stream.seek(0)
                self.write_bytes(stream.read())
            else:
                stream.rollover()
                stream.flush()
                self._upload(stream.fileno(), num_bytes,
                             max(part_bytes, _LEAST_PART_BYTES, -(-num_bytes // _MOST_PARTS)))

    def _upload(self, descriptor: int, num_bytes: int, part_bytes: int) -> None:
        """In parts, of which nothing is seen before the last request joins them. A killed process leaves parts, which
        the bucket's rules should end.
        """
        upload = {"UploadId": self._call("create_multipart_upload")["UploadId"]}

        def send(number: int) -> dict[str, Any]:
            part = os.pread(descriptor, part_bytes, (number - 1) * part_bytes)
            return {"PartNumber": number,
                    "ETag": self._call("upload_part", **upload, PartNumber=number, Body=part)["ETag"]}

        try:
            with workers(S3Config.from_environment().streams) as submit:
                parts = [part.result()
                         for part in [submit(send, number + 1) for number in range(-(-num_bytes // part_bytes))]]
            self._join(upload, parts, num_bytes)
        except BaseException:
            with suppress(OSError, InputError):
                self._call("abort_multipart_upload", **upload)
            raise

    def _join(self, upload: dict[str, str], parts: list[dict[str, Any]], num_bytes: int) -> None:
        try:
            self._call("complete_multipart_upload", expected=("NoSuchUpload",), **upload,
                       MultipartUpload={"Parts": parts})
        except ClientError:  # an earlier try did it, and its answer was lost
            version = self.find()
            if version is None or version.num_bytes != num_bytes or not version.etag.endswith(f"-{len(parts)}"):
                raise OSError(f"{self.endpoint} lost the upload of {self.url}; give the same command again") from None

    def copy_from(self, source: S3Object) -> None:
        """Makes it a copy of another object, which the server reads itself."""
        self._call("copy_object", CopySource={"Bucket": source.bucket, "Key": source.key})

    def remove_file(self) -> None:
        """See `storage.remove_file`."""
        self._call("delete_object")

    def _call(self, operation: str, *, expected: tuple[str, ...] = (), **arguments: Any) -> dict[str, Any]:
        return request(operation, self.url, expected=expected, Bucket=self.bucket, Key=self.key, **arguments)


class _ChangedError(Exception):
    """The object has another version by now."""


@contextmanager
def workers(num_threads: int) -> Iterator[Callable[..., Future[Any]]]:
    """Threads that drop what they have not begun when the block fails; none is started before there is work."""
    with ThreadPoolExecutor(max(num_threads, 1)) as pool:
        try:
            yield pool.submit
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _version(answer: dict[str, Any]) -> Version:
    """Of the whole object that a body is of."""
    whole = re.fullmatch(r"bytes \d+-\d+/(\d+)", answer.get("ContentRange", ""))
    return Version(int(whole.group(1)) if whole else answer["ContentLength"], _bare(answer["ETag"]))


def _bare(etag: str) -> str:
    return etag.strip('"')


def _skip(body: Any, num_bytes: int) -> None:
    while num_bytes:
        num_bytes -= len(body.read(min(_READ_BYTES, num_bytes)))


def _put(data: memoryview, start: int, part: bytes) -> None:
    data[start : start + len(part)] = part


def _write_at(descriptor: int, part: bytes, start: int) -> None:
    rest = memoryview(part)
    while rest:
        written = os.pwrite(descriptor, rest, start)
        rest, start = rest[written:], start + written
