"""GCC in its own layout, which the procedural renderer writes too; `data.scenes` has its scene regularisation."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crowddist.data.convert.annotations import as_count, as_rows, read_json_object, read_mat_info, read_raw_mask
from crowddist.data.convert.layout import Annotation, Format, Item, Listing, NoSetError, hash_share, lone_annotations
from crowddist.data.scenes import LEVEL_MAXIMA, WEATHERS, keep_scene, plain_name
from crowddist.errors import InputError

__all__ = ["FORMAT", "annotate", "find", "keep_scene"]

# P: the share in the published random protocol, for folders without its lists; split by the name's hash (ours).
TEST_SHARE = 0.25
_FACTS = ("level", "hour", "weather")


@dataclass(frozen=True)
class Entry:
    """What an index file says of an image."""

    facts: dict[str, int]
    count: int | None


_NO_ENTRY = Entry({}, None)


def find(folder: Path, split: str, labelled: bool) -> Listing:
    """The images of a split, by scene and time; an image that exists as png (the original) and jpg is read as png.

    `train` and `test` follow `train_list.txt` and `test_list.txt` in `folder`, or without them the hash of the name.
    `camera-*` keeps one camera of each location for testing, `location-*` a quarter of the locations, both by hash.
    """
    places = [folder] if _scene(folder) else sorted(folder.iterdir())
    scenes = [(path, numbers) for path in places if path.is_dir() and (numbers := _scene(path))]
    if not scenes:
        raise NoSetError(f"no GCC data in {folder}: no folder scene_XX_Y; give the folder that holds them")
    index = _read_index(folder)
    belongs, rule = _rule(folder, split)
    items, refused = [], []
    for scene, (location, camera) in scenes:
        images = {path.stem: path for kind in ("jpgs", "pngs") for path in sorted(scene.glob(f"{kind}/*.{kind[:-1]}"))
                  if not path.name.startswith(".")}
        for stem in sorted(images):
            name = f"{scene.name}/{stem}"
            if belongs(name):
                paths = tuple(scene / kind / f"{stem}.{ending}"
                              for kind, ending in (("jsons", "json"), ("mats", "mat"), ("segs", "raw")))
                entry = index.get(name, _NO_ENTRY)
                facts = {"location": location, "camera": camera, **entry.facts}
                items.append(Item(name=name, image=images[stem], annotations=paths, facts=facts, count=entry.count))
        if labelled:
            refused += lone_annotations(path for kind in ("jsons", "mats")
                                        for path in scene.glob(f"{kind}/*.{kind[:-1]}") if path.stem not in images)
    return Listing(name="gcc", split=split, items=tuple(items), refused=tuple(refused), facts=rule)


def annotate(item: Item, size: tuple[int, int]) -> Annotation:
    """Heads, mask and metadata. Where json and mat both exist, json is taken; they must hold equally many points."""
    json_path, mat_path, mask_path = item.annotations
    facts = read_json_object(json_path) if json_path.exists() else {}
    found, count = {}, None
    if "image_info" in facts or (facts and not mat_path.exists()):
        found[json_path] = as_rows(facts.get("image_info"), json_path, "image_info")
    if mat_path.exists():
        found[mat_path], count = read_mat_info(mat_path)
    if not found:
        raise InputError(f"{item.image}: its annotation {json_path.name} or {mat_path.name} is missing")
    if len({len(points) for points in found.values()}) > 1:
        counts = " but ".join(f"{len(points)} in {path}" for path, points in found.items())
        raise InputError(f"{item.image}: annotations disagree: {counts} points")
    place, rows_columns = next(iter(found.items()))
    mask = read_raw_mask(mask_path, size) if mask_path.exists() else None
    roi = as_rows(facts.get("roi") or [], json_path, "roi")
    if not np.isfinite(roi).all():
        raise InputError(f"{json_path}: roi holds a number that is not finite")
    points = rows_columns[:, [1, 0, 2][: rows_columns.shape[1]]]  # x, y
    place = place if count in (None, len(points)) else mat_path  # which tells the count
    return Annotation(points=points, place=place, count=count, mask=mask, roi=roi, scene=_metadata(facts, json_path))


def _metadata(facts: dict[str, Any], place: Path) -> dict[str, Any]:
    """level, hour, minute and weather, where the json has them."""
    scene: dict[str, Any] = {}
    if facts.get("weather") is not None:
        scene["weather"] = _weather(facts["weather"], place)
    if facts.get("timeInfo") is not None:
        time = facts["timeInfo"]
        if not (isinstance(time, list) and len(time) >= 2 and _whole(time[0], 23) and _whole(time[1], 59)):
            raise InputError(f"{place}: wrong layout: timeInfo must be [hour, minute], got {time!r}")
        scene |= {"hour": time[0], "minute": time[1]}
    if facts.get("level") is not None:
        if not _whole(facts["level"], len(LEVEL_MAXIMA) - 1):
            raise InputError(f"{place}: level must be 0 to {len(LEVEL_MAXIMA) - 1}, got {facts['level']!r}")
        scene["level"] = facts["level"]
    return scene


def _weather(value: Any, place: Path) -> int:
    """The code of a weather given as code or as name."""
    if _whole(value, len(WEATHERS) - 1):
        return value
    if isinstance(value, str) and plain_name(value) in WEATHERS:
        return WEATHERS.index(plain_name(value))
    raise InputError(f"{place}: weather must be 0 to {len(WEATHERS) - 1} or one of {', '.join(WEATHERS)}, "
                     f"got {value!r}")


def _read_index(folder: Path) -> dict[str, Entry]:
    """The entries by name, from index files with lines of level, hour, weather, scene, time, count."""
    index = {}
    for path in (folder / name for name in ("all.txt", "train_list.txt", "test_list.txt")):
        for number, line in enumerate(path.read_text(errors="replace").splitlines() if path.is_file() else [], start=1):
            columns = line.split()
            if not columns:
                continue
            try:
                level, hour, weather, scene, time, count = columns
                facts = dict(zip(_FACTS, (int(level), int(hour), int(weather)), strict=True))
                index[f"{scene}/{time}"] = Entry(facts, as_count(count))
            except ValueError:
                raise InputError(f"{path}: line {number} is not level, hour, weather, scene, time, count: "
                                 f"{line!r}") from None
    return index


def _rule(folder: Path, split: str) -> tuple[Callable[[str], bool], dict[str, str]]:
    """A function that tells by name whether an item is in the split, and the rule in words."""
    if split == "all":
        return (lambda name: True), {}
    protocol, _, side = split.rpartition("-")
    listed = folder / f"{split}_list.txt"
    if not protocol and listed.is_file():
        names = {"/".join(line.split()[3:5]) for line in listed.read_text(errors="replace").splitlines()}
        return names.__contains__, {"split_rule": listed.name}
    tested, rule = {
        "camera": (_is_test_camera, "one camera of each location, by SHA-256 of the location's number"),
        "location": (lambda name: hash_share(name.split("_")[1]) < TEST_SHARE,
                     f"SHA-256 of the location's number below {TEST_SHARE:g}"),
        "": (lambda name: hash_share(name) < TEST_SHARE, f"SHA-256 of the name below {TEST_SHARE:g}"),
    }[protocol]
    return (lambda name: tested(name) == (side == "test")), {"split_rule": f"test: {rule}"}


def _is_test_camera(name: str) -> bool:
    """P: a location has four cameras, 0-3."""
    _, location, camera = name.split("/")[0].split("_")
    return int(camera) == int(hash_share(location) * 4)


def _scene(path: Path) -> tuple[int, int] | None:
    """Location and camera of a scene's folder."""
    match = re.fullmatch(r"scene_(\d+)_(\d+)", path.resolve().name if path.name in ("", ".", "..") else path.name)
    return (int(match.group(1)), int(match.group(2))) if match else None


def _whole(value: Any, maximum: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= maximum


FORMAT = Format(
    name="gcc", find=find, annotate=annotate,
    splits=("all", "train", "test", "camera-train", "camera-test", "location-train", "location-test"),
    summary="scene_XX_Y/{pngs,jpgs,jsons,mats,segs}, and where wanted all.txt, train_list.txt, test_list.txt")
