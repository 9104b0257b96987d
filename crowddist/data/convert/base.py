"""What every converter shares: a format lists the items of a folder and reads their annotations, `convert` writes them
to shards.
"""

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
from crowddist.data.images import MIN_SIDE_PX, SUFFIXES, StoredImage, store_image
from crowddist.data.manifest import FILE_NAME, Manifest, read_manifest
from crowddist.data.shard_codec import LABEL_FACTS, Member
from crowddist.data.shards import MAX_KEY_BYTES, MAX_SHARD_BYTES, ShardWriter
from crowddist.data.transforms import resize_boxes, resize_points
from crowddist.errors import InputError

SKIPPED = "skipped.json"
"""Beside the manifest under `skip_bad`: a list of {"file", "reason"}."""
VALIDATION_SHARE = 0.2
"""ours: held out for validation from the training split of sets that have no validation split, by the image's name
alone."""
ITEMS_AHEAD = 4
"""Images a thread that wait to be written: enough that none idles, few enough for the memory."""
Made = TypeVar("Made")
InOrder = Callable[[Iterable["Item"], Callable[["Item"], Any], int], Iterator[tuple["Item", Callable[[], Any]]]]
"""What `in_order` is: (items, make, num_workers) -> items in their order, each with what returns `make(item)` or raises
what that raised."""
_NOTES = {
    "num_skipped": "files skipped: cannot be read",
    "num_clipped_points": "points moved to the border",
    "num_repeated_points": "points repeat another",
    "num_cut_boxes": "boxes cut at the border",
    "num_left_out_boxes": "boxes left out, flagged invalid or without an area or centre in the image",
}


@dataclass(frozen=True, kw_only=True)
class Item:
    """One image of a source, not yet opened."""

    name: str
    """Unique in the source, e.g. "scene_00_0/1536371984"; the sample's key is made of it."""
    image: Path
    annotations: tuple[Path, ...] = ()
    """The files that belong to it, as its format knows them; they may not exist."""
    record: Any = None
    """What the listing read of its annotation already, where one file holds those of many images."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the folder and its index tell of it, for the sample's json."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a source holds of one split."""

    name: str
    """What the data set is called unless the user says otherwise."""
    split: str
    """What it is of the source: as asked for, or what the folder turned out to be."""
    items: tuple[Item, ...]
    """In the order of the shards."""
    refused: tuple[tuple[Path, str], ...] = ()
    """Files that belong to no item, and why."""
    facts: dict[str, Any] = field(default_factory=dict)
    """For the manifest's statistics, e.g. how the split was made."""


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """What is known of one image; coordinates are in the pixels of the image as stored in the source."""

    points: np.ndarray | None = None
    """N x 2 x, y of heads, as annotated; None where there are boxes: the points are their centres."""
    boxes: np.ndarray | None = None
    """N x 4 left, top, width, height of heads as edges in px (pixel j covers [j, j + 1)), as annotated; None where the
    set has none."""
    left_out: np.ndarray | None = None
    """(N,) bool, the boxes not to use, as the set itself or its converter says; None means none of them."""
    place: Path | str
    """The file they come from, or a place in it, for messages."""
    mask: np.ndarray | None = None
    """(H, W), anything but 0 = person."""
    roi: np.ndarray | None = None
    """The polygon that was annotated, K x 2 x, y; None or empty means the whole image."""
    scene: dict[str, Any] = field(default_factory=dict)
    """Further entries of the sample's json."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """One layout of raw data."""

    name: str
    """As the user types it."""
    summary: str
    """For --help: what the source folder must look like."""
    splits: tuple[str, ...]
    """Those the user may choose; the first is the default."""
    upright: bool = False
    """Whether rotation tags turn the pixels; never where annotations refer to the pixels as stored."""
    find: Callable[[Path, str, bool], Listing]
    """(folder, split, labelled) -> listing. Raises InputError for a folder of another layout."""
    annotate: Callable[[Item, tuple[int, int]], Annotation] | None
    """(item, (height, width)) -> annotation, or None where the format has no labels. Raises InputError naming the
    file."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What a conversion made."""

    url: str
    manifest: Manifest
    skipped: tuple[dict[str, str], ...]
    """{"file", "reason"} each."""
    num_resumed: int = 0
    """Images of the source that a conversion which was stopped had dealt with."""

    def summary(self) -> str:
        """What was made and where, in a line."""
        facts = self.manifest.statistics
        persons = f"{facts['persons']:.0f} persons" if self.manifest.labelled else "unlabelled"
        parts = [f"{self.manifest.num_samples} images", persons, f"{len(self.manifest.shards)} shards"]
        parts += [f"{facts[fact]} {words}" for fact, words in _NOTES.items() if facts.get(fact)]
        parts += [f"{self.num_resumed} images were there from when it was stopped"] if self.num_resumed else []
        return f"{self.manifest.name} ({self.manifest.split}): {', '.join(parts)}: {self.url}"


