"""The service: what it answers is what `crowddist count` counts, and everything wrong has a status and one line."""

from __future__ import annotations

import base64
import csv
import json
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import crowddist
from crowddist.cli import count as count_command
from crowddist.data.safe_decode import encode_png
from crowddist.data.zones.files import make_zones
from crowddist.inference.predictor import ImagePrediction, Predictor
from crowddist.service import server
from crowddist.service.counting_queue import CountingQueue
from crowddist.service.schema import CountAnswer
from tests.service.conftest import PNG, TOKEN, Gate, Running, noise, png, running

GATE = {"gate": [[0, 0], [40, 0], [40, 60]]}


@pytest.fixture(scope="module")
def serving(counter: Predictor) -> Iterator[Running]:
    """A service with a token and a zone; all tests that need no other share it."""
    with running(counter, token=TOKEN, zones=make_zones(GATE), max_megabytes=0.5, max_megapixels=0.3) as service:
        yield service


def test_the_counts_are_those_of_the_command_and_of_python(serving: Running, tiny_checkpoint: str,
                                                           tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "b.jpg").write_bytes(cv2.imencode(".jpg", noise(1))[1].tobytes())
    count_command.main([str(tmp_path / "a.png"), str(tmp_path / "b.jpg"), "--model", tiny_checkpoint, "--output",
                        str(tmp_path / "out"), "--device", "cpu"])
    with open(tmp_path / "out" / "counts.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    mine = crowddist.load(tiny_checkpoint, device="cpu")
    for name, row, kind in (("a.png", rows[0], "image/png"), ("b.jpg", rows[1], "image/jpeg")):
        data = (tmp_path / name).read_bytes()
        answer = serving.ask("/count", data, {"Content-Type": kind})
        told = answer.json()
        assert answer.status == 200 and answer.headers["content-type"] == "application/json"
        assert told == mine.count(tmp_path / name, zones=GATE).to_dict() and told["count"] > 1
        assert float(row["count"]) == pytest.approx(told["count"], abs=0.006)
        assert told["zones"].keys() == {"gate"} and 0 < told["zones"]["gate"] < told["count"]
        assert told.get("notes") == (["pictures that crowddist itself drew"] if name == "a.png" else None)
        assert told.keys() | {"overlay_png", "notes"} == CountAnswer.model_fields.keys()
        # Without a content type too, and in parts of unknown length.
        assert serving.ask("/count", iter([data[:99], data[99:]])).json()["count"] == told["count"]


def test_a_picture_comes_where_it_is_asked_for(serving: Running) -> None:
    for path, accept in (("/count?format=png", "application/json"), ("/count", "image/png"),
                         ("/count", "text/html, image/*;q=0.9, */*;q=0.8")):
        answer = serving.ask(path, png(), {**PNG, "Accept": accept})
        assert (answer.status, answer.headers["content-type"]) == (200, "image/png")
        drawn = cv2.imdecode(np.frombuffer(answer.body, np.uint8), cv2.IMREAD_COLOR)
        assert drawn.shape[1] == 960 and drawn.std() > 10
    for accept in ("*/*", "image/png;q=0.1, application/json", "image/png;q=x, */*;q=0.1", ""):
        assert serving.ask("/count", png(), {**PNG, "Accept": accept}).headers["content-type"] == "application/json"
    both = serving.ask("/count?format=both", png(), PNG).json()
    assert base64.b64decode(both["overlay_png"]) == serving.ask("/count?format=png", png(), PNG).body


def header_alone(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part))
                                          for part in (chunk, data, b"IEND"))


