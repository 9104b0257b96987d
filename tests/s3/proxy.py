"""A proxy before an object store that fails as networks and stores do: connections reset, bodies cut short, bursts of
503, a slow link.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Literal

Fault = Literal["none", "reset", "truncate", "busy", "slow", "expired", "all"]
TURNS: tuple[Fault, ...] = ("reset", "truncate", "busy", "slow")
TURN_REQUESTS = 8
SLOW_BYTES_PER_S = 4 * 2**20
PATIENT = b"HTTP/1.1 100 Continue\r\n\r\n"
BUSY = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
EXPIRED_BODY = (b"<?xml version='1.0'?><Error><Code>ExpiredToken</Code><Message>The provided token has "
                b"expired.</Message></Error>")
EXPIRED = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/xml\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(EXPIRED_BODY) + EXPIRED_BODY
)


class Proxy:
    """Listens on loopback in a thread of its own; `fault` may be changed at any time.

    reset: every second answer to a GET is cut in its middle by a reset. truncate: likewise by an orderly end, though
    more was promised. busy: bursts of 503, four of every ten requests. slow: some MiB/s. expired: every request is
    refused as with an old token. all: the first four by turns, for so many requests each.
    """

    def __init__(self, upstream: tuple[str, int]) -> None:
        self.upstream, self.fault = upstream, "none"
        self.num_requests = self.num_faults = 0
        self._num_gets = 0
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="proxy", daemon=True)
        self._thread.start()
        assert ready.wait(10)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _end(self) -> None:
        """Nothing is left under way when the loop stops."""
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ready.set()
        self._loop.run_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request a connection."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            headers = {name.strip().lower(): value.strip()
                       for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])}
            if headers.get(b"expect"):
                writer.write(PATIENT)
            body = await reader.readexactly(int(headers.get(b"content-length", 0)))
            self.num_requests += 1
            await self._answer(head, body, writer)
            await writer.drain()
            writer.close()
        except (OSError, asyncio.IncompleteReadError):
            writer.close()

    async def _answer(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        fault = TURNS[self.num_requests // TURN_REQUESTS % len(TURNS)] if self.fault == "all" else self.fault
        if fault == "expired" or (fault == "busy" and self.num_requests % 10 < 4):
            self.num_faults += 1
            writer.write(EXPIRED if fault == "expired" else BUSY)
            return
        lines = [line for line in head.split(b"\r\n") if line
                 and not line.lower().startswith((b"expect:", b"connection:"))]
        reader, upstream = await asyncio.open_connection(*self.upstream)
        upstream.write(b"\r\n".join([*lines, b"Connection: close", b"", b""]) + body)
        answer = await reader.read(-1)
        upstream.close()
        self._num_gets += head.startswith(b"GET")
        faulty = head.startswith(b"GET") and self._num_gets % 2
        if fault in ("reset", "truncate") and faulty:
            self.num_faults += 1
            start = answer.find(b"\r\n\r\n") + 4
            writer.write(answer[: start + (len(answer) - start) // 2])
            await writer.drain()
            if fault == "reset":
                writer.transport.abort()
        elif fault == "slow":
            for first in range(0, len(answer), SLOW_BYTES_PER_S // 50):
                writer.write(answer[first : first + SLOW_BYTES_PER_S // 50])
                await writer.drain()
                await asyncio.sleep(1 / 50)
        else:
            writer.write(answer)
