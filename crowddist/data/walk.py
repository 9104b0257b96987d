"""The walker of users' folders: every file is taken as an image, refused by name, or counted."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from crowddist.data.file_kinds import ARCHIVES, HEAD_BYTES, OWN_TEXT, READ, is_unread_photograph, kind_of
from crowddist.data.images import SUFFIXES
from crowddist.errors import InputError
from crowddist.process.safe_text import readable
from crowddist.storage.names import LOCK, MARK, is_temporary

OURS, PREVIEWS, HIDDEN, UNFINISHED, BACKUPS, TWINS = (
    "written by crowddist", "previews or deleted files", "hidden", "unfinished downloads",
    "backups of files beside them", "not read, but beside an image of the same name")
"""Why files and folders are left out."""
COUNTS, COUNTS_JOURNAL = "counts.csv", ".counts.jsonl"
"""The table that a count writes beside its overlays, and its journal, see `reports.counts_table`."""
# Its first bytes now and in older versions, whose overlays do not say whose they are; other tables may be a user's.
_OLD_COUNTS_HEAD = b"file,count,uncertainty,points"
_COUNTS_HEADS = (b"file,count,low,high,uncertainty,points", _OLD_COUNTS_HEAD)
_PREVIEW_FOLDERS = frozenset(("@eadir", "#recycle", "@recycle", "@__thumb", "__macosx", "$recycle.bin", "recycler",
                              "recycled", "system volume information", "lost+found", "lost.dir", "found.000",
                              "_thumb", "_thumbs", "thumb", "thumbs", "thumbnail", "thumbnails", "thmbnl",
                              "#snapshot", "~snapshot", "@recently-snapshot", "trash", "network trash folder",
                              "files_trashbin", "files_versions"))
# Of cameras, of GDAL (smaller copies and masks beside a TIFF or JPEG), of Capture One.
_PREVIEW_ENDINGS = frozenset((".thm", ".ctg", ".scr", ".ovr", ".msk", ".cop"))
# Parent/folder, of Photos, iPhoto and Aperture, Nextcloud, Lightroom, and of Samba's snapshots.
_PREVIEW_PLACES = re.compile(r".*\.photoslibrary/(?:resources|private)|.*\.(?:photo|ap)library/previews"
                             r"|appdata_.*/preview|[^/]*/(?:.*\.lrdata|@gmt-.*)", re.DOTALL)
_UNFINISHED_ENDINGS = frozenset((".part", ".partial", ".filepart", ".crdownload", ".opdownload", ".download", ".tmp",
                                 ".icloud"))
_BACKUP_ENDINGS = ("_original", "~", ".bak", ".orig")
_SYSTEM_FILES = frozenset(("thumbs.db", "ehthumbs.db", "desktop.ini", ".ds_store", LOCK, MARK, COUNTS_JOURNAL))
# Where MLflow keeps pictures of runs: beside its database, or by its own default.
_TRACKING_FOLDERS = frozenset(("mlflow-artifacts", "mlruns", "mlartifacts"))
_MOST_NAMES = 5
"""Names in a line; the others are counted."""


@dataclass(kw_only=True)
class Found:
    """What a folder holds."""

    root: Path
    images: list[Path] = field(default_factory=list)
    """Sorted."""
    refused: list[tuple[Path, str]] = field(default_factory=list)
    """Photographs that are not read and places that cannot be, sorted, each with the reason."""
    others: Counter[str] = field(default_factory=Counter)
    """Kind, or ending, of files that are no images -> their number."""
    left_out: dict[str, set[Path]] = field(default_factory=dict)
    """Reason -> files and whole folders."""

    def lines(self) -> list[str]:
        """What of it a user should know: images by folder where there are several, and what is not among them."""
        folders = Counter(path.parent.relative_to(self.root).as_posix() for path in self.images)
        lines = []
        if len(folders) > 1:
            parts = [f"{number} {'directly in it' if name == '.' else f'in {readable(name)}'}"
                     for name, number in sorted(folders.items())]
            lines.append(f"{len(self.images)} images: {_enumerated(parts)}")
        if self.others:
            parts = [f"{number} {readable(kind)}" for kind, number in self.others.most_common()]
            packed = "" if ARCHIVES.isdisjoint(self.others) else "; archives are not opened, unpack those of images"
            lines.append(f"{self.others.total()} other files: {_enumerated(parts)}{packed}")
        for reason, paths in sorted(self.left_out.items()):
            names = ["files directly in it" if path == self.root else readable(path.relative_to(self.root).as_posix())
                     for path in sorted(paths)]
            lines.append(f"left out, {reason}: {_enumerated(names)}")
        return [f"{readable(self.root.name) or self.root}: {line}" for line in lines]

    def nothing(self) -> str:
        """Where the images may be, for a message that there are none; "" if the folder is empty."""
        return "".join(f"; {line}" for line in self.lines())

    def leave_out(self, path: Path, reason: str) -> None:
        self.left_out.setdefault(reason, set()).add(path)


def find_images(folder: str | os.PathLike[str]) -> Found:
    """Walks a folder. A file is an image by its content, or by an ending of `SUFFIXES` if its content is damaged.

    Leaves out what crowddist wrote (folders of runs and data sets, overlays, charts), previews, deleted files and
    snapshots of systems, hidden ones, unfinished downloads, backups of files beside them, and photographs that are not
    read but exist as an image of the same name too (raw twins). Follows each link to a folder once; refuses a link to a
    folder that is read already. Raises FileNotFoundError if there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"no folder at {root}; give one that holds images")
    found = Found(root=root)
    read: set[str] = set()

    def report(error: OSError) -> None:
        found.refused.append((Path(error.filename), f"cannot be read: {error.strerror}"))

    links = [root]
    while links:
        start = links.pop(0)
        real = Path(os.path.realpath(start))
        if start != root and (str(real) in read or real in root.resolve().parents):
            found.refused.append((start, "a link that leads back to a folder that is read already"))
            continue
        for place, folders, files in os.walk(start, onerror=report):
            read.add(os.path.realpath(place))
            kept = [path for path in (Path(place, name) for name in sorted(folders)) if _is_walked(path, found)]
            links += [path for path in kept if os.path.islink(path)]
            folders[:] = [path.name for path in kept if not os.path.islink(path) and os.path.realpath(path) not in read]
            table = _head(Path(place, COUNTS), HEAD_BYTES) if COUNTS in files else b""
            beside = set(files)
            for name in files:
                if any(name.removesuffix(ending) in beside for ending in _BACKUP_ENDINGS if name.endswith(ending)):
                    found.leave_out(Path(place, name), BACKUPS)
                else:
                    _sort_in(Path(place, name), found, table)
    found.images.sort()
    _leave_out_twins(found)
    found.refused.sort()
    return found


