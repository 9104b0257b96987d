"""Shared by all converters: a format lists a folder's items and reads their annotations; `convert` writes shards."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

import crowddist
from crowddist import storage
from crowddist.data.convert.annotations import box_centres, check_boxes, check_points
from crowddist.data.images import MIN_SIDE_PX, NOTES, SUFFIXES, StoredImage, store_image
from crowddist.data.manifest import FILE_NAME, Manifest, read_manifest
from crowddist.data.shard_codec import LABEL_FACTS, Member
from crowddist.data.shards import MAX_KEY_BYTES, MAX_SHARD_BYTES, ShardWriter
from crowddist.data.transforms import resize_boxes, resize_points
from crowddist.errors import InputError

SKIPPED = "skipped.json"  # beside the manifest under `skip_bad`: a list of {"file", "reason"}
VALIDATION_SHARE = 0.2  # ours: share of the training split held out for validation where a set has no split for it
ITEMS_AHEAD = 4  # images read ahead per thread: enough that no thread idles, few enough for the memory
Made = TypeVar("Made")
# The type of `in_order`: (items, make, num_workers) -> each item with a function that returns `make(item)` or raises.
InOrder = Callable[[Iterable["Item"], Callable[["Item"], Any], int], Iterator[tuple["Item", Callable[[], Any]]]]
_NOTES = {
    "num_clipped_points": "points moved to the border",
    "num_repeated_points": "points repeat another",
    "num_cut_boxes": "boxes cut at the border",
    "num_left_out_boxes": "boxes left out, flagged invalid or without an area or centre in the image",
    **NOTES,
}


@dataclass(frozen=True, kw_only=True)
class Item:
    """One image of a source, not yet opened."""

    name: str  # unique in the source, e.g. "scene_00_0/1536371984"; the sample's key is made from it
    image: Path
    annotations: tuple[Path, ...] = ()  # the image's annotation files, in the format's own order; they may not exist
    record: Any = None  # the image's annotation, where `find` has read it from a file for many images
    facts: dict[str, Any] = field(default_factory=dict)  # from the folder and its index, for the sample's json


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The images of one split of a source."""

    name: str  # of the data set, unless the user gives another
    split: str  # as asked for, or as the folder itself says
    items: tuple[Item, ...]  # in the order of the shards
    refused: tuple[tuple[Path, str], ...] = ()  # files that belong to no item, and why
    facts: dict[str, Any] = field(default_factory=dict)  # for the manifest's statistics, e.g. how the split was made
    notes: tuple[str, ...] = ()  # lines about the folder, for the user


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """The labels of one image, in pixels of the image as stored in the source."""

    points: np.ndarray | None = None  # N x 2 x, y of heads, as annotated; None: the centres of `boxes`
    boxes: np.ndarray | None = None  # N x 4 left, top, width, height of heads, edges in px: pixel j covers [j, j + 1)
    left_out: np.ndarray | None = None  # (N,) bool, boxes not to use, by the set's flags or its converter
    place: Path | str  # the file, or a place in it, for messages
    mask: np.ndarray | None = None  # (H, W), nonzero = person
    roi: np.ndarray | None = None  # the polygon that was annotated, K x 2 x, y; None or empty: the whole image
    scene: dict[str, Any] = field(default_factory=dict)  # further entries of the sample's json


