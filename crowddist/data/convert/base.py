"""Shared by all converters: a format lists a folder's items and reads their annotations; `convert` writes shards."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import crowddist
from crowddist import storage
from crowddist.data.convert.doubts import DOUBTS, Doubt, image_counts, notes, reach_fact, reach_with, require_few
from crowddist.data.convert.layout import Format, Item, Listing, holds
from crowddist.data.convert.sample import find_items, make_sample
from crowddist.data.file_kinds import ARCHIVES
from crowddist.data.images import MIN_SIDE_PX
from crowddist.data.manifest import FILE_NAME, Manifest, read_manifest
from crowddist.data.shards import MAX_KEY_BYTES, MAX_SHARD_BYTES, ShardWriter
from crowddist.errors import InputError

SKIPPED = "skipped.json"  # beside the manifest under `skip_bad`: a list of {"file", "reason"}
ITEMS_AHEAD = 4  # images read ahead per thread: enough that no thread idles, few enough for the memory
Made = TypeVar("Made")
# The type of `in_order`: (items, make, num_workers) -> each item with a function that returns `make(item)` or raises.
InOrder = Callable[[Iterable[Item], Callable[[Item], Any], int], Iterator[tuple[Item, Callable[[], Any]]]]


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """The result of a conversion."""

    url: str
    manifest: Manifest
    skipped: tuple[dict[str, str], ...]  # {"file", "reason"} each
    doubts: tuple[dict[str, Any], ...] = ()  # {"file", "kind", "number", "reason"} each
    num_resumed: int = 0  # images of the source that an earlier, stopped conversion had handled
    notes: tuple[str, ...] = ()  # lines about the source, for the user

    def summary(self) -> str:
        """One line: what was written, and where."""
        facts = self.manifest.statistics
        persons = f"{facts['persons']:.0f} persons" if self.manifest.labelled else "unlabelled"
        parts = [f"{self.manifest.num_samples} images", persons, f"{len(self.manifest.shards)} shards"]
        parts += notes(facts) + ([f"listed in {DOUBTS}"] if self.doubts else [])
        parts += [f"{self.num_resumed} images done before it was stopped"] if self.num_resumed else []
        return f"{self.manifest.name} ({self.manifest.split}): {', '.join(parts)}: {self.url}"


def convert(form: Format, source: str | os.PathLike[str], destination: str | os.PathLike[str], *, split: str = "",
            skip_bad: bool = False, unlabelled: bool = False, max_size: int | None = None, name: str = "",
            overwrite: bool = False, max_shard_bytes: int = MAX_SHARD_BYTES, num_workers: int = 1,
            watch: Callable[[Sequence[Item]], Iterable[Item]] = iter, work: InOrder | None = None) -> Conversion:
    """Convert a folder of raw data to a data set at `destination`, which appears whole or not at all.

    After a stop or a kill, the same conversion of the same files resumes behind the last whole shard and ends with the
    same bytes.

    Args:
        source: folder of raw data, a path or a URL; one in object storage is downloaded whole into $TMPDIR first.
        split: "" takes the format's default.
        skip_bad: leave out bad files and list them in `skipped.json`; otherwise the first one ends the conversion.
        unlabelled: write the images alone and open no annotation; the name ends in "-unlabelled".
        max_size: longest side in px; larger images are shrunk, their points and boxes too.
        name: of the data set; "" takes the format's.
        overwrite: replace a data set at `destination`.
        max_shard_bytes: a new shard begins at this size.
        num_workers: threads that read and shrink images; the bytes do not depend on their number.
        watch: wraps the items, to show progress.
        work: reads the images in another way than `in_order`, the threads of this process.

    Raises:
        InputError: naming the file and the reason, or another process that does the same. FileNotFoundError: no source.
    """
    split = split or form.splits[0]
    if split not in form.splits:
        raise InputError(f"{form.name} has no split {split!r}; choose one of {', '.join(form.splits)}")
    if max_size is not None and max_size < MIN_SIDE_PX:
        raise InputError(f"the largest side must be at least {MIN_SIDE_PX} px, got {max_size}")
    if num_workers < 1:
        raise InputError(f"a conversion needs at least one worker, got {num_workers}")
    require_folder(source, form)
    _check_destination(source, destination, overwrite)
    with storage.local_copy(source) as root:
        labelled = form.annotate is not None and not unlabelled
        listing = find_items(form, root, split, labelled)
        skipped = _Skipped(root, skip_bad)
        for path, reason in listing.refused:
            skipped.add(path, InputError(f"{path}: {reason}"))
        items, num_alike = _keyed(listing.items, skipped)
        num_refused = len(skipped.entries)
        if not items:
            raise no_items(form, listing, root, split, skipped.entries[-1]["reason"] if skipped.entries else "")
        full_name = "".join(char if char.isprintable() else "_" for char in name or listing.name)
        full_name += "-unlabelled" if unlabelled and form.annotate is not None else ""
        keys = {item.name: key for key, item in items.items()}
        tally: Counter[str] = Counter()
        doubts: list[dict[str, Any]] = []
        num_done = num_resumed = 0
        reach = 0.0, 0.0

        def journal() -> dict[str, Any]:
            return {"num_done": num_done, "tally": tally, "skipped": skipped.entries, "doubts": doubts, "reach": reach}

        options = (storage.fingerprint(source), form.name, crowddist.__version__, split, skip_bad, labelled, max_size,
                   full_name, max_shard_bytes)
        job = hashlib.sha256(repr(options).encode()).hexdigest()[:16]
        with storage.staged_folder(destination, overwrite=overwrite, job=job) as staging:
            storage.remove_file(storage.join(staging, FILE_NAME))  # from a conversion killed after its last write
            with ShardWriter(staging, name=full_name, split=listing.split, labelled=labelled,
                             converter=f"{form.name} {crowddist.__version__}", max_shard_bytes=max_shard_bytes,
                             statistics=listing.facts, journal=journal) as writer:
                if writer.resumed:
                    num_done = num_resumed = writer.resumed["num_done"]
                    tally, skipped.entries = Counter(writer.resumed["tally"]), writer.resumed["skipped"]
                    doubts = writer.resumed["doubts"]
                    reach = writer.resumed.get("reach", (1.0, 1.0))
                left = list(items.values())[num_done:]
                for item, made in (work or in_order)(
                        watch(left), lambda item: make_sample(form, item, labelled, max_size), num_workers):
                    try:
                        members, found = made()
                    except InputError as error:
                        skipped.add(item.image, error)
                    else:
                        writer.add(keys[item.name], members)
                        reach = reach_with(members, reach)
                        for doubt in found:
                            tally += Counter({doubt.kind: doubt.number})
                        doubts += _listed(found, item, root)
                    num_done += 1
                if len(skipped.entries) >= num_refused + len(items):
                    raise InputError(f"none of the {len(items)} images in {root} can be taken; the last: "
                                     f"{skipped.entries[-1]['reason']}")
                if not skip_bad:
                    require_few(doubts, writer.num_persons)
                writer.statistics |= {**tally, **image_counts(doubts), **reach_fact(reach, writer.num_persons),
                                      "num_skipped": len(skipped.entries),
                                      **({"num_alike_names": num_alike} if num_alike else {}),
                                      **({"max_size_px": max_size} if max_size else {})}
                if doubts:
                    storage.write_json(storage.join(staging, DOUBTS), doubts)
                if skip_bad:
                    storage.write_json(storage.join(staging, SKIPPED), skipped.entries)
            manifest = read_manifest(staging)
        return Conversion(url=storage.normalise(destination), manifest=manifest, skipped=tuple(skipped.entries),
                          doubts=tuple(doubts), num_resumed=num_resumed, notes=listing.notes)


def no_items(form: Format, listing: Listing, root: Path, split: str, reason: str = "") -> InputError:
    """The error of a folder without any image of a split, which says what it holds; `reason`: why one was skipped."""
    told = [*filter(None, [reason]), *listing.notes] or [holds(root)]
    return InputError(f"no images of the split {split!r} in {root}; {'; '.join(told)}; "
                      f"{_unpack(root) or f'give a folder that holds {form.summary}'}")


def require_folder(source: str | os.PathLike[str], form: Format) -> None:
    """Raises FileNotFoundError, with the next step, where there is no folder at `source`."""
    if not storage.is_folder(source):
        shards = str(source).endswith((".tar", ".tar.gz", ".tgz"))
        advice = (f"shards are named by their folder, which also holds {FILE_NAME}, if crowddist convert wrote them; "
                  "unpack those of another tool, and give that folder" if shards
                  else "unpack the archive, and give that folder" if Path(source).suffix[1:].upper() in ARCHIVES
                  else "give a folder of images" if form.name == "folder"
                  else f"give the folder that holds the {form.name} data")
        raise FileNotFoundError(f"no folder at {source}; {advice}")


def make_key(name: str, *, apart: bool = False) -> str:
    """An item's key: its name with `_` for characters that keys may not hold; a long name is cut and gets a hash, and
    so does one that is to be told `apart` from another with the same key.

    Raises InputError for a name that is not Unicode.
    """
    try:
        num_bytes = len(name.encode())
    except UnicodeEncodeError:
        raise InputError(f"the name {os.fsencode(name)!r} is not UTF-8; rename the file") from None
    key = "".join("_" if char in "./\\" or not char.isprintable() else char for char in name)
    if num_bytes <= MAX_KEY_BYTES and not apart:
        return key
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{key.encode()[:MAX_KEY_BYTES - 13].decode(errors='ignore')}_{digest}"


class _Skipped:
    """The list of bad files; without `skip` the first one is raised."""

    def __init__(self, root: Path, skip: bool) -> None:
        self.root, self.skip = root, skip
        self.entries: list[dict[str, str]] = []

    def add(self, path: Path, error: InputError) -> None:
        if not self.skip:
            raise error if "--skip-bad" in str(error) else InputError(f"{error}; --skip-bad leaves such files out")
        self.entries.append({"file": _name(path, self.root), "reason": _plain(str(error))})


def _listed(found: Iterable[Doubt], item: Item, root: Path) -> list[dict[str, Any]]:
    """Doubts as `DOUBTS` lists them; those that are only counted are left out."""
    return [{"file": _name(item.image, root), "kind": doubt.kind, "number": int(doubt.number),
             "reason": _plain(doubt.reason)} for doubt in found if doubt.reason]


def _name(path: Path, root: Path) -> str:
    return _plain(os.path.relpath(path, root))


def _plain(text: str) -> str:
    """A text that JSON can hold: names of files need not be Unicode."""
    return text.encode(errors="backslashreplace").decode()


def _unpack(root: Path) -> str:
    """What to do with the shards of another tool; "" where there are none."""
    return ("these are shards without the manifest of crowddist convert: unpack them (tar -xf) and convert the files"
            if next(root.glob("*.tar"), None) else "")


def _keyed(items: Iterable[Item], skipped: _Skipped) -> tuple[dict[str, Item], int]:
    """Items by key, without those whose name is impossible or taken; and the number of those whose names differ only in
    characters that keys may not hold, as a/1 and a_1 do: a hash tells these apart.
    """
    named: dict[str, Item] = {}
    for item in items:
        try:
            make_key(item.name)
            if item.name in named:
                raise InputError(f"has the same name {item.name} as {named[item.name].image}; rename one of them")
        except InputError as error:
            skipped.add(item.image, InputError(f"{item.image}: {error}"))
        else:
            named[item.name] = item
    alike = Counter(map(make_key, named))
    keyed = {make_key(name, apart=alike[make_key(name)] > 1): item for name, item in named.items()}
    return keyed, sum(number for number in alike.values() if number > 1)


def in_order(items: Iterable[Item], make: Callable[[Item], Made],
             num_workers: int) -> Iterator[tuple[Item, Callable[[], Made]]]:
    """The items in order, each with a function that returns `make(item)` or raises its error; threads work ahead."""
    with ThreadPoolExecutor(num_workers) as pool:
        ahead: deque[tuple[Item, Future[Made]]] = deque()
        try:
            for item in items:
                ahead.append((item, pool.submit(make, item)))
                if len(ahead) > ITEMS_AHEAD * num_workers:
                    first, made = ahead.popleft()
                    yield first, made.result
            while ahead:
                first, made = ahead.popleft()
                yield first, made.result
        finally:
            for _, made in ahead:
                made.cancel()


def _check_destination(source: str | os.PathLike[str], destination: str | os.PathLike[str], overwrite: bool) -> None:
    """Fails before hours of work, not after; and never lets --overwrite remove files that no conversion wrote."""
    place = storage.normalise(destination)
    if f"{storage.normalise(source)}/".startswith(f"{place}/"):
        raise InputError(f"the destination {storage.shown(place)} is the source, or a folder around it; choose another "
                         "one for the shards")
    if not storage.exists(storage.join(place, FILE_NAME)):
        return
    if not overwrite:
        raise InputError(f"a data set is at {place} already; choose another destination or give --overwrite")
    ours = {FILE_NAME, SKIPPED, DOUBTS, *(shard.name for shard in read_manifest(place).shards)}
    others = [name for name in storage.list_files(place) if name not in ours]
    if others:
        raise InputError(f"{place} also holds {others[0]}, which no conversion wrote; choose another destination or "
                         "remove it by hand")
