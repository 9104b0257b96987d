"""Files of zones: which format one is in, and our own JSON."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias, cast

import numpy as np

from crowddist import storage
from crowddist.data.convert.annotations import parse_json, read_file
from crowddist.data.convert.own import entries, image_size
from crowddist.data.file_kinds import HEAD_BYTES, READ, kind_of
from crowddist.data.zones.exports import NoZonesError, read_cvat, read_label_studio, read_labelme
from crowddist.data.zones.masks import read_mask
from crowddist.data.zones.zone import UNITS, Zone, ZoneSet
from crowddist.errors import InputError, require_choice

Zones: TypeAlias = str | os.PathLike[str] | Mapping[str, Any] | ZoneSet | None
FIELDS = ("zones", "unit", "width", "height")
_FORMS = ('read are JSON of {"zones": [{"name": ..., "polygon": [[x, y], ...]}]}, LabelMe, Label Studio, CVAT for '
          "images, and masks in PNG")


class ZoneFile:
    """The zones of a file: of one camera, which hold for all its images, or of several images by their names. Those of
    a folder are always of images.
    """

    def __init__(self, place: str, sets: Mapping[str, ZoneSet], digest: str, *, by_image: bool = False) -> None:
        self.place, self.sets = place, dict(sets)
        """`sets`: one or more, by the name of the image that they were drawn on, "" where that is not told."""
        self.by_image = by_image or len(sets) > 1
        self.digest = digest
        """SHA-256 of the file, in hex."""

    def only(self) -> ZoneSet:
        """The zones of the one camera. Raises InputError where several images have zones."""
        if len(self.sets) > 1:
            names = ", ".join(map(repr, sorted(self.sets)))[:200]
            raise InputError(f"{self.place}: {len(self.sets)} images have zones: {names}; keep the one of this camera")
        return next(iter(self.sets.values()))

    def of_images(self, names: Sequence[str]) -> list[ZoneSet | None]:
        """The zones of each image (path or address). Where images have zones of their own, an image gets those whose
        name shares most of its path, from the file's name up; None where even that is another.

        Raises InputError where two fit as well.
        """
        if not self.by_image:
            return [self.only()] * len(names)
        by_file: dict[str, list[str]] = defaultdict(list)
        for name in self.sets:
            by_file[_parts(name)[-1]].append(name)
        chosen: list[tuple[str, int]] = []
        most: dict[str, int] = defaultdict(int)
        """Of each set, how much the image shares that fits best: of two folders' a.jpg one is meant."""
        for image in names:
            shared = {name: _num_shared(image, name) for name in by_file.get(_parts(image)[-1], ())}
            best = [name for name, number in shared.items() if number == max(shared.values())]
            if len(best) > 1:
                raise InputError(f"{self.place}: the zones of {best[0]!r} and of {best[1]!r} both fit {image}; give "
                                 "images of one name in the folders that the file names")
            chosen.append((best[0], shared[best[0]]) if best else ("", 0))
            most[chosen[-1][0]] = max(most[chosen[-1][0]], chosen[-1][1])
        return [self.sets[name] if number and number == most[name] else None for name, number in chosen]


def read_zone_file(where: storage.Url) -> ZoneFile:
    """The zones of a file (path or URL): our JSON, an export of LabelMe, CVAT for images or Label Studio, or a mask; or
    of a folder with such exports, as LabelMe saves one beside each image.

    Raises InputError, naming the file, for a missing or damaged one, for another format, and as `ZoneSet`.
    """
    if storage.is_folder(where):
        return _read_folder(where)
    try:
        path = storage.local_file(where)
    except FileNotFoundError:
        raise InputError(f"{storage.shown(where)}: there is no such file of zones") from None
    data = read_file(path)
    return ZoneFile(str(path), _zone_sets(path, data), hashlib.sha256(data).hexdigest())


def _read_folder(where: storage.Url) -> ZoneFile:
    """The zones of all files of a folder and the folders in it. Files of something else are passed over."""
    place = storage.shown(where)
    root = os.path.abspath(place) if storage.is_local(where) else place
    sets: dict[str, ZoneSet] = {}
    digest = hashlib.sha256()
    for name in sorted(storage.list_files(where)):
        if PurePosixPath(name).suffix.lower() not in (".json", ".xml"):
            continue
        path = storage.local_file(storage.join(where, name))
        data = read_file(path)
        try:
            found = _zone_sets(path, data)
        except NoZonesError:
            continue
        digest.update(f"{hashlib.sha256(data).hexdigest()} {name}\n".encode())
        for image, zones in found.items():
            if not image:
                raise InputError(f"{path}: its zones are of no image by name, which those of a folder must be; to use "
                                 "them for all images name the file")
            # An image beside the file shares the whole path.
            full = f"{root}/{PurePosixPath(name).parent / image}"
            if full in sets:
                raise InputError(f"{path}: {sets[full].place} has zones of {image[:80]!r}, too; keep one of the two")
            sets[full] = zones
    if not sets:
        raise InputError(f"{place}: no file in this folder holds zones; {_FORMS}")
    return ZoneFile(place, sets, digest.hexdigest(), by_image=True)