@dataclass(frozen=True, kw_only=True)
class Format:
    """One layout of raw data."""

    name: str  # as the user types it
    summary: str  # for --help: what the source folder must look like
    splits: tuple[str, ...]  # the first is the default
    upright: bool = False  # turn pixels by their rotation tags; never where annotations refer to the stored pixels
    find: Callable[[Path, str, bool], Listing]
    """(folder, split, labelled) -> listing. Raises InputError for a folder of another layout."""
    annotate: Callable[[Item, tuple[int, int]], Annotation] | None
    """(item, (height, width)) -> annotation; None: the format has no labels. Raises InputError naming the file."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """The result of a conversion."""

    url: str
    manifest: Manifest
    skipped: tuple[dict[str, str], ...]  # {"file", "reason"} each
    num_resumed: int = 0  # images of the source that an earlier, stopped conversion had handled
    notes: tuple[str, ...] = ()  # lines about the source, for the user

    def summary(self) -> str:
        """One line: what was written, and where."""
        facts = self.manifest.statistics
        persons = f"{facts['persons']:.0f} persons" if self.manifest.labelled else "unlabelled"
        parts = [f"{self.manifest.num_samples} images", persons, f"{len(self.manifest.shards)} shards"]
        parts += [f"{facts['num_skipped']} files skipped: cannot be read"] if facts.get("num_skipped") else []
        parts += doubts(self.manifest)
        parts += [f"{self.num_resumed} images done before it was stopped"] if self.num_resumed else []
        return f"{self.manifest.name} ({self.manifest.split}): {', '.join(parts)}: {self.url}"


def doubts(manifest: Manifest) -> list[str]:
    """How many images and labels of a data set were doubtful, by kind; nothing if none were."""
    return [f"{manifest.statistics[fact]} {words}" for fact, words in _NOTES.items() if manifest.statistics.get(fact)]


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
    if not storage.is_folder(source):
        raise FileNotFoundError(f"no folder at {source}; give the folder that holds the {form.name} data")
    _check_destination(destination, overwrite)
    with storage.local_copy(source) as root:
        labelled = form.annotate is not None and not unlabelled
        listing = form.find(root, split, labelled)
        skipped = _Skipped(root, skip_bad)
        for path, reason in listing.refused:
            skipped.add(path, InputError(f"{path}: {reason}"))
        items = _keyed(listing.items, skipped)
        num_refused = len(skipped.entries)
        if not items:
            reason = f"; {skipped.entries[-1]['reason']}" if skipped.entries else ""
            reason += "".join(f"; {note}" for note in listing.notes)
            raise InputError(f"no images of the split {split!r} in {root}{reason}; give a folder that holds "
                             f"{form.summary}")
        full_name = "".join(char if char.isprintable() else "_" for char in name or listing.name)
        full_name += "-unlabelled" if unlabelled and form.annotate is not None else ""
        tally: Counter[str] = Counter()
        num_done = num_resumed = 0

        def journal() -> dict[str, Any]:
            return {"num_done": num_done, "tally": tally, "skipped": skipped.entries}

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
                left = list(items.values())[num_done:]
                for item, made in (work or in_order)(watch(left), lambda item: _members(form, item, labelled, max_size),
                                                     num_workers):
                    try:
                        members, counts = made()
                    except InputError as error:
                        skipped.add(item.image, error)
                    else:
                        writer.add(make_key(item.name), members)
                        tally += counts
                    num_done += 1
                if len(skipped.entries) >= num_refused + len(items):
                    raise InputError(f"none of the {len(items)} images in {root} can be taken; the last: "
                                     f"{skipped.entries[-1]['reason']}")
                writer.statistics |= {**tally, "num_skipped": len(skipped.entries),
                                      **({"max_size_px": max_size} if max_size else {})}
                if skip_bad:
                    storage.write_json(storage.join(staging, SKIPPED), skipped.entries)
            manifest = read_manifest(staging)
        return Conversion(url=storage.normalise(destination), manifest=manifest, skipped=tuple(skipped.entries),
                          num_resumed=num_resumed, notes=listing.notes)


def make_key(name: str) -> str:
    """An item's key: its name with `_` for characters that keys may not hold; a long name is cut and gets a hash.

    Raises InputError for a name that is not Unicode.
    """
    try:
        num_bytes = len(name.encode())
    except UnicodeEncodeError:
        raise InputError(f"the name {os.fsencode(name)!r} is not UTF-8; rename the file") from None
    key = "".join("_" if char in "./\\" or not char.isprintable() else char for char in name)
    if num_bytes <= MAX_KEY_BYTES:
        return key
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{key.encode()[:MAX_KEY_BYTES - 13].decode(errors='ignore')}_{digest}"


def hash_share(name: str) -> float:
    """A number in [0, 1) from the name alone, so that a split stays the same whatever else is in the folder."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8]) / 2**64


def in_split(stem: str, split: str) -> bool:
    """True for an image or scene, e.g. "IMG_12", that belongs to the split.

    `train` and `val` divide the training data by the hash of the name; any other split holds all its images.
    """
    return (hash_share(stem) < VALIDATION_SHARE) == (split == "val") if split in ("train", "val") else True


def split_facts(split: str, noun: str = "image") -> dict[str, Any]:
    """The rule of `in_split` for the manifest; `noun`: whose name is hashed."""
    return ({"split_rule": f"val: SHA-256 of the {noun}'s name below {VALIDATION_SHARE:g}"} if split in ("train", "val")
            else {})