def convert(form: Format, source: str | os.PathLike[str], destination: str | os.PathLike[str], *, split: str = "",
            skip_bad: bool = False,
            unlabelled: bool = False, max_size: int | None = None, name: str = "", overwrite: bool = False,
            max_shard_bytes: int = MAX_SHARD_BYTES, num_workers: int = 1,
            watch: Callable[[Sequence[Item]], Iterable[Item]] = iter,
            work: InOrder | None = None) -> Conversion:
    """Convert a folder of raw data to a data set at `destination`, which appears whole or not at all.

    Stopped or killed, the same conversion of the same files goes on behind the last shard that was whole, and ends with
    the same bytes.

    Args:
        form: of the source.
        source: folder of raw data, a path or a URL; one in object storage is downloaded whole into $TMPDIR first.
        destination: place of the data set.
        split: which part; "" takes the format's default.
        skip_bad: leave out what cannot be taken and list it in `skipped.json`; otherwise the first such file ends the
            conversion.
        unlabelled: write the images alone; annotations are not even opened, and the name ends in "-unlabelled".
        max_size: longest side in px; larger images are shrunk, and their points and boxes with them.
        name: of the data set; "" takes the format's.
        overwrite: replace a data set at `destination`.
        max_shard_bytes: size at which a new shard is begun.
        num_workers: threads that read and shrink images; any number of them writes the same bytes.
        watch: wraps the items on their way, to show progress.
        work: who reads images; None: threads of this process, `in_order`.

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
        items, refused = _keyed(listing)
        bad = _Skipped(root, skip_bad)
        for path, reason in refused:
            bad.add(path, InputError(f"{path}: {reason}"))
        if not items:
            reason = f"; {bad.entries[-1]['reason']}" if bad.entries else ""
            raise InputError(f"no images of the split {split!r} in {root}{reason}; give a folder that holds "
                             f"{form.summary}")
        full_name = "".join(char if char.isprintable() else "_" for char in name or listing.name)
        full_name += "-unlabelled" if unlabelled and form.annotate is not None else ""
        tally: Counter[str] = Counter()
        num_done = num_resumed = 0

        def journal() -> dict[str, Any]:
            return {"num_done": num_done, "tally": tally, "skipped": bad.entries}

        options = (storage.fingerprint(source), form.name, crowddist.__version__, split, skip_bad, labelled, max_size,
                   full_name, max_shard_bytes)
        job = hashlib.sha256(repr(options).encode()).hexdigest()[:16]
        with storage.staged_folder(destination, overwrite=overwrite, job=job) as staging:
            # of a conversion that was killed when all was written
            storage.remove_file(storage.join(staging, FILE_NAME))
            with ShardWriter(
                staging, name=full_name, split=listing.split, labelled=labelled,
                converter=f"{form.name} {crowddist.__version__}",
                max_shard_bytes=max_shard_bytes, statistics=listing.facts, journal=journal,
            ) as writer:
                if writer.resumed:
                    num_done = num_resumed = writer.resumed["num_done"]
                    tally, bad.entries = Counter(writer.resumed["tally"]), writer.resumed["skipped"]
                left = list(items.values())[num_done:]
                for item, made in (work or in_order)(watch(left), lambda item: _members(form, item, labelled, max_size),
                                                     num_workers):
                    try:
                        members, noteworthy = made()
                    except InputError as error:
                        bad.add(item.image, error)
                    else:
                        writer.add(make_key(item.name), members)
                        tally += noteworthy
                    num_done += 1
                if len(bad.entries) >= len(refused) + len(items):
                    raise InputError(f"none of the {len(items)} images in {root} can be taken; the last: "
                                     f"{bad.entries[-1]['reason']}")
                writer.statistics |= {**tally, "num_skipped": len(bad.entries),
                                      **({"max_size_px": max_size} if max_size else {})}
                if skip_bad:
                    storage.write_json(storage.join(staging, SKIPPED), bad.entries)
            manifest = read_manifest(staging)
        return Conversion(url=storage.normalise(destination), manifest=manifest, skipped=tuple(bad.entries),
                          num_resumed=num_resumed)


def make_key(name: str) -> str:
    """The key of an item: its name with `_` for whatever a key cannot hold; a long one is cut and gets a hash.

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
    """A number in [0, 1) that depends on the name alone, for splits that stay the same whatever else lies in the
    folder.
    """
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8]) / 2**64


def is_validation(stem: str) -> bool:
    """Whether an image of a training split, e.g. "IMG_12", is held out for validation."""
    return hash_share(stem) < VALIDATION_SHARE


def in_split(stem: str, split: str) -> bool:
    """Whether an image, or a scene, belongs to `train` or `val`, which divide a training split; any other split holds
    all its images.
    """
    return is_validation(stem) == (split == "val") if split in ("train", "val") else True