def test_everything_wrong_has_a_status_and_a_line(serving: Running) -> None:
    jpeg = cv2.imencode(".jpg", noise())[1].tobytes()
    gif, thin = b"GIF89a" + bytes(60), png(size=(8, 550))
    big = bytes(500_001)
    as_json, wrong = {"Content-Type": "application/json"}, {**PNG, "Authorization": "Bearer a-token-of-the-testz"}
    cases: list[tuple[str, Any, dict[str, str], int, str]] = [
        ("/count", b"", PNG, 422, "the body is empty"),
        ("/count", header_alone(20_000, 10_000), PNG, 413, "too large: 20000 x 10000 px; at most 300000 pixels"),
        ("/count", header_alone(60_000, 60_000), PNG, 413, "too large"),
        ("/count", png(size=(600, 501)), PNG, 413, ""),
        ("/count", big, PNG, 413, "500001 bytes; at most 500000 are taken"),
        ("/count", iter([big]), PNG, 413, "more than 500000 bytes"),
        ("/count", b"hello", PNG, 415, "not an image, or damaged at its beginning; read are JPEG"),
        ("/count", gif, {"Content-Type": "image/gif"}, 415, "not an image that is read, but GIF; save it as JPEG"),
        ("/count", png(), {"Content-Type": "text/plain"}, 415, "the content type is 'text/plain'"),
        ("/count", png(), {"Content-Type": "multipart/form-data; boundary=x"}, 415, "bytes alone, in no form"),
        ("/count", jpeg[:900], PNG, 422, "it may be damaged"),
        ("/count", header_alone(90, 90), PNG, 422, "it may be damaged"),
        ("/count", thin, PNG, 422, "too thin: 550 x 8 px"),
        ("/count", png(size=(7, 90)), PNG, 422, "too small: 90 x 7 px"),
        ("/count", b"{", as_json, 422, 'the JSON must be {"url": "..."}: Invalid JSON'),
        ("/count", b'{"url": 3}', as_json, 422, "url: Input should be a valid string"),
        ("/count", b'{"url": "s3://a/b", "more": 1}', as_json, 422, "more: Extra inputs are not permitted"),
        ("/count", b'{"url": "s3://a/b"}', as_json, 403, "the address lies in no place"),
        ("/count", bytes(70_000), as_json, 413, "at most 65536"),
        ("/count?format=pdf", png(), PNG, 422, "format: Input should be 'json', 'png' or 'both'"),
        ("/count", png(), wrong, 401, "the token is wrong; send Authorization: Bearer TOKEN"),
        ("/count", png(), {**PNG, "Authorization": "Basic YTpi"}, 401, "a token is needed"),
        ("/count", png(), {**PNG, "Authorization": "Bearer \xe9"}, 401, "the token is wrong"),
        ("/metrics", None, wrong, 401, "the token is wrong"),
        ("/docs", None, {}, 404, "Not Found"),
        ("/count/", png(), PNG, 404, "Not Found"),
        ("/count", None, {}, 405, "Method Not Allowed"),
    ]
    for path, body, headers, status, words in cases:
        answer = serving.ask(path, body, headers)
        assert answer.status == status and words in answer.error, (path, headers, status, answer)
        assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["cache-control"] == "no-store"
        assert ("www-authenticate" in answer.headers) == (status == 401)
    assert serving.ask("/count", png(), PNG).status == 200, "it goes on"


def test_it_says_how_it_does(serving: Running) -> None:
    free = {"Authorization": ""}  # probes bring no token
    for path in ("/health", "/ready"):
        answer = serving.ask(path, headers=free)
        assert answer.status == 200
        assert answer.json() == {"ok": True, "waiting": 0, "version": crowddist.__version__}
    before = serving.metric("crowddist_requests_total")
    serving.ask("/count", png(), PNG)
    serving.ask("/nothing/" + "x" * 50)
    assert serving.settled("crowddist_requests_total", before + 3) >= before + 3
    text = serving.ask("/metrics").body.decode()
    assert 'path="/count",status="200"' in text and 'path="other",status="404"' in text and "nothing" not in text
    for name in ("crowddist_batch_images_count", "crowddist_batch_seconds_sum", "process_resident_memory_bytes"):
        assert serving.settled(name, 1e-9) > 0
    told = serving.ask("/openapi.json", headers=free).json()
    assert set(told["paths"]) == {"/count", "/health", "/ready", "/metrics"}
    assert told["paths"]["/count"]["post"]["security"] and "image/jpeg" in str(told["paths"]["/count"]["post"])


def test_the_page_loads_nothing_from_elsewhere(serving: Running) -> None:
    answer = serving.ask("/", headers={"Authorization": ""})
    text = answer.body.decode()
    assert answer.status == 200 and answer.headers["content-type"].startswith("text/html") and "http" not in text
    rules = answer.headers["content-security-policy"]
    assert "default-src 'none'" in rules and "unsafe" not in rules and rules.count("'sha256-") == 2
    found = json.loads(text.partition('id="settings">')[2].partition("</script>")[0])
    assert found["zones"] == ["gate"] and found["token"] is True and TOKEN not in text


class Site(BaseHTTPRequestHandler):
    """A web server with an image at /frames/1.png, and a redirection to it."""

    def do_GET(self) -> None:
        self.send_response({"/frames/1.png": 200, "/frames/to": 302}.get(self.path, 404))
        self.send_header("Location", "/frames/1.png")
        self.end_headers()
        self.wfile.write(png())

    def log_message(self, *_: object) -> None:
        pass