def list_images(*folders: Path) -> list[Path]:
    """The image files directly in the folders, by their numbers whatever their folder: IMG_2 comes before IMG_10."""
    paths = [path for folder in folders
             for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
    return sorted(paths, key=lambda path: (len(path.stem), path.name, path))


def list_pairs(folder: Path, ending: str, labelled: bool, annotations: Path | None = None,
               prefix: str = "") -> tuple[list[Item], list[tuple[Path, str]]]:
    """The images of a folder with their annotations, and the annotations that lack an image, with the reason.

    The annotation of NAME.jpg is `prefix` + NAME + `ending` in the folder `annotations`; None: beside the images.
    Raises InputError where that folder is needed and missing.
    """
    place = annotations or folder
    require_annotations(place, labelled)
    items = [Item(name=path.stem, image=path, annotations=(place / f"{prefix}{path.stem}{ending}",))
             for path in list_images(folder)]
    stems = {item.name for item in items}
    found: Iterable[Path] = place.glob(f"{prefix}*{ending}") if labelled else ()
    return items, lone_annotations(path for path in found
                                   if path.name.removeprefix(prefix).removesuffix(ending) not in stems)


def lone_annotations(paths: Iterable[Path]) -> list[tuple[Path, str]]:
    """Annotations without an image as `Listing.refused` takes them: sorted, hidden files left out."""
    return [(path, "an annotation without its image") for path in sorted(paths) if not path.name.startswith(".")]


def require_annotations(place: Path, labelled: bool) -> None:
    """Raises InputError where a labelled conversion has no annotations at `place`."""
    if labelled and not place.exists():
        raise InputError(f"no annotations: {place} is missing; convert with --unlabelled, or add it")


class _Skipped:
    """The list of bad files; without `skip` the first one is raised."""

    def __init__(self, root: Path, skip: bool) -> None:
        self.root, self.skip = root, skip
        self.entries: list[dict[str, str]] = []

    def add(self, path: Path, error: InputError) -> None:
        if not self.skip:
            raise error
        name = os.path.relpath(path, self.root).encode(errors="backslashreplace").decode()
        self.entries.append({"file": name, "reason": str(error).encode(errors="backslashreplace").decode()})


def _keyed(items: Iterable[Item], skipped: _Skipped) -> dict[str, Item]:
    """Items by key, without those whose key is impossible or taken."""
    keyed: dict[str, Item] = {}
    for item in items:
        try:
            key = make_key(item.name)
            if key in keyed:
                raise InputError(f"has the same key {key} as {keyed[key].image}; rename one of them")
        except InputError as error:
            skipped.add(item.image, InputError(f"{item.image}: {error}"))
        else:
            keyed[key] = item
    return keyed


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


def _members(form: Format, item: Item, labelled: bool, max_size: int | None) -> tuple[dict[str, Member], Counter[str]]:
    """The members of one sample, and counts of its clipped, repeated, cut and left-out labels."""
    image = store_image(item.image, upright=form.upright, max_size=max_size)
    tally = Counter(image.notes)
    height, width = image.size
    scene: dict[str, Any] = {**item.facts, "id": item.name, "file": item.image.name, "height": height, "width": width}
    members: dict[str, Member] = {image.extension: image.data, "json": scene}
    if not labelled or form.annotate is None:
        for fact in LABEL_FACTS:
            scene.pop(fact, None)
        return members, tally
    annotation = form.annotate(item, image.source_size)
    heads = annotation.points
    if annotation.boxes is not None:
        boxes, num_cut = check_boxes(annotation.boxes, image.source_size, annotation.place, annotation.left_out)
        members["boxes.npy"] = resize_boxes(boxes, width / image.source_size[1], height / image.source_size[0])
        heads = box_centres(boxes)
        tally += Counter(num_cut_boxes=num_cut, num_left_out_boxes=len(annotation.boxes) - len(boxes))
    assert heads is not None, "an annotation has points or boxes"
    points, num_clipped, num_repeated = check_points(heads, image.source_size, annotation.place)
    members["points.npy"] = _scale(points, image)
    scene |= {**annotation.scene, "count": len(points)}
    if num_repeated:
        scene["num_repeated_points"] = num_repeated
    if annotation.roi is not None and len(annotation.roi):
        scene["roi"] = _scale(annotation.roi.astype(np.float32), image).tolist()
    if annotation.mask is not None:
        import cv2

        binary = (annotation.mask != 0).astype(np.uint8)
        members["mask.png"] = cv2.resize(binary, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    tally += Counter(num_clipped_points=num_clipped, num_repeated_points=num_repeated)
    return members, tally


def _scale(points: np.ndarray, image: StoredImage) -> np.ndarray:
    """Move points from the source image to the stored one."""
    if image.size == image.source_size:
        return points
    (height, width), (source_height, source_width) = image.size, image.source_size
    # A point within half a pixel of the border may leave the smaller frame by a fraction of a pixel.
    return np.clip(resize_points(points, width / source_width, height / source_height), 0,
                   [width - 1, height - 1]).astype(np.float32)


def _check_destination(destination: str | os.PathLike[str], overwrite: bool) -> None:
    """Fails before hours of work, not after; and never lets --overwrite remove files that no conversion wrote."""
    place = storage.normalise(destination)
    if not storage.exists(storage.join(place, FILE_NAME)):
        return
    if not overwrite:
        raise InputError(f"a data set is at {place} already; choose another destination or give --overwrite")
    ours = {FILE_NAME, SKIPPED, *(shard.name for shard in read_manifest(place).shards)}
    others = [name for name in storage.list_files(place) if name not in ours]
    if others:
        raise InputError(f"{place} also holds {others[0]}, which no conversion wrote; choose another destination or "
                         "remove it by hand")
