"""The manifest of a data set: its shards with their sizes and hashes, and facts about the data."""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from crowddist import storage
from crowddist.errors import InputError
from crowddist.process.typed_record import MOST, is_writable

FILE_NAME = "manifest.json"
# ours: many other programs write a file of this name.
_FORMAT = "crowddist data set"
_VERSION = 1
_MOST_TRIED = 5
Kind = Literal["images", "labels", "predictions"]


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """One shard: a tar file in the data set's folder. Raises InputError for an impossible value."""

    name: str
    num_samples: int
    num_bytes: int
    sha256: str
    """64 hexadecimal digits."""
    persons: float | None
    """Annotated heads (images) or summed density (labels); None if unknown."""

    def __post_init__(self) -> None:
        plain = _is_name(self.name) and "/" not in self.name and not self.name.startswith(".")
        _require(plain and len(self.name.encode()) <= 255, "shard name", self.name, "a plain file name")
        for noun in ("num_samples", "num_bytes"):
            value = getattr(self, noun)
            _require(type(value) is int and 1 <= value < MOST, noun, value, "a whole number above 0")
        hashed = isinstance(self.sha256, str) and re.fullmatch("[0-9a-f]{64}", self.sha256) is not None
        _require(hashed, "sha256", self.sha256, "64 hex digits")
        known = self.persons is None or (isinstance(self.persons, int | float) and not isinstance(self.persons, bool)
                                         and 0 <= self.persons < MOST)
        _require(known, "persons", self.persons, "a number of at least 0, or null")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Describes a data set. Raises InputError for an impossible value."""

    name: str
    """Name of the data, e.g. "shanghaitech-A"."""
    split: str
    """Part of the source, e.g. "train"."""
    kind: Kind
    """Images with their annotations; or, for an image set with the same keys, the pseudo-labels of one round or the
    predictions of networks."""
    labelled: bool
    """True if the images have points; an unlabelled set holds no points, counts or masks."""
    shards: tuple[ShardInfo, ...]
    """Their order numbers the samples."""
    statistics: dict[str, Any] = field(default_factory=dict)
    """Facts about the source: images, persons, sizes, how it was split."""
    converter: str
    """Program that wrote the data set, with its version."""
    version: int = _VERSION
    """Version of this file's layout."""

    def __post_init__(self) -> None:
        for noun in ("name", "split", "converter"):
            value = getattr(self, noun)
            _require(_is_name(value), noun, value, "a name")
        _require(self.kind in get_args(Kind), "kind", self.kind, " or ".join(f'"{kind}"' for kind in get_args(Kind)))
        _require(isinstance(self.labelled, bool), "labelled", self.labelled, "true or false")
        _require(type(self.version) is int and self.version == _VERSION, "version", self.version,
                 f"{_VERSION}; another crowddist wrote it, convert the data again")
        _require(isinstance(self.statistics, dict) and is_writable(self.statistics), "statistics", self.statistics,
                 "an object of texts and finite numbers")
        _require(len(self.shards) > 0, "shards", [], "at least one shard")
        names = [shard.name for shard in self.shards]
        _require(len(set(names)) == len(names), "shard names", names, "different names")

    @property
    def num_samples(self) -> int:
        return sum(shard.num_samples for shard in self.shards)

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hex: identifies the data set."""
        canonical = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"), ensure_ascii=False,
                               allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {"format": _FORMAT, **asdict(self), "shards": [asdict(shard) for shard in self.shards]}

    @classmethod
    def from_json(cls, value: Any) -> Manifest:
        """Inverse of `to_json`. Raises InputError for a missing, unknown or impossible entry."""
        _require(isinstance(value, dict) and value.get("format") == _FORMAT, "format",
                 value.get("format") if isinstance(value, dict) else value, f'"{_FORMAT}"')
        entries = {key: entry for key, entry in value.items() if key != "format"}
        _require_names(entries, cls, "manifest")
        _require(isinstance(entries["shards"], list), "shards", entries["shards"], "a list")
        shards = []
        for shard in entries["shards"]:
            _require(isinstance(shard, dict), "shard", shard, "an object")
            _require_names(shard, ShardInfo, "shard")
            shards.append(ShardInfo(**shard))
        return cls(**{**entries, "shards": tuple(shards)})


def read_manifest(url: str | os.PathLike[str]) -> Manifest:
    """Reads the manifest of the data set at `url`.

    Raises FileNotFoundError if there is none, InputError if it is damaged or not one of ours.
    """
    place = storage.normalise(url)
    if not storage.exists(storage.join(place, FILE_NAME)):
        raise FileNotFoundError(f"no data set at {place}: {FILE_NAME} is missing; {_advice(place)}")
    try:
        return Manifest.from_json(storage.read_json(storage.join(place, FILE_NAME)))
    except InputError as error:
        raise InputError(f"bad data set at {place}: {error}") from None


def _advice(place: str) -> str:
    """What to do about a missing manifest, by what is there."""
    names = storage.list_files(place) if storage.is_folder(place) else []
    for folder in [name.rpartition("/")[0] for name in names if name.endswith(f"/{FILE_NAME}")][:_MOST_TRIED]:
        with suppress(InputError, OSError):  # other programs write such files too
            read_manifest(storage.join(place, folder))
            return f"one is in {folder}, give that folder"
    if shards := [name for name in names if name.endswith(".tar")]:
        return (f"it holds {len(shards)} tar files, e.g. {shards[0]}, that crowddist convert did not write: unpack "
                "them (tar -xf) and convert the files, e.g. with labels as a .csv")
    return "make one with crowddist convert"


def publish_manifest(url: str | os.PathLike[str], manifest: Manifest) -> None:
    """Writes the manifest. Call it after all shards are written: a data set without a manifest does not exist."""
    storage.write_json(storage.join(url, FILE_NAME), manifest.to_json())


def _require(condition: bool, noun: str, got: Any, wanted: str) -> None:
    if not condition:
        raise InputError(f"{FILE_NAME}: {noun} must be {wanted}, got {str(got)[:200]!r}")


def _require_names(entries: dict[str, Any], owner: type, noun: str) -> None:
    wanted = {entry.name for entry in fields(owner)}
    _require(set(entries) == wanted, f"entries of the {noun}", sorted(entries), f"{sorted(wanted)}")


def _is_name(value: Any) -> bool:
    """True for printable text: no character acts on a terminal."""
    return isinstance(value, str) and bool(value) and value.isprintable()
