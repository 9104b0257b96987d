"""Shards: tar files of samples as WebDataset lays them out, written whole, read at random, checked against the
manifest.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import tarfile
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from io import BufferedIOBase
from typing import Any, BinaryIO, Literal

from crowddist import storage
from crowddist.data.manifest import FILE_NAME, Manifest, ShardInfo, publish_manifest, read_manifest
from crowddist.data.shard_codec import Member, decode, decode_labels, encode, num_persons
from crowddist.errors import InputError

__all__ = ["Manifest", "ShardInfo", "ShardReader", "ShardWriter", "decode", "decode_labels", "publish_manifest",
           "read_manifest", "verify",
           "write_shard"]

# ours: within the 64-256 MB that object stores and page caches like.
MAX_SHARD_BYTES = 128 * 2**20
# ours: a tar name of the ustar format holds 100 bytes; the longest extension takes 15.
MAX_KEY_BYTES = 80
JOURNAL = "unfinished.json"
"""Beside the shards of a data set that is being written, where its writer is to go on after it was stopped."""
_BLOCK_BYTES = 512
_LABEL_MEMBERS = ("points.npy", "boxes.npy", "mask.png")


def write_shard(url: str | os.PathLike[str], shard_name: str,
                samples: Iterable[tuple[str, dict[str, Member]]]) -> ShardInfo:
    """Write one shard at `url`, atomically, and tell what a manifest must say of it.

    Equal samples give equal bytes.
    Raises InputError for an impossible or repeated key, a member that cannot be stored, or no sample at all.
    """
    with _ShardFile(url, shard_name) as shard:
        for key, members in samples:
            shard.add(key, {extension: encode(extension, value) for extension, value in members.items()})
    return shard.info()


class ShardWriter:
    """Writes a data set at `url`, shard by shard; the manifest is published when the `with` block ends without an
    exception.

    After an exception everything it wrote is removed. `statistics` may be added to until the block ends.

    With `journal`, work that was stopped can go on: whenever a shard is whole, what the writer knows and what `journal`
    returns are written beside it, an exception that is no InputError leaves them there, and the next writer at `url`
    begins behind the shards that are whole. `resumed` is what `journal` returned then, and {} where there is nothing to
    go on with.

    Raises InputError where a data set is already, and for samples that contradict `labelled`: an unlabelled set never
    stores points, boxes, masks or counts.
    """

    def __init__(self, url: str | os.PathLike[str], *, name: str, split: str,
                 kind: Literal["images", "labels"] = "images", labelled: bool,
                 converter: str, max_shard_bytes: int = MAX_SHARD_BYTES, statistics: dict[str, Any] | None = None,
                 journal: Callable[[], dict[str, Any]] | None = None) -> None:
        self.url = storage.normalise(url)
        self.statistics = dict(statistics or {})
        self._name, self._split, self._kind, self._labelled, self._converter = name, split, kind, labelled, converter
        self._max_shard_bytes = max_shard_bytes
        self._shards: list[ShardInfo] = []
        self._shard: _ShardFile | None = None
        self._keys: set[str] = set()
        self._sizes: list[tuple[int, int]] = []
        self._counts: list[float] = []
        self._journal = journal
        self.resumed: dict[str, Any] = {}

    def __enter__(self) -> ShardWriter:
        if storage.exists(storage.join(self.url, FILE_NAME)):
            raise InputError(f"a data set is at {self.url} already; choose another place or remove it")
        if self._journal is not None and storage.exists(self._journal_url):
            written = storage.read_json(self._journal_url)
            self._shards = [ShardInfo(**shard) for shard in written["shards"]]
            self._keys, self._sizes, self._counts = set(written["keys"]), [(height, width) for height,
                                                                           width in written["sizes"]], written["counts"]
            self.resumed = written["journal"]
        return self

    def add(self, key: str, members: dict[str, Member]) -> None:
        """Append a sample; a new shard is begun when the current one would grow beyond `max_shard_bytes`."""
        if key in self._keys:
            raise InputError(f"two samples are called {key}; give them different names")
        encoded = {extension: encode(extension, value) for extension, value in members.items()}
        self._check_labels(key, members)
        if self._shard is not None and self._shard.member_bytes + _tar_bytes(encoded) > self._max_shard_bytes:
            self._finish_shard()
        if self._shard is None:
            slug = re.sub(r"[^A-Za-z0-9_-]+", "-", f"{self._name}-{self._split}").strip("-")
            self._shard = _ShardFile(self.url, f"{slug}-{len(self._shards):06d}.tar").__enter__()
        self._shard.add(key, encoded)
        self._keys.add(key)
        self._note(encoded, members.get("json"))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            self._discard(kind, error, trace)
            return
        try:
            if self._shard is not None:
                self._finish_shard()
            publish_manifest(self.url, self._manifest())
            if self._journal is not None:
                storage.remove_file(self._journal_url)
        except BaseException as failure:
            self._discard(type(failure), failure, failure.__traceback__)
            raise

    def _check_labels(self, key: str, members: dict[str, Member]) -> None:
        if self._kind == "labels":
            return
        scene = members.get("json", {})
        if self._labelled and "points.npy" not in members:
            raise InputError(f"sample {key} has no points, and the data set is labelled; annotate it or convert with "
                             "--unlabelled")
        told = [extension for extension in _LABEL_MEMBERS if extension in members]
        told += ["count"] if isinstance(scene, dict) and scene.get("count") is not None else []
        if not self._labelled and told:
            raise InputError(f"sample {key} holds {told[0]}, and the data set is unlabelled; leave it out")

    def _note(self, members: dict[str, bytes], scene: Any) -> None:
        if isinstance(scene, dict) and "height" in scene and "width" in scene:
            self._sizes.append((scene["height"], scene["width"]))
        persons = num_persons(members)
        if persons is not None:
            self._counts.append(persons)

    def _finish_shard(self) -> None:
        assert self._shard is not None
        shard, self._shard = self._shard, None
        shard.__exit__(None, None, None)
        self._shards.append(shard.info())
        if self._journal is not None:
            facts = {"shards": [asdict(info) for info in self._shards], "keys": sorted(self._keys),
                     "sizes": self._sizes, "counts": self._counts}
            storage.write_json(self._journal_url, {**facts, "journal": self._journal()})

    @property
    def _journal_url(self) -> str:
        return storage.join(self.url, JOURNAL)

    def _manifest(self) -> Manifest:
        if not self._shards:
            raise InputError(f"nothing to write at {self.url}: a data set needs at least one sample")
        facts: dict[str, Any] = {"num_samples": sum(shard.num_samples for shard in self._shards)}
        if self._sizes:
            heights, widths = zip(*self._sizes, strict=True)
            facts |= {"height_px": [min(heights), max(heights)], "width_px": [min(widths), max(widths)]}
        if self._counts:
            facts |= {"persons": sum(self._counts), "persons_per_sample": [min(self._counts), max(self._counts)]}
        return Manifest(name=self._name, split=self._split, kind=self._kind, labelled=self._labelled,
                        converter=self._converter,
                        shards=tuple(self._shards), statistics={**facts, **self.statistics})

    def _discard(self, *error: Any) -> None:
        if self._shard is not None:
            self._shard.__exit__(*error)
        if self._journal is not None and not isinstance(error[1], InputError):
            return
        for name in [*(shard.name for shard in self._shards), JOURNAL]:
            storage.remove_file(storage.join(self.url, name))


class ShardReader:
    """Random access to the samples of a data set, numbered in the order of its shards.

    A shard is indexed, and checked against the manifest, when it is first touched. Nothing is kept open, so a reader
    may be forked, pickled and shared between threads.
    """

    def __init__(self, url: str | os.PathLike[str], manifest: Manifest | None = None) -> None:
        """Raises FileNotFoundError or InputError, as `read_manifest` does, where `manifest` is not given."""
        self.url = storage.normalise(url)
        self.manifest = read_manifest(self.url) if manifest is None else manifest
        self._starts = [0]
        for shard in self.manifest.shards:
            self._starts.append(self._starts[-1] + shard.num_samples)
        self._indexes: list[_ShardIndex | None] = [None] * len(self.manifest.shards)
        self._places: dict[str, int] | None = None

    def __len__(self) -> int:
        return self._starts[-1]

    def keys(self) -> list[str]:
        """The keys of all samples, in order. Raises InputError where two are equal, or as `read` does."""
        keys = [key for shard_index in range(len(self._indexes)) for key in self._index(shard_index).keys]
        if len(set(keys)) != len(keys):
            twice = next(key for key, number in Counter(keys).items() if number > 1)
            raise InputError(f"data set {self.url}: two samples are called {twice}; convert the data again")
        return keys

    def read(self, index: int, kinds: Container[str] | None = None) -> tuple[str, dict[str, bytes]]:
        """The key and the members of sample `index`, 0 <= index < len; those of `kinds` alone where given, and no more
        bytes than they need.

        Raises IndexError outside that, FileNotFoundError for a missing shard and InputError for one that is not what
        the manifest says.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)} in {self.url}")
        shard_index = bisect_right(self._starts, index) - 1
        return self._index(shard_index).read(index - self._starts[shard_index], kinds)

    def views(self) -> Iterator[tuple[str, dict[str, memoryview]]]:
        """Every sample in order as `read` gives it, but the bytes stay in the shards' files on this machine: all its
        processes share them. Read-only.

        Raises as `read` does, and OSError where the node's cache has no room for a shard of object storage.
        """
        for shard_index in range(len(self._indexes)):
            yield from self._index(shard_index).views()

    def shard_range(self, shard_index: int) -> range:
        """The numbers of the samples in one shard."""
        return range(self._starts[shard_index], self._starts[shard_index + 1])

    def index_of(self, key: str) -> int:
        """The number of the sample called `key`. Raises InputError where there is none."""
        if self._places is None:
            self._places = {name: place for place, name in enumerate(self.keys())}
        if key not in self._places:
            raise InputError(f"no sample is called {key!r} in {self.url}")
        return self._places[key]

    def fetch(self, shard_index: int) -> None:
        """Brings a shard near, so that reading from it does not wait: into the node's cache, from object storage.
        Raises as `read` does.
        """
        self._index(shard_index)

    def _index(self, shard_index: int) -> _ShardIndex:
        index = self._indexes[shard_index]
        if index is None:
            index = _ShardIndex(storage.join(self.url, self.manifest.shards[shard_index].name),
                                self.manifest.shards[shard_index])
            self._indexes[shard_index] = index
        return index


