"""What is wrong with object storage is one line that names the cause, and no line anywhere holds a key."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from pathlib import Path

import botocore.auth
import pytest

from crowddist import storage
from crowddist.errors import InputError
from crowddist.storage import s3_requests
from tests.s3.proxy import Proxy

SECRETS = ("SECRETTEST", "SECRETWRONG", "SECRETSTRANGER", "SECRETTOKEN")
CALLS = (
    lambda url: storage.exists(url),
    lambda url: storage.read_bytes(url),
    lambda url: storage.write_bytes(url, b"x"),
    lambda url: storage.list_files(url),
    lambda url: storage.exclusive(url).__enter__(),
)


def complaint(url: str, kind: type[Exception] = InputError) -> str:
    """What every operation says of a place, which is the same but for its name."""
    s3_requests._client.cache_clear()
    lines = []
    for call in CALLS:
        with pytest.raises(kind) as raised:
            call(url)
        lines.append(str(raised.value))
    assert not [line for line in lines for forbidden in ("\n", *SECRETS) if forbidden in line]
    assert len({line.split(":")[0].split(" for ")[0] for line in lines}) == 1, lines
    return lines[0]


def test_nothing_to_show(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("AWS_SECRET_ACCESS_KEY")
    assert "missing: AWS_SECRET_ACCESS_KEY" in complaint("s3://crowd/x")
    environment.delenv("AWS_ACCESS_KEY_ID")
    assert complaint("s3://crowd/x").startswith("no key for s3://crowd/x")
    environment.setenv("AWS_PROFILE", "nobody")
    assert "profile (nobody) could not be found" in complaint("s3://crowd/x")


def test_settings_that_cannot_be(environment: pytest.MonkeyPatch) -> None:
    for name, value in (("ATTEMPTS", "many"), ("STREAMS", "0"), ("ADDRESSING_STYLE", "odd")):
        with environment.context() as one:
            one.setenv(f"CROWDDIST_S3_{name}", value)
            assert complaint("s3://crowd/x").startswith(f"CROWDDIST_S3_{name} must be")
    environment.setenv("AWS_ENDPOINT_URL", "nonsense")
    assert "Invalid endpoint: nonsense" in complaint("s3://crowd/x")


def test_a_server_that_is_not_there(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    environment.setenv("CROWDDIST_S3_ATTEMPTS", "2")
    assert complaint("s3://crowd/x", ConnectionError).startswith("cannot reach http://127.0.0.1:9 for s3://crowd/x")


@pytest.fixture
def expired(mock: str, environment: pytest.MonkeyPatch) -> Iterator[None]:
    proxy = Proxy(("127.0.0.1", int(mock.rpartition(":")[2])))
    proxy.fault = "expired"
    environment.setenv("AWS_ENDPOINT_URL", proxy.url)
    environment.setenv("AWS_SESSION_TOKEN", "SECRETTOKEN")
    yield
    proxy.close()


def test_a_token_that_ran_out(expired: None) -> None:
    assert complaint("s3://crowd/x").startswith("expired token for s3://crowd/x")


@pytest.mark.s3
def test_what_a_real_server_refuses(real: str, environment: pytest.MonkeyPatch) -> None:
    server = os.environ["AWS_ENDPOINT_URL"]
    assert (complaint("s3://nosuchbucket/x").startswith(f"no bucket nosuchbucket at {server}, asked for "
                                                        "s3://nosuchbucket/x"))
    with environment.context() as one:
        one.setenv("AWS_SECRET_ACCESS_KEY", "SECRETWRONG")
        assert complaint(real).startswith(f"wrong key for {real}: the secret is not that of the access key")
        one.setenv("AWS_ACCESS_KEY_ID", "NOBODY")
        assert complaint(real).startswith(f"wrong key for {real}: {server} does not know the access key")
    with environment.context() as one:
        one.setenv("AWS_ACCESS_KEY_ID", "AKIDSTRANGER")
        one.setenv("AWS_SECRET_ACCESS_KEY", "SECRETSTRANGER")
        assert complaint(real, PermissionError).startswith("no permission: ")
    now = botocore.auth.get_current_datetime
    with environment.context() as one:
        one.setattr(botocore.auth, "get_current_datetime", lambda *given,
                    **named: now(*given, **named) + datetime.timedelta(hours=1))
        assert complaint(real).startswith("clock skew: ")
    assert complaint("s3://No_Bucket/x").startswith("no bucket No_Bucket")


def test_a_job_prints_that_line(start, environment: pytest.MonkeyPatch,
                                tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    environment.setenv("CROWDDIST_S3_ATTEMPTS", "1")
    done = start("adapt", "smoke", "--storage", "s3://crowd/runs", "--tracking-uri", "none",
                 AWS_ENDPOINT_URL="http://127.0.0.1:9")
    assert (done.returncode, done.stdout) == (2, "")
    assert (done.stderr.startswith("error: cannot reach http://127.0.0.1:9 for s3://crowd/runs/smoke")
            and done.stderr.count("\n") == 1)
