"""Shards: tar files of samples in WebDataset's layout, written atomically, read at random, checked by the manifest."""

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
from itertools import accumulate
from typing import Any, BinaryIO

from crowddist import storage
from crowddist.data.manifest import FILE_NAME, Manifest, ShardInfo, publish_manifest, read_manifest
from crowddist.data.shard_codec import Member, decode, decode_labels, encode, num_persons
from crowddist.errors import InputError

__all__ = ["Manifest", "ShardInfo", "ShardReader", "ShardWriter", "decode", "decode_labels", "publish_manifest",
           "read_manifest", "verify", "write_shard"]

# ours: object stores and page caches work well with 64-256 MB.
MAX_SHARD_BYTES = 128 * 2**20
# ours: a name in a ustar archive has at most 100 bytes; the longest extension takes 15.
MAX_KEY_BYTES = 80
JOURNAL = "unfinished.json"
"""File beside the shards of an unfinished data set; tells the next writer where to go on."""
_BLOCK_BYTES = 512
_LABEL_MEMBERS = ("points.npy", "boxes.npy", "mask.png", "region.png")


def is_key(text: str) -> bool:
    """True for a possible sample key. Keys become file names and HTML: short, printable, no slash or dot."""
    return (0 < len(text.encode("utf-8", "replace")) <= MAX_KEY_BYTES and text.isprintable()
            and not set(text) & set("./\\"))


def write_shard(url: str | os.PathLike[str], shard_name: str,
                samples: Iterable[tuple[str, dict[str, Member]]]) -> ShardInfo:
    """Writes one shard at `url` atomically and returns its entry for a manifest. Equal samples give equal bytes.

    Raises InputError for an impossible or repeated key, a member that cannot be stored, or no sample at all.
    """
    with _ShardFile(url, shard_name) as shard:
        for key, members in samples:
            shard.add(key, {extension: encode(extension, value) for extension, value in members.items()})
    return shard.info()