def test_addresses_of_allowed_places_are_fetched_and_no_others(counter: Predictor, frames: Path) -> None:
    site = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    web = f"http://127.0.0.1:{site.server_port}"
    with running(counter, allow=(str(frames), f"{web}/frames"), max_megabytes=0.5) as service:
        def ask(url: str) -> Any:
            return service.ask("/count", json.dumps({"url": url}).encode(), {"Content-Type": "application/json"})

        wanted = service.ask("/count", png(), PNG).json()
        for url in (f"{frames.as_uri()}/1.png", f"{frames.as_uri()}/x/../1.png", f"{web}/frames/1.png",
                    f"{web}/frames/1.png#x"):
            assert ask(url).json() == wanted, url
        for url, status, words in (
            (f"{frames.as_uri()}/../secret.png", 403, "in no place"),
            (f"{frames.as_uri()}/out.png", 403, "in no place"),  # a link
            (f"{frames.as_uri()}-more/1.png", 403, "in no place"),
            ("file:///etc/passwd", 403, "in no place"),
            ("file://host/a.png", 422, "not a local file URL"),
            (f"{frames.as_uri()}/2.png", 404, "no file at"),
            (frames.as_uri(), 404, "no file at"),
            (f"{frames.as_uri()}/empty.png", 422, "the file is empty"),
            (f"{frames.as_uri()}/large.png", 413, "bytes; at most 500000 are taken"),
            (f"{frames}/1.png", 422, "not an address of an image"),
            ("ftp://127.0.0.1/1.png", 422, "not an address of an image"),
            (f"{web}/1.png", 403, "in no place"),
            (f"{web}/frames-more/1.png", 403, "in no place"),
            (f"http://localhost:{site.server_port}/frames/1.png", 403, "in no place"),
            (f"http://127.0.0.1:{site.server_port + 1}/frames/1.png", 403, "in no place"),
            (f"{web}@example.org/frames/1.png", 422, "not a"),
            (f"{web}/frames/../1.png", 422, "not a plain address"),
            (f"{web}/frames/%2e%2e/1.png", 422, "not a plain address"),
            (f"{web}/frames/..%2f1.png", 422, "not a plain address"),
            (f"{web}\\@example.org/frames/1.png", 422, "not a"),
            (f"{web}/frames/2.png", 422, "the server answers 404"),
            (f"{web}/frames/to", 422, "the server answers 302"),
            ("http://[/1.png", 422, "not an address of the web"),
            ("s3://bucket/1.png", 403, "in no place"),
        ):
            answer = ask(url)
            assert answer.status == status and words in answer.error, (url, answer)
    site.shutdown()
    site.server_close()