def verify(url: str | os.PathLike[str], *,
           watch: Callable[[Sequence[ShardInfo]], Iterable[ShardInfo]] = iter) -> Manifest:
    """Read every shard of a data set and compare sizes, sample counts and SHA-256 with the manifest, which is returned.

    Args: `watch` wraps the shards on their way, to show progress.

    Raises InputError or FileNotFoundError naming the first bad shard.
    """
    reader = ShardReader(url)
    for shard in watch(reader.manifest.shards):
        place = storage.join(reader.url, shard.name)
        found = storage.open_content(place, sha256=shard.sha256).digest()  # first: it mends a damaged copy in the cache
        _ShardIndex(place, shard)  # before the hash is looked at: where a shard was cut, that is the better word
        if found != shard.sha256:
            raise InputError(f"shard {place}: SHA-256 is {found[:12]}..., the manifest says {shard.sha256[:12]}...; it "
                             "was changed, "
                             "convert or copy it again")
    reader.keys()
    return reader.manifest


class _ShardFile:
    """A tar being written: counts and hashes on the way, and appears at its place only when it is whole."""

    def __init__(self, url: str | os.PathLike[str], name: str) -> None:
        self.name, self.num_bytes, self.member_bytes, self._hash = name, 0, 0, hashlib.sha256()
        self._place = storage.join(url, name)
        self._keys: set[str] = set()
        self._persons: list[float] = []
        self._stack = ExitStack()

    def __enter__(self) -> _ShardFile:
        import webdataset

        self._stream: BinaryIO = self._stack.enter_context(storage.open_write(self._place))
        # mtime=0: identical bytes for identical samples.
        self._tar = self._stack.enter_context(webdataset.TarWriter(self, encoder=False, mtime=0))
        # One header a member also for names beyond ASCII, which the writer's default would give two.
        self._tar.tarstream.format = tarfile.USTAR_FORMAT
        return self

    def write(self, data: bytes) -> int:
        """What the tar writer calls."""
        self._hash.update(data)
        self.num_bytes += len(data)
        return self._stream.write(data)

    def add(self, key: str, members: dict[str, bytes]) -> None:
        _check_key(key)
        if key in self._keys:
            raise InputError(f"two samples of {self._place} are called {key}; give them different names")
        if not members:
            raise InputError(f"sample {key} of {self._place} has no members")
        self._keys.add(key)
        self.member_bytes += _tar_bytes(members)
        self._tar.write({"__key__": key, **members})
        persons = num_persons(members)
        if persons is not None:
            self._persons.append(persons)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if error is None and not self._keys:
            error = InputError(f"shard {self._place} would hold no sample")
            self._stack.__exit__(type(error), error, None)
            raise error
        self._stack.__exit__(kind, error, trace)

    def info(self) -> ShardInfo:
        return ShardInfo(name=self.name, num_samples=len(self._keys), num_bytes=self.num_bytes,
                         sha256=self._hash.hexdigest(),
                         persons=sum(self._persons) if self._persons else None)


