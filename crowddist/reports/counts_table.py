"""The table of a count, counts.csv: its rows as they come, and a journal by which a stopped count goes on."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from crowddist import storage
from crowddist.data.images import NOTES
from crowddist.data.user_files import UserFile
from crowddist.data.walk import COUNTS, is_counts_table, is_drawn
from crowddist.data.walk import COUNTS_JOURNAL as JOURNAL
from crowddist.data.zones.zone import WHOLE
from crowddist.errors import InputError
from crowddist.process.typed_record import is_writable
from crowddist.storage.names import LOCK

__all__ = ["COLUMNS", "COUNTS", "JOURNAL", "CountsTable"]

COLUMNS = ("file", "count", "low", "high", "uncertainty", "points")
ZONES = "zones.csv"
"""The table of zones: for each image a row of the whole one, as in counts.csv, and one for each zone."""
ZONE_COLUMNS = ("file", "zone", "count", "low", "high")
_REFUSED = re.compile(r'[:?*<>|"\\]')
"""What exFAT and shares of Windows take in no name."""
_MOST_NAME_BYTES = 200
"""ours: of an overlay's name before its number and ending; a file system takes 255 with these."""
ROWS_AT_ONCE = 50
"""Rows after which a table in object storage is written again, which cannot append."""
_ENTRY = {"file", "repeat", "stamp", "overlay", "row", "notes"}


class CountsTable:
    """The table of these files in the folder `place`, and with `zones` that of their zones; nothing is written before
    the first row, and no table or picture of another program is replaced. Raises InputError where such a table is.

    Beside it, while it is not whole, lies the journal: a line with the job, then one for each row.

    A killed process loses at most the row that it was writing, in object storage `ROWS_AT_ONCE`. As a context manager
    it writes, however the block ends, what object storage lacks, and keeps other counts from a local folder: raises
    InputError where one is at work.
    """

    def __init__(self, place: str, files: Sequence[UserFile], job: str, *, fresh: bool = False,
                 zones: bool = False) -> None:
        self.files, self.job, self.local, self._place = files, job, storage.is_local(place), place
        self._url, self._journal = storage.join(place, COUNTS), storage.join(place, JOURNAL)
        self._zones = storage.join(place, ZONES) if zones else ""
        self._folder = Path(storage.shown(place))
        if self.local and (table := self._folder / COUNTS).is_file() and not is_counts_table(table):
            raise InputError(f"{table} is not a table of this command; choose another output, or move it")
        self._is_new = self.local and not any((self._folder / name).exists() for name in (COUNTS, JOURNAL))
        self._alone = ExitStack()
        self.require_ours(ZONES if zones else "")
        self._entries: dict[int, dict[str, Any]] = {}
        self._begun = False
        met: Counter[str] = Counter()
        self._repeats = []  # how often a file was met before: it may be named twice
        for file in files:
            self._repeats.append(met[file.name])
            met[file.name] += 1
        self._named: dict[int, str] = {}
        """Overlays of files that are counted again."""
        self.resumed = "" if fresh else self._resume()
        """A line for the user where an earlier count was stopped; "" if none was."""
        self._names = {*map(_key, self._named.values()), *(_key(entry["overlay"]) for entry in self._entries.values())}
        # Overlays by their images' stem: a camera may name its files alike in every folder.
        self._alike = Counter(_key(self.files[index].stem) for index in self._entries)

    def others(self, names: Iterable[str]) -> list[str]:
        """Those of these tables that an earlier count left in the folder."""
        return [name for name in sorted(names)
                if not self._is_new and storage.exists(storage.join(self._place, name))]

    def require_ours(self, *names: str) -> None:
        """Raises InputError where a file or folder of these names lies in a folder that no count has written to."""
        for name in filter(None, names):
            if self._is_new and os.path.lexists(self._folder / name):
                raise InputError(f"{self._folder / name} is there already, and no count wrote it; choose another "
                                 "output, or move it")

    def has(self, index: int) -> bool:
        """True if the file was counted."""
        return index in self._entries

    def missing(self) -> list[int]:
        """Indexes of the files that are not counted yet."""
        return [index for index in range(len(self.files)) if index not in self._entries]

    def forget(self, index: int) -> None:
        """Lets a file be counted again, under the same name."""
        entry = self._entries.pop(index)
        self._named[index] = entry["overlay"]

    def new_entry(self, index: int) -> dict[str, Any]:
        """What identifies a file, and the name of its overlay. Raises InputError for a file that is not there."""
        file = self.files[index]
        try:
            stamp = file.stamp()
        except OSError as error:
            raise InputError(f"{file.name}: cannot be read: {error.strerror or error}") from None
        return {"file": file.name, "repeat": self._repeats[index], "stamp": stamp,
                "overlay": self._named.get(index) or self._free_name(file.stem)}

    def draw(self, entry: dict[str, Any], picture: bytes) -> None:
        """Writes an overlay, by another name where the file system refuses that of the entry."""
        try:
            storage.write_bytes(storage.join(self._place, entry["overlay"]), picture)
        except OSError as error:
            stem = Path(entry["overlay"]).stem
            if error.errno != errno.EINVAL or not _REFUSED.search(stem):
                raise
            entry["overlay"] = self._free_name(_REFUSED.sub("_", stem))
            storage.write_bytes(storage.join(self._place, entry["overlay"]), picture)

    def add(self, index: int, entry: dict[str, Any]) -> None:
        """Adds an entry, once its overlay is written, with its `row` and `notes`, and with `zones` where zones are
        counted: persons by their names.
        """
        self._entries[index] = entry
        self._names.add(_key(entry["overlay"]))
        self._alike[_key(self.files[index].stem)] += 1
        if not self._begun:
            self._write_all()
        elif self.local:
            storage.append_line(self._journal, json.dumps(entry))
            storage.append_line(self._url, _csv([entry["row"]], head=False).removesuffix("\n"))
            if self._zones:
                lines = _csv(_zone_rows(entry), ZONE_COLUMNS, head=False).removesuffix("\n")
                storage.append_lines(self._zones, lines.split("\n"))
        elif len(self._entries) % ROWS_AT_ONCE == 0:
            self._write_all()

    def rows(self) -> list[dict[str, Any]]:
        """The rows in the order of the files."""
        return [entry["row"] for _, entry in self.counted()]

    def counted(self) -> list[tuple[int, dict[str, Any]]]:
        """The files that are counted, in their order: index and entry."""
        return sorted(self._entries.items())

    def notes(self) -> Iterator[str]:
        """Notes on all images."""
        return (note for entry in self._entries.values() for note in entry["notes"])

    def finish(self, *, whole: bool) -> None:
        """Publishes the table in order; `whole` removes the journal: the next count begins anew."""
        self._write_tables()
        self._begun = False
        if whole:
            storage.remove_file(self._journal)

    def __enter__(self) -> CountsTable:
        if self.local:
            if not self._folder.exists():
                self._alone.callback(self._remove_if_empty)
            with suppress(OSError, NotImplementedError):  # where a file system has no locks, or forbids them
                self._alone.enter_context(storage.exclusive(self._folder))
                self._alone.callback(storage.remove_file, self._folder / LOCK)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        with self._alone:
            if self._begun and not self.local:
                self._write_all()

    def _remove_if_empty(self) -> None:
        with suppress(OSError):
            self._folder.rmdir()

    def _free_name(self, stem: str) -> str:
        """`<stem>.png`, numbered if images of several folders have the same name; a long stem is cut."""
        if len(encoded := os.fsencode(stem)) > _MOST_NAME_BYTES:
            stem = encoded[:_MOST_NAME_BYTES].decode("utf-8", "ignore")
        number = self._alike[_key(stem)] + 1
        name = f"{stem}.png" if number == 1 else f"{stem}-{number}.png"
        while _key(name) in self._names or self._is_anothers(name):
            number += 1
            name = f"{stem}-{number}.png"
        return name

    def _is_anothers(self, name: str) -> bool:
        """True for a file that lies in the folder already, and that no count drew."""
        path = self._folder / name
        return self.local and os.path.lexists(path) and not is_drawn(path)

    def _write_all(self) -> None:
        entries = [self._entries[index] for index in sorted(self._entries)]
        lines = [json.dumps({"job": self.job}), *map(json.dumps, entries)]
        storage.write_bytes(self._journal, "".join(f"{line}\n" for line in lines).encode())
        self._write_tables()
        self._begun = True

    def _write_tables(self) -> None:
        storage.write_bytes(self._url, _csv(self.rows()).encode())
        if self._zones:
            rows = [row for _, entry in self.counted() for row in _zone_rows(entry)]
            storage.write_bytes(self._zones, _csv(rows, ZONE_COLUMNS).encode())

    def _resume(self) -> str:
        if not storage.exists(self._journal):
            return ""
        lines = [_parsed(line) for line in storage.read_bytes(self._journal).splitlines()]
        if not lines or lines[0].get("job") != self.job:
            return "an earlier count here was stopped that had other settings: all is counted anew"
        known = {(line["file"], line["repeat"]): line for line in lines[1:] if _is_entry(line)}
        drawn = set() if self.local else set(storage.list_files(self._place))
        for index, file in enumerate(self.files):
            entry = known.get((file.name, self._repeats[index]))
            try:
                if entry and entry["stamp"] == file.stamp():
                    if entry["overlay"] in drawn or (self.local and os.path.lexists(self._folder / entry["overlay"])):
                        self._entries[index] = entry
                    else:
                        self._named[index] = entry["overlay"]
            except OSError:
                continue
        return (f"going on: {len(self._entries)} of {len(self.files)} images were counted before the last count was "
                "stopped; --fresh counts them anew")


