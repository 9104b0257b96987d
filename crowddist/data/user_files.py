"""The image files that a user names: paths, folders, patterns, and addresses in object storage and on the web."""

from __future__ import annotations

import difflib
import glob
import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import numpy as np

from crowddist import storage
from crowddist.data.images import SUFFIXES, read_image, read_image_bytes
from crowddist.data.walk import Found, find_images, none_found
from crowddist.errors import InputError
from crowddist.process.safe_text import readable, redacted
from crowddist.storage.http import fetch, is_http
from crowddist.storage.names import path_of_file_url


@dataclass(frozen=True, kw_only=True)
class UserFile:
    """An image file as its user names it."""

    name: str
    """Path or address, as in tables and messages."""
    root: str
    """The folder that was searched, or else the file's own: path or address."""
    address: str = field(default="", repr=False)
    """Of an image on the web: where it is fetched from, with the secrets that its name lacks."""

    @property
    def stem(self) -> str:
        """The file's name without its ending; of an address what stands before its query."""
        if not self.is_remote:
            return Path(self.name).stem
        parts = urlsplit(self.name)
        return PurePosixPath(parts.path).stem or parts.netloc

    @property
    def is_remote(self) -> bool:
        """True for object storage and the web."""
        return _is_remote(self.name)

    def lies_in(self, folder_url: str) -> bool:
        """True if the file lies directly in this folder, also where links lead to it."""
        if self.is_remote:
            return self.name.rpartition("/")[0] == folder_url
        return storage.is_local(folder_url) and (
            os.path.realpath(Path(self.name).parent) == os.path.realpath(storage.shown(folder_url)))

    def stamp(self) -> list[int | str]:
        """What changes with the file; of an image on the web, which only a fetch would tell, nothing. Raises OSError if
        there is no file.
        """
        if self.address:
            return []
        if self.is_remote:
            return [storage.local_file(self.name).name]  # named by the object's version
        facts = Path(self.name).stat()
        return [facts.st_size, facts.st_mtime_ns]

    def read(self, fetched: bytes | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
        """The pixels and notes of `read_image`. Raises InputError, naming the file.

        Args:
            fetched: the bytes of a file on the web, where they are here already.
        """
        if not self.is_remote:
            return read_image(self.name)
        if self.address:
            return read_image_bytes(fetch(self.address) if fetched is None else fetched, name=self.name)
        try:
            return read_image(storage.local_file(self.name), name=self.name)
        except FileNotFoundError:
            raise InputError(f"{self.name}: cannot be read: no such file") from None


def find_user_files(inputs: Sequence[str], *, skip_bad: bool = False,
                    say: Callable[[str], None] = print) -> list[UserFile]:
    """The images among files, folders and patterns, in the order given; folders' and patterns' sorted by name.

    What is on the web and in object storage is fetched when it is read. `say` is told what a folder holds beside
    images.

    Args:
        inputs: paths, also with ~; patterns of paths (`*`, `?`, `[...]`, `**`); file://, s3://, http:// and https://
            addresses. A file or folder that is called like a pattern is taken as it is.
        skip_bad: leave out, with a line, what cannot be read.

    Raises:
        InputError, FileNotFoundError: an input is missing, no image is among them, or (unless `skip_bad`) a picture
            is of a kind that is not read.
    """
    files: list[UserFile] = []
    searched: list[Found] = []

    def refuse(words: str) -> None:
        if not skip_bad:
            raise InputError(f"{words}; --skip-bad leaves such files out")
        say(readable(f"left out: {words}"))

    for given in inputs:
        if not given:  # as of a variable of the shell that is not set; a path would be the current folder
            raise InputError("an input is empty; give image files or folders")
        if is_http(given):
            files.append(_on_the_web(given))
        elif _is_remote(given):
            files += _objects(given, say)
        else:
            taken: dict[str, UserFile] = {}  # once, where a pattern also matches the folders of what it matches
            for path in _matches(given):
                if not path.is_dir():
                    taken.setdefault(str(path), UserFile(name=str(path), root=str(path.parent)))
                    continue
                searched.append(find_images(path))
                for bad, reason in searched[-1].refused:
                    refuse(f"{bad}: {reason}")
                for line in searched[-1].lines():
                    say(line)
                for image in searched[-1].images:
                    taken.setdefault(str(image), UserFile(name=str(image), root=str(path)))
            files += taken.values()
    if not files:
        raise none_found(searched, ", ".join(map(redacted, inputs)))
    alone = {file.name if file.is_remote else os.path.realpath(file.name) for file in files} if inputs[1:] else files
    if twice := len(files) - len(alone):
        say(f"{twice} of {len(files)} images are given, or linked to, more than once: each counts as often")
    return files


def label_names(files: Sequence[UserFile]) -> list[str]:
    """The files' names for labels that are put beside the images: relative to the folder that holds all that was
    given, with `/`; an address without its scheme.
    """
    roots = {os.path.abspath(file.root) for file in files if not file.is_remote}
    base = os.path.commonpath(roots) if roots else ""
    remote_roots = {file.root for file in files if file.is_remote}
    cut = f"{remote_roots.pop()}/" if len(remote_roots) == 1 and not roots else ""
    return [_relative(file.name.removeprefix(cut)) if file.is_remote
            else Path(os.path.relpath(file.name, base)).as_posix() for file in files]


def _relative(address: str) -> str:
    """An address as a relative path that leaves no folder."""
    place, mark, query = re.sub(r"^\w+://", "", address).partition("?")
    pieces = [piece for piece in place.split("/") if piece not in ("", ".", "..")]
    return "/".join(pieces) + mark + query.replace("/", "_")


def read_place(place: str | os.PathLike[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """The pixels and notes of `read_image` of one image file: a path, also with ~, or an address as of
    `find_user_files`. Raises InputError, naming it.
    """
    given = os.fspath(place)
    if not given:
        raise InputError("the path of the image is empty; give a file or an address")
    if is_http(given):
        return _on_the_web(given).read()
    if _is_remote(given):
        return UserFile(name=storage.normalise(given), root="").read()
    return read_image(_local(given))


def _is_remote(name: str) -> bool:
    return is_http(name) or name.lower().startswith("s3://")


def _local(given: str) -> Path:
    """The path that is meant; a file that is really called ~ goes first. An accent may be a character of its own in the
    file's name, as macOS writes it, and none in what is given, or the other way round.
    """
    name = str(path_of_file_url(given)) if given.lower().startswith("file:/") else given
    home = os.path.expanduser(name)
    names = (name, home, *(unicodedata.normalize(form, home) for form in ("NFC", "NFD")))
    return Path(next(filter(os.path.lexists, names), home))


def _matches(given: str) -> list[Path]:
    """The path, or those that a pattern matches. Raises FileNotFoundError where there are none."""
    path = _local(given)
    if path.exists():
        return [path]
    if (scheme := re.match(r"([a-z][a-z0-9+.-]*)://", given, re.IGNORECASE)) and scheme[1].lower() != "file":
        raise InputError(f"{readable(redacted(given))}: images are not read from {scheme[1]}:// addresses; give files, "
                         "or file://, s3:// or http(s):// addresses; crowddist video counts streams")
    # Folders may be called like patterns, too.
    folder = next((parent for parent in path.parents if os.path.isdir(parent)), Path())
    if glob.has_magic(pattern := str(path.relative_to(folder))):
        start = glob.escape(str(folder)) if folder.parts else ""
        if found := sorted(glob.glob(os.path.join(start, pattern), recursive=True)):
            return [Path(name) for name in found]
        raise FileNotFoundError(f"no file or folder matches {given}")
    if os.path.lexists(path):
        raise FileNotFoundError(f"{given} is a link that leads nowhere; give the file itself")
    near = difflib.get_close_matches(path.name, os.listdir(path.parent), 1, 0.85) if path.parent.is_dir() else []
    meant = f"; perhaps you meant {readable(str(path.with_name(near[0])))}" if near else ""
    raise FileNotFoundError(f"no file or folder at {given}{meant}")


def _objects(given: str, say: Callable[[str], None]) -> list[UserFile]:
    """The images of a folder in object storage, by their endings, or the one that is named."""
    url = storage.normalise(given)
    if not storage.is_folder(url):
        if not storage.exists(url):
            raise FileNotFoundError(f"no file or folder at {url}")
        return [UserFile(name=url, root=url.rpartition("/")[0])]
    names = storage.list_files(url)
    # Tables of earlier counts stand beside overlays, which are PNGs.
    ours = {name.rpartition("/")[0] for name in names if PurePosixPath(name).name == "counts.csv"}
    images = [name for name in names if PurePosixPath(name).suffix.lower() in SUFFIXES
              and not (name.rpartition("/")[0] in ours and name.lower().endswith(".png"))]
    if len(images) < len(names):
        say(readable(f"{url}: {len(images)} images, {len(names) - len(images)} other files"))
    return [UserFile(name=storage.join(url, name), root=url) for name in images]


def _on_the_web(url: str) -> UserFile:
    shown = redacted(url)
    return UserFile(name=shown, root=shown.rpartition("/")[0], address=url)
