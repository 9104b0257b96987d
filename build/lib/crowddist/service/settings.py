"""What a service keeps to, and who may reach it."""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from crowddist.errors import InputError, require_positive

TOKEN = "CROWDDIST_TOKEN"
"""Environment variable: the token that requests must bring."""
SHORTEST_TOKEN = 16
"""ours: 16 random letters and digits hold 95 bits."""
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may take, and how many there may be."""

    max_megabytes: float = 32.0
    """Largest image file that is taken, in millions of bytes."""
    max_megapixels: float = 50.0
    """Largest image that is counted, in millions of pixels."""
    timeout: float = 60.0
    """Seconds from the begin of a request to its answer."""
    queue: int = 16
    """Most images that are received at a time, and likewise most that wait or are counted; more are told to come
    again."""
    batch: int = 8
    """Most images that go through the networks together."""

    def __post_init__(self) -> None:
        require_positive(max_megabytes=self.max_megabytes, max_megapixels=self.max_megapixels, timeout=self.timeout,
                         queue=self.queue, batch=self.batch)

    @property
    def max_bytes(self) -> int:
        return int(self.max_megabytes * 1e6)

    @property
    def max_pixels(self) -> int:
        return int(self.max_megapixels * 1e6)


def read_token(file: str) -> str:
    """The token in a file, or else in the environment; "": there is none. Raises InputError for one that is no token.

    Args:
        file: its path; "": none.
    """
    if not file:
        token, place = os.environ.get(TOKEN, ""), TOKEN
        if not token:
            return ""
    else:
        place = file
        try:
            token = Path(file).expanduser().read_text(encoding="ascii").strip()
        except OSError as error:
            raise InputError(f"{file}: the token cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            token = ""
    if len(token) < SHORTEST_TOKEN or not (token.isascii() and token.isprintable()) or " " in token:
        raise InputError(f"{place} holds no token of at least {SHORTEST_TOKEN} letters, digits and signs; make one "
                         "with: openssl rand -hex 32")
    return token


def bind(host: str, port: int, *, open_to_all: bool) -> socket.socket:
    """A socket that listens at an address; who connects waits until the service runs.

    Args:
        host: a name or an address of this machine.
        port: 0: any that is free.
        open_to_all: whether an address that other machines reach is right; False: loopback alone.

    Raises:
        InputError: this machine has no such address, the port is taken, or other machines would reach it.
    """
    if not 0 <= port <= 65535:
        raise InputError(f"--port must lie between 0 and 65535, got {port}")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", "") or error
        raise InputError(f"--host {host}: no address of this machine: {reason}") from None
    if not open_to_all and not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
        raise InputError(f"--host {host} lets other machines in, and no token is set; give --token-file FILE, or "
                         f"{TOKEN}, or --no-token if everybody who reaches the port may count")
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        # At once: until one of them listens, SO_REUSEADDR lets two services bind.
        bound.listen(1)
    except OSError as error:
        bound.close()
        raise InputError(f"{shown_host(host)}:{port} cannot be listened on: {error.strerror}; choose another --port "
                         "(0: any that is free)") from None
    return bound


def shown_host(host: str) -> str:
    """The host as addresses have it: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host