def test_what_comes_too_slowly_is_given_up(counter: Predictor, half_sent: Callable[..., Any],
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEADERS_S", 0.3)
    head = b"POST /count HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\n"
    with running(counter, timeout=0.5, queue=1) as service:
        upload = half_sent(service, head + bytes(10))
        time.sleep(0.1)
        assert service.ask("/count", png(), PNG).status == 503, "the one place for uploads is taken"
        answer = b""
        while not answer.endswith(b"}") and (part := upload.recv(65536)):
            answer += part
        assert answer.startswith(b"HTTP/1.1 408 ") and b"did not come in time: 10 bytes did" in answer
        for data in (b"", b"GET /health HTTP/1.1\r\nHost:"):
            assert half_sent(service, data).recv(65536) == b"", "it is closed"
        second = half_sent(service, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in second.recv(65536)
        second.sendall(b"GET")
        while second.recv(65536):  # the answer's body may come alone
            pass
        half_sent(service, head + bytes(10)).close()  # breaks off
        assert service.ask("/health").status == 200


def test_a_full_service_says_so_and_a_late_count_is_given_up(counter: Predictor,
                                                             half_sent: Callable[..., Any]) -> None:
    gate = Gate(counter)
    with running(gate, queue=2) as service, ThreadPoolExecutor() as pool:
        first = pool.submit(service.ask, "/count", png(), PNG)
        assert gate.reached.wait(30)
        body = png(1)
        left = half_sent(service, b"POST /count HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
                                  b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        while service.ask("/health").json()["waiting"] < 1:
            time.sleep(0.02)
        full = service.ask("/count", png(), PNG)
        assert (full.status, full.headers["retry-after"]) == (503, "1") and "come again" in full.error
        left.close()  # its place is free again, and nobody counts for it
        while service.ask("/count", b"no image", PNG).status == 503:
            time.sleep(0.02)
        gate.open.set()
        assert first.result().status == 200
        assert service.ask("/count", png(), PNG).status == 200
        assert service.settled("crowddist_batch_images_sum", 2) == 2
    gate.open.clear()
    with running(gate, timeout=0.5) as service:
        late = service.ask("/count", png(), PNG)
        assert late.status == 504 and "not counted within 0.5 s" in late.error
        gate.open.set()
        assert service.ask("/count", png(), PNG).status == 200


def test_images_that_wait_are_counted_together(counter: Predictor) -> None:
    gate = Gate(counter)
    gate.zooms = (1.0,)
    with running(gate, batch=3) as service, ThreadPoolExecutor() as pool:
        asked = [pool.submit(service.ask, "/count", png(), PNG)]
        assert gate.reached.wait(30)
        asked += [pool.submit(service.ask, "/count", png(seed), PNG) for seed in (1, 2, 3, 4)]
        while service.ask("/health").json()["waiting"] < 4:
            time.sleep(0.02)
        gate.open.set()
        together = [each.result().json()["count"] for each in asked]
        assert service.settled("crowddist_batch_images_count", 3) == 3
        assert service.metric("crowddist_batch_images_sum") == 5
        alone = [service.ask("/count", png(seed), PNG).json()["count"] for seed in range(5)]
    assert together == pytest.approx(alone, rel=1e-5) and len(set(alone)) == 5


def test_an_image_that_breaks_the_counter_takes_none_with_it(counter: Predictor) -> None:
    class Broken(Predictor):
        def predict_views(self, images: Any, scales: Any = None) -> Iterator[ImagePrediction]:
            for image in images:
                if not image.any():
                    raise RuntimeError("out of memory")
                yield from super().predict_views([image])

    broken = Broken.__new__(Broken)
    broken.__dict__ = dict(counter.__dict__)
    counted: list[int] = []
    queue = CountingQueue(broken, batch=4, counted=lambda images, _: counted.append(images))
    images = [noise(0), np.zeros((72, 96, 3), np.uint8), noise(1)]
    answers = [queue.submit(image) for image in images]
    queue.close()
    assert not queue.alive and sum(counted) == 3
    assert [answers[place].result().count for place in (0, 2)] == [
        counter.predict(images[place]).count for place in (0, 2)]
    with pytest.raises(RuntimeError, match="out of memory"):
        answers[1].result()
    with running(broken) as service:
        black = cv2.imencode(".png", images[1])[1].tobytes()
        assert service.ask("/count", black, PNG).status == 500
        assert service.ask("/count", png(), PNG).status == 200 and service.ask("/health").json()["ok"]


def test_zones_that_do_not_fit_are_told(counter: Predictor, caplog: pytest.LogCaptureFixture) -> None:
    far = make_zones({"far": [[90, 0], [200, 0], [200, 60]]})
    with running(counter, zones=far) as service:
        assert service.ask("/count", png(), PNG).json()["zones"]["far"] > 0
        assert "reaches 104 px beyond the image" in caplog.text
        refused = service.ask("/count", png(size=(72, 80)), PNG)
        assert refused.status == 422 and "the zone 'far' lies outside the image of 80 x 72 px" in refused.error


def test_without_a_token_it_answers_to_this_machine_s_names_alone(counter: Predictor) -> None:
    with running(counter, hosts=("localhost", "127.0.0.1", "::1")) as service:
        for name in ("localhost", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST:1"):
            assert service.ask("/count", png(), {**PNG, "Host": name}).status == 200
        for name in ("example.org", "localhost.example.org:8000", "[", "127.0.0.1@example.org"):
            refused = service.ask("/count", png(), {**PNG, "Host": name})
            assert refused.status == 403 and "own names alone" in refused.error


@pytest.mark.parametrize("kind", ["positive", "negative"])
def test_it_keeps_to_its_own_description(serving: Running, kind: str) -> None:
    """Requests of all kinds, those that the description forbids included, get answers that it tells of."""
    import schemathesis  # here: its import takes two seconds
    from schemathesis import GenerationMode
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    mode, small = GenerationMode(kind), encode_png(np.full((16, 16, 3), 90, np.uint8))
    described = schemathesis.openapi.from_url(f"{serving.url}/openapi.json")
    for found in described.get_all_operations():
        operation = found.ok()
        counts = operation.label == "POST /count"
        if mode is GenerationMode.NEGATIVE and not counts:
            continue  # nothing about them can be wrong
        requests = operation.as_strategy(mode)
        if counts and mode is GenerationMode.POSITIVE:
            # Random bytes are no image: now and then send one.
            requests |= operation.as_strategy(mode, body=small, media_type="image/png")

        @given(request=requests)
        @settings(max_examples=20 if counts else 3, deadline=None, derandomize=True, database=None,
                  suppress_health_check=list(HealthCheck))
        def keeps(request: Any) -> None:
            request.call_and_validate(headers={"Authorization": f"Bearer {TOKEN}"},
                                      excluded_checks=[positive_data_acceptance])  # of bytes that are no image

        keeps()
