"""The page in a real browser: an image is dropped, and the overlay, the count, the interval and the zones come back."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crowddist.data.zones.files import make_zones
from crowddist.inference.intervals import Calibration, Intervals
from crowddist.inference.predictor import Predictor
from tests.service.conftest import PNG, TOKEN, Running, png, running

CHROMIUM = shutil.which("chromium") or ""
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason="needs chromium")]


class Browser:
    """Chromium without a window, by its DevTools protocol over two pipes: messages of JSON that end with a zero."""

    def __init__(self, profile: Path) -> None:
        commands, self._to = os.pipe()
        self._from, answers = os.pipe()

        def take_pipes() -> None:  # Chromium reads its commands from 3 and writes to 4
            for source, target in ((os.dup(commands), 3), (os.dup(answers), 4)):
                os.dup2(source, target)

        self._process = subprocess.Popen(
            [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, close_fds=False, preexec_fn=take_pipes)
        os.close(commands)
        os.close(answers)
        self._number, self._rest, self._session = 0, b"", ""
        self.events: list[dict[str, Any]] = []
        (page,) = [each for each in self.call("Target.getTargets")["targetInfos"] if each["type"] == "page"]
        self._session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command; events that come before it are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        os.write(self._to, json.dumps(message | ({"sessionId": self._session} if self._session else {})).encode()
                 + b"\0")
        while True:
            while b"\0" not in self._rest:
                part = os.read(self._from, 2**20)
                assert part, "the browser has ended"
                self._rest += part
            line, _, self._rest = self._rest.partition(b"\0")
            told = json.loads(line)
            if told.get("id") == self._number:
                assert "error" not in told, told
                return told["result"]
            self.events.append(told)

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript gives on the page."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def wait(self, expression: str) -> None:
        """Waits until an expression is true."""
        ends = time.monotonic() + 60
        while not self.value(expression):
            assert time.monotonic() < ends, (expression, self.value("document.body.innerText"))
            time.sleep(0.05)

    def drop(self, *files: Path) -> None:
        """Drags files of this machine onto the page."""
        data = {"items": [], "files": list(map(str, files)), "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=300, y=200, data=data)

    def show(self, width: int, height: int, scheme: str) -> bytes:
        """A PNG of the page in a window of this size, light or dark."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    def close(self) -> None:
        for end in (self._to, self._from):
            os.close(end)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    started = Browser(tmp_path / "profile")
    yield started
    started.close()


@pytest.fixture
def photos(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, data: bytes) -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return write


def test_an_image_is_dropped_and_counted(browser: Browser, photos: Callable[..., Path], counter: Predictor) -> None:
    with_intervals = Predictor.__new__(Predictor)
    with_intervals.__dict__ = dict(counter.__dict__)
    calibration = Calibration(scores=tuple(range(1, 31)), image_size=96, zooms=counter.zooms, data="squares")
    with_intervals.intervals = Intervals(level=0.9, calibration=calibration, told="90 % intervals, by 30 images")
    zones = make_zones({"gate <b>": [[0, 0], [40, 0], [40, 60]], "road": [[50, 10], [90, 10], [90, 60], [50, 60]]})
    with running(with_intervals, token=TOKEN, zones=zones) as service:
        told = service.ask("/count", png(), PNG).json()
        browser.call("Page.navigate", url=f"{service.url}/")
        browser.wait("document.readyState === 'complete' && !!document.getElementById('about')?.textContent")
        assert "90 % intervals, by 30 images; zones: gate <b>, road" in browser.value("document.body.innerText")

        photo = photos("crowd.png", png())
        browser.drop(photo)
        browser.wait("!!document.querySelector('article .bad')")
        assert "put it in the field above" in browser.value("document.querySelector('.bad.state').textContent")

        browser.value(f"document.getElementById('token').value = {TOKEN!r}")
        browser.drop(photo)
        browser.wait("document.querySelector('article img')?.naturalWidth === 960")
        shown = browser.value("document.querySelector('article').innerText")
        assert "crowd.png" in shown and f"{told['count']:.1f} people" in shown
        assert f"90 % interval {told['low']:.0f} to {told['high']:.0f}" in shown
        for zone, people in told["zones"].items():
            assert f"{zone}\t{people:.1f}" in shown
        assert browser.value("document.querySelector('article .links a').download") == "crowd-counted.png"

        # By the button, several at once, one of them no image: the newest stands first, and each has its answer.
        node = browser.call("DOM.querySelector", nodeId=browser.call("DOM.getDocument")["root"]["nodeId"],
                            selector="#files")["nodeId"]
        browser.call("DOM.setFileInputFiles", nodeId=node,
                     files=[str(photos("notes.txt", b"hello")), str(photos("b.png", png(1)))])
        browser.wait("document.querySelectorAll('article img').length === 2")
        second = browser.value("document.querySelectorAll('article')[1].innerText")
        assert "notes.txt" in second and "not an image, or damaged at its beginning" in second

        check_what_it_asked_for(browser, service)
        look_at_it(browser, os.environ.get("CROWDDIST_TEST_PICTURES", ""))


def check_what_it_asked_for(browser: Browser, service: Running) -> None:
    """Nothing but the service was asked, and nothing failed but the requests that had to."""
    asked = [event["params"]["request"]["url"] for event in browser.events
             if event.get("method") == "Network.requestWillBeSent"]
    outside = [url for url in asked if not url.startswith((f"{service.url}/", "blob:", "data:"))]
    assert len(asked) >= 5 and outside == [], outside
    wrong = [event["params"] for event in browser.events if event.get("method") == "Runtime.exceptionThrown"]
    logged = [event["params"]["entry"] for event in browser.events if event.get("method") == "Log.entryAdded"]
    refused = [entry["text"] for entry in logged if entry["level"] == "error"]
    assert wrong == [] and [text for text in refused if "status of 4" not in text] == [], (wrong, refused)


def look_at_it(browser: Browser, folder: str) -> None:
    """Light and dark, wide and narrow, it fits its window; pictures are kept where a folder is given."""
    for width, scheme in ((1280, "light"), (1280, "dark"), (390, "light")):
        picture = browser.show(width, 900, scheme)
        assert browser.value("document.documentElement.scrollWidth") <= width
        back = browser.value("getComputedStyle(document.body).backgroundColor")
        assert back == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 29)"}[scheme]
        if folder:
            Path(folder, f"page-{width}-{scheme}.png").write_bytes(picture)
