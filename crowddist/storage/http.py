"""Fetches a small file from the web, within bounds of bytes and of time; only what a user names is ever fetched."""

from __future__ import annotations

import base64
import http.client
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from itertools import islice
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    UnknownHandler,
)

import crowddist
from crowddist.errors import InputError, TooLargeError
from crowddist.process.safe_text import redacted

MAX_BYTES = 128 * 2**20
"""ours: an image of 200 megapixels has less."""
SILENCE_S, TOTAL_S = 20.0, 120.0
"""ours: how long a server may be silent, and how long a file may take in all."""
AHEAD = 2
"""ours: files that are fetched before their turn: enough to hide a server's delay, and bounded in memory."""
_CHUNK_BYTES = 2**18


def is_http(place: str) -> bool:
    """True for http:// and https:// addresses."""
    return place.lower().startswith(("http://", "https://"))


def fetch(url: str, *, max_bytes: int = MAX_BYTES, silence_s: float = SILENCE_S, total_s: float = TOTAL_S,
          redirections: bool = True) -> bytes:
    """The bytes at an http(s):// address, also with a user and a password (basic authentication); follows redirections,
    to such addresses alone, or on request none.

    Raises InputError, with the address without its secrets, if nothing can be fetched, or too slowly; TooLargeError if
    there is too much.
    """
    ends, shown = time.monotonic() + total_s, redacted(url)
    try:
        request = _request(url)
        with _opener(redirections).open(request, timeout=silence_s) as answer:
            told = answer.headers.get("Content-Length", "")
            if told.isdecimal() and int(told) > max_bytes:
                raise TooLargeError(f"{shown}: {told} bytes, at most {max_bytes} are fetched; download it yourself")
            data = bytearray()
            while chunk := answer.read1(_CHUNK_BYTES):
                data += chunk
                if len(data) > max_bytes:
                    raise TooLargeError(f"{shown}: more than {max_bytes} bytes; download it yourself")
                if time.monotonic() > ends:
                    raise InputError(f"{shown}: takes longer than {total_s:g} s; download it yourself")
    except urllib.error.HTTPError as error:
        raise InputError(f"{shown}: cannot be fetched: the server answers {error.code} "
                         f"{_in_one_line(error.reason)}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "reason", error)
        raise InputError(f"{shown}: cannot be fetched: {_in_one_line(reason) or type(reason).__name__}") from None
    if told.isdecimal() and len(data) < int(told):
        raise InputError(f"{shown}: the connection broke after {len(data)} of {told} bytes; try again")
    return bytes(data)


def _in_one_line(reason: object) -> str:
    """What a server or a library says, without secrets."""
    return redacted(" ".join(str(reason).split()))


def fetch_in_turn(urls: Iterable[str]) -> Iterator[Future[bytes]]:
    """What `fetch` gives or raises for each address, in their order; the next `AHEAD` are fetched meanwhile.

    The threads are daemons: a process that is stopped does not wait for a slow server.
    """
    rest, coming = iter(urls), deque[Future[bytes]]()

    def begin(number: int) -> None:
        for url in islice(rest, number):
            coming.append(Future())
            threading.Thread(target=_fetch_into, args=(coming[-1], url), name="fetch", daemon=True).start()

    begin(AHEAD)
    while coming:
        begin(1)
        yield coming.popleft()


def _fetch_into(future: Future[bytes], url: str) -> None:
    try:
        future.set_result(fetch(url))
    except BaseException as error:  # raised where the result is asked for
        future.set_exception(error)


def _request(url: str) -> urllib.request.Request:
    """A request whose user and password, of an address like http://user:password@camera/, go to that host alone."""
    # Spaces and letters beyond ASCII are escaped; what is escaped already stays.
    parts = urllib.parse.urlsplit(urllib.parse.quote(url, safe="%/:?#[]@!$&'()*+,;=~"))
    user, sign, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(urllib.parse.urlunsplit(parts._replace(netloc=host)),
                                     headers={"User-Agent": f"crowddist/{crowddist.__version__}"})
    if sign:
        token = base64.b64encode(urllib.parse.unquote(user).encode(errors="surrogateescape")).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    return request


def _opener(redirections: bool) -> OpenerDirector:
    """urllib's own opener would also read ftp:// and the files of this machine, where a server leads it there."""
    opener = OpenerDirector()
    for handler in (ProxyHandler(), HTTPHandler(), HTTPSHandler(), HTTPDefaultErrorHandler(), HTTPErrorProcessor(),
                    UnknownHandler()):
        opener.add_handler(handler)
    if redirections:
        opener.add_handler(HTTPRedirectHandler())
    return opener