class ShardWriter:
    """Writes a data set of images at `url`, shard by shard. Publishes the manifest if the `with` block ends without an
    exception; otherwise removes all files it wrote. The block may change `statistics`.

    With `journal`, stopped work can be resumed: after each shard the writer stores its state and the result of
    `journal()` beside the shards; exceptions other than InputError leave them there. The next writer at `url` goes on
    after the last whole shard, and its `resumed` is that result of `journal()` ({} for a new data set).

    Raises InputError if a data set exists at `url`, and for samples that contradict `labelled`: an unlabelled set never
    stores points, boxes, masks or counts.
    """

    def __init__(self, url: str | os.PathLike[str], *, name: str, split: str, labelled: bool, converter: str,
                 max_shard_bytes: int = MAX_SHARD_BYTES, statistics: dict[str, Any] | None = None,
                 journal: Callable[[], dict[str, Any]] | None = None) -> None:
        self.url = storage.normalise(url)
        self.statistics = dict(statistics or {})
        self._name, self._split, self._labelled, self._converter = name, split, labelled, converter
        self._max_shard_bytes, self._journal, self._journal_url = max_shard_bytes, journal, storage.join(url, JOURNAL)
        self._shards: list[ShardInfo] = []
        self._shard: _ShardFile | None = None
        self._keys: set[str] = set()
        self._sizes: list[tuple[int, int]] = []
        self._counts: list[float] = []
        self.resumed: dict[str, Any] = {}

    @property
    def num_persons(self) -> float:
        """Persons of all samples so far, where known."""
        return sum(self._counts)

    def __enter__(self) -> ShardWriter:
        if storage.exists(storage.join(self.url, FILE_NAME)):
            raise InputError(f"a data set is at {self.url} already; choose another place or remove it")
        if self._journal is not None and storage.exists(self._journal_url):
            written = storage.read_json(self._journal_url)
            self._shards = [ShardInfo(**shard) for shard in written["shards"]]
            self._keys, self._sizes, self._counts = set(written["keys"]), written["sizes"], written["counts"]
            self.resumed = written["journal"]
        return self

    def add(self, key: str, members: dict[str, Member]) -> None:
        """Appends a sample; starts a new shard when the current one would exceed `max_shard_bytes`."""
        if key in self._keys:
            raise InputError(f"two samples are called {key}; give them different names")
        encoded = {extension: encode(extension, value) for extension, value in members.items()}
        self._check_labels(key, members)
        if self._shard is not None and self._shard.member_bytes + _tar_bytes(encoded) > self._max_shard_bytes:
            self._finish_shard()
        if self._shard is None:
            slug = re.sub(r"[^A-Za-z0-9_-]+", "-", f"{self._name}-{self._split}").strip("-")
            self._shard = _ShardFile(self.url, f"{slug}-{len(self._shards):06d}.tar").__enter__()
        persons = self._shard.add(key, encoded)
        self._keys.add(key)
        self._counts += [] if persons is None else [persons]
        scene = members.get("json")
        if isinstance(scene, dict) and "height" in scene and "width" in scene:
            self._sizes.append((scene["height"], scene["width"]))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            self._discard(error)
            return
        try:
            if self._shard is not None:
                self._finish_shard()
            publish_manifest(self.url, self._manifest())
            if self._journal is not None:
                storage.remove_file(self._journal_url)
        except BaseException as failure:
            self._discard(failure)
            raise

    def _check_labels(self, key: str, members: dict[str, Member]) -> None:
        if self._labelled and "points.npy" not in members:
            raise InputError(f"sample {key} has no points, and the data set is labelled; annotate it or convert with "
                             "--unlabelled")
        scene = members.get("json")
        told = [extension for extension in _LABEL_MEMBERS if extension in members]
        told += ["count"] if isinstance(scene, dict) and scene.get("count") is not None else []
        if not self._labelled and told:
            raise InputError(f"sample {key} holds {told[0]}, and the data set is unlabelled; leave it out")

    def _finish_shard(self) -> None:
        assert self._shard is not None
        shard, self._shard = self._shard, None
        shard.__exit__(None, None, None)
        self._shards.append(shard.info())
        if self._journal is not None:
            facts = {"shards": [asdict(info) for info in self._shards], "keys": sorted(self._keys),
                     "sizes": self._sizes, "counts": self._counts}
            storage.write_json(self._journal_url, {**facts, "journal": self._journal()})

    def _manifest(self) -> Manifest:
        if not self._shards:
            raise InputError(f"nothing to write at {self.url}: a data set needs at least one sample")
        facts: dict[str, Any] = {"num_samples": sum(shard.num_samples for shard in self._shards)}
        if self._sizes:
            heights, widths = zip(*self._sizes, strict=True)
            facts |= {"height_px": [min(heights), max(heights)], "width_px": [min(widths), max(widths)]}
        if self._counts:
            facts |= {"persons": sum(self._counts), "persons_per_sample": [min(self._counts), max(self._counts)]}
        return Manifest(name=self._name, split=self._split, kind="images", labelled=self._labelled,
                        converter=self._converter, shards=tuple(self._shards), statistics={**facts, **self.statistics})

    def _discard(self, error: BaseException) -> None:
        if self._shard is not None:
            self._shard.__exit__(type(error), error, error.__traceback__)
        if self._journal is None or isinstance(error, InputError):
            for name in [*(shard.name for shard in self._shards), JOURNAL]:
                storage.remove_file(storage.join(self.url, name))


