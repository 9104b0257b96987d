"""`crowddist serve` as a process of its own, and what it refuses before it loads anything."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from crowddist.cli import serve
from crowddist.service.settings import TOKEN, bind, read_token
from tests.service.conftest import png

ROOT = Path(__file__).resolve().parents[2]


def test_a_signal_lets_the_running_count_end(tiny_checkpoint: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0123456789abcdef\n")
    command = [sys.executable, "-P", "-m", "crowddist.cli", "serve", "--model", tiny_checkpoint, "--port", "0",
               "--device", "cpu", "--image-size", "0", "--token-file", "token"]
    process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        told = iter(process.stdout)
        assert next(told).startswith("no intervals: ")
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/ is the page, POST \S+/count counts; the token is that of "
                             r"token\n", next(told))
        assert found
        data = png(size=(600, 800))
        with socket.create_connection(("127.0.0.1", int(found[1])), timeout=120) as connection:
            connection.sendall(b"POST /count HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer 0123456789abcdef\r\n"
                               b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(data))
            assert connection.recv(65536).startswith(b"HTTP/1.1 100 ")
            process.send_signal(signal.SIGTERM)  # before the image has come
            connection.sendall(data)
            answer = b""
            while part := connection.recv(65536):  # until it closes, as it has stopped
                answer += part
        assert answer.startswith(b"HTTP/1.1 200 ") and b'"count"' in answer
        rest, errors = process.communicate(timeout=60)
        assert (process.returncode, rest, errors) == (0, "stopped\n", "")
    finally:
        process.kill()
        process.wait()


def test_what_it_cannot_do_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    (tmp_path / "short").write_text("abc")
    (tmp_path / "zones.json").write_text("{}")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        free = ("--port", "0")
        for words, message in (
            (("--port", port), f"127.0.0.1:{port} cannot be listened on: Address already in use; choose another --p"),
            (("--host", "0.0.0.0", *free), "--host 0.0.0.0 lets other machines in, and no token is set; give --token"),
            (("--host", "::", *free), "lets other machines in"),
            (("--host", "x" * 70, *free), "xxx: no address of this machine: "),
            (("--host", "192.0.2.1", "--no-token", *free), "cannot be listened on: Cannot assign requested address"),
            (("--port", "70000"), "--port must lie between 0 and 65535, got 70000"),
            (("--token-file", str(tmp_path / "none"), *free), "the token cannot be read: No such file or directory"),
            (("--token-file", str(tmp_path / "short"), *free), "holds no token of at least 16 letters"),
            (("--token-file", "x", "--no-token"), "--no-token and --token-file cannot both be given"),
            (("--zones", str(tmp_path / "zones.json"), *free), "its JSON holds no zones"),
            (("--allow", "ftp://host/x", *free), "unknown kind of storage ftp://"),
            (("--allow", "https://user:secret@host/x", *free), "not a plain address of the web: 'https://***@host/x'"),
            (("--queue", "0"), "queue must be positive, got 0"),
            (("--timeout", "0"), "timeout must be positive, got 0"),
            (("--model", str(tmp_path / "nowhere"), *free), "no file at "),
        ):
            with pytest.raises(SystemExit) as ending:
                serve.main(words)
            told = capsys.readouterr()
            assert ending.value.code == 2 and told.err.startswith("error: ") and told.err.count("\n") == 1, told
            assert message in told.err, (words, told.err)


def test_a_token_opens_it_to_other_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(TOKEN, "0123456789abcdef")
    assert read_token("") == "0123456789abcdef"
    (tmp_path / "token").write_text(" fedcba9876543210\r\n")
    assert read_token(str(tmp_path / "token")) == "fedcba9876543210", "the file goes first"
    for words in ((), ("--no-token",)):
        with pytest.raises(SystemExit):
            serve.main(["--host", "0.0.0.0", "--port", "0", "--model", str(tmp_path / "nowhere"), *words])
        assert "no file at " in capsys.readouterr().err, "the address was right"
    with bind("localhost", 0, open_to_all=False) as bound, pytest.raises(ValueError, match="cannot be listened on"):
        bind("127.0.0.1", bound.getsockname()[1], open_to_all=False)