class _ShardIndex:
    """Where each member of each sample of one shard lies, from one walk over the tar's headers."""

    def __init__(self, place: str, info: ShardInfo) -> None:
        self.place, self.content = place, storage.open_content(place, sha256=info.sha256)
        self.keys: list[str] = []
        self.members: list[dict[str, tuple[int, int]]] = []
        with self.content.open() as stream:
            found_bytes = stream.seek(0, os.SEEK_END)
            if found_bytes != info.num_bytes:
                raise InputError(f"shard {place}: {found_bytes} bytes, the manifest says {info.num_bytes}; it was cut "
                                 "or changed, "
                                 "convert or copy it again")
            for name, offset, num_bytes in _walk_tar(stream, found_bytes, place):
                key, _, extension = name.partition(".")
                if not is_key(key):  # keys become names of files and words on pages
                    raise InputError(f"shard {place}: member {name!r:.120} is called as no sample is; it was changed, "
                                     "convert or copy it again")
                if not self.keys or key != self.keys[-1]:
                    self.keys.append(key)
                    self.members.append({})
                elif extension in self.members[-1]:
                    raise InputError(f"shard {place}: member {name} is there twice; it was changed, convert or copy it "
                                     "again")
                self.members[-1][extension] = (offset, num_bytes)
        if len(self.keys) != info.num_samples:
            raise InputError(f"shard {place}: {len(self.keys)} samples, the manifest says {info.num_samples}; convert "
                             "or copy it again")

    def read(self, index: int, kinds: Container[str] | None) -> tuple[str, dict[str, bytes]]:
        members = {extension: place
                   for extension, place in self.members[index].items() if kinds is None or extension in kinds}
        start = min((offset for offset, _ in members.values()), default=0)
        end = max((offset + num_bytes for offset, num_bytes in members.values()), default=0)
        # Members of a sample are adjacent: one read fetches them all.
        data = self.content.read(start, end - start)
        if len(data) != end - start:
            raise InputError(f"shard {self.place}: it became shorter while it was read; convert or copy it again")
        return self.keys[index], {extension: data[offset - start:offset - start + num_bytes]
                                  for extension, (offset, num_bytes) in members.items()}

    def views(self) -> Iterator[tuple[str, dict[str, memoryview]]]:
        with storage.local_file(self.place).open("rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        for key, members in zip(self.keys, self.members, strict=True):
            yield key, {extension: data[offset : offset + num_bytes]
                        for extension, (offset, num_bytes) in members.items()}


def _walk_tar(stream: BufferedIOBase, end: int, place: str) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size in bytes of each file of a ustar archive; a missing end mark is an error, which tar readers
    overlook.
    """
    position = 0
    while True:
        stream.seek(position)
        header = stream.read(_BLOCK_BYTES)
        if header == bytes(_BLOCK_BYTES):
            return
        if len(header) < _BLOCK_BYTES:
            raise InputError(f"shard {place}: the tar ends without its end mark; it was cut, convert or copy it again")
        try:
            name = header[:100].rstrip(b"\0").decode()
            num_bytes, checksum = _octal(header[124:136]), _octal(header[148:156])
        except ValueError:
            checksum, name, num_bytes = -1, "", 0
        if (checksum != sum(header[:148]) + 8 * ord(" ") + sum(header[156:]) or header[156:157] != b"0"
            or header[345:346] != b"\0"):
            raise InputError(f"shard {place}: no tar header of ours at byte {position}; it was changed, convert or "
                             "copy it again")
        if position + _BLOCK_BYTES + num_bytes > end:
            raise InputError(f"shard {place}: member {name} ends beyond the file; it was cut, convert or copy it again")
        yield name, position + _BLOCK_BYTES, num_bytes
        position += _BLOCK_BYTES + _padded(num_bytes)


def _octal(field: bytes) -> int:
    """A number of a tar header. Raises ValueError for anything but digits: `int` takes signs too, and a size below 0
    leads back to where it stands.
    """
    digits = field.rstrip(b"\0 ")
    if not digits.isdigit():
        raise ValueError(digits)
    return int(digits, 8)


def _tar_bytes(members: dict[str, bytes]) -> int:
    """What the members take in a tar, with their headers."""
    return sum(_BLOCK_BYTES + _padded(len(data)) for data in members.values())


def _padded(num_bytes: int) -> int:
    return -(-num_bytes // _BLOCK_BYTES) * _BLOCK_BYTES


def is_key(text: str) -> bool:
    """Whether a sample may be called so: a key is a name of a file and words on a page, of one folder and without
    anything that acts.
    """
    return (0 < len(text.encode("utf-8", "replace")) <= MAX_KEY_BYTES and text.isprintable()
            and not set(text) & set("./\\"))


def _check_key(key: str) -> None:
    if not is_key(key):
        raise InputError(f"not a key: {key!r}; give 1 to {MAX_KEY_BYTES} bytes without dots, slashes and control "
                         "characters")
