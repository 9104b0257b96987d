"""Files of zones: which format one is in, and our own JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from crowddist import storage
from crowddist.data.convert.annotations import read_file
from crowddist.data.convert.own import entries, image_size
from crowddist.data.file_kinds import HEAD_BYTES, READ, kind_of
from crowddist.data.zones.exports import read_cvat, read_label_studio, read_labelme
from crowddist.data.zones.masks import read_mask
from crowddist.data.zones.zone import UNITS, Zone, ZoneSet
from crowddist.errors import InputError, require_choice

FIELDS = ("zones", "unit", "width", "height")
_FORMS = ('read are JSON of {"zones": [{"name": ..., "polygon": [[x, y], ...]}]}, LabelMe, Label Studio, CVAT for '
          "images, and masks in PNG")


def read_zones(where: storage.Url) -> ZoneSet:
    """The zones of a file (path or URL): our JSON, an export of LabelMe, CVAT for images or Label Studio, or a mask.

    Raises InputError, naming the file, for a missing or damaged one, for another format, and as `ZoneSet`.
    """
    try:
        path = storage.local_file(where)
    except FileNotFoundError:
        raise InputError(f"{storage.shown(where)}: there is no such file of zones") from None
    data = read_file(path)
    head = data[:HEAD_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n")
    if kind_of(data[:HEAD_BYTES]) in READ:
        return read_mask(path, data)
    if head.startswith(b"<"):
        return read_cvat(path, data)
    if not head.startswith((b"{", b"[")):
        raise InputError(f"{path}: not a file of zones; {_FORMS}")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {error}") from None
    if isinstance(value, dict) and "shapes" in value:
        return read_labelme(path, value)
    if isinstance(value, dict) and "zones" in value:
        return _own_zones(path, value)
    tasks = value if isinstance(value, list) else [value]
    if tasks and all(isinstance(task, dict) and "annotations" in task and "images" not in task for task in tasks):
        return read_label_studio(path, tasks)
    raise InputError(f"{path}: its JSON holds no zones; {_FORMS}")


def make_zones(polygons: Mapping[str, Any], *, unit: str = "px") -> ZoneSet:
    """Zones of polygons by name: K x 2 x, y from the image's left and top edge.

    Args:
        unit: px, or share: of the image's width and height, 0 to 1.

    Raises:
        InputError: as `ZoneSet`.
    """
    return ZoneSet([Zone(name=name, polygon=polygon) for name, polygon in polygons.items()], unit=cast(Any, unit))


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
    except (TypeError, ValueError):
        return False  # told for the zone
    return bool(corners.size and ((corners >= 0) & (corners <= 1)).all())
