"""Services for tests: a real uvicorn on loopback, in a thread of the test's process."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from crowddist.data.safe_decode import encode_png
from crowddist.inference.predictor import ImagePrediction, Predictor
from crowddist.service.app import make_app
from crowddist.service.places import AllowedPlaces
from crowddist.service.server import make_server
from crowddist.service.service import Service
from crowddist.service.settings import Limits, bind

TOKEN = "a-token-of-the-tests"
PNG = {"Content-Type": "image/png"}


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The line of a refusal."""
        told = self.json()
        assert told.keys() == {"error"} and "\n" not in told["error"] and told["error"]
        return told["error"]


def noise(seed: int = 0, size: tuple[int, int] = (72, 96)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)


def png(seed: int = 0, size: tuple[int, int] = (72, 96)) -> bytes:
    return encode_png(noise(seed, size))


class Running:
    """A service that runs."""

    def __init__(self, service: Service, url: str, token: str) -> None:
        self.service, self.url, self.token = service, url, token
        self.address = (str(urlsplit(url).hostname), int(urlsplit(url).port or 0))

    def ask(self, path: str, body: Any = None, headers: Mapping[str, str] | None = None, *, method: str = "") -> Answer:
        """The answer to a request, with the token unless the headers have another."""
        mine = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        connection = http.client.HTTPConnection(*self.address, timeout=60)
        try:
            connection.request(method or ("GET" if body is None else "POST"), path, body, {**mine, **(headers or {})})
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def metric(self, name: str) -> float:
        """The sum of a figure's samples."""
        lines = self.ask("/metrics").body.decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))

    def settled(self, name: str, at_least: float) -> float:
        """The same once it has reached a value, or after 10 s: the service adds to its figures after it has answered,
        so that an answer may be here before them.
        """
        ends = time.monotonic() + 10
        while (value := self.metric(name)) < at_least and time.monotonic() < ends:
            time.sleep(0.02)
        return value


class Gate(Predictor):
    """A counter that waits before each batch until it is let go on."""

    def __init__(self, counter: Predictor) -> None:
        self.__dict__ = dict(counter.__dict__)
        self.open, self.reached = threading.Event(), threading.Event()

    def predict_views(self, images: Any, scales: Any = None) -> Iterator[ImagePrediction]:
        self.reached.set()
        assert self.open.wait(60)
        return super().predict_views(images, scales)


@contextmanager
def running(counter: Predictor, *, token: str = "", hosts: tuple[str, ...] = (), allow: tuple[str, ...] = (),
            zones: Any = None, **limits: Any) -> Iterator[Running]:
    """A service during the block."""
    bound = bind("127.0.0.1", 0, open_to_all=False)
    url = f"http://127.0.0.1:{bound.getsockname()[1]}"
    service = Service(counter, limits=Limits(**limits), places=AllowedPlaces(allow), zones=zones)
    server = make_server(make_app(service, token=token, hosts=hosts), timeout_s=service.limits.timeout)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        yield Running(service, url, token)
    finally:
        server.should_exit = True
        thread.join(30)
        service.close()
    assert not thread.is_alive() and not service.queue.alive


Start = Callable[..., Any]


@pytest.fixture(scope="session")
def counter(tiny_checkpoint: str) -> Predictor:
    return Predictor.from_checkpoint(tiny_checkpoint)


@pytest.fixture
def half_sent() -> Iterator[Callable[..., socket.socket]]:
    """Sends bytes to a service and leaves the connection open; it is closed at the test's end."""
    opened: list[socket.socket] = []

    def send(to: Running, data: bytes) -> socket.socket:
        opened.append(socket.create_connection(to.address, timeout=30))
        opened[-1].sendall(data)
        return opened[-1]

    yield send
    for each in opened:
        each.close()


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """A folder with images, and what is none, beside a secret."""
    folder = tmp_path / "frames"
    folder.mkdir()
    (folder / "1.png").write_bytes(png())
    (folder / "empty.png").touch()
    (folder / "large.png").write_bytes(png(size=(500, 800)))
    (tmp_path / "secret.png").write_bytes(png(1))
    (folder / "out.png").symlink_to(tmp_path / "secret.png")
    return folder