def split_facts(split: str, noun: str = "image") -> dict[str, Any]:
    """What a manifest says of `in_split`; `noun` is what was asked for, by its name."""
    return ({"split_rule": f"val: SHA-256 of the {noun}'s name below {VALIDATION_SHARE:g}"} if split in ("train", "val")
            else {})


def list_images(*folders: Path) -> list[Path]:
    """The image files in folders, not below them, in the order of their numbers whatever their folder: IMG_2 goes
    before IMG_10.
    """
    paths = [path for folder in folders
             for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
    return sorted(paths, key=lambda path: (len(path.stem), path.name, path))


def list_pairs(folder: Path, ending: str, labelled: bool,
               annotations: Path | None = None) -> tuple[list[Item], list[tuple[Path, str]]]:
    """The images of a folder with their annotations, NAME.jpg and NAME + `ending`, and the annotations without an
    image.

    Annotations lie in the folder `annotations`; None means beside the images.
    """
    place = annotations or folder
    items = [Item(name=path.stem, image=path, annotations=(place / f"{path.stem}{ending}",))
             for path in list_images(folder)]
    stems = {item.name for item in items}
    found = sorted(path for path in place.glob(f"*{ending}") if not path.name.startswith(".")) if labelled else []
    return items, [(path, "an annotation without its image")
                   for path in found if path.name.removesuffix(ending) not in stems]


class _Skipped:
    """What could not be taken: listed, or raised at once."""

    def __init__(self, root: Path, skip: bool) -> None:
        self.root, self.skip = root, skip
        self.entries: list[dict[str, str]] = []

    def add(self, path: Path, error: InputError) -> None:
        if not self.skip:
            raise error
        name = os.path.relpath(path, self.root).encode(errors="backslashreplace").decode()
        self.entries.append({"file": name, "reason": str(error).encode(errors="backslashreplace").decode()})


def _keyed(listing: Listing) -> tuple[dict[str, Item], list[tuple[Path, str]]]:
    """Items by key, and those whose key is impossible or taken."""
    items: dict[str, Item] = {}
    refused = list(listing.refused)
    for item in listing.items:
        try:
            key = make_key(item.name)
        except InputError as error:
            refused.append((item.image, str(error)))
            continue
        if key in items:
            refused.append((item.image, f"has the same key {key} as {items[key].image}; rename one of them"))
        else:
            items[key] = item
    return items, refused


def in_order(items: Iterable[Item], make: Callable[[Item], Made],
             num_workers: int) -> Iterator[tuple[Item, Callable[[], Made]]]:
    """The items in their order, each with what returns `make(item)` or raises what that raised; threads are some items
    ahead.
    """
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
    """The members of one sample, and counts of what was noteworthy about its points and boxes."""
    tally: Counter[str] = Counter()
    image = store_image(item.image, upright=form.upright, max_size=max_size)
    scene: dict[str, Any] = {**item.facts, "id": item.name, "file": item.image.name, "height": image.size[0],
                             "width": image.size[1]}
    members: dict[str, Member] = {image.extension: image.data, "json": scene}
    if not labelled or form.annotate is None:
        for fact in LABEL_FACTS:
            scene.pop(fact, None)
        return members, tally
    annotation = form.annotate(item, image.source_size)
    heads = annotation.points
    if annotation.boxes is not None:
        boxes, num_cut = check_boxes(annotation.boxes, image.source_size, annotation.place, annotation.left_out)
        members["boxes.npy"] = resize_boxes(boxes, image.size[1] / image.source_size[1],
                                            image.size[0] / image.source_size[0])
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
        members["mask.png"] = _scale_mask(annotation.mask, image)
    tally += Counter(num_clipped_points=num_clipped, num_repeated_points=num_repeated)
    return members, tally


def _scale(points: np.ndarray, image: StoredImage) -> np.ndarray:
    """Points of the source image in the stored one."""
    (height, width), (source_height, source_width) = image.size, image.source_size
    if image.size == image.source_size:
        return points
    # A point within half a pixel of the border may leave the smaller frame by a fraction of a pixel.
    return np.clip(resize_points(points, width / source_width, height / source_height), 0,
                   [width - 1, height - 1]).astype(np.float32)


def _scale_mask(mask: np.ndarray, image: StoredImage) -> np.ndarray:
    import cv2

    height, width = image.size
    binary = (mask != 0).astype(np.uint8)
    return (binary if mask.shape == image.size
            else cv2.resize(binary, (width, height), interpolation=cv2.INTER_NEAREST_EXACT))


def _check_destination(destination: str | os.PathLike[str], overwrite: bool) -> None:
    """Fails before hours of work, not after; and never lets --overwrite remove what a conversion did not write."""
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