def _leave_out_twins(found: Found) -> None:
    """Photographs that are not read and also exist as an image, as cameras write raw ones."""
    taken = {path.with_suffix("") for path in found.images}
    twins = {path for path, _ in found.refused if os.path.isfile(path) and path.with_suffix("") in taken}
    for path in twins:
        found.leave_out(path, TWINS)
    found.refused = [entry for entry in found.refused if entry[0] not in twins]


def _is_walked(folder: Path, found: Found) -> bool:
    name = folder.name.lower()
    reason = HIDDEN if name.startswith(".") else PREVIEWS if is_preview(folder) else OURS if is_ours(folder) else ""
    if reason and not is_temporary(name):
        found.leave_out(folder, reason)
    return not reason


def is_preview(folder: Path) -> bool:
    """True for a folder that systems fill with previews, deleted files or snapshots."""
    name = folder.name.lower()
    return name in _PREVIEW_FOLDERS or bool(_PREVIEW_PLACES.fullmatch(f"{folder.parent.name.lower()}/{name}"))


def is_ours(folder: Path) -> bool:
    """True for a folder that crowddist fills: marked, a run's (also of older versions), a data set's, or MLflow's."""
    return (folder.name in _TRACKING_FOLDERS or os.path.isfile(folder / MARK)
            or b'"bi_knowledge"' in _head(folder / "config.json", 8192)
            or b'"crowddist data set"' in _head(folder / "manifest.json", 8192))


def is_counts_table(path: Path) -> bool:
    """True for a table that a count wrote, also one of an older version."""
    return _head(path, HEAD_BYTES).startswith(_COUNTS_HEADS)


def is_drawn(path: Path) -> bool:
    """True for a PNG that says crowddist drew it."""
    return OWN_TEXT in _head(path, HEAD_BYTES)


def _sort_in(path: Path, found: Found, table: bytes) -> None:
    """Puts a file where it belongs; `table`: the first bytes of the table of counts beside it, if there is one."""
    counted = table.startswith(_COUNTS_HEADS)
    name, ending = path.name.lower(), path.suffix.lower()
    if name in _SYSTEM_FILES or is_temporary(path.name):
        return
    if ending in _UNFINISHED_ENDINGS:  # also hidden ones, as of photographs that are still in a cloud
        found.leave_out(path, UNFINISHED)
    elif name.startswith("."):
        found.leave_out(path, HIDDEN)
    elif counted and (name in (COUNTS, "zones.csv") or name.startswith("points.")):
        found.leave_out(path.parent, OURS)
    elif ending in _PREVIEW_ENDINGS:
        found.leave_out(path, PREVIEWS)
    elif ending in SUFFIXES and ending != ".png":
        found.images.append(path)
    else:
        head = _head(path, HEAD_BYTES)
        kind = kind_of(head, path)
        if kind == "PNG" and (OWN_TEXT in head or table.startswith(_OLD_COUNTS_HEAD)):
            found.leave_out(path.parent if counted else path, OURS)
        elif ending in SUFFIXES or kind in READ:
            found.images.append(path)
        elif is_unread_photograph(kind):
            found.refused.append((path, f"{kind} images are not read; save it as JPEG"))
        else:
            found.others[kind or ending[1:].upper() or "without an ending"] += 1


def _head(path: Path, num_bytes: int) -> bytes:
    """The first bytes of a file; none of what is no file, e.g. a pipe, or cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return b""
        with open(path, "rb") as stream:
            return stream.read(num_bytes)
    except OSError:
        return b""


def _enumerated(parts: list[str]) -> str:
    shown = ", ".join(parts[:_MOST_NAMES])
    return shown + (f" and {len(parts) - _MOST_NAMES} more" if len(parts) > _MOST_NAMES else "")


def none_found(found: list[Found], inputs: str) -> InputError:
    """The error of inputs without any image, which says what they hold instead."""
    return InputError(f"no images in {inputs}{''.join(each.nothing() for each in found)}; give image files or folders "
                      "that hold some")
