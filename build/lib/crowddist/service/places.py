"""The places that a service fetches images from where a request names one: those that its owner allows, no others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from crowddist import storage
from crowddist.errors import InputError, TooLargeError
from crowddist.process.safe_text import redacted
from crowddist.storage.http import fetch, is_http
from crowddist.storage.names import path_of_file_url

_PORTS = {"http": 80, "https": 443}
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\]")
"""Characters that readers of addresses drop, or take for others."""


class NotAllowedError(Exception):
    """An address outside the allowed places. It does not say which those are."""


@dataclass(frozen=True)
class _Web:
    """An address of the web."""

    scheme: str
    host: str
    port: int
    path: str
    query: str

    @classmethod
    def parse(cls, url: str) -> _Web:
        """Raises InputError for what is no plain address: names and passwords, `..`, and hidden slashes are none."""
        try:
            parts = urlsplit(url)
            port = parts.port or _PORTS[parts.scheme.lower()]
        except (ValueError, KeyError):
            raise InputError(f"not an address of the web: {redacted(url)[:200]!r}") from None
        pieces = unquote(parts.path).split("/")
        if (not parts.hostname or "@" in parts.netloc or _UNSAFE.search(url) or _UNSAFE.search(unquote(parts.path))
                or {".", ".."} & set(pieces) or len(pieces) != len(parts.path.split("/"))):
            raise InputError(f"not a plain address of the web: {redacted(url)[:200]!r}; write https://host/folder/file")
        return cls(parts.scheme.lower(), parts.hostname, port, parts.path or "/", parts.query)

    def lies_in(self, place: _Web) -> bool:
        """Whether this is `place`, or in it as a folder."""
        return ((self.scheme, self.host, self.port) == (place.scheme, place.host, place.port)
                and (self.path == place.path or self.path.startswith(place.path.rstrip("/") + "/")))

    @property
    def url(self) -> str:
        """Made anew, so that what is fetched is what was checked."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}" + (f"?{self.query}" if self.query else "")


class AllowedPlaces:
    """The places that images are fetched from.

    Args:
        prefixes: folders or files: https://host/folder/, s3://bucket/folder/, file:///folder/ or a path.

    Raises:
        InputError: one is none of these.
    """

    def __init__(self, prefixes: Sequence[str]) -> None:
        self._web = [_Web.parse(prefix) for prefix in prefixes if is_http(prefix)]
        others = [storage.normalise(prefix) for prefix in prefixes if not is_http(prefix)]
        self._objects = [url for url in others if not storage.is_local(url)]
        self._folders = [path_of_file_url(url).resolve() for url in others if storage.is_local(url)]

    def read(self, url: str, *, max_bytes: int, total_s: float) -> bytes:
        """The bytes of a file at an http(s)://, s3:// or file:// address in one of the places. Redirections are not
        followed, and neither are links that leave the places.

        Raises:
            NotAllowedError: it lies in none of them.
            FileNotFoundError: there is no such file.
            TooLargeError: it has more bytes.
            InputError, OSError: the address is none, or it cannot be read.
        """
        if is_http(url):
            asked = _Web.parse(url)
            if not any(asked.lies_in(place) for place in self._web):
                raise NotAllowedError
            return fetch(asked.url, max_bytes=max_bytes, total_s=total_s, silence_s=min(total_s, 20.0),
                         redirections=False)
        if not re.match(r"(s3|file):/", url, re.IGNORECASE):
            raise InputError(f"not an address of an image: {redacted(url)[:200]!r}; give http://, https://, s3:// or "
                             "file:///")
        where = storage.normalise(url)
        if not (self._holds_path(path_of_file_url(where).resolve()) if storage.is_local(where)
                else self._holds_object(where)):
            raise NotAllowedError
        if (size := storage.num_bytes(where)) > max_bytes:
            raise TooLargeError(f"{redacted(url)}: {size} bytes; at most {max_bytes} are taken")
        return storage.read_bytes(where)

    def _holds_path(self, path: Path) -> bool:
        return any(path.is_relative_to(folder) for folder in self._folders)

    def _holds_object(self, url: str) -> bool:
        return any(url == place or url.startswith(f"{place}/") for place in self._objects)