class ShardReader:
    """Random access to the samples of a data set, numbered in the order of its shards.

    The first access to a shard indexes it and checks it against the manifest. No file stays open, so a reader may be
    forked, pickled and shared between threads.
    """

    def __init__(self, url: str | os.PathLike[str], manifest: Manifest | None = None) -> None:
        """Without `manifest`, raises FileNotFoundError or InputError as `read_manifest` does."""
        self.url = storage.normalise(url)
        self.manifest = read_manifest(self.url) if manifest is None else manifest
        self._starts = list(accumulate((shard.num_samples for shard in self.manifest.shards), initial=0))
        self._indexes: list[_ShardIndex | None] = [None] * len(self.manifest.shards)
        self._places: dict[str, int] | None = None

    def __len__(self) -> int:
        return self._starts[-1]

    def keys(self) -> list[str]:
        """The keys of all samples, in order. Raises InputError if two are equal, or as `read` does."""
        keys = [key for index in map(self._index, range(len(self._indexes))) for key in index.keys]
        if len(set(keys)) != len(keys):
            twice = next(key for key, number in Counter(keys).items() if number > 1)
            raise InputError(f"data set {self.url}: two samples are called {twice}; convert the data again")
        return keys

    def read(self, index: int, kinds: Container[str] | None = None) -> tuple[str, dict[str, bytes]]:
        """Key and members of sample `index`, 0 <= index < len. `kinds` selects members by extension and saves reading
        the others.

        Raises IndexError for another index, FileNotFoundError for a missing shard and InputError for one that
        contradicts the manifest.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)} in {self.url}")
        shard_index = bisect_right(self._starts, index) - 1
        return self._index(shard_index).read(index - self._starts[shard_index], kinds)

    def views(self) -> Iterator[tuple[str, dict[str, memoryview]]]:
        """Every sample in order as from `read`, as read-only views of the memory-mapped shards: all processes of this
        machine share the memory.

        Raises as `read` does, and OSError if the node's cache has no room for a shard of object storage.
        """
        for index in map(self._index, range(len(self._indexes))):
            with storage.local_file(index.place).open("rb") as file:
                data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            for key, members in zip(index.keys, index.members, strict=True):
                yield key, {extension: data[offset : offset + num_bytes]
                            for extension, (offset, num_bytes) in members.items()}

    def shard_range(self, shard_index: int) -> range:
        """The numbers of the samples in one shard."""
        return range(self._starts[shard_index], self._starts[shard_index + 1])

    def index_of(self, key: str) -> int:
        """The number of the sample with this key. Raises InputError if there is none."""
        if self._places is None:
            self._places = {name: place for place, name in enumerate(self.keys())}
        if key not in self._places:
            raise InputError(f"no sample is called {key!r} in {self.url}")
        return self._places[key]

    def fetch(self, shard_index: int) -> None:
        """Downloads a shard of object storage into the node's cache. Raises as `read` does."""
        self._index(shard_index)

    def _index(self, shard_index: int) -> _ShardIndex:
        index = self._indexes[shard_index]
        if index is None:
            info = self.manifest.shards[shard_index]
            index = self._indexes[shard_index] = _ShardIndex(storage.join(self.url, info.name), info)
        return index


def verify(url: str | os.PathLike[str], *,
           watch: Callable[[Sequence[ShardInfo]], Iterable[ShardInfo]] = iter) -> Manifest:
    """Reads every shard of a data set, compares size, number of samples and SHA-256 with the manifest, and returns it.

    `watch` wraps the shards, to show progress. Raises InputError or FileNotFoundError with the first bad shard's name.
    """
    reader = ShardReader(url)
    for shard in watch(reader.manifest.shards):
        place = storage.join(reader.url, shard.name)
        found = storage.open_content(place, sha256=shard.sha256).digest()  # first: it mends a damaged copy in the cache
        _ShardIndex(place, shard)  # before the hash is compared: a cut shard gets a clearer message
        if found != shard.sha256:
            raise _damaged(place, f"SHA-256 is {found[:12]}..., the manifest says {shard.sha256[:12]}...")
    reader.keys()
    return reader.manifest


class _ShardFile:
    """A tar being written. Counts and hashes its bytes; appears at its place only when it is whole."""

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
        # One header per member; the default format adds a second one for names beyond ASCII.
        self._tar.tarstream.format = tarfile.USTAR_FORMAT
        return self

    def write(self, data: bytes) -> int:
        """Called by the tar writer."""
        self._hash.update(data)
        self.num_bytes += len(data)
        return self._stream.write(data)

    def add(self, key: str, members: dict[str, bytes]) -> float | None:
        """Appends a sample and returns its persons, if known."""
        if not is_key(key):
            raise InputError(f"not a key: {key!r}; give 1 to {MAX_KEY_BYTES} bytes without dots, slashes and control "
                             "characters")
        if key in self._keys:
            raise InputError(f"two samples of {self._place} are called {key}; give them different names")
        if not members:
            raise InputError(f"sample {key} of {self._place} has no members")
        self._keys.add(key)
        self.member_bytes += _tar_bytes(members)
        self._tar.write({"__key__": key, **members})
        persons = num_persons(members)
        self._persons += [] if persons is None else [persons]
        return persons

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if error is None and not self._keys:
            error = InputError(f"shard {self._place} would hold no sample")
            self._stack.__exit__(type(error), error, None)
            raise error
        self._stack.__exit__(kind, error, trace)

    def info(self) -> ShardInfo:
        return ShardInfo(name=self.name, num_samples=len(self._keys), num_bytes=self.num_bytes,
                         sha256=self._hash.hexdigest(), persons=sum(self._persons) if self._persons else None)


