"""Fetching from the web, from a real server on this machine: what comes, and every bound that stops it."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from crowddist.errors import InputError, TooLargeError
from crowddist.storage.http import AHEAD, fetch, fetch_in_turn, is_http

DATA = bytes(range(256)) * 40


class Site(BaseHTTPRequestHandler):
    """Answers by path."""

    asked: ClassVar[list[str]] = []
    users: ClassVar[list[str | None]] = []
    """What each request says of its user."""

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.users.append(self.headers["Authorization"])
        if self.path == "/silent":
            self.server.released.wait(20)  # type: ignore[attr-defined]
            return
        if self.path.startswith(("/to/", "/circle")):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        self.send_response(404 if self.path.partition("?")[0] == "/missing" else 200)
        if self.path != "/untold":
            self.send_header("Content-Length", str(len(DATA) + 9 * (self.path == "/broken")))
        self.end_headers()
        self.wfile.write(DATA)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.released = threading.Event()  # type: ignore[attr-defined]
    Site.asked.clear()
    Site.users.clear()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.released.set()  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()


def test_bytes_come_as_they_are_also_behind_a_redirection(site: str) -> None:
    for path in ("/a.jpg", "/untold", f"/to/{site}/a.jpg", "/to//a.jpg"):
        assert fetch(site + path) == DATA
    assert fetch(site + "/a b/ü%20.jpg?x=1&y=ä") == DATA
    assert Site.asked[-1] == "/a%20b/%C3%BC%20.jpg?x=1&y=%C3%A4"


@pytest.mark.parametrize(("path", "words"), [
    ("/missing", "the server answers 404 Not Found"),
    ("/broken", f"the connection broke after {len(DATA)} of {len(DATA) + 9} bytes; try again"),
    ("/to/ftp://127.0.0.1/a", "cannot be fetched: "),
    ("/to/file:///etc/passwd", "cannot be fetched: "),
])
def test_what_cannot_be_fetched_is_one_line(site: str, path: str, words: str) -> None:
    with pytest.raises(InputError) as refused:
        fetch(site + path)
    assert str(refused.value).startswith(f"{site}{path}: ") and words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_server_that_leads_in_circles_is_one_line(site: str) -> None:
    with pytest.raises(InputError, match=r"the server answers 302 .* infinite loop") as told:
        fetch(f"{site}/circle")
    assert "\n" not in str(told.value)


def test_a_redirection_is_followed_only_where_that_is_wanted(site: str) -> None:
    with pytest.raises(InputError, match="the server answers 302 Found"):
        fetch(f"{site}/to/{site}/a.jpg", redirections=False)
    assert Site.asked == [f"/to/{site}/a.jpg"]


def test_bytes_and_time_are_bounded(site: str) -> None:
    for path in ("/a.jpg", "/untold"):
        assert fetch(site + path, max_bytes=len(DATA)) == DATA
        with pytest.raises(TooLargeError, match="bytes"):
            fetch(site + path, max_bytes=len(DATA) - 1)
    with pytest.raises(InputError, match=r"takes longer than 0 s"):
        fetch(site + "/a.jpg", total_s=0.0)
    with pytest.raises(InputError, match="timed out"):
        fetch(site + "/silent", silence_s=0.2)


def test_no_message_holds_a_password(site: str) -> None:
    address = site.replace("http://", "http://user:SECRET@") + "/missing?token=SECRET"
    with pytest.raises(InputError) as refused:
        fetch(address)
    assert "SECRET" not in str(refused.value)


def test_a_user_and_a_password_go_to_their_host_alone(site: str) -> None:
    named = site.replace("http://", "http://me:p%40ss@")
    assert fetch(f"{named}/a.jpg") == fetch(f"{named}/to/{site}/b.jpg") == DATA
    mine = "Basic " + base64.b64encode(b"me:p@ss").decode()
    assert Site.users == [mine, mine, None]


def test_nobody_there_is_one_line() -> None:
    with pytest.raises(InputError, match=r"^http://127\.0\.0\.1:1/a: cannot be fetched: .*refused"):
        fetch("http://127.0.0.1:1/a")


def test_only_web_addresses_are_of_the_web() -> None:
    assert is_http("http://a/b") and is_http("HTTPS://a/b")
    assert not any(map(is_http, ("s3://a/b", "file:///a", "/a", "a", "https:/a")))


def test_files_come_in_turn_and_a_few_ahead(site: str) -> None:
    paths = [f"/{number}.jpg" for number in range(6)]
    paths[3] = "/missing"
    coming = fetch_in_turn(site + path for path in paths)
    assert Site.asked == [], "nothing is fetched before it is asked for"
    results = []
    for number, path in enumerate(paths):
        future = next(coming)
        if path == "/missing":
            with pytest.raises(InputError, match="404"):
                future.result()
        else:
            results.append(future.result())
        time.sleep(0.05)
        assert len(Site.asked) <= number + 1 + AHEAD, "what is ahead is bounded"
    assert results == [DATA] * 5 and sorted(Site.asked) == sorted(paths) and next(coming, None) is None
