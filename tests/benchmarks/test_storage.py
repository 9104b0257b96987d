"""Reading a large object: parts side by side against one stream, and what that costs the client."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import re
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crowddist.storage import s3_requests
from crowddist.storage.s3_place import S3Place
from tests.benchmarks.harness import compare

pytestmark = pytest.mark.benchmark
OBJECT_BYTES = 96 * 2**20
CONNECTION_BYTES_PER_S, FIRST_BYTE_S = 60e6, 0.02
"""Of one connection, as common object stores have it."""
BLOCK_BYTES = 2**18
LEAST_RATIO, LEAST_RATIO_FREE, LEAST_CPU_RATIO = 4.0, 0.6, 5.0


def serve(ports: Any, content: bytes, bytes_per_s: float) -> None:
    """A store of one object that answers ranges, each connection at its own pace; 0 is as fast as it can."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                asked = re.search(rb"range: bytes=(\d+)-(\d*)", head, re.IGNORECASE)
                first, last = (int(asked.group(1)), min(int(asked.group(2) or len(content)),
                                                        len(content) - 1)) if asked else (0, len(content) - 1)
                status = f"206 Partial\r\nContent-Range: bytes {first}-{last}/{len(content)}" if asked else "200 OK"
                await asyncio.sleep(FIRST_BYTE_S if bytes_per_s else 0)
                begun = loop.time()
                facts = (f'Content-Length: {last + 1 - first}\r\nETag: "1"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 '
                         'GMT\r\nAccept-Ranges: bytes')
                writer.write(f"HTTP/1.1 {status}\r\n{facts}\r\n\r\n".encode())
                for start in range(first, last + 1, BLOCK_BYTES) if head.startswith(b"GET") else ():
                    writer.write(memoryview(content)[start : min(start + BLOCK_BYTES, last + 1)])
                    await writer.drain()
                    if bytes_per_s:
                        await asyncio.sleep(max(begun + (start + BLOCK_BYTES - first) / bytes_per_s - loop.time(), 0))
        except (OSError, asyncio.IncompleteReadError):
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        ports.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], bytes]]:
    """Starts a store of a pace, which this process and its children then reach, and returns its object's content."""
    context = multiprocessing.get_context("fork")
    servers = []

    def start(bytes_per_s: float) -> bytes:
        ports, content = context.Queue(), os.urandom(OBJECT_BYTES)
        servers.append(context.Process(target=serve, args=(ports, content, bytes_per_s), daemon=True))
        servers[-1].start()
        settings = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports.get()}", "AWS_ACCESS_KEY_ID": "a",
                    "AWS_SECRET_ACCESS_KEY": "b"}
        for name, value in {**settings, "AWS_DEFAULT_REGION": "us-east-1",
                            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required"}.items():
            monkeypatch.setenv(name, value)
        s3_requests._client.cache_clear()
        return content

    yield start
    s3_requests._client.cache_clear()
    for server in servers:
        server.kill()
        server.join()


@pytest.mark.parametrize(("bytes_per_s", "least"), [(CONNECTION_BYTES_PER_S, LEAST_RATIO), (0, LEAST_RATIO_FREE)])
def test_parts_side_by_side(store: Callable[[float], bytes], tmp_path: Path, bytes_per_s: float, least: float) -> None:
    content, client = store(bytes_per_s), s3_requests._client(os.getpid())

    def one_stream() -> Path:
        with open(tmp_path / "one", "wb") as stream:
            for part in client.get_object(Bucket="b", Key="k")["Body"].iter_chunks(2**20):
                stream.write(part)
        return tmp_path / "one"

    def ours() -> Path:
        with open(tmp_path / "parts", "wb") as stream:
            S3Place("s3://b/k").download_to(stream)
        return tmp_path / "parts"

    found = compare(one_stream, ours, rounds=9, agree=lambda first,
                    second: first.read_bytes() == second.read_bytes() == content, clock=time.perf_counter)
    pace = f"{bytes_per_s / 1e6:.0f} MB/s a connection" if bytes_per_s else "a store without a limit"
    print(f"\n96 MiB to a file, 8 parts at once against one stream, {pace}: {found}; "
          f"{OBJECT_BYTES / found.ours_s / 1e6:.0f} MB/s")
    assert found.ratio >= least


def test_cpu_of_the_client(store: Callable[[float], bytes], tmp_path: Path) -> None:
    """Against what WebDataset's `pipe:` calls."""
    if shutil.which("aws") is None:
        pytest.skip("no aws: install awscli to compare with it")
    content = store(CONNECTION_BYTES_PER_S)
    spent: dict[str, list[float]] = {"aws": [], "ours": []}
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        piped = subprocess.run(["aws", "s3", "cp", "--no-progress", "s3://b/k", "-"], check=True,
                               capture_output=True).stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent["aws"].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        started = time.process_time()
        with open(tmp_path / "parts", "wb") as stream:
            S3Place("s3://b/k").download_to(stream)
        spent["ours"].append(time.process_time() - started)
        assert [data == content for data in (piped, (tmp_path / "parts").read_bytes())] == [True, True]
    ratio = float(np.median([aws / ours for aws, ours in zip(spent["aws"], spent["ours"], strict=True)]))
    per_mb = {name: 1e9 * float(np.median(seconds)) / OBJECT_BYTES for name, seconds in spent.items()}
    print(f"\nCPU of the client, aws s3 cp / ours: {ratio:.1f}x, {per_mb['aws']:.1f} and {per_mb['ours']:.2f} ms a MB")
    assert ratio >= LEAST_CPU_RATIO