class _ShardIndex:
    """Offset and size of each member of each sample in one shard, from one walk over the tar's headers."""

    def __init__(self, place: str, info: ShardInfo) -> None:
        self.place, self.content = place, storage.open_content(place, sha256=info.sha256)
        self.keys: list[str] = []
        self.members: list[dict[str, tuple[int, int]]] = []
        with self.content.open() as stream:
            found_bytes = stream.seek(0, os.SEEK_END)
            if found_bytes != info.num_bytes:
                raise _damaged(place, f"{found_bytes} bytes, the manifest says {info.num_bytes}")
            for name, offset, num_bytes in _walk_tar(stream, found_bytes, place):
                key, _, extension = name.partition(".")
                if not is_key(key):
                    raise _damaged(place, f"member {name!r:.120} has an impossible key")
                if not self.keys or key != self.keys[-1]:
                    self.keys.append(key)
                    self.members.append({})
                elif extension in self.members[-1]:
                    raise _damaged(place, f"member {name} is there twice")
                self.members[-1][extension] = (offset, num_bytes)
        if len(self.keys) != info.num_samples:
            raise _damaged(place, f"{len(self.keys)} samples, the manifest says {info.num_samples}")

    def read(self, index: int, kinds: Container[str] | None) -> tuple[str, dict[str, bytes]]:
        members = {extension: place
                   for extension, place in self.members[index].items() if kinds is None or extension in kinds}
        start = min((offset for offset, _ in members.values()), default=0)
        end = max((offset + num_bytes for offset, num_bytes in members.values()), default=0)
        # Members of a sample are adjacent: one read fetches them all.
        data = self.content.read(start, end - start)
        if len(data) != end - start:
            raise _damaged(self.place, "it became shorter while it was read")
        return self.keys[index], {extension: data[offset - start : offset - start + num_bytes]
                                  for extension, (offset, num_bytes) in members.items()}


def _walk_tar(stream: BufferedIOBase, end: int, place: str) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size in bytes of each file in a ustar archive. Other readers accept a missing end mark."""
    position = 0
    while True:
        stream.seek(position)
        header = stream.read(_BLOCK_BYTES)
        if header == bytes(_BLOCK_BYTES):
            return
        if len(header) < _BLOCK_BYTES:
            raise _damaged(place, "the tar ends without its end mark")
        try:
            name = header[:100].rstrip(b"\0").decode()
            num_bytes, checksum = _octal(header[124:136]), _octal(header[148:156])
        except ValueError:
            checksum = -1  # no header has it
        if (checksum != sum(header[:148]) + 8 * ord(" ") + sum(header[156:]) or header[156:157] != b"0"
            or header[345:346] != b"\0"):
            raise _damaged(place, f"no tar header of ours at byte {position}")
        if position + _BLOCK_BYTES + num_bytes > end:
            raise _damaged(place, f"member {name} ends beyond the file")
        yield name, position + _BLOCK_BYTES, num_bytes
        position += _BLOCK_BYTES + _padded(num_bytes)


def _octal(field: bytes) -> int:
    """A number in a tar header. Raises ValueError unless it is all digits: `int` also takes signs, and a negative size
    would send the walk backwards for ever.
    """
    digits = field.rstrip(b"\0 ")
    if not digits.isdigit():
        raise ValueError(digits)
    return int(digits, 8)


def _tar_bytes(members: dict[str, bytes]) -> int:
    """Bytes of the members in a tar, with their headers."""
    return sum(_BLOCK_BYTES + _padded(len(data)) for data in members.values())


def _padded(num_bytes: int) -> int:
    return -(-num_bytes // _BLOCK_BYTES) * _BLOCK_BYTES


def _damaged(place: str, what: str) -> InputError:
    return InputError(f"shard {place}: {what}; it was cut or changed, convert or copy it again")
