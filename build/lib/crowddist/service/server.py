"""Runs an app on a bound socket until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
import socket
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from fastapi import FastAPI

HEADERS_S = 20.0
"""ours: seconds that a request's headers may take; uvicorn would wait for ever."""
CONNECTIONS = 512
"""ours: most connections; each takes a file of the process, of which there are often 1,024."""


class _Protocol(H11Protocol):
    """Closes connections whose next request does not come to the end of its headers in time."""

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_watching()

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_watching()
        elif self._waiting is None and not self.transport.is_closing():
            self._waiting = self.loop.call_later(HEADERS_S, self.transport.close)

    def _stop_watching(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


def make_server(app: FastAPI, *, timeout_s: float) -> uvicorn.Server:
    """A server whose `run(sockets=[...])` serves an app; outside the main thread `should_exit` stops it.

    Args:
        timeout_s: longest time of a request: when it stops, requests that run have as long to end.
    """
    # Without a configuration of logs uvicorn's warnings and errors go where all others go, and the rest nowhere.
    return uvicorn.Server(uvicorn.Config(
        app, loop="asyncio", http=_Protocol, ws="none", lifespan="off", log_config=None, access_log=False,
        server_header=False, proxy_headers=False, limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=int(timeout_s) + 5))


def run(app: FastAPI, bound: socket.socket, *, timeout_s: float) -> None:
    """Serves until SIGINT or SIGTERM, lets the requests that run end, and returns. A second SIGINT cuts them off.

    Args:
        bound: of `settings.bind`; is closed.
        timeout_s: as of `make_server`.
    """
    # uvicorn handles both itself, and raises them again at its end; there they must end nothing.
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        make_server(app, timeout_s=timeout_s).run(sockets=[bound])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
