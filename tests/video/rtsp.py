"""A small RTSP server on this machine: motion JPEG by RTP (RFC 2326, RFC 2435) within its TCP connection."""

from __future__ import annotations

import base64
import socketserver
import struct
import threading
import time
from collections.abc import Iterator

import cv2
import pytest

from tests.video.conftest import HOLD, SIZE, picture, running

RATE = 90_000
"""Ticks of RTP's clock a second."""


class RtspServer(socketserver.ThreadingTCPServer):
    """The n-th connection that plays follows the n-th list of `script`, the later ones the last: numbers of frames, and
    `HOLD`; then it ends. No lists left at all: it answers 503.
    """

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script: list[list[int | str]] = []
        self.login = ""
        """user:password that it asks for; "": none."""
        self.num_plays = 0
        self.fps = 75.0
        self.over = threading.Event()

    def address(self, login: str = "") -> str:
        return f"rtsp://{login}{'@' * bool(login)}127.0.0.1:{self.server_address[1]}/street"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that left is no news."""


class _Handler(socketserver.StreamRequestHandler):
    server: RtspServer

    def handle(self) -> None:
        while (first := self.rfile.readline().decode().split()):
            fields: dict[str, str] = {}
            while (line := self.rfile.readline().decode().strip()):
                name, _, value = line.partition(":")
                fields[name.lower()] = value.strip()
            if self.answer(first[0], fields):
                self.play()
                return

    def answer(self, method: str, fields: dict[str, str]) -> bool:
        """Answers a request; True where the stream begins."""
        status, more, body = "200 OK", "", b""
        wanted = f"Basic {base64.b64encode(self.server.login.encode()).decode()}"
        if self.server.login and method != "OPTIONS" and fields.get("authorization") != wanted:
            status, more = "401 Unauthorized", 'WWW-Authenticate: Basic realm="camera"\r\n'
        elif method == "OPTIONS":
            more = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
        elif not self.server.script:
            status = "503 Service Unavailable"
        elif method == "DESCRIBE":
            body = (b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=street\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
                    b"m=video 0 RTP/AVP 26\r\na=control:video\r\n")
            more = "Content-Type: application/sdp\r\n"
        elif method == "SETUP" and "TCP" not in fields["transport"]:
            status = "461 Unsupported Transport"
        elif method == "SETUP":
            more = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
        self.wfile.write(f"RTSP/1.0 {status}\r\nCSeq: {fields.get('cseq', '')}\r\n{more}"
                         f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        return method == "PLAY" and status == "200 OK"

    def play(self) -> None:
        actions = self.server.script[min(self.server.num_plays, len(self.server.script) - 1)]
        self.server.num_plays += 1
        for number, action in enumerate(actions):
            if action == HOLD:
                self.server.over.wait()
                return
            payload = _jpeg_payload(int(action))
            ticks = int(number * RATE / self.server.fps)
            packet = struct.pack(">BBHII", 0x80, 0x80 | 26, number & 0xFFFF, ticks, 1) + payload
            self.wfile.write(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
            self.wfile.flush()
            time.sleep(1 / self.server.fps)


def _jpeg_payload(number: int) -> bytes:
    """The frame of a number as one packet of RFC 2435: its header, the tables of quantisation, the scan."""
    data = cv2.imencode(".jpg", picture(number))[1].tobytes()
    tables, place = b"", 2
    while data[place + 1] != 0xDA:
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        if data[place + 1] == 0xDB:
            segment = data[place + 4 : place + 2 + length]
            tables += b"".join(segment[start + 1 : start + 65] for start in range(0, len(segment), 65))
        place += 2 + length
    scan = data[place + 2 + int.from_bytes(data[place + 2 : place + 4], "big") : -2]
    # Type 1: chroma halved both ways, OpenCV's choice; Q 255: the tables come with each frame.
    head = struct.pack(">I", 0) + bytes([1, 255, SIZE[1] // 8, SIZE[0] // 8])
    return head + struct.pack(">BBH", 0, 0, len(tables)) + tables + scan


@pytest.fixture
def camera() -> Iterator[RtspServer]:
    with running(RtspServer()) as server:
        yield server
