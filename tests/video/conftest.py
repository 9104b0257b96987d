"""Small videos, and a real server of streams on this machine."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol, TypeVar

import cv2
import numpy as np
import pytest

from crowddist.data.safe_decode import quiet_opencv

SIZE = (72, 96)
FPS = 10
HOLD = "hold"
"""An action of a stream: it sends nothing more, and stays open until the test ends."""


def picture(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A frame whose brightness tells its number, up to 24."""
    return np.full((*size, 3), 10 + 10 * number, np.uint8)


def number_of(image: np.ndarray) -> int:
    return round((float(image.mean()) - 10) / 10)


def write_film(path: Path, count: int, *, fps: float = FPS, codec: str = "MJPG", size: tuple[int, int] = SIZE,
               draw: Callable[[int], np.ndarray] | None = None) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), fps, size[::-1])
    assert writer.isOpened()
    for number in range(count):
        writer.write(np.ascontiguousarray((draw(number) if draw else picture(number, size))[..., ::-1]))
    writer.release()
    return path


def retime(path: Path, times_ms: list[int]) -> Path:
    """Gives the frames of an MKV of 10 frames a second other times: a variable frame rate."""
    data = bytearray(path.read_bytes())
    places = []
    for number in range(len(times_ms)):  # a block of track 1: its time in ms within the cluster, and its flags
        place, again = (data.find(b"\x81" + struct.pack(">h", 100 * number) + b"\x80", start)
                        for start in (0, places[-1] + 1 if places else 0))
        places.append(again if again >= 0 else place)
    for place, time_ms in zip(places, times_ms, strict=True):
        data[place + 1 : place + 3] = struct.pack(">h", time_ms)
    path.write_bytes(data)
    return path


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 frames in 2 seconds."""
    return write_film(tmp_path_factory.mktemp("film") / "film.avi", 20)


class StreamServer(ThreadingHTTPServer):
    """Motion JPEG over HTTP, as cameras send it. The n-th connection follows the n-th list of `script`, the later ones
    the last: numbers of frames, and `HOLD`; then it ends. No lists left at all: it answers 503.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script: list[list[int | str]] = []
        self.files: dict[str, bytes] = {}
        self.num_connections = 0
        self.over = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/video"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that left is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: StreamServer

    def do_GET(self) -> None:
        if (data := self.server.files.get(self.path)) is not None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            return
        actions = self.server.script[min(self.server.num_connections, len(self.server.script) - 1)] if (
            self.server.script and self.path == "/video") else None
        self.server.num_connections += 1
        if actions is None:
            self.send_error(503)
            return
        if actions == [HOLD]:
            self.server.over.wait()
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for action in actions:
            if action == HOLD:
                self.server.over.wait()
                return
            data = cv2.imencode(".jpg", picture(int(action)))[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            self.wfile.write(head.encode() + data + b"\r\n")
            self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass


class HasEnd(Protocol):
    """A server whose handlers wait for its end."""

    over: threading.Event

    def serve_forever(self, poll_interval: float = ...) -> None: ...
    def shutdown(self) -> None: ...
    def server_close(self) -> None: ...


Server = TypeVar("Server", bound=HasEnd)


@contextmanager
def running(server: Server) -> Iterator[Server]:
    """The server, answering in the block."""
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def streams() -> Iterator[StreamServer]:
    with running(StreamServer()) as server:
        yield server


def together(*waiting: Callable[[], Any]) -> dict[str, Future[Any]]:
    """Calls functions that wait for streams at once, each in a thread; how they ended, by their names."""
    # Around all of them, as each gives back the words of OpenCV that it found.
    with quiet_opencv(), ThreadPoolExecutor(len(waiting)) as pool:
        return {each.__name__: pool.submit(each) for each in waiting}


@pytest.fixture
def films(tmp_path: Path) -> Callable[..., Path]:
    """Writes a video of so many frames into the test's folder, see `write_film`."""

    def make(name: str, count: int, **how: object) -> Path:
        return write_film(tmp_path / name, count, **how)  # type: ignore[arg-type]

    return make