def read_zones(where: storage.Url) -> ZoneSet:
    """The zones of a file of one camera. Raises InputError as `read_zone_file` and where several images have zones."""
    return read_zone_file(where).only()


def as_zones(zones: Zones) -> ZoneSet | None:
    """The zones as callers have them: a file (see `read_zones`), polygons by name in px (see `make_zones`), or a set.
    Raises InputError as these do.
    """
    if zones is None or isinstance(zones, ZoneSet):
        return zones
    if isinstance(zones, Mapping):
        return make_zones(zones)
    if not isinstance(zones, str | os.PathLike):
        raise InputError('zones must be a file, or polygons by name as {"door": [[x, y], ...]}, '
                         f"got {type(zones).__name__}")
    return read_zones(zones)


def _zone_sets(path: Path, data: bytes) -> dict[str, ZoneSet]:
    """The zones of a file by image, see `ZoneFile`."""
    head = data[:HEAD_BYTES].replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")  # also UTF-16
    if kind_of(data[:HEAD_BYTES]) in READ:
        return {"": read_mask(path, data)}
    if head.startswith(b"<"):
        return read_cvat(path, data)
    if not head.startswith((b"{", b"[")):
        raise NoZonesError(f"{path}: not a file of zones; {_FORMS}")
    value = parse_json(data, path)
    if isinstance(value, dict) and "shapes" in value:
        return read_labelme(path, value)
    if isinstance(value, dict) and "zones" in value:
        return {"": _own_zones(path, value)}
    tasks = value if isinstance(value, list) else [value]
    if tasks and all(isinstance(task, dict) and "annotations" in task and "images" not in task for task in tasks):
        return read_label_studio(path, tasks)
    raise NoZonesError(f"{path}: its JSON holds no zones; {_FORMS}")


def make_zones(polygons: Mapping[str, Any], *, unit: str = "px") -> ZoneSet:
    """Zones of polygons by name: K x 2 x, y from the image's left and top edge.

    Args:
        unit: px, or share: of the image's width and height, 0 to 1.

    Raises:
        InputError: as `ZoneSet`.
    """
    return ZoneSet([Zone(name=name, polygon=polygon) for name, polygon in polygons.items()], unit=cast(Any, unit))


def _parts(name: str) -> tuple[str, ...]:
    """The parts of an image's path; tools of Windows write it with backslashes."""
    return PurePosixPath(unicodedata.normalize("NFC", name).replace("\\", "/")).parts or ("",)


def _num_shared(one: str, other: str) -> int:
    """How many parts two paths share, from their ends up."""
    pairs = zip(reversed(_parts(one)), reversed(_parts(other)), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _own_zones(path: Path, value: Mapping[str, Any]) -> ZoneSet:
    if unknown := [name for name in value if name not in FIELDS]:
        raise InputError(f"{path}: unknown field {unknown[0]!r}; known are {', '.join(FIELDS)}")
    listed = entries(value["zones"], "zones", path)
    for number, entry in enumerate(listed, 1):
        if entry.keys() != {"name", "polygon"}:
            raise InputError(f"{path}: zone {number} must have a name and a polygon, and nothing else, got "
                             f"{', '.join(map(repr, entry))[:80] or 'nothing'}")
    size = image_size(value.get("height"), value.get("width"))
    if size is None and ("height" in value or "width" in value):
        raise InputError(f"{path}: width and height must both be whole numbers of pixels, got "
                         f"{value.get('width')!r} and {value.get('height')!r}")
    unit = value.get("unit", "px")
    require_choice(f"{path}: unit", unit, UNITS)
    if "unit" not in value and _seem_shares([entry["polygon"] for entry in listed]):
        raise InputError(f"{path}: all corners lie between 0 and 1; if they are shares of the image's width and height "
                         'write "unit": "share", else "unit": "px"')
    return ZoneSet([Zone(name=entry["name"], polygon=entry["polygon"]) for entry in listed], unit=unit, size=size,
                   place=str(path))


def _seem_shares(polygons: Sequence[Any]) -> bool:
    try:
        corners = np.concatenate([np.asarray(polygon, np.float64).reshape(-1) for polygon in polygons])
    except (TypeError, ValueError, OverflowError):
        return False  # told for the zone
    return bool(corners.size and ((corners >= 0) & (corners <= 1)).all())