def _key(name: str) -> str:
    """The same for names that some file system takes for one, as most but Linux's do with capitals, and for those that
    `draw` would make one.
    """
    return unicodedata.normalize("NFC", _REFUSED.sub("_", name)).casefold()


def _parsed(line: bytes) -> dict[str, Any]:
    """A journal's line; {} for one that a killed process left unfinished."""
    try:
        return dict(json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return {}


def _zone_rows(entry: dict[str, Any]) -> list[dict[str, Any]]:
    whole = {name: entry["row"][name] for name in ("file", "count", "low", "high")} | {"zone": WHOLE}
    return [whole, *({"file": whole["file"], "zone": name, "count": count}
                     for name, count in entry.get("zones", {}).items())]


def _is_entry(line: dict[str, Any]) -> bool:
    """False for a line that a failing disk or another program changed."""
    return (line.keys() >= _ENTRY and all(isinstance(line[name], str) for name in ("file", "overlay"))
            and isinstance(line["repeat"], int)
            and isinstance(line["row"], dict) and line["row"].keys() == set(COLUMNS)
            and isinstance(line["row"]["file"], str) and isinstance(line.get("zones", {}), dict)
            and is_writable([line["row"], line["overlay"], line.get("zones", {})])
            and isinstance(line["notes"], list) and all(note in list(NOTES) for note in line["notes"]))


def _csv(rows: Sequence[dict[str, Any]], columns: Sequence[str] = COLUMNS, *, head: bool = True) -> str:
    table = io.StringIO()
    writer = csv.DictWriter(table, columns)
    if head:
        writer.writeheader()
    writer.writerows(rows)
    return table.getvalue()
